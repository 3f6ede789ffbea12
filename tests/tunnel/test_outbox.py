"""The carrier's way out: what is put together leaves in frames, in one piece, in order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.frames import BINARY, PING, FrameReader, Message
from pipeops_agent.tunnel.outbox import CAPACITY, FIRST, SPLIT_FROM, Outbox


class Sent:
    """An outbox, and what it has sent."""

    def __init__(self, *, masked: bool) -> None:
        self.pieces: list[bytes] = []
        self.outbox = Outbox(lambda frames: self.pieces.append(bytes(frames)), masked=masked)
        self._frames = FrameReader(masked=masked, limit=1 << 20)

    def put(self, payload: bytes) -> None:
        self.outbox.room(len(payload))[:] = payload

    def messages(self) -> list[Message]:
        """Those that were sent, read as the other side does."""
        return list(self._frames.feed(b"".join(self.pieces)))


class OutboxTests(SynchronousTestCase):
    """In either role."""

    def test_each_size(self) -> None:
        """Around each boundary of header and split the payload arrives whole."""
        for masked in (False, True):
            for size in (0, 1, 125, 126, SPLIT_FROM, SPLIT_FROM + 1, FIRST + 65535, FIRST + 65536, 200_000):
                sent = Sent(masked=masked)
                payload = bytes(n % 251 for n in range(size))
                sent.put(payload)
                self.assertEqual(sent.pieces, [])
                sent.outbox.flush()
                messages = sent.messages()
                self.assertEqual(b"".join(message.payload for message in messages), payload)
                expected = [size] if size <= SPLIT_FROM else [FIRST, size - FIRST]
                self.assertEqual([len(message.payload) for message in messages], expected)

    def test_together(self) -> None:
        """Several messages leave in one piece, without a gap; a second flush sends nothing."""
        sent = Sent(masked=True)
        for payload in (b"one", b"", b"three" * 4000):
            sent.put(payload)
        sent.outbox.flush()
        sent.outbox.flush()
        self.assertEqual(len(sent.pieces), 1)
        self.assertEqual(b"".join(message.payload for message in sent.messages()), b"one" + b"three" * 4000)

    def test_bounded(self) -> None:
        """What would go beyond the capacity is sent before more is put together."""
        sent = Sent(masked=True)
        for _ in range(10):
            sent.put(bytes(CAPACITY // 4))
        sent.outbox.flush()
        self.assertEqual(max(len(piece) for piece in sent.pieces) <= CAPACITY, True)
        self.assertEqual(sum(len(message.payload) for message in sent.messages()), 10 * (CAPACITY // 4))

    def test_control(self) -> None:
        """A control frame takes its place among the messages."""
        sent = Sent(masked=True)
        sent.put(b"before")
        sent.outbox.room(2, PING)[:] = b"hi"
        sent.put(b"after")
        sent.outbox.flush()
        expected = [Message(BINARY, b"before"), Message(PING, b"hi"), Message(BINARY, b"after")]
        self.assertEqual(sent.messages(), expected)

    def test_own_keys(self) -> None:
        """Each frame is masked with a key of its own, the two of one packet too."""
        sent = Sent(masked=True)
        sent.put(bytes(SPLIT_FROM + 1))
        sent.outbox.flush()
        [piece] = sent.pieces
        self.assertNotEqual(piece[4:8], piece[8 + FIRST + 4 : 8 + FIRST + 8])

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.tuples(st.integers(0, 40_000), st.booleans()), min_size=1, max_size=12),
        st.booleans(),
    )
    def test_any_order(self, steps: list[tuple[int, bool]], masked: bool) -> None:
        """Whatever is put and whenever it is flushed: the same bytes, in order."""
        sent = Sent(masked=masked)
        expected = b""
        for number, (size, flush) in enumerate(steps):
            payload = bytes((number + 1,)) * size
            sent.put(payload)
            expected += payload
            if flush:
                sent.outbox.flush()
        sent.outbox.flush()
        self.assertEqual(b"".join(message.payload for message in sent.messages()), expected)

    def test_send_comes_back(self) -> None:
        """Who is told to send may put more in, once it has taken what it was given: that follows, whole."""
        for masked in (False, True):
            sent = Sent(masked=masked)
            answers = [b"an answer" * 3000, b"", b"another"]

            def send(frames: memoryview, sent: Sent = sent, answers: list[bytes] = answers) -> None:
                sent.pieces.append(bytes(frames))
                if answers:
                    sent.put(answers.pop(0))
                    sent.outbox.flush()

            sent.outbox._send = send
            sent.put(b"one" * 5000)
            sent.put(b"two")
            sent.outbox.flush()
            data = b"".join(message.payload for message in sent.messages())
            self.assertEqual(data, b"one" * 5000 + b"two" + b"an answer" * 3000 + b"another")
            self.assertEqual(len(sent.pieces), 4)
