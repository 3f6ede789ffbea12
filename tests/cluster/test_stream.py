"""Tests of L{pipeops_agent.cluster.stream}: pulled bodies, and lines."""

from __future__ import annotations

from time import process_time
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone

from pipeops_agent.cluster.errors import BadAnswer
from pipeops_agent.cluster.stream import HIGH_WATER, BodyStream, Cut, LineReader

DONE = Failure(ResponseDone())
LOST = Failure(ConnectionLost())


class Connection:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def pauseProducing(self) -> None:
        self.said.append("pause")

    def resumeProducing(self) -> None:
        self.said.append("resume")

    def loseConnection(self) -> None:
        self.said.append("lose")


class StreamCase(SynchronousTestCase):
    """A stream on such a connection."""

    def setUp(self) -> None:
        self.connection = Connection()
        self.stream = BodyStream()
        transport: Any = self.connection
        self.stream.makeConnection(transport)


class BodyStreamTests(StreamCase):
    """Bytes."""

    def test_what_is_there(self) -> None:
        """Everything that has come is handed out in one piece, at once."""
        self.stream.dataReceived(b"one ")
        self.stream.dataReceived(b"two")
        self.assertEqual(self.successResultOf(self.stream.read()), b"one two")

    def test_wait(self) -> None:
        """With nothing there a read waits for the next bytes."""
        waiting = self.stream.read()
        self.assertNoResult(waiting)
        self.stream.dataReceived(b"one")
        self.assertEqual(self.successResultOf(waiting), b"one")

    def test_end(self) -> None:
        """The end of the body is an empty read, after what came before it, and again."""
        self.stream.dataReceived(b"last")
        self.stream.connectionLost(DONE)
        self.assertEqual(self.successResultOf(self.stream.read()), b"last")
        self.assertEqual(self.successResultOf(self.stream.read()), b"")
        self.assertEqual(self.successResultOf(self.stream.read()), b"")

    def test_end_while_waiting(self) -> None:
        """A read that waits when the body ends is told."""
        waiting = self.stream.read()
        self.stream.connectionLost(DONE)
        self.assertEqual(self.successResultOf(waiting), b"")

    def test_cut(self) -> None:
        """A lost connection is no end: what came is handed out, then it is said."""
        self.stream.dataReceived(b"half")
        self.stream.connectionLost(LOST)
        self.assertEqual(self.successResultOf(self.stream.read()), b"half")
        self.failureResultOf(self.stream.read(), Cut)

    def test_backpressure(self) -> None:
        """What nobody reads pauses the connection, once; reading lets it go on."""
        for _ in range(3):
            self.stream.dataReceived(bytes(HIGH_WATER // 2))
        self.assertEqual(self.connection.said, ["pause"])
        self.assertEqual(len(self.successResultOf(self.stream.read())), 3 * (HIGH_WATER // 2))
        self.assertEqual(self.connection.said, ["pause", "resume"])

    def test_abort(self) -> None:
        """Given up: the connection is closed once, what came is dropped, and a read says so."""
        self.stream.dataReceived(b"one")
        self.stream.abort()
        self.stream.abort()
        self.stream.dataReceived(b"two")
        self.assertEqual(self.connection.said, ["lose"])
        self.failureResultOf(self.stream.read(), Cut)

    def test_abort_while_waiting(self) -> None:
        """A read that waits is told that the stream was given up; what comes later is not heard."""
        waiting = self.stream.read()
        self.stream.abort()
        self.failureResultOf(waiting, Cut)
        self.stream.connectionLost(LOST)

    def test_abort_before_the_connection(self) -> None:
        """Given up before the body begins: it is closed when it does."""
        stream = BodyStream()
        stream.abort()
        transport: Any = self.connection
        stream.makeConnection(transport)
        self.assertEqual(self.connection.said, ["lose"])

    def test_cancel(self) -> None:
        """A cancelled read loses nothing: the next one has what came."""
        waiting = self.stream.read()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.stream.dataReceived(b"one")
        self.assertEqual(self.successResultOf(self.stream.read()), b"one")


class LineReaderTests(StreamCase):
    """Lines."""

    def setUp(self) -> None:
        super().setUp()
        self.lines = LineReader(self.stream, limit=10, what="watch pods")

    def read(self) -> Deferred[list[bytes]]:
        return Deferred.fromCoroutine(self.lines.read())

    def test_split_anywhere(self) -> None:
        """Lines are the same wherever the pieces were cut."""
        text = b"first\nsecond\n\nfourth\n"
        for size in range(1, len(text) + 1):
            self.setUp()
            found: list[bytes] = []
            for start in range(0, len(text), size):
                self.stream.dataReceived(text[start : start + size])
                if b"\n" in text[start : start + size]:
                    more: list[bytes] = self.successResultOf(self.read())
                    found += more
            self.assertEqual(found, [b"first", b"second", b"", b"fourth"], size)

    def test_half_a_line_at_the_end(self) -> None:
        """What has no line end when the stream ends is dropped."""
        self.stream.dataReceived(b"whole\nhal")
        self.stream.connectionLost(DONE)
        self.assertEqual(self.successResultOf(self.read()), [b"whole"])
        self.assertEqual(self.successResultOf(self.read()), [])

    def test_too_long(self) -> None:
        """A line without end, and one that ends too late, end the stream with an error that names it."""
        for text in (b"12345678901", b"a\n12345678901\n"):
            self.setUp()
            self.stream.dataReceived(text)
            error = self.failureResultOf(self.read(), BadAnswer)
            self.assertIn("watch pods", error.getErrorMessage())
            self.assertEqual(self.connection.said, ["lose"])

    def test_as_long_as_allowed(self) -> None:
        """The limit itself is allowed."""
        self.stream.dataReceived(b"1234567890\n")
        self.assertEqual(self.successResultOf(self.read()), [b"1234567890"])

    def test_long_line_in_many_pieces(self) -> None:
        """Its bytes are joined once, not with each piece: 8 MiB in packets took 40 s of the processor."""
        piece, count = b"x" * 1_400, 6_000
        lines = LineReader(self.stream, limit=len(piece) * count, what="watch pods")
        reading: Deferred[list[bytes]] = Deferred.fromCoroutine(lines.read())
        began = process_time()
        for _ in range(count):
            self.stream.dataReceived(piece)
        self.stream.dataReceived(b"\nnext")
        self.assertEqual(self.successResultOf(reading), [piece * count])
        self.assertLess(process_time() - began, 3)

    def test_cut(self) -> None:
        """The loss of the connection goes on to the reader."""
        self.stream.dataReceived(b"hal")
        self.stream.connectionLost(LOST)
        self.failureResultOf(self.read(), Cut)
