"""The certificate authority."""

from __future__ import annotations

import ipaddress
from datetime import timedelta

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.sandbox.pki import LIFETIME, Authority
from tests.sandbox.memory import NOW


class AuthorityTests(SynchronousTestCase):
    def verify(self, name: x509.GeneralName, *, days: float = 1, authority: Authority | None = None) -> None:
        """Verify a server's certificate as a client would."""
        maker = Authority(NOW)
        trusted = x509.load_pem_x509_certificate((authority or maker).pem)
        certificate = maker.server(["sandbox.test", "10.0.0.1", "::1"]).certificate
        assert certificate is not None
        shown = certificate.to_cryptography()
        policy = PolicyBuilder().store(Store([trusted])).time(NOW + timedelta(days=days))
        assert isinstance(name, x509.DNSName | x509.IPAddress)
        policy.build_server_verifier(name).verify(shown, [])

    def test_names(self) -> None:
        """The certificate is good for each of its names and addresses."""
        self.verify(x509.DNSName("sandbox.test"))
        self.verify(x509.IPAddress(ipaddress.ip_address("10.0.0.1")))
        self.verify(x509.IPAddress(ipaddress.ip_address("::1")))

    def test_other_name(self) -> None:
        """It is not good for another name."""
        self.assertRaises(VerificationError, self.verify, x509.DNSName("other.test"))

    def test_other_authority(self) -> None:
        """Each sandbox has an authority of its own: another's does not vouch for it."""
        name = x509.DNSName("sandbox.test")
        with self.assertRaises(VerificationError):
            self.verify(name, authority=Authority(NOW))

    def test_expires(self) -> None:
        """It ends after its lifetime."""
        name = x509.DNSName("sandbox.test")
        with self.assertRaises(VerificationError):
            self.verify(name, days=LIFETIME.days + 1)
