"""What this side offers, and in which order."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.ssh import suites
from pipeops_agent.tunnel.ssh.suites import CHACHA, CIPHERS, has_aes, preferred_ciphers

X86 = "processor\t: 0\nflags\t\t: fpu vme {} avx\n\nprocessor\t: 1\nflags\t\t: fpu vme {} avx\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd {} crc32\nCPU implementer\t: 0x41\n"


class PreferenceTests(SynchronousTestCase):
    """The machine decides."""

    def info(self, text: str) -> Path:
        """A file like /proc/cpuinfo."""
        path = Path(self.mktemp())
        path.write_text(text)
        return path

    def test_instructions(self) -> None:
        """Either architecture's list is understood; C{vaes} alone is something else."""
        self.assertTrue(has_aes(self.info(X86.format("aes", "aes"))))
        self.assertTrue(has_aes(self.info(ARM.format("aes"))))
        self.assertFalse(has_aes(self.info(X86.format("vaes", "vaes"))))
        self.assertFalse(has_aes(self.info(ARM.format("sha1"))))

    def test_unknown(self) -> None:
        """Where nothing can be told, AES it is."""
        self.assertTrue(has_aes(Path(self.mktemp())))
        self.assertTrue(has_aes(self.info("nothing of the kind\n")))

    def test_with_aes(self) -> None:
        """GCM first, then ChaCha20, then CTR."""
        names = preferred_ciphers(self.info(X86.format("aes", "aes")))
        self.assertEqual(names, list(CIPHERS))
        self.assertEqual(names[0], b"aes128-gcm@openssh.com")
        self.assertLess(names.index(CHACHA), names.index(b"aes128-ctr"))

    def test_without_aes(self) -> None:
        """ChaCha20 first, the others in their order."""
        names = preferred_ciphers(self.info(ARM.format("sha1")))
        self.assertEqual(names, [CHACHA, *(name for name in CIPHERS if name != CHACHA)])

    def test_without_poly1305(self) -> None:
        """Where OpenSSL may not use it (FIPS), ChaCha20 is not offered."""

        class Backend:
            def poly1305_supported(self) -> bool:
                return False

        self.patch(suites, "backend", Backend())
        self.assertNotIn(CHACHA, preferred_ciphers())
