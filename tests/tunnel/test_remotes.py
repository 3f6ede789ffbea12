"""Remotes on the wire: the configuration, the channel's target, the ports that a refusal names."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.remotes import (
    MAX_CONFIG_BYTES,
    MAX_REMOTES,
    MAX_TARGET_BYTES,
    ChannelTarget,
    ConfigError,
    Remote,
    TargetError,
    config_payload,
    named_ports,
    parse_config,
    parse_target,
)

GO_REMOTE: dict[str, Any] = {
    "LocalHost": "0.0.0.0",
    "LocalPort": "8000",
    "LocalProto": "tcp",
    "RemoteHost": "localhost",
    "RemotePort": "6443",
    "RemoteProto": "tcp",
    "Socks": False,
    "Reverse": True,
    "Stdio": False,
}
"""What chisel's Go client sends for C{R:8000:localhost:6443}."""


def payload(*changes: dict[str, Any]) -> bytes:
    """A configuration with one remote per argument: the Go client's, changed."""
    return json.dumps({"Version": "1", "Remotes": [{**GO_REMOTE, **change} for change in changes]}).encode()


hosts = st.one_of(
    st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{2,5})?", fullmatch=True),
    st.ip_addresses().map(str),
)
ports = st.integers(1, 65535)


class ConfigPayloadTests(SynchronousTestCase):
    def test_equals_the_go_clients(self) -> None:
        """A remote is written field for field as the Go client writes it."""
        sent = json.loads(config_payload([Remote("kubernetes-api", 8000, "localhost", 6443)], "0.1.0"))
        self.assertEqual(sent, {"Version": "0.1.0", "Remotes": [GO_REMOTE]})

    def test_ipv6_is_bracketed(self) -> None:
        """An IPv6 target is bracketed: the server puts host, colon and port together."""
        sent = json.loads(config_payload([Remote("a", 8000, "fd00::1", 6443)], "1"))
        self.assertEqual(sent["Remotes"][0]["RemoteHost"], "[fd00::1]")

    @given(st.lists(st.tuples(ports, hosts, ports), min_size=1, max_size=8, unique_by=lambda each: each[0]))
    def test_round_trip(self, wanted: list[tuple[int, str, int]]) -> None:
        """The server reads what the client writes, the order included; a channel's target likewise."""
        remotes = [Remote("name", remote_port, host, port) for remote_port, host, port in wanted]
        read = parse_config(config_payload(remotes, "1.2.3"))
        self.assertEqual(read.version, "1.2.3")
        self.assertEqual([(each.local_port, each.host, each.port) for each in read.remotes], wanted)
        for each, remote in zip(read.remotes, remotes, strict=True):
            self.assertEqual(each.target, remote.target)
            self.assertEqual(parse_target(each.target.encode()), ChannelTarget(remote.host, remote.port))


class ParseConfigTests(SynchronousTestCase):
    def test_go_client(self) -> None:
        """The Go client's configuration is read; an empty host is the default, as chisel has it."""
        remote = parse_config(payload({})).remotes[0]
        self.assertEqual(
            (remote.local_host, remote.local_port, remote.target), ("0.0.0.0", 8000, "localhost:6443")
        )
        remote = parse_config(payload({"LocalHost": "", "RemoteHost": ""})).remotes[0]
        self.assertEqual((remote.local_host, remote.host), ("0.0.0.0", "127.0.0.1"))

    def test_refusals(self) -> None:
        """What is not a list of reverse TCP remotes is refused with a sentence that names the place."""
        refused: list[tuple[dict[str, Any], str]] = [
            ({"Reverse": False}, "Remotes[0]: only reverse"),
            ({"Socks": True}, "Remotes[0]: only reverse"),
            ({"Stdio": True}, "Remotes[0]: only reverse"),
            ({"LocalProto": "udp"}, "LocalProto"),
            ({"RemoteProto": "udp"}, "RemoteProto"),
            ({"LocalPort": 8000}, "LocalPort"),
            ({"LocalPort": "0"}, "Remotes[0]: expected ports"),
            ({"LocalPort": "65536"}, "Remotes[0]: expected ports"),
            ({"LocalPort": "80x"}, "Remotes[0]: expected ports"),
            ({"LocalPort": "٨٠"}, "Remotes[0]: expected ports"),
            ({"RemotePort": ""}, "Remotes[0]: expected ports"),
            ({"RemoteHost": "::1"}, "Remotes[0]: expected hosts"),
            ({"RemoteHost": "[::1"}, "Remotes[0]: expected hosts"),
            ({"RemoteHost": "[localhost]"}, "Remotes[0]: expected hosts"),
            ({"RemoteHost": "a b"}, "Remotes[0]: expected hosts"),
            ({"LocalHost": "a/b\n"}, "Remotes[0]: expected hosts"),
            ({"Extra": 1}, "Extra"),
        ]
        for change, part in refused:
            error = self.assertRaises(ConfigError, parse_config, payload(change))
            self.assertIn(part, str(error), str(change))

    def test_same_port_twice(self) -> None:
        """One port can't be listened on twice; the second asking is named."""
        error = self.assertRaises(ConfigError, parse_config, payload({}, {"RemotePort": "80"}))
        self.assertIn("Remotes[1]: port 8000 is asked for twice", str(error))

    def test_no_configuration_at_all(self) -> None:
        """Broken JSON, other JSON, no remotes: refused, each with a sentence."""
        for bad in [
            b"",
            b"{",
            b"[]",
            b"null",
            b"\xff",
            b'{"Version":"1"}',
            b'{"Version":"1","Remotes":null}',
        ]:
            self.assertRaises(ConfigError, parse_config, bad)
        error = self.assertRaises(ConfigError, parse_config, payload())
        self.assertIn("no remotes", str(error))

    def test_limits(self) -> None:
        """Too many bytes and too many remotes are refused before they are looked at."""
        error = self.assertRaises(ConfigError, parse_config, b" " * (MAX_CONFIG_BYTES + 1))
        self.assertIn(f"more than {MAX_CONFIG_BYTES} bytes", str(error))
        many = [{"LocalPort": str(1000 + number)} for number in range(MAX_REMOTES + 1)]
        self.assertEqual(len(parse_config(payload(*many[:-1])).remotes), MAX_REMOTES)
        error = self.assertRaises(ConfigError, parse_config, payload(*many))
        self.assertIn(f"more than {MAX_REMOTES} remotes", str(error))


class ParseTargetTests(SynchronousTestCase):
    def test_forms(self) -> None:
        """The three forms of a channel's extra data."""
        self.assertEqual(parse_target(b"localhost:6443"), ChannelTarget("localhost", 6443))
        self.assertEqual(parse_target(b"10.0.0.1:53/udp"), ChannelTarget("10.0.0.1", 53, "udp"))
        self.assertEqual(parse_target(b"[::1]:80"), ChannelTarget("::1", 80))
        self.assertEqual(parse_target(b"[fe80::1%eth0]:80"), ChannelTarget("fe80::1%eth0", 80))
        self.assertEqual(parse_target(b"socks"), ChannelTarget("", 0, "socks"))

    def test_anything_else(self) -> None:
        """What names no target is refused; what the server sent is quoted with control characters escaped."""
        for bad in [
            b"",
            b":80",
            b"host",
            b"host:",
            b"host:0",
            b"host:65536",
            b"host:+80",
            b"host:8 0",
            b"::1:80",
            b"[::1]80",
            b"[]:80",
            b"host:80/icmp",
            b"host:80/",
            b"host:80/udp/udp",
            b"socks5",
            b"a\x00b:80",
            b"\xff:80",
            b"h" * MAX_TARGET_BYTES + b":80",
        ]:
            self.assertRaises(TargetError, parse_target, bad)
        error = self.assertRaises(TargetError, parse_target, b"a\nb:80")
        self.assertNotIn("\n", str(error))

    @given(st.binary(max_size=64))
    def test_any_bytes(self, extra: bytes) -> None:
        """Any bytes are a target or a L{TargetError}; nothing else is raised."""
        try:
            target = parse_target(extra)
        except TargetError:
            return
        self.assertTrue(target.protocol == "socks" or 1 <= target.port <= 65535)


class NamedPortsTests(SynchronousTestCase):
    def test_the_servers_ports_are_found(self) -> None:
        """The reasons of chisel and of Go's net package name the server's port; never the target's."""
        for reason, found in [
            ("server: Server cannot listen on R:8000=>localhost:6443", {8000}),
            ("server: session#3: Server cannot listen on R:8001=>6443", {8001}),
            ("Server cannot listen on R:127.0.0.1:8002=>10.0.0.1:80", {8002}),
            ("cannot listen on 0.0.0.0:8000", {8000}),
            ("cannot listen on [::]:8000", {8000}),
            ("server: access to 'R:0.0.0.0:8000' denied", {8000}),
            ("listen tcp 0.0.0.0:8000: bind: address already in use", {8000}),
            ("listen tcp4 :8000: bind: address already in use", {8000}),
            ("cannot listen on 8000; cannot listen on 8001", {8000, 8001}),
            ("Reverse port forwaring not enabled on server", set()),
            ("cannot listen on 99999", set()),
            ("cannot listen on port eight", set()),
            ("expecting config request", set()),
            ("", set()),
        ]:
            self.assertEqual(named_ports(reason), found, reason)
