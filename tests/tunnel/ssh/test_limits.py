"""What a peer that holds the other end's keys can make this end do, hold, or believe: bounded."""

from __future__ import annotations

import struct
from typing import Any

from twisted.conch.ssh.common import NS
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.ssh import transport as transport_module
from pipeops_agent.tunnel.ssh.cipher import MAX_PACKET
from pipeops_agent.tunnel.ssh.common import RekeyPolicy, SSHError, WrongHostKey, fingerprint
from pipeops_agent.tunnel.ssh.messages import (
    MSG_CHANNEL_DATA,
    MSG_GLOBAL_REQUEST,
    MSG_KEX_ECDH_INIT,
    MSG_KEX_ECDH_REPLY,
    MSG_KEXINIT,
    MSG_UNIMPLEMENTED,
    MSG_USERAUTH_BANNER,
)
from pipeops_agent.tunnel.ssh.packets import PacketReader
from pipeops_agent.tunnel.ssh.suites import CHACHA, GIB
from tests.tunnel.ssh.pair import NEVER, Handler, Pair
from tests.tunnel.ssh.sealing import plain_packet

MSG_SERVICE_REQUEST = 5
MSG_SERVICE_ACCEPT = 6
MSG_EXT_INFO = 7
MSG_KEX_DH_GEX_INIT = 32
MSG_KEX_DH_GEX_REPLY = 33
MSG_KEX_DH_GEX_REQUEST = 34

PING = NS(b"ping") + b"\1"


class Limits(SynchronousTestCase):
    """A pair that has logged in, and whose server does what it likes."""

    def setUp(self) -> None:
        self.pair = Pair()
        self.pair.log_in()

    def send(self, message: int, payload: bytes) -> None:
        """Let the server send a message, whatever it thinks of key exchanges."""
        self.pair.server._write(message, payload)

    def assert_ended(self, words: str) -> None:
        """The client has ended it, with C{words} in the reason."""
        self.pair.lose()
        [error] = self.pair.client_owner.ended
        self.assertIn(words, str(error))


class Turns(Limits):
    """Messages that come when it is not their turn."""

    def test_service_accepted_twice(self) -> None:
        """A second acceptance does not put the login in the place of the connection."""
        for payload in (NS(b"ssh-userauth"), b""):
            self.setUp()
            self.send(MSG_SERVICE_ACCEPT, payload)
            self.pair.pump()
            self.assertIsNot(self.pair.client.service, self.pair.login)
            self.assert_ended("not asked for")

    def test_service_accepted_unasked(self) -> None:
        """Nor does one before anything was asked for."""
        self.pair = Pair()
        self.pair.connect()
        self.send(MSG_SERVICE_ACCEPT, NS(b"ssh-userauth"))
        self.pair.pump()
        self.assert_ended("not asked for")

    def test_reply_without_exchange(self) -> None:
        """A key exchange's reply outside of one changes no keys."""
        for message in (MSG_KEX_ECDH_REPLY, MSG_KEX_DH_GEX_REPLY):
            self.setUp()
            self.send(message, NS(b"key") + NS(b"point") + NS(b"signature"))
            self.pair.pump()
            self.assert_ended("a reply came to")

    def test_reply_twice(self) -> None:
        """Nor does a second one inside of one."""
        pair = Pair()
        send = pair.server.sendPacket

        def twice(message: int, payload: bytes) -> None:
            send(message, payload)
            if message == MSG_KEX_ECDH_REPLY:
                send(message, payload)

        pair.server.sendPacket = twice  # type: ignore[method-assign, assignment]  # it repeats itself
        pair.connect()
        [error] = pair.client_owner.ended
        self.assertIn("a reply came to no key exchange", str(error))
        self.assertEqual(pair.client_owner.secure, 0)

    def assert_server_ended(self, message: int, payload: bytes, words: str) -> None:
        """The server ends it when the client sends this, and changes no keys and no service."""
        self.setUp()
        service = self.pair.server.service
        written = self.pair.server._writer.packets_sealed
        self.pair.client._write(message, payload)
        self.pair.server.dataReceived(bytes(self.pair.client_wire.written))
        self.assertIs(self.pair.server.service, service)
        self.assertEqual(self.pair.server._writer.packets_sealed, written + 1)  # the goodbye
        self.pair.lose()
        [error] = self.pair.server_owner.ended
        self.assertIn(words, str(error))

    def test_clients_part_without_exchange(self) -> None:
        """A client's part of a key exchange outside of one is an error, and so is one of another method."""
        self.assert_server_ended(MSG_KEX_ECDH_INIT, NS(bytes(32)), "no key exchange")
        self.assert_server_ended(MSG_KEX_DH_GEX_INIT, NS(b"e"), "not agreed on")
        self.assert_server_ended(MSG_KEX_DH_GEX_REQUEST, bytes(12), "not agreed on")

    def test_service_requested_twice(self) -> None:
        """A second login does not end the connection's service and put itself in its place."""
        self.assert_server_ended(MSG_SERVICE_REQUEST, NS(b"ssh-userauth"), "one is running")

    def test_data_inside_an_exchange(self) -> None:
        """After its KEXINIT a peer sends nothing for the services until its NEWKEYS (RFC 4253, 7.1)."""
        self.send(MSG_KEXINIT, self.pair.server.ourKexInitPayload[1:])
        self.send(MSG_GLOBAL_REQUEST, PING)
        self.pair.pump()
        self.assert_ended("message 80 came inside a key exchange")

    def test_data_that_was_under_way(self) -> None:
        """What the peer sent before it saw our KEXINIT is taken."""
        reply = self.pair.server_layer.request(b"ping")
        self.pair.client.sendKexInit()
        self.pair.pump()
        self.assertEqual(self.pair.client_owner.ended, [])
        self.assertEqual(self.successResultOf(reply), b"pong")

    def test_unimplemented(self) -> None:
        """An unknown message is answered with its own number."""
        sent: list[tuple[int, bytes]] = []
        self.pair.client.sendPacket = lambda *packet: sent.append(packet)  # type: ignore[method-assign]  # overheard
        number = self.pair.client._reader.sequence
        self.send(192, b"x")
        self.send(MSG_USERAUTH_BANNER, b"")
        self.pair.pump()
        self.assertEqual(sent, [(MSG_UNIMPLEMENTED, struct.pack(">L", number + offset)) for offset in (0, 1)])


class Amounts(Limits):
    """How much can be piled up."""

    def test_requests_while_our_key_exchange_waits(self) -> None:
        """A peer that never answers our KEXINIT, and asks on, is left before the answers fill the memory."""
        self.patch(transport_module, "MAX_HELD", 100)
        self.pair.client.sendKexInit()
        for _ in range(100):
            self.send(MSG_GLOBAL_REQUEST, PING)
        data = bytes(self.pair.server_wire.written)
        self.pair.server_wire.written.clear()
        self.pair.client.dataReceived(data)
        self.assertEqual(self.pair.client_owner.ended, [])
        self.assertFalse(self.pair.client_wire.closed)
        self.send(MSG_GLOBAL_REQUEST, PING)
        self.pair.client.dataReceived(bytes(self.pair.server_wire.written))
        self.assertTrue(self.pair.client_wire.closed)
        self.assert_ended("does not end a key exchange")

    def test_requests_while_nothing_is_read(self) -> None:
        """A peer that asks on and reads no answer is left before the answers fill the memory."""
        self.patch(transport_module, "MAX_BACKLOG", 5000)
        self.pair.client.pauseProducing()
        requests = 0
        while not self.pair.client_wire.closed and requests < 1000:
            self.send(MSG_GLOBAL_REQUEST, PING)
            data = bytes(self.pair.server_wire.written)
            self.pair.server_wire.written.clear()
            self.pair.client.dataReceived(data)
            requests += 1
        self.assertLess(requests, 200)
        self.assertLess(len(self.pair.client_wire.written), 6000)
        self.assert_ended("does not read")

    def test_a_slow_reader_is_no_such_peer(self) -> None:
        """What piled up counts no more once it was taken."""
        self.patch(transport_module, "MAX_BACKLOG", 5000)
        for _ in range(300):
            self.pair.client.pauseProducing()
            reply = self.pair.server_layer.request(b"ping")
            self.pair.pump()
            self.assertEqual(self.successResultOf(reply), b"pong")
            self.pair.client.resumeProducing()
        self.assertEqual(self.pair.client_owner.ended, [])

    def test_data_is_no_backlog(self) -> None:
        """While the carrier is full no channel adds to what is written: its data waits with the channel."""
        opening = self.pair.server_layer.open_channel(b"chisel", b"", Handler())
        self.pair.pump()
        near = Handler()
        near.channel = self.pair.client_requests.opens[0].accept(near)
        self.pair.pump()
        self.successResultOf(opening)
        self.pair.client.pauseProducing()
        near.channel.write(b"x" * 60_000)
        self.assertEqual(self.pair.client_wire.written, b"")
        self.assertEqual(near.events, ["pause"])

    def test_packets_and_keys(self) -> None:
        """Keys are renewed after 2**31 packets either way, whatever the settings say (RFC 4344, 3.1)."""
        for counter in ("_reader.packets_opened", "_writer.packets_sealed"):
            pair = Pair(client_rekey=RekeyPolicy(float("inf"), float("inf")))
            pair.log_in()
            side, name = counter.split(".")
            setattr(getattr(pair.client, side), name, (1 << 31) - 2)
            self.assertEqual(pair.client.key_exchanges, 1)
            for _ in range(3):
                pair.client_layer.request(b"ping")
                pair.pump()
            self.assertEqual(pair.client.key_exchanges, 2, counter)
            self.assertEqual(pair.client_owner.ended, [])

    def test_extensions_are_not_read(self) -> None:
        """An EXT_INFO is passed over, however many extensions it says it has, and leaves nothing behind."""
        self.send(MSG_EXT_INFO, struct.pack(">L", 3) + NS(b"name") + NS(b"value"))
        self.assertEqual(self.pair.client.peerExtensions, {})
        reply = self.pair.server_layer.request(b"ping")
        self.pair.pump()
        self.assertEqual(self.successResultOf(reply), b"pong")

    def test_volume_of_a_cipher(self) -> None:
        """Each cipher has a bound on the bytes under one key, whatever the settings say (RFC 4344, 3.2)."""
        bounds = ((CHACHA, GIB), (b"aes128-gcm@openssh.com", 64 * GIB), (b"aes128-ctr", 64 * GIB))
        for cipher, bound in bounds:
            for counter in ("_reader.bytes_opened", "_writer.bytes_sealed"):
                pair = Pair(client_rekey=RekeyPolicy(float("inf"), float("inf")))
                pair.client.supportedCiphers = [cipher]
                pair.log_in()
                side, name = counter.split(".")
                setattr(getattr(pair.client, side), name, bound - 1000)
                pair.client_layer.request(b"ping")
                pair.pump()
                self.assertEqual(pair.client.key_exchanges, 1, (cipher, counter))
                pair.client_layer.request(b"ping", bytes(1000))
                pair.server_layer.request(b"ping", bytes(1000))
                pair.pump()
                pair.client_layer.request(b"ping")
                pair.pump()
                self.assertEqual(pair.client.key_exchanges, 2, (cipher, counter))
                self.assertEqual(pair.client_owner.ended, [])

    def test_packet_in_very_many_parts(self) -> None:
        """The longest packet, byte by byte, is collected in place: the work grows with its length only."""
        reader = PacketReader()
        packet = plain_packet(bytes(MAX_PACKET - 20))
        list(reader.feed(packet[:10]))
        held = reader._rest
        for start in range(10, len(packet) - 1):
            self.assertEqual(list(reader.feed(packet[start : start + 1])), [])
        self.assertIs(reader._rest, held)
        [payload] = reader.feed(packet[-1:] + packet[:7])
        self.assertEqual(len(payload), MAX_PACKET - 20)
        self.assertEqual(bytes(reader._rest), packet[:7])


class Beliefs(Limits):
    """What the agent takes for granted."""

    def test_wrong_key_is_an_error_of_its_own(self) -> None:
        """Only this side's own comparison makes a wrong key."""
        pair = Pair(expected=fingerprint(b"another"))
        pair.connect()
        self.assertIsInstance(pair.client_owner.ended[0], WrongHostKey)
        self.send(1, struct.pack(">L", 9) + NS(b"wrong host key") + NS(b""))
        self.pair.pump()
        self.pair.lose()
        self.assertNotIsInstance(self.pair.client_owner.ended[0], WrongHostKey)

    def test_waiters_hear_the_reason(self) -> None:
        """Who waits for a reply, a channel or the login hears why the connection has ended."""
        waiting: list[Any] = [
            self.pair.client_layer.request(b"ping"),
            self.pair.client_layer.open_channel(b"x", b"", Handler()),
        ]
        self.send(MSG_CHANNEL_DATA, b"")
        self.pair.client.dataReceived(bytes(self.pair.server_wire.written))
        self.pair.lose()
        for each in waiting:
            self.assertIn("too short", str(self.failureResultOf(each, SSHError).value))
        pair = Pair(server_rekey=NEVER)
        pair.connect()
        pair.client.setService(pair.login)
        pair.client.fail("no more")
        pair.lose()
        self.assertIn("no more", str(self.failureResultOf(pair.login.done, SSHError).value))
