"""
TLS 1.3 for the agent's own interface: with a certificate from files, or with one of the agent's own making.

Which certificate it is, is asked at each handshake: a replaced one is shown from the next connection on.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IAddress, IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.logger import Logger
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from pipeops_agent.clock import WallClock
from pipeops_agent.net.problems import TLSFileProblem
from pipeops_agent.net.tls import ClientTLS
from pipeops_agent.settings.model_server import ServerSettings
from pipeops_agent.web.site import AgentSite

LIFETIME: Final = timedelta(days=397)
"""How long a certificate of the agent's own holds: as long as browsers accept one."""

RENEWED: Final = timedelta(days=30)
"""How long before its end another one is made."""

LEEWAY: Final = timedelta(hours=1)
"""It holds from so long ago on, for clients whose clock is behind."""

_log = Logger(namespace="web")


class Certificate(Protocol):
    """What a server shows."""

    def context(self) -> SSL.Context:
        """
        For the next handshake.

        @raise TLSFileProblem: there is none, and never was.
        """


class FileCertificate:
    """
    The certificate in a file, read again whenever that or the key's was replaced (L{Certificate}).

    While what is there can't be used, as when only one of the two has been replaced yet, the last good one is
    shown.
    """

    def __init__(self, cert_file: str, key_file: str) -> None:
        self._files = ClientTLS(cert_file=cert_file, key_file=key_file)
        self._paths = tuple(dict.fromkeys(Path(path) for path in (cert_file, key_file) if path))
        self._seen: object = None
        self._context: SSL.Context | None = None

    def context(self) -> SSL.Context:
        seen = tuple(map(_identity, self._paths))
        if seen != self._seen or self._context is None:
            self._seen = seen
            self._read()
        assert self._context is not None
        return self._context

    def _read(self) -> None:
        try:
            key, chain = self._files.own_certificate()
            self._context = _context(key, chain)
        except TLSFileProblem as error:
            if self._context is None:
                raise
            _log.warn("{error}; the certificate read before stays in use", error=str(error))
            return
        except SSL.Error as error:
            problem = TLSFileProblem(
                f"the certificate in {self._paths[0]} and the key in {self._paths[-1]} do not belong together"
            )
            if self._context is None:
                raise problem from error
            _log.warn("{error}; the certificate read before stays in use", error=str(problem))
            return
        _say(f"the certificate in {self._paths[0]}", chain[0].to_cryptography())


class OwnCertificate:
    """
    A certificate that nobody has signed but itself, with a key that is in memory alone (L{Certificate}).

    Who wants to be sure of it compares the fingerprint with the one in the log.

    @param names: what it is for: host names and addresses.
    """

    def __init__(self, wall: WallClock, names: Iterable[str]) -> None:
        self._wall = wall
        self._names = list(dict.fromkeys(names))
        self._until: datetime | None = None
        self._context: SSL.Context

    def context(self) -> SSL.Context:
        now = self._wall()
        if self._until is None or now >= self._until - RENEWED:
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = self_signed(key, self._names, now)
            self._context = _context(
                crypto.PKey.from_cryptography_key(key), [crypto.X509.from_cryptography(certificate)]
            )
            self._until = certificate.not_valid_after_utc
            _say("a certificate of its own", certificate)
        return self._context


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """The server's side of TLS."""

    def __init__(self, certificate: Certificate) -> None:
        self.certificate = certificate

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N802  # Twisted's
        connection = SSL.Connection(self.certificate.context(), None)
        connection.set_accept_state()
        return connection


class TLSSite(TLSMemoryBIOFactory):
    """C{site} behind TLS."""

    noisy = False

    def __init__(self, clock: IReactorTime, site: AgentSite, tls: ServerTLS) -> None:
        super().__init__(tls, False, site, clock)
        self._site = site

    # A refusal is None, which the class overridden would wrap.
    def buildProtocol(self, addr: IAddress | None) -> BufferingTLSTransport | None:  # type: ignore[override]
        channel = self._site.buildProtocol(addr)
        return None if channel is None else BufferingTLSTransport(self, channel)


def server_tls(settings: ServerSettings, wall: WallClock, hostname: str) -> ServerTLS | None:
    """How the settings want TLS to be served; None: not at all."""
    tls = settings.tls
    if tls.mode == "off":
        return None
    if tls.mode == "files":
        return ServerTLS(FileCertificate(tls.cert_file, tls.key_file))
    bound = [] if settings.bind in ("", "0.0.0.0", "::") else [settings.bind]  # noqa: S104  # compared, not bound
    return ServerTLS(OwnCertificate(wall, [hostname, "localhost", *bound, "127.0.0.1", "::1"]))


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 as C{openssl x509 -fingerprint} and browsers write it."""
    return certificate.fingerprint(SHA256()).hex(":").upper()


def _say(what: str, certificate: x509.Certificate) -> None:
    _log.info(
        "{what} is shown from now on, until {until:%Y-%m-%d}; SHA-256 {fingerprint}",
        what=what,
        until=certificate.not_valid_after_utc,
        fingerprint=fingerprint(certificate),
    )


def _context(key: crypto.PKey | None, chain: list[crypto.X509]) -> SSL.Context:
    """@raise SSL.Error: the key is not the certificate's."""
    options = CertificateOptions(
        privateKey=key,
        certificate=chain[0],
        extraCertChain=chain[1:] or None,
        raiseMinimumTo=TLSVersion.TLSv1_3,
    )
    return options.getContext()


def self_signed(key: ec.EllipticCurvePrivateKey, names: list[str], now: datetime) -> x509.Certificate:
    """A certificate for C{names}, signed by its own key, that signs no others."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pipeops-agent")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - LEEWAY)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(list(map(_general_name, names))), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, SHA256())
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _identity(path: Path) -> tuple[int, ...] | None:
    """What differs when a file was replaced; None: it can't be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
