"""The SSH transport: key exchange, strictness, rekeying, login, and every way for a peer to misbehave."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.conch.ssh.common import NS
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.ssh.auth import LoginRefused
from pipeops_agent.tunnel.ssh.client import ChiselClientTransport
from pipeops_agent.tunnel.ssh.common import RekeyPolicy, SSHError, fingerprint, peer_text
from pipeops_agent.tunnel.ssh.messages import MSG_DISCONNECT, MSG_NEWKEYS, MSG_UNIMPLEMENTED
from pipeops_agent.tunnel.ssh.suites import CIPHERS, MACS
from tests.tunnel.ssh.pair import HOST_KEY, Handler, Pair

MSG_IGNORE = 2
MSG_DEBUG = 4

RIGHT = fingerprint(HOST_KEY.public().blob())


class KeyExchange(SynchronousTestCase):
    """The first key exchange."""

    def test_secure_with_the_right_key(self) -> None:
        """Both owners are told once; the cipher is the one preferred; the exchange is strict."""
        pair = Pair(expected=RIGHT)
        pair.connect()
        self.assertEqual((pair.client_owner.secure, pair.server_owner.secure), (1, 1))
        self.assertEqual(pair.client._agreement.cipher_cs, b"aes128-gcm@openssh.com")
        self.assertTrue(pair.client._strict)
        self.assertTrue(pair.server._strict)
        self.assertEqual(pair.client.host_fingerprint, RIGHT)

    def test_byte_by_byte(self) -> None:
        """The handshake does not depend on how the bytes are cut."""
        pair = Pair(expected=RIGHT)
        pair.client.makeConnection(pair.client_wire)
        pair.server.makeConnection(pair.server_wire)
        pair.pump(size=1, rounds=20000)
        self.assertEqual(pair.client_owner.secure, 1)

    def test_every_suite(self) -> None:
        """Each cipher with each MAC that this side offers carries a login."""
        for cipher in CIPHERS:
            for mac in MACS:
                pair = Pair(expected=RIGHT)
                pair.client.supportedCiphers = [cipher]
                pair.client.supportedMACs = [mac]
                pair.log_in()
                self.successResultOf(pair.login.done)
                self.assertEqual(pair.client._agreement.cipher_cs, cipher)

    def test_wrong_host_key(self) -> None:
        """A key that is not the expected one ends it before any credentials are sent."""
        pair = Pair(expected=fingerprint(b"another"))
        pair.connect()
        self.assertEqual(pair.client_owner.secure, 0)
        [error] = pair.client_owner.ended
        self.assertIn("not the expected one", str(error))
        self.assertIn(RIGHT, str(error))
        [told] = pair.server_owner.ended
        self.assertIn("host key", str(told))

    def test_any_key_but_always_the_same(self) -> None:
        """Without a fingerprint any key is taken; at the next exchange it must be the same."""
        pair = Pair()
        pair.connect()
        self.assertEqual(pair.client_owner.secure, 1)
        pair.client.host_fingerprint = fingerprint(b"the first one")
        pair.client.sendKexInit()
        pair.pump()
        [error] = pair.client_owner.ended
        self.assertIn("not the expected one", str(error))

    def test_no_common_cipher(self) -> None:
        """No common algorithm is said, not hung on."""
        pair = Pair()
        pair.client.supportedCiphers = [b"none-of-yours"]
        pair.connect()
        self.assertIn("no cipher in common", str(pair.server_owner.ended[0]))
        self.assertEqual(len(pair.client_owner.ended), 1)
        self.assertEqual(pair.client_owner.secure, 0)

    def test_no_common_mac(self) -> None:
        """With an authenticated cipher no MAC has to be agreed on; with another one it has."""
        for cipher, well in ((b"aes128-gcm@openssh.com", True), (b"aes128-ctr", False)):
            pair = Pair()
            pair.client.supportedCiphers = [cipher]
            pair.client.supportedMACs = [b"hmac-sha1"]
            pair.connect()
            self.assertEqual(pair.client_owner.secure, int(well), cipher)

    def test_not_strict_with_an_old_peer(self) -> None:
        """A peer that does not offer strict key exchange is spoken to without it."""
        pair = Pair(expected=RIGHT)
        pair.client.supportedKeyExchanges = [b"curve25519-sha256"]
        pair.log_in()
        self.assertFalse(pair.client._strict)
        self.successResultOf(pair.login.done)


class Strictness(SynchronousTestCase):
    """What a strict key exchange forbids (CVE-2023-48795)."""

    def assert_ended(self, pair: Pair, words: str) -> None:
        """The client has ended the connection with C{words} in the reason."""
        [error] = pair.client_owner.ended
        self.assertIn(words, str(error))

    def test_ignore_before_newkeys(self) -> None:
        """An IGNORE slipped into the exchange ends it."""
        pair = Pair()
        pair.client.makeConnection(pair.client_wire)
        pair.server.makeConnection(pair.server_wire)
        pair.server.sendIgnore(b"x")
        pair.pump()
        self.assert_ended(pair, "strict key exchange")

    def test_added_before_newkeys(self) -> None:
        """So does anything that is added between the reply and NEWKEYS, on either side, known or unknown."""
        for message in (MSG_IGNORE, MSG_UNIMPLEMENTED, MSG_DEBUG, 27, 40):
            pair = Pair()
            for side, wire in ((pair.client, pair.client_wire), (pair.server, pair.server_wire)):
                side.makeConnection(wire)
            send = pair.server.sendPacket

            def add(number: int, payload: bytes, message: int = message, send: Any = send) -> None:
                if number == MSG_NEWKEYS:
                    send(message, b"\0" * 9)
                send(number, payload)

            pair.server.sendPacket = add  # type: ignore[method-assign, assignment]  # as if somebody on the way had added it
            pair.pump()
            self.assert_ended(pair, "strict key exchange")
            self.assertEqual(pair.client_owner.secure, 0)

    def test_something_before_kexinit(self) -> None:
        """KEXINIT must be the first packet."""

        class Early(ChiselClientTransport):
            def sendKexInit(self) -> None:
                self.sendIgnore(b"x")
                super().sendKexInit()

        pair = Pair(client_class=Early)
        pair.connect()
        [error] = pair.server_owner.ended
        self.assertIn("first packet", str(error))

    def test_newkeys_without_exchange(self) -> None:
        """NEWKEYS out of turn is an error, not a switch to unknown keys."""
        pair = Pair()
        pair.connect()
        pair.server.sendPacket(MSG_NEWKEYS, b"")
        pair.pump()
        self.assert_ended(pair, "without a key exchange")


class Garbage(SynchronousTestCase):
    """A peer that does not speak the protocol."""

    def feed(self, data: bytes) -> str:
        """Feed a new client with C{data}; return its reason to end."""
        pair = Pair()
        pair.client.makeConnection(pair.client_wire)
        pair.client.dataReceived(data)
        self.assertTrue(pair.client_wire.closed)
        pair.lose()
        [error] = pair.client_owner.ended
        return str(error)

    def test_another_protocol(self) -> None:
        """The first line of what is no chisel server is shown."""
        self.assertIn("'SSH-2.0-OpenSSH_9.6'", self.feed(b"SSH-2.0-OpenSSH_9.6\r\n"))
        self.assertIn("'HTTP/1.1 400", self.feed(b"HTTP/1.1 400 Bad Request\r\n"))

    def test_endless_line(self) -> None:
        """A line that does not end is given up at 255 bytes."""
        self.assertIn("longer", self.feed(b"x" * 300))

    def test_control_characters_are_not_shown(self) -> None:
        """What a peer says reaches a message without control characters, and bounded."""
        self.assertNotIn("\x1b", self.feed(b"SSH-9\x1b[2J\r\n"))
        self.assertLess(len(peer_text(b"x" * 5000)), 300)

    def test_disconnect_by_the_peer(self) -> None:
        """The peer's own reason is passed on."""
        pair = Pair()
        pair.connect()
        payload = struct.pack(">L", 11) + NS(b"going away") + NS(b"")
        pair.server.sendPacket(MSG_DISCONNECT, payload)
        pair.pump()
        pair.lose()
        [error] = pair.client_owner.ended
        self.assertEqual(str(error), "the peer disconnected: going away")

    @settings(max_examples=200, deadline=None)
    @given(st.integers(0, 255), st.binary(max_size=120), st.booleans())
    def test_any_message(self, message: int, payload: bytes, logged_in: bool) -> None:
        """Whatever well-sealed message comes, the answer is an orderly one: no exception escapes."""
        pair = Pair()
        if logged_in:
            pair.log_in()
        else:
            pair.connect()
        pair.server._keyExchangeState = pair.server._KEY_EXCHANGE_NONE
        pair.server.sendPacket(message, payload)
        data = bytes(pair.server_wire.written)
        pair.server_wire.written.clear()
        pair.client.dataReceived(data)
        pair.lose()
        self.assertEqual(len(pair.client_owner.ended), 1)
        self.assertEqual(pair.clock.getDelayedCalls(), [])


class Login(SynchronousTestCase):
    """Password authentication."""

    def test_right_password(self) -> None:
        """Accepted; both connection layers run."""
        pair = Pair()
        pair.log_in()
        self.successResultOf(pair.login.done)
        self.assertIs(pair.client.service, pair.client_layer)
        self.assertIs(pair.server.service, pair.server_layer)

    def test_wrong_password(self) -> None:
        """Refused, as an error of its own that shows no password."""
        pair = Pair(password="wrong-one")
        pair.log_in()
        failure = self.failureResultOf(pair.login.done, LoginRefused)
        self.assertNotIn("wrong-one", str(failure.value))

    def test_lost_during_login(self) -> None:
        """A connection that ends during login fails the wait."""
        pair = Pair()
        pair.connect()
        pair.client.requestService(pair.login)
        pair.server.transport.write = lambda data: None
        pair.pump()
        self.assertNoResult(pair.login.done)
        pair.client.setService(pair.login)
        pair.lose()
        self.failureResultOf(pair.login.done, SSHError)

    def test_too_many_attempts(self) -> None:
        """The server ends the connection after six failures."""
        pair = Pair(password="wrong")
        pair.log_in()
        self.failureResultOf(pair.login.done, LoginRefused)
        for _ in range(5):
            pair.login.serviceStarted()
            pair.pump()
        [error] = pair.server_owner.ended
        self.assertIn("too many failed logins", str(error))


class Rekeying(SynchronousTestCase):
    """New keys, asked for by either side, in the middle of a transfer."""

    def transfer(self, pair: Pair) -> tuple[bytes, bytes]:
        """Send 300 KB each way over one channel, pumping in small pieces; return what came."""
        pair.log_in()
        handler = Handler()
        opening = pair.server_layer.open_channel(b"chisel", b"x", handler)
        pair.pump()
        [request] = pair.client_requests.opens
        other = Handler()
        other.channel = request.accept(other)
        pair.pump()
        handler.channel = self.successResultOf(opening)
        for _ in range(300):
            handler.channel.write(b"s" * 1000)
            other.channel.write(b"c" * 1000)
            pair.pump(size=700)
        pair.pump()
        return bytes(handler.data), bytes(other.data)

    def check(self, pair: Pair, at_least: int) -> None:
        """Both streams are whole, and keys were renewed often enough."""
        at_server, at_client = self.transfer(pair)
        self.assertEqual(at_server, b"c" * 300_000)
        self.assertEqual(at_client, b"s" * 300_000)
        self.assertGreaterEqual(pair.client.key_exchanges, at_least)
        self.assertEqual(pair.client.key_exchanges, pair.server.key_exchanges)
        self.assertEqual(pair.client_owner.ended, [])

    def test_by_the_client(self) -> None:
        """The client renews the keys every 20 KB."""
        self.check(Pair(client_rekey=RekeyPolicy(20_000, 1e9)), 10)

    def test_by_the_server(self) -> None:
        """The server does."""
        self.check(Pair(server_rekey=RekeyPolicy(20_000, 1e9)), 10)

    def test_by_both_at_once(self) -> None:
        """Both ask at the same time: one exchange serves both."""
        policy = RekeyPolicy(20_000, 1e9)
        self.check(Pair(client_rekey=policy, server_rekey=policy), 10)

    def test_without_strictness(self) -> None:
        """Sequence numbers go on over a key exchange that is not strict."""
        pair = Pair(client_rekey=RekeyPolicy(20_000, 1e9))
        pair.client.supportedKeyExchanges = [b"curve25519-sha256"]
        # A cipher whose MAC covers the sequence number.
        pair.client.supportedCiphers = [b"aes128-ctr"]
        self.check(pair, 10)

    def test_by_time(self) -> None:
        """Keys older than the limit are renewed with the next packet."""
        pair = Pair(client_rekey=RekeyPolicy(1 << 40, 3600))
        pair.log_in()
        pair.clock.advance(3601)
        self.assertEqual(pair.client.key_exchanges, 1)
        pair.client_layer.request(b"ping").addErrback(lambda _: None)
        pair.pump()
        self.assertEqual(pair.client.key_exchanges, 2)

    def test_services_wait(self) -> None:
        """While keys change, what services send is held back in order, and they are told to pause."""
        pair = Pair()
        pair.log_in()
        pair.client.sendKexInit()
        self.assertTrue(pair.client_layer.turns.congested)
        replies = [pair.client_layer.request(b"ping", bytes([n])) for n in range(3)]
        self.assertEqual(pair.server_requests.globals, [])
        pair.pump()
        self.assertEqual(pair.server_requests.globals, [(b"ping", bytes([n])) for n in range(3)])
        self.assertEqual([self.successResultOf(reply) for reply in replies], [b"pong"] * 3)
        self.assertFalse(pair.client_layer.turns.congested)
