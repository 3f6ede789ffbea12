"""Connecting in one turn of the reactor. Real sockets on loopback: a kernel has no stand-in."""

from __future__ import annotations

import errno
import os
import select
import socket
from typing import Any

from twisted.internet import error
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.internet.testing import MemoryReactor
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from pipeops_agent.tunnel.connecting import connect_tcp, is_own_peer


class Sockets(MemoryReactor):
    """A reactor that never turns: it notes who waits, and keeps the sockets it is handed."""

    def __init__(self) -> None:
        super().__init__()
        self.adopted: list[socket.socket] = []
        self.objection: OSError | None = None

    def adoptStreamConnection(self, fileDescriptor: int, addressFamily: Any, factory: Any) -> None:  # noqa: N802, N803 - Twisted's
        if self.objection is not None:
            raise self.objection
        self.adopted.append(socket.fromfd(fileDescriptor, addressFamily, socket.SOCK_STREAM))
        factory.buildProtocol(None)


class Notes(ClientFactory):
    """What a factory is told."""

    def __init__(self) -> None:
        self.connector: Any = None
        self.built = 0
        self.failures: list[Any] = []

    def startedConnecting(self, connector: Any) -> None:  # noqa: N802 - Twisted's
        self.connector = connector

    def buildProtocol(self, addr: Any) -> Protocol:
        self.built += 1
        return Protocol()

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:  # noqa: N802 - Twisted's
        self.failures.append(reason.value)


class ConnectTests(SynchronousTestCase):
    """What C{connect_tcp} tells its factory, and leaves behind."""

    def setUp(self) -> None:
        self.reactor = Sockets()
        self.addCleanup(self.close_adopted)

    def close_adopted(self) -> None:
        """The reactor's part at the end."""
        for each in self.reactor.adopted:
            each.close()

    def listen(self, host: str = "127.0.0.1", backlog: int = 5) -> socket.socket:
        """A listener on a free port."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family)
        self.addCleanup(listener.close)
        try:
            listener.bind((host, 0))
        except OSError as problem:
            raise SkipTest(f"no {host} here") from problem
        listener.listen(backlog)
        return listener

    def connect(self, host: str, port: int) -> Notes:
        """Begin to connect."""
        notes = Notes()
        connect_tcp(self.reactor, host, port, notes)
        return notes

    def stuck(self) -> tuple[socket.socket, Notes]:
        """A connection whose SYN is dropped, as the listener's queue is full; it is sent again after 1 s."""
        listener = self.listen(backlog=0)
        port = listener.getsockname()[1]
        filling = []
        for _ in range(8):
            filler = socket.socket()
            self.addCleanup(filler.close)
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            filling.append(filler)
        notes = self.connect("127.0.0.1", port)
        self.assertEqual(self.reactor.getWriters(), [notes.connector])
        for filler in filling:
            filler.close()
        return listener, notes

    def turn(self, notes: Notes) -> None:
        """Wait until the kernel has news of the socket, and tell as the reactor does."""
        (_, writable, _) = select.select([], [notes.connector], [], 20)
        self.assertEqual(writable, [notes.connector])
        notes.connector.doWrite()

    def assert_over(self, notes: Notes) -> None:
        """Nothing is left of the attempt: no descriptor, and nobody waits for it."""
        self.assertEqual(self.reactor.getWriters(), [])
        self.assertEqual(notes.connector.fileno(), -1)

    def test_at_once(self) -> None:
        """A connection over loopback is there on return, without a turn of the reactor, either family."""
        for host in ("127.0.0.1", "::1"):
            listener = self.listen(host)
            notes = self.connect(host, listener.getsockname()[1])
            self.assertEqual((notes.built, notes.failures), (1, []))
            self.assert_over(notes)
            theirs, _ = listener.accept()
            self.addCleanup(theirs.close)
            ours = self.reactor.adopted[-1]
            self.assertEqual(ours.getsockname()[:2], theirs.getpeername()[:2])
            self.assertFalse(os.get_blocking(ours.fileno()))

    def test_refused_at_once(self) -> None:
        """So is a refusal, as the error that Twisted makes of it."""
        listener = self.listen()
        port = listener.getsockname()[1]
        listener.close()
        notes = self.connect("127.0.0.1", port)
        self.assertEqual([type(each) for each in notes.failures], [error.ConnectionRefusedError])
        self.assert_over(notes)

    def test_no_such_scope(self) -> None:
        """An address that can't be used is a failure like any other."""
        notes = self.connect("fe80::1%there-is-none", 80)
        self.assertEqual(len(notes.failures), 1)
        self.assertIsInstance(notes.failures[0], error.ConnectError)
        self.assert_over(notes)

    def test_not_adopted(self) -> None:
        """So is a socket that the reactor can't take: no descriptor left, or reset by now."""
        for code in (errno.EMFILE, errno.ENOTCONN):
            self.reactor.objection = OSError(code, "no")
            listener = self.listen()
            notes = self.connect("127.0.0.1", listener.getsockname()[1])
            self.assertEqual([each.osError for each in notes.failures], [code])
            self.assertEqual(notes.built, 0)
            self.assert_over(notes)

    def test_mistake_of_the_protocol(self) -> None:
        """What goes wrong once the connection is there is no failure to connect, whatever it looks like."""

        class Mistaken(Notes):
            def buildProtocol(self, addr: Any) -> Protocol:
                raise PermissionError(errno.EACCES, "a file of the protocol's own")

        listener, notes = self.listen(), Mistaken()
        with self.assertRaises(PermissionError):
            connect_tcp(self.reactor, "127.0.0.1", listener.getsockname()[1], notes)
        self.assertEqual(notes.failures, [])
        self.assert_over(notes)

    def test_waits(self) -> None:
        """A handshake that takes longer is waited for; being woken without reason changes nothing."""
        listener, notes = self.stuck()
        notes.connector.doWrite()
        notes.connector.doRead()
        self.assertEqual(self.reactor.getWriters(), [notes.connector])
        self.assertEqual((notes.built, notes.failures), (0, []))
        listener.listen(100)
        self.turn(notes)
        self.assertEqual((notes.built, notes.failures), (1, []))
        self.assert_over(notes)

    def test_refused_later(self) -> None:
        """It may also end as a refusal, which the reactor may tell as a loss."""
        listener, notes = self.stuck()
        listener.close()
        select.select([], [notes.connector], [], 20)
        notes.connector.connectionLost(Failure(error.ConnectError()))
        self.assertEqual([type(each) for each in notes.failures], [error.ConnectionRefusedError])
        self.assert_over(notes)

    def test_reactor_ends(self) -> None:
        """When the reactor lets go of everything, the attempt has failed."""
        _, notes = self.stuck()
        notes.connector.connectionLost(Failure(error.ConnectError()))
        self.assertEqual(len(notes.failures), 1)
        self.assert_over(notes)

    def test_stopped(self) -> None:
        """An attempt that is given up fails at once, once, and closes its socket."""
        _, notes = self.stuck()
        notes.connector.stopConnecting()
        notes.connector.stopConnecting()
        notes.connector.doWrite()
        self.assertEqual([type(each) for each in notes.failures], [error.UserError])
        self.assert_over(notes)

    def test_own_peer(self) -> None:
        """A socket that is connected with itself is known; one that has a peer is not taken for it."""
        own = socket.socket()
        self.addCleanup(own.close)
        own.bind(("127.0.0.1", 0))
        own.connect(own.getsockname())
        self.assertTrue(is_own_peer(own))
        listener = self.listen()
        self.connect("127.0.0.1", listener.getsockname()[1])
        self.assertFalse(is_own_peer(self.reactor.adopted[-1]))
