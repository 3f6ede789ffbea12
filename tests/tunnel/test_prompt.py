"""Writing at once, and random bytes in small portions. Real sockets on loopback: a kernel has no stand-in."""

from __future__ import annotations

import socket
from typing import Any, Final

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.internet.tcp import Connection, Server
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.prompt import close_now, prompt_writer, tune
from pipeops_agent.tunnel.randomness import RandomPool
from tests.net.authority import Authority
from tests.tunnel.rig import Pipe

IDENTITY: Final = Authority().issue("test")


class Taker(Protocol):
    """Keeps what comes."""

    def __init__(self) -> None:
        self.taken = b""

    def dataReceived(self, data: bytes) -> None:
        self.taken += data


class _Writers(MemoryReactorClock):
    """A reactor that only notes who waits to write."""


class PromptTests(SynchronousTestCase):
    """A Twisted connection over one end of a socket pair."""

    def setUp(self) -> None:
        self.reactor = _Writers()
        ours, self.theirs = socket.socketpair()
        for end in (ours, self.theirs):
            end.setblocking(False)
            self.addCleanup(end.close)
        self.connection: Any = Connection(ours, Protocol(), self.reactor)
        self.connection.connected = True
        self.lost: list[Failure] = []

    def received(self) -> bytes:
        """What has come at the other end by now."""
        data = b""
        while True:
            try:
                data += self.theirs.recv(1 << 20)
            except BlockingIOError:
                return data

    def drain(self) -> bytes:
        """Take what comes, turn by turn of the reactor, until nothing waits any more."""
        data = self.received()
        while self.connection.dataBuffer or self.connection._tempDataBuffer:
            self.connection.doWrite()
            data += self.received()
        return data

    def test_at_once(self) -> None:
        """With nothing waiting the data is out before the reactor turns, and nobody waits."""
        prompt_writer(self.connection)(b"now")
        self.assertEqual(self.received(), b"now")
        self.assertEqual(self.reactor.getWriters(), [])

    def test_what_the_kernel_does_not_take(self) -> None:
        """The rest goes the usual way, and what is written meanwhile goes behind it: in order, whole."""
        first, second = bytes(range(256)) * 8192, b"then this"
        prompt_writer(self.connection)(first)
        self.assertNotEqual(self.reactor.getWriters(), [])
        prompt_writer(self.connection)(second)
        self.assertEqual(self.drain(), first + second)

    def test_lost(self) -> None:
        """A connection that is gone is left to the reactor to report."""
        self.theirs.close()
        prompt_writer(self.connection)(b"nobody")
        self.assertNotEqual(self.reactor.getWriters(), [])

    def test_close_at_once(self) -> None:
        """With nothing waiting the connection is closed before the reactor turns, after what was written."""
        self.connection.protocol.connectionLost = self.lost.append
        prompt_writer(self.connection)(b"all")
        close_now(self.connection)
        self.assertEqual([reason.type for reason in self.lost], [ConnectionDone])
        self.assertEqual(self.theirs.recv(10), b"all")
        self.assertEqual(self.theirs.recv(10), b"")
        self.assertEqual((self.reactor.getReaders(), self.reactor.getWriters()), ([], []))

    def test_close_after_what_waits(self) -> None:
        """What waits goes out first, in turns of the reactor."""
        self.connection.protocol.connectionLost = self.lost.append
        data = bytes(range(256)) * 8192
        prompt_writer(self.connection)(data)
        close_now(self.connection)
        close_now(self.connection)
        self.assertEqual(self.lost, [])
        self.assertEqual(self.drain(), data)
        self.assertTrue(self.connection.disconnecting)

    def test_close_what_is_closing(self) -> None:
        """A connection that is gone, or being aborted, is left to the reactor."""
        self.connection.protocol.connectionLost = self.lost.append
        self.connection.abortConnection()
        close_now(self.connection)
        self.assertEqual(self.lost, [])
        self.connection.connectionLost(Failure(ConnectionLost()))
        close_now(self.connection)
        self.assertEqual(len(self.lost), 1)

    def test_after_the_end(self) -> None:
        """A connection that is gone, or being aborted, takes nothing, and raises nothing."""
        self.connection._aborting = True
        prompt_writer(self.connection)(b"late")
        self.connection._aborting = False
        self.connection.connected = False
        del self.connection.socket
        prompt_writer(self.connection)(b"later")
        self.assertEqual(self.received(), b"")

    def tls(self) -> tuple[Any, Any]:
        """A TLS layer above the connection, and its other end; they have shaken hands."""
        options = IDENTITY.server_options()
        server = TLSMemoryBIOFactory(options, False, Factory.forProtocol(Taker), clock=Clock())
        client = TLSMemoryBIOFactory(CertificateOptions(), True, Factory.forProtocol(Taker), clock=Clock())
        client.protocol = TLSMemoryBIOProtocol
        place = IPv4Address("TCP", "127.0.0.1", 1)
        ours: Any = client.buildProtocol(place)
        theirs: Any = server.buildProtocol(place)
        answers: Any = Pipe()
        self.connection.protocol = ours
        theirs.makeConnection(answers)
        ours.makeConnection(self.connection)
        for _ in range(6):
            if hello := self.drain():
                theirs.dataReceived(hello)
            answer = bytes(answers.written)
            answers.written.clear()
            if answer:
                ours.dataReceived(answer)
        return ours, theirs

    def test_over_tls(self) -> None:
        """What is written is encrypted and out before the reactor turns; nothing goes out in the clear."""
        ours, theirs = self.tls()
        prompt_writer(ours)(memoryview(b"secret"))
        out = self.received()
        self.assertNotIn(b"secret", out)
        self.assertEqual(self.reactor.getWriters(), [])
        theirs.dataReceived(out)
        self.assertEqual(theirs.wrappedProtocol.taken, b"secret")

    def test_over_tls_what_the_kernel_does_not_take(self) -> None:
        """The rest goes the usual way, in order, whole."""
        ours, theirs = self.tls()
        first, second = bytes(range(256)) * 8192, b"then this"
        prompt_writer(ours)(first)
        self.assertNotEqual(self.reactor.getWriters(), [])
        prompt_writer(ours)(second)
        theirs.dataReceived(self.drain())
        self.assertEqual(theirs.wrappedProtocol.taken, first + second)

    def test_over_tls_after_the_end(self) -> None:
        """A connection that is being aborted takes nothing; one that is gone raises nothing."""
        ours, _ = self.tls()
        self.connection._aborting = True
        prompt_writer(ours)(b"late")
        self.assertEqual(self.received(), b"")

    def test_in_memory(self) -> None:
        """Any other transport is just written to."""
        transport = StringTransport()
        prompt_writer(transport)(memoryview(b"text"))
        self.assertEqual(transport.value(), b"text")

    def test_tune(self) -> None:
        """A TCP connection reads large pieces; its small packets are not held back."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        client = socket.create_connection(listener.getsockname())
        self.addCleanup(client.close)
        accepted, address = listener.accept()
        self.addCleanup(accepted.close)
        port: Any = None
        server: Any = Server(accepted, Protocol(), address, port, 1, self.reactor)
        tune(server, 12345)
        self.assertEqual(server.bufferSize, 12345)
        self.assertTrue(server.getTcpNoDelay())


class PoolTests(SynchronousTestCase):
    """Random bytes."""

    def test_each_once(self) -> None:
        """Portions of any size, none handed out twice, over the end of the pool too."""
        pool = RandomPool()
        taken = [pool.take(16) for _ in range(2000)]
        self.assertEqual({len(portion) for portion in taken}, {16})
        self.assertEqual(len(set(taken)), len(taken))
        self.assertEqual(len(pool.take(100_000)), 100_000)
        self.assertEqual(pool.take(0), b"")
