"""Tests for L{pipeops_agent.web.websocket.frames}, read by C{websockets}."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame
from websockets.streams import StreamReader

from pipeops_agent.web.websocket.frames import MIN_DEFLATED, Deflater, text_frame

MESSAGES = st.text(max_size=2000).map(str.encode) | st.integers(0, 70_000).map(
    lambda size: b"ab" * (size // 2)
)

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""The first text that is drawn costs a second: the table of characters is made then."""


def read(frame: bytes, extension: PerMessageDeflate | None = None) -> bytes:
    """The payload of the one frame that C{frame} is."""
    stream = StreamReader()
    stream.feed_data(frame)
    stream.feed_eof()
    parsing = Frame.parse(stream.read_exact, mask=False, extensions=[extension] if extension else None)
    try:
        while True:
            next(parsing)
    except StopIteration as done:
        parsed: Frame = done.value
    assert not stream.buffer and parsed.fin and parsed.opcode == 1
    return bytes(parsed.data)


class FrameTests(SynchronousTestCase):
    """Frames that another implementation reads."""

    @UNHURRIED
    @given(MESSAGES)
    def test_plain(self, message: bytes) -> None:
        """One unmasked frame of any length."""
        self.assertEqual(read(text_frame(message)), message)

    def test_lengths(self) -> None:
        """Both sides of each border of the header."""
        for length in (0, 125, 126, 0xFFFF, 0x10000):
            self.assertEqual(len(read(text_frame(b"x" * length))), length)

    @UNHURRIED
    @given(st.lists(MESSAGES, max_size=5), st.booleans())
    def test_deflated(self, messages: list[bytes], keeps: bool) -> None:
        """In any order, by who keeps a context and by who keeps none, and also when most are not seen."""
        deflater = Deflater()
        keeping = PerMessageDeflate(not keeps, not keeps, 15, 15)
        for number, message in enumerate(messages):
            frame = deflater.text_frame(message)
            self.assertEqual(read(frame, PerMessageDeflate(True, True, 15, 15)), message)
            if number % 2:
                self.assertEqual(read(frame, keeping), message)

    def test_worth_it(self) -> None:
        """What is short, or does not become shorter, goes as it is."""
        deflater = Deflater()
        short = b"a" * (MIN_DEFLATED - 1)
        self.assertEqual(deflater.text_frame(short), text_frame(short))
        random = bytes((number * number * 7 + number // 3) % 251 for number in range(300))
        self.assertLessEqual(len(deflater.text_frame(random)), len(text_frame(random)))
        self.assertLess(len(deflater.text_frame(b"a" * MIN_DEFLATED)), 20)
