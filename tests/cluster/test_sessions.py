"""Tests of L{pipeops_agent.cluster.sessions}: commands and ports, once they are open."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionLost

from pipeops_agent.cluster.errors import ClusterError, StatusError, Unreachable
from pipeops_agent.cluster.sessions import (
    FAREWELL,
    MAX_STATUS,
    PIECE,
    Chunk,
    Exit,
    PortForward,
    StreamCut,
)
from pipeops_agent.cluster.socket import CLOSE_TIMEOUT, HIGH_WATER, MAX_MESSAGE, PING
from tests.cluster.streams_case import CALLER, TERMINAL, StreamsCase


class ExecTests(StreamsCase):
    """A command, once it runs."""

    def test_output_and_exit(self) -> None:
        """What it writes comes by stream; then the final status tells its exit code."""
        for code in (0, 3, 137):
            session = self.exec()
            for channel in (1, 2, 3):
                self.server.send(channel, b"")  # as servers do when they have opened each channel
            self.server.send(1, b"out \xff")
            self.server.send(2, b"err")
            self.pump()
            self.assertEqual(
                self.result(session.read()), [Chunk("stdout", b"out \xff"), Chunk("stderr", b"err")]
            )
            self.server.send(1, b"last")
            self.server.exit(code)
            self.server.sendClose(1000)
            self.pump()
            self.assertEqual(self.result(session.read()), [Chunk("stdout", b"last")])
            self.assertIsNone(session.exit)
            self.assertEqual(self.result(session.read()), [])
            assert session.exit is not None
            self.assertEqual(session.exit.code, code)
            self.assertEqual(self.result(session.read()), [])

    def test_every_byte(self) -> None:
        """However the bytes are cut, the messages are the same."""
        for size in (1, 2, 3, 5):
            session = self.exec()
            self.server.send(1, b"x" * 200)
            self.server.exit(7)
            self.server.sendClose(1000)
            self.pump(size)
            self.assertEqual(b"".join(chunk.data for chunk in self.result(session.read())), b"x" * 200)
            self.assertEqual(self.result(session.read()), [])
            self.assertEqual(getattr(session.exit, "code", None), 7)

    def test_not_run(self) -> None:
        """A command that could not be run is an error with the server's words, not an exit code."""
        session = self.exec()
        self.server.status(status="Failure", reason="InternalError", code=500, message="no such file: nope")
        self.server.sendClose(1000)
        self.pump()
        error = self.failure(session.read(), StatusError)
        self.assertEqual(str(error), "exec in shop/web: no such file: nope (500)")
        self.assertIsNone(session.exit)

    def test_cut(self) -> None:
        """Without the final status it is never success, however the connection ends."""

        def closed(code: int) -> None:
            self.server.sendClose(code)
            self.pump()

        def half_a_status() -> None:
            self.server.send(3, b'{"status":"Succ')
            closed(1000)

        def no_verdict() -> None:
            self.server.send(3, b'{"status":""}')
            closed(1000)

        def not_utf8() -> None:
            self.server.send(3, b'{"status":"Success","message":"\xff"}')
            closed(1000)

        for end in (
            lambda: self.link.lose(ConnectionLost()),
            lambda: closed(1000),
            lambda: closed(3000),
            half_a_status,
            no_verdict,
            not_utf8,
        ):
            session = self.exec()
            self.server.send(1, b"half")
            self.pump()
            end()
            self.assertEqual(self.result(session.read()), [Chunk("stdout", b"half")])
            error = self.failure(session.read(), StreamCut)
            self.assertIn("before the command's end was told", str(error))
            self.assertIsNone(session.exit)
            self.failure(session.read(), StreamCut)
            self.failure(session.write(b"x"), StreamCut)

    def test_cut_at_every_byte(self) -> None:
        """The connection lost after any byte of the answer: success is told only with the whole status."""
        session = self.exec()
        self.link.holds_answers = True
        self.server.send(1, b"done")
        self.server.exit(0)
        whole = bytes(self.link.server_pipe.written)
        session.close()
        for count in range(len(whole) + 1):
            session = self.exec()
            self.link.client.dataReceived(whole[:count])
            self.link.lose(ConnectionLost())
            if count >= len(b"__\1done"):
                self.assertEqual(self.result(session.read()), [Chunk("stdout", b"done")])
            if count < len(whole):
                self.failure(session.read(), StreamCut)
                self.assertIsNone(session.exit)
            else:
                self.assertEqual(self.result(session.read()), [])
                self.assertEqual(session.exit, Exit(0))

    def test_status_in_two_messages(self) -> None:
        """The final status may be cut anywhere, within a character too."""
        session = self.exec()
        whole = '{"status":"Success","message":"é"}'.encode()
        for part in (whole[:-3], whole[-3:]):
            self.server.send(3, part)
        self.server.sendClose(1000)
        self.pump()
        self.assertEqual(self.result(session.read()), [])
        self.assertEqual(session.exit, Exit(0, "é"))

    def test_server_does_not_close(self) -> None:
        """Once the end is told the server has some seconds to close; then it is over all the same."""
        session = self.exec()
        self.server.exit(0)
        self.pump()
        reading = self.begin(session.read())
        self.advance(FAREWELL - 1)
        self.assertNoResult(reading)
        self.server.send(1, b"late")
        self.pump()
        self.assertEqual(self.successResultOf(reading), [Chunk("stdout", b"late")])
        reading = self.begin(session.read())
        self.advance(FAREWELL)
        self.assertEqual(self.successResultOf(reading), [])
        self.assertEqual(session.exit, Exit(0))

    def test_server_lingers(self) -> None:
        """A server that says goodbye but keeps the connection is cut off soon."""
        session = self.exec()
        self.server.exit(0)
        self.server.sendClose(1000)
        data = bytes(self.link.server_pipe.written)
        self.link.server_pipe.written.clear()
        self.link.client.dataReceived(data)
        self.reactor.advance(CLOSE_TIMEOUT)
        self.assertTrue(self.link.client_pipe.aborted)
        self.assertEqual(self.result(session.read()), [])
        self.assertEqual(session.exit, Exit(0))

    def test_stdin(self) -> None:
        """Long input goes in pieces; v5 has a signal for its end, after which output still comes."""
        session = self.exec("cat")
        self.result(session.write(b"x" * (PIECE + 1)))
        self.result(session.close_stdin())
        self.assertEqual(self.server.got, [b"\0" + b"x" * PIECE, b"\0x", b"\xff\0"])
        self.server.send(1, b"x")
        self.pump()
        self.assertEqual(self.result(session.read()), [Chunk("stdout", b"x")])

    def test_older_server(self) -> None:
        """Where only v4 is spoken everything but the end of stdin works."""
        self.endpoints.speaks = ("v4.channel.k8s.io",)
        session = self.exec()
        self.assertIn("can't close stdin", str(self.failure(session.close_stdin(), ClusterError)))
        self.result(session.write(b"x"))
        self.assertEqual(self.server.got, [b"\0x"])

    def test_resize(self) -> None:
        """The size of the terminal."""
        session = self.exec()
        self.result(session.resize(132, 43))
        self.assertEqual(self.server.got, [b'\4{"Width":132,"Height":43}'])

    def test_slow_reader(self) -> None:
        """What nobody reads pauses the connection; reading lets it go on, and nothing is lost."""
        session = self.exec()
        sent = 0
        while self.link.client_pipe.reading:
            self.server.send(1, bytes(PIECE))
            self.pump()
            sent += PIECE
            self.assertLessEqual(sent, HIGH_WATER + PIECE)
        found = self.result(session.read())
        self.assertEqual(sum(len(chunk.data) for chunk in found), sent)
        self.assertTrue(self.link.client_pipe.reading)

    def test_slow_server(self) -> None:
        """A write waits until the connection takes more; its cancellation and its loss end the wait."""
        session = self.exec()
        producer = self.link.client_pipe.producer
        producer.pauseProducing()
        writing = self.begin(session.write(b"x"))
        self.assertNoResult(writing)
        producer.resumeProducing()
        self.successResultOf(writing)
        producer.pauseProducing()
        writing = self.begin(session.write(b"y"))
        writing.cancel()
        self.failureResultOf(writing, CancelledError)
        writing = self.begin(session.write(b"z"))
        self.link.lose(ConnectionLost())
        self.failureResultOf(writing, StreamCut)

    def test_pings_of_the_server(self) -> None:
        """They are answered; while the connection takes nothing only the last one is, later."""
        self.exec()
        self.server.sendPing(b"1")
        self.pump()
        producer = self.link.client_pipe.producer
        producer.pauseProducing()
        for payload in (b"2", b"3"):
            self.server.sendPing(payload)
        self.pump()
        self.assertEqual(self.server.pongs, [b"1"])
        producer.resumeProducing()
        self.pump()
        self.assertEqual(self.server.pongs, [b"1", b"3"])

    def test_dead_server(self) -> None:
        """A server that answers pings is alive however silent the command; one that does not is left."""
        session = self.exec()
        reading = self.begin(session.read())
        self.advance(10 * PING)
        self.assertEqual(self.server.pings, 10)
        self.assertNoResult(reading)
        self.link.holds_answers = True
        self.advance(3 * PING)
        self.assertIn("has not answered for 60 s", str(self.failureResultOf(reading, StreamCut).value))

    def test_slow_reader_is_not_dead(self) -> None:
        """While nobody reads, no answer is read either, and that proves nothing."""
        session = self.exec()
        self.server.send(1, bytes(HIGH_WATER))
        self.pump()
        self.link.holds_answers = True  # as a paused connection does
        self.advance(10 * PING)
        self.assertEqual(len(self.result(session.read())), 1)

    def test_broken_rules(self) -> None:
        """Text, and a message that is too long, end it."""
        for message, binary in ((b"text", False), (bytes(MAX_MESSAGE + 1), True)):
            session = self.exec()
            self.server.sendMessage(message, isBinary=binary)
            self.pump()
            self.failure(session.read(), StreamCut)

    def test_endless_status(self) -> None:
        """Of a status that does not end no more is kept than a status may have."""
        session = self.exec()
        for _ in range(4):
            self.server.send(3, b"{" * (MAX_STATUS // 2))
            self.pump()
            self.assertNoResult(reading := self.begin(session.read()))
            reading.cancel()
            self.failureResultOf(reading, CancelledError)
        self.assertEqual(len(session._status), MAX_STATUS)

    def test_empty_message(self) -> None:
        """A message without even a channel is passed over, as is one on an unknown channel."""
        session = self.exec()
        self.server.sendMessage(b"", isBinary=True)
        self.server.send(9, b"what")
        self.server.send(1, b"x")
        self.pump()
        self.assertEqual(self.result(session.read()), [Chunk("stdout", b"x")])

    def test_cancelled_read(self) -> None:
        """A cancelled read loses nothing."""
        session = self.exec()
        reading = self.begin(session.read())
        reading.cancel()
        self.failureResultOf(reading, CancelledError)
        self.server.send(1, b"x")
        self.pump()
        self.assertEqual(self.result(session.read()), [Chunk("stdout", b"x")])

    def test_closed(self) -> None:
        """Closed by this side: what is waited for ends, and it is not called success."""
        session = self.exec()
        reading = self.begin(session.read())
        session.close()
        session.close()
        self.pump()
        self.assertIn("closed by this side", str(self.failureResultOf(reading, StreamCut).value))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_closed_without_answer(self) -> None:
        """A server that does not answer the goodbye is cut off."""
        session = self.exec()
        self.link.holds_answers = True
        session.close()
        self.advance(CLOSE_TIMEOUT)
        self.assertTrue(self.link.client_pipe.aborted)
        self.failure(session.read(), StreamCut)

    def test_attach(self) -> None:
        """Attaching is the same, to the main process."""
        session = self.result(self.streams.attach(CALLER, TERMINAL))
        assert self.server.asked is not None
        self.assertTrue(self.server.asked.path.endswith("/pods/web/attach"))
        self.assertNotIn("command", self.server.asked.params)
        self.server.send(1, b"x")
        self.pump()
        self.assertEqual(self.result(session.read()), [Chunk("stdout", b"x")])


class PortForwardTests(StreamsCase):
    """A port of a pod."""

    def forward(self) -> PortForward:
        forward: PortForward = self.result(self.streams.port_forward(CALLER, "shop", "web", 8080))
        for channel in (0, 1):
            self.server.send(channel, (8080).to_bytes(2, "little"))
        self.pump()
        return forward

    def test_both_ways(self) -> None:
        """Bytes both ways; the ports that come first are none of them."""
        forward = self.forward()
        assert self.server.asked is not None
        self.assertEqual(self.server.asked.params, {"ports": ["8080"]})
        self.assertEqual(self.server.asked.protocols, ["v4.channel.k8s.io"])
        self.result(forward.write(b"x" * (PIECE + 1)))
        self.assertEqual(self.server.got, [b"\0" + b"x" * PIECE, b"\0x"])
        self.server.send(0, b"answer")
        self.pump()
        self.assertEqual(self.result(forward.read()), b"answer")

    def test_closed_by_the_pod(self) -> None:
        """A close frame is the end of the data."""
        forward = self.forward()
        self.server.send(0, b"last")
        self.server.sendClose(1000)
        self.pump()
        self.assertEqual(self.result(forward.read()), b"last")
        self.assertEqual(self.result(forward.read()), b"")
        self.assertEqual(self.result(forward.read()), b"")

    def test_cut(self) -> None:
        """A lost connection is no end."""
        forward = self.forward()
        self.link.lose(ConnectionLost())
        self.failure(forward.read(), StreamCut)
        self.failure(forward.write(b"x"), StreamCut)

    def test_nobody_listens(self) -> None:
        """The node's words say why there is no connection."""
        forward = self.forward()
        self.server.send(1, b"error forwarding port 8080: connection refused")
        self.server.sendClose(1000)
        self.pump()
        self.assertIn("connection refused", str(self.failure(forward.read(), Unreachable)))

    def test_closed(self) -> None:
        """Closed by this side: nothing is left."""
        forward = self.forward()
        forward.close()
        self.pump()
        self.failure(forward.read(), StreamCut)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
