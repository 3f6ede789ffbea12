"""Tests for where a connection comes from."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.access.origins import Origin, origin_of
from pipeops_agent.own_sockets import OwnSockets


class OriginTests(SynchronousTestCase):
    """Addresses, networks, and the tunnel."""

    def setUp(self) -> None:
        self.sockets = OwnSockets(Clock())

    def of(self, host: str, port: int = 1234) -> Origin:
        kind = IPv6Address if ":" in host else IPv4Address
        return origin_of(kind("TCP", host, port), self.sockets)

    def test_ipv4(self) -> None:
        """Each IPv4 address is a client of its own; written in IPv6 it is the same."""
        expected = Origin(name="10.0.0.7", client="10.0.0.7")
        self.assertEqual(self.of("10.0.0.7"), expected)
        self.assertEqual(self.of("::ffff:10.0.0.7"), expected)

    def test_ipv6(self) -> None:
        """Whoever has one address of a network of 64 bits has them all; the log names the one."""
        self.assertEqual(self.of("2001:db8::7"), Origin(name="2001:db8::7", client="2001:db8::/64"))
        self.assertEqual(self.of("2001:db8::8").client, self.of("2001:db8:0:0:ffff::1").client)
        self.assertNotEqual(self.of("2001:db8:0:1::8").client, self.of("2001:db8::8").client)
        self.assertEqual(self.of("fe80::1%eth0").client, "fe80::/64")

    def test_loopback(self) -> None:
        """Loopback is near, since nobody listens on the way, and is no tunnel."""
        for host in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"):
            origin = self.of(host)
            self.assertEqual((origin.near, origin.tunnel), (True, False), host)

    def test_tunnel(self) -> None:
        """What the tunnel has dialled comes from the tunnel, whatever address it is dialled from."""
        for host in ("127.0.0.1", "::1", "10.0.0.7"):
            self.sockets.opened((host, 5000), "agent-http")
            expected = Origin(name="tunnel:agent-http", client="tunnel:agent-http", tunnel=True, near=True)
            self.assertEqual(self.of(host, 5000), expected)
            self.assertFalse(self.of(host, 5001).tunnel)

    def test_no_address(self) -> None:
        """What has no IP address is far away."""
        self.assertFalse(origin_of(UNIXAddress("/run/x"), self.sockets).near)
