"""TLS towards a server: which versions, whom to trust, how to prove ourselves."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    TLSVersion,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from pipeops_agent.net.problems import CertificateFault, CertificateProblem, TLSFileProblem
from pipeops_agent.net.text import printable
from pipeops_agent.secrets import Secret

MAX_FILE_BYTES: Final = 4 << 20
"""No certificate, key or CA file is read beyond this."""

_FAULTS: Final[dict[int, CertificateFault]] = {
    9: "not yet valid",
    10: "expired",
    18: "self-signed",
    19: "unknown CA",
    20: "unknown CA",
    21: "unknown CA",
    23: "revoked",
    24: "purpose",
    26: "purpose",
    66: "weak",
    67: "weak",
    68: "weak",
}
"""OpenSSL's C{X509_V_ERR_*}: those that have a remedy of their own."""

_WORDS: Final[dict[CertificateFault, str]] = {
    "not yet valid": "the certificate is not valid yet",
    "expired": "the certificate has expired",
    "self-signed": "the certificate is signed by itself",
    "unknown CA": "the certificate's issuer is not trusted",
    "revoked": "the certificate was revoked",
    "purpose": "the certificate may not be used for this",
    "weak": "its key or signature is too weak",
}


class ClientTLS(msgspec.Struct, frozen=True, kw_only=True):
    """
    How TLS is spoken to one server.

    @ivar min_version: the lowest version spoken.
    @ivar ca_file: PEM file of the only authorities trusted; empty: those of C{ca_data}, or of the system.
    @ivar cert_file: PEM file of the client's certificate, then its chain; empty: C{cert_data}, or none.
    @ivar key_file: PEM file of its key; empty: C{key_data}, or the key is in C{cert_file}.
    @ivar ca_data: the same as C{ca_file}, in memory; so are C{cert_data} and C{key_data}, in PEM form.
    @ivar server_name: the name that the server's certificate must be for, and that is sent as SNI; empty:
        the host that is connected to.
    @ivar verify: whether the server must prove who it is.
    @ivar origin: where all of this comes from, for messages, if not from the section C{tls} of the settings:
        "the kubeconfig".
    @ivar ca_remedy: what to do about a server of another authority.
    """

    min_version: Literal["1.2", "1.3"] = "1.3"
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    ca_data: bytes = b""
    cert_data: bytes = b""
    key_data: Secret | None = None
    server_name: str = ""
    verify: bool = True
    origin: str = ""
    ca_remedy: str = "the issuer's certificate belongs into tls.ca_file"

    def for_host(self, host: str) -> HostTLS:
        """
        Read the files, as they are now, and make what one connection to C{host} needs.

        It is asked anew for each connection, so that a replaced file is used from then on.

        @raise TLSFileProblem: a file can't be used.
        @raise UnicodeError: C{host} is no host name.
        """
        key, chain = self.own_certificate()
        options = CertificateOptions(
            privateKey=key,
            certificate=chain[0] if chain else None,
            extraCertChain=chain[1:] or None,
            trustRoot=self._trust() if self.verify else None,
            raiseMinimumTo=TLSVersion.TLSv1_3 if self.min_version == "1.3" else TLSVersion.TLSv1_2,
        )
        try:
            context = options.getContext()
        except SSL.Error as error:
            pair = "the client's certificate and its key"
            if self.cert_file:
                pair = f"the certificate in {self.cert_file} and the key in {self.key_file or self.cert_file}"
            raise TLSFileProblem(f"{pair} do not belong together") from error
        return HostTLS(context, self.server_name or host, self)

    def _trust(self) -> Any:
        if self.ca_file:
            found = _certificates(_read(self.ca_file, "CA file"), f"CA file {self.ca_file}")
        elif self.ca_data:
            found = _certificates(self.ca_data, "the CA's data")
        else:
            return platformTrust()
        return trustRootFromCertificates([Certificate(certificate) for certificate in found])

    def own_certificate(self) -> tuple[crypto.PKey | None, list[crypto.X509]]:
        """
        The key and the certificate with its chain; None and none: there are none.

        @raise TLSFileProblem: they can't be used.
        """
        if self.cert_file:
            pem, where = _read(self.cert_file, "certificate file"), f"certificate file {self.cert_file}"
        elif self.cert_data:
            pem, where = self.cert_data, "the certificate's data"
        else:
            return None, []
        chain = _certificates(pem, where)
        return self._client_key(), chain

    def _client_key(self) -> crypto.PKey:
        if self.key_data is not None:
            pem, where = self.key_data.reveal().encode(), "the key's data"
        else:
            path = self.key_file or self.cert_file
            pem, where = _read(path, "key file"), f"key file {path}"
        try:
            # cryptography, not pyOpenSSL: given an encrypted key, that one asks on the terminal.
            return crypto.PKey.from_cryptography_key(_load_key(pem))
        except TypeError as error:
            raise TLSFileProblem(f"{where}: an encrypted or unusable key") from error
        except ValueError as error:
            raise TLSFileProblem(f"{where}: no private key in PEM form") from error


@implementer(IOpenSSLClientConnectionCreator)
class HostTLS:
    """
    Makes one TLS connection to one host, and remembers why its certificate was not accepted.

    @ivar problem: what was wrong with the server's certificate, once the handshake has failed for
        that reason. OpenSSL itself reports only "certificate verify failed".
    """

    def __init__(self, context: SSL.Context, host: str, tls: ClientTLS) -> None:
        self._context = context
        self._server_name: bytes | None = None
        self._service: DNS_ID | IPAddress_ID
        if _is_address(host):
            self._service = IPAddress_ID(host)
        else:
            self._server_name = host.rstrip(".").encode("idna")
            self._service = DNS_ID(self._server_name.decode("ascii"))
        self.tls = tls
        self.problem: CertificateProblem | None = None

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N803  # its name
        """See L{IOpenSSLClientConnectionCreator}."""
        connection = SSL.Connection(self._context, None)
        if self._server_name is not None:  # RFC 6066 section 3: never for an address
            connection.set_tlsext_host_name(self._server_name)
        if self.tls.verify:

            def check(_: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
                # An exception in here would pass OpenSSL and surface nowhere useful: note, and say no.
                if self.problem is None:
                    self.problem = _fault(self._service, certificate, error, depth, bool(ok))
                return self.problem is None

            connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, check)
        else:
            connection.set_verify(SSL.VERIFY_NONE)
        return connection


def _fault(
    service: DNS_ID | IPAddress_ID, certificate: crypto.X509, error: int, depth: int, ok: bool
) -> CertificateProblem | None:
    """What is wrong with C{certificate}, as OpenSSL's verification reaches it."""
    if not ok:
        fault = _FAULTS.get(error, "other")
        words = _WORDS.get(fault, f"the certificate was not accepted (OpenSSL's error {error})")
        return _problem(fault, certificate, words)
    if depth > 0:
        return None
    try:
        verify_service_identity(extract_patterns(certificate), [service], [])
    except (VerificationError, CertificateError):  # other names, or none
        return _problem("name", certificate, "the certificate is for another name")
    except Exception as unusable:  # whatever a certificate can be made to hold
        return _problem("other", certificate, f"the certificate can't be read: {type(unusable).__name__}")
    return None


def _problem(fault: CertificateFault, certificate: crypto.X509, detail: str) -> CertificateProblem:
    parsed = certificate.to_cryptography()
    return CertificateProblem(
        fault,
        subject=_names(parsed) if fault == "name" else printable(parsed.subject.rfc4514_string()),
        issuer=printable(parsed.issuer.rfc4514_string()),
        not_before=parsed.not_valid_before_utc,
        not_after=parsed.not_valid_after_utc,
        detail=detail,
    )


def _names(certificate: x509.Certificate) -> str:
    """The names that a certificate is for, at most ten of them."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return "no host name at all"
    names = [str(name.value) for name in extension if isinstance(name, x509.DNSName | x509.IPAddress)]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return printable(", ".join(names[:10])) + more


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _load_key(pem: bytes) -> crypto._Key:
    return load_pem_private_key(pem, password=None)  # type: ignore[return-value]  # checked by PKey


def _read(path: str, what: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise TLSFileProblem(f"{what} {path}: {error.strerror or error}") from error
    if len(content) > MAX_FILE_BYTES:
        raise TLSFileProblem(f"{what} {path}: larger than {MAX_FILE_BYTES} bytes")
    return content


def _certificates(pem: bytes, where: str) -> list[crypto.X509]:
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise TLSFileProblem(f"{where}: no certificate in PEM form") from error
    return [crypto.X509.from_cryptography(certificate) for certificate in found]
