"""Certificate authorities made on the spot, for tests that speak TLS."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from twisted.internet.ssl import CertificateOptions, TLSVersion


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Identity:
    """A certificate and its key."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self.key = key

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self, password: bytes | None = None) -> bytes:
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password is not None:
            encryption = serialization.BestAvailableEncryption(password)
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )

    def server_options(
        self, *, highest: str = "1.3", client_authority: Authority | None = None
    ) -> CertificateOptions:
        """What a server needs to speak TLS with this identity."""
        options = CertificateOptions(
            privateKey=crypto.PKey.from_cryptography_key(self.key),
            certificate=crypto.X509.from_cryptography(self.certificate),
            lowerMaximumSecurityTo=TLSVersion.TLSv1_2 if highest == "1.2" else None,
        )
        if client_authority is not None:
            context = options.getContext()
            store = context.get_cert_store()
            assert store is not None
            store.add_cert(crypto.X509.from_cryptography(client_authority.identity.certificate))
            context.set_verify(
                SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *arguments: bool(arguments[-1])
            )
        return options


class Authority:
    """A certificate authority of its own."""

    def __init__(self, name: str = "Test CA") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = _name(name)
        self.identity = Identity(self._sign(self.name, self.key, authority=True), self.key)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        names: tuple[str, ...] = (),
        begin: timedelta = timedelta(days=-1),
        end: timedelta = timedelta(days=1),
        authority: bool = False,
        usage: x509.ObjectIdentifier | None = None,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begin)
            .not_valid_after(now + end)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
            )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(
        self,
        *names: str,
        begin: timedelta = timedelta(days=-1),
        end: timedelta = timedelta(days=1),
        usage: x509.ObjectIdentifier | None = None,
    ) -> Identity:
        """
        A certificate for C{names} (host names or addresses), valid from C{begin} to C{end} from now.

        @param usage: the only thing that it may be used for; None: everything.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(names[0] if names else "nobody")
        return Identity(self._sign(subject, key, names=names, begin=begin, end=end, usage=usage), key)

    def write(self, path: Path) -> str:
        """Write the authority's certificate as PEM; return the path."""
        path.write_bytes(self.identity.certificate_pem)
        return str(path)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
