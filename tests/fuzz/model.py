"""
The connection protocol as the other side sees it (RFC 4254): what may come of the layer, and what it refuses.

The model knows nothing of how the layer works. It is told every message in both directions and every call of
the layer's owner, and objects to what does not follow from them.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import Final

from pipeops_agent.tunnel.ssh.channel import MAX_SENT
from pipeops_agent.tunnel.ssh.connection import MAX_DATA, MAX_REQUEST, MIN_PACKET
from pipeops_agent.tunnel.ssh.messages import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
)

MAX_WINDOW: Final = 0xFFFFFFFF

_SHORTEST: Final = {
    MSG_CHANNEL_OPEN_CONFIRMATION: 16,
    MSG_CHANNEL_OPEN_FAILURE: 8,
    MSG_CHANNEL_WINDOW_ADJUST: 8,
    MSG_CHANNEL_DATA: 8,
    MSG_CHANNEL_EXTENDED_DATA: 8,
    MSG_CHANNEL_EOF: 4,
    MSG_CHANNEL_CLOSE: 4,
    MSG_CHANNEL_REQUEST: 4,
}

_OF_A_CHANNEL: Final = frozenset(
    {
        MSG_CHANNEL_WINDOW_ADJUST,
        MSG_CHANNEL_DATA,
        MSG_CHANNEL_EXTENDED_DATA,
        MSG_CHANNEL_EOF,
        MSG_CHANNEL_CLOSE,
        MSG_CHANNEL_REQUEST,
    }
)


class Verdict(Enum):
    """Whether a message is an error."""

    GOOD = 0
    BAD = 1
    EITHER = 2
    """Sloppy, but harmless: the RFC does not say what is to be done about it."""


class Line:
    """One channel, seen from the far side. "Out" is what the layer sends."""

    def __init__(self, remote: int, window: int, packet: int, credit: int) -> None:
        self.remote = remote
        self.window = window
        self.packet = min(packet, MAX_SENT)
        self.credit = credit
        self.most_credit = credit
        self.written = bytearray()
        self.sent = 0
        self.received = bytearray()
        self.eof_in = self.eof_out = self.close_in = self.close_out = False
        self.eof_wanted = self.close_wanted = self.dropped = False

    @property
    def waits(self) -> int:
        """Bytes that were written and not yet sent."""
        return 0 if self.dropped else len(self.written) - self.sent


def words(payload: bytes, count: int) -> tuple[int, ...]:
    """The first C{count} numbers of a message that has them."""
    return struct.unpack(f">{count}L", payload[: 4 * count])


def split(data: bytes) -> tuple[bytes, bytes] | None:
    """A string and what follows it; None where there is none."""
    if len(data) < 4 or len(data) - 4 < int.from_bytes(data[:4], "big"):
        return None
    end = 4 + int.from_bytes(data[:4], "big")
    return data[4:end], data[end:]


class Model:
    """
    The state of one connection.

    @ivar lines: open channels by the layer's number.
    @ivar opening: numbers that the layer has asked to open.
    @ivar asked: numbers of the far side that it has asked to open.
    @ivar ambiguous: the far side has used one number twice, so that what comes can't be told apart.
    """

    def __init__(self, window: int, max_channels: int) -> None:
        self.window = window
        self.max_channels = max_channels
        self.lines: dict[int, Line] = {}
        self.opening: set[int] = set()
        self.asked: list[int] = []
        self.windows: dict[int, tuple[int, int]] = {}
        self.replies = 0
        self.questions = 0
        self.refusals: list[int] = []
        self.failures: list[int] = []
        self.ambiguous = False
        self.congested = False

    # -- what the far side sends, before the layer sees it

    def judge(self, message: int, payload: bytes) -> Verdict:
        """Whether C{message} is an error in this state."""
        if len(payload) < _SHORTEST.get(message, 0):
            return Verdict.BAD
        if message in _OF_A_CHANNEL:
            return self._judge_line(message, payload)
        if message == MSG_GLOBAL_REQUEST:
            parts = split(payload)
            return _bad(parts is None or len(parts[1]) > MAX_REQUEST)
        if message in {MSG_REQUEST_SUCCESS, MSG_REQUEST_FAILURE}:
            return _bad(self.replies == 0)
        if message == MSG_CHANNEL_OPEN:
            parts = split(payload)
            return _bad(parts is None or len(parts[1]) < 12)
        if message == MSG_CHANNEL_OPEN_CONFIRMATION:
            local, _, _, packet = words(payload, 4)
            return _bad(local not in self.opening or packet < MIN_PACKET)
        if message == MSG_CHANNEL_OPEN_FAILURE:
            return _bad(words(payload, 1)[0] not in self.opening or split(payload[8:]) is None)
        return Verdict.GOOD

    def _judge_line(self, message: int, payload: bytes) -> Verdict:
        line = self.lines.get(words(payload, 1)[0])
        if line is None:
            return Verdict.BAD
        if message == MSG_CHANNEL_DATA:
            length = len(payload) - 8
            return _bad(words(payload, 2)[1] != length or line.eof_in or length > line.credit)
        if message == MSG_CHANNEL_EXTENDED_DATA:
            if len(payload) - 12 > line.credit:
                return Verdict.BAD
            good = split(payload[8:]) is not None and not line.eof_in
            return Verdict.GOOD if good else Verdict.EITHER
        if message == MSG_CHANNEL_WINDOW_ADJUST:
            return _bad(line.window + words(payload, 2)[1] > MAX_WINDOW)
        if message == MSG_CHANNEL_REQUEST:
            return _bad(split(payload[4:]) is None)
        return Verdict.GOOD

    def comes(self, message: int, payload: bytes) -> None:
        """The far side sends C{message}, which is no error."""
        if message in _OF_A_CHANNEL:
            self._comes_to_line(message, payload, self.lines[words(payload, 1)[0]])
        elif message == MSG_GLOBAL_REQUEST:
            parts = split(payload)
            assert parts is not None
            self.questions += parts[1][:1] not in {b"", b"\0"}
        elif message in {MSG_REQUEST_SUCCESS, MSG_REQUEST_FAILURE}:
            self.replies -= 1
        elif message == MSG_CHANNEL_OPEN:
            self._open_comes(payload)
        elif message == MSG_CHANNEL_OPEN_CONFIRMATION:
            local, remote, window, packet = words(payload, 4)
            self.opening.remove(local)
            self._add(local, remote, window, packet)
        elif message == MSG_CHANNEL_OPEN_FAILURE:
            self.opening.remove(words(payload, 1)[0])

    def _comes_to_line(self, message: int, payload: bytes, line: Line) -> None:
        if message == MSG_CHANNEL_DATA:
            line.credit -= len(payload) - 8
            if not line.close_wanted:
                line.received += payload[8:]
        elif message == MSG_CHANNEL_EXTENDED_DATA:
            line.credit -= max(len(payload) - 12, 0)
        elif message == MSG_CHANNEL_WINDOW_ADJUST:
            line.window += words(payload, 2)[1]
        elif message == MSG_CHANNEL_EOF:
            line.eof_in = True
        elif message == MSG_CHANNEL_CLOSE:
            line.close_in = line.dropped = True
        elif message == MSG_CHANNEL_REQUEST:
            parts = split(payload[4:])
            assert parts is not None
            if parts[1][:1] not in {b"", b"\0"} and not line.close_out:
                self.failures.append(line.remote)

    def _open_comes(self, payload: bytes) -> None:
        parts = split(payload)
        assert parts is not None
        remote, window, packet = words(parts[1], 3)
        if packet < MIN_PACKET or len(self.lines) + len(self.asked) >= self.max_channels:
            self.refusals.append(remote)
            return
        self.ambiguous |= remote in self.asked or any(line.remote == remote for line in self.lines.values())
        self.asked.append(remote)
        self.windows[remote] = window, packet

    def _add(self, local: int, remote: int, window: int, packet: int) -> None:
        assert local not in self.lines, "one number for two channels"
        self.ambiguous |= any(line.remote == remote for line in self.lines.values())
        self.lines[local] = Line(remote, window, packet, self.window)

    def settled(self) -> None:
        """The layer has dealt with what came: what is owed was sent, what is closed is gone."""
        assert self.questions == 0, "a request was not answered"
        assert not self.refusals, "a channel was neither asked for nor refused"
        assert not self.failures, "a channel's request was not answered"
        for local, line in list(self.lines.items()):
            if line.close_in:
                assert line.close_out, "CLOSE was not answered"
                del self.lines[local]
            elif not self.ambiguous:
                assert self.congested or not (line.waits and line.window), "data waits for nothing"
                assert line.waits or line.eof_out or not line.eof_wanted or line.close_out, "EOF is missing"
                assert line.waits or line.close_out or not line.close_wanted, "CLOSE is missing"

    # -- what the layer sends

    def sent(self, message: int, payload: bytes) -> None:
        """The layer has sent C{message}: it must be in order."""
        if message == MSG_GLOBAL_REQUEST:
            self.replies += 1
        elif message in {MSG_REQUEST_SUCCESS, MSG_REQUEST_FAILURE}:
            self.questions -= 1
            assert self.questions >= 0, "an answer to nothing"
        elif message == MSG_CHANNEL_OPEN:
            parts = split(payload)
            assert parts is not None
            local, window, packet = words(parts[1], 3)
            assert local not in self.opening and local not in self.lines
            assert (window, packet) == (self.window, MAX_DATA)
            self.opening.add(local)
        elif message == MSG_CHANNEL_OPEN_CONFIRMATION:
            remote, local, window, packet = words(payload, 4)
            self.asked.remove(remote)
            assert (window, packet) == (self.window, MAX_DATA)
            self._add(local, remote, *self.windows[remote])
        elif message == MSG_CHANNEL_OPEN_FAILURE:
            self._refused(words(payload, 1)[0])
        else:
            self._sent_on_line(message, payload)

    def _refused(self, remote: int) -> None:
        (self.refusals if remote in self.refusals else self.asked).remove(remote)

    def _sent_on_line(self, message: int, payload: bytes) -> None:
        remote = words(payload, 1)[0]
        lines = [line for line in self.lines.values() if line.remote == remote]
        assert lines, f"message {message} for a channel that is not open"
        if self.ambiguous:
            if message == MSG_CHANNEL_FAILURE and remote in self.failures:
                self.failures.remove(remote)
            if message == MSG_CHANNEL_CLOSE:  # first to one that was closed
                max(lines, key=lambda line: line.close_in and not line.close_out).close_out = True
            return
        [line] = lines
        assert not line.close_out, f"message {message} after CLOSE"
        if message == MSG_CHANNEL_DATA:
            self._data_sent(line, payload)
        elif message == MSG_CHANNEL_WINDOW_ADJUST:
            line.credit += words(payload, 2)[1]
            assert line.credit <= self.window, "the window is wider than was said"
        elif message == MSG_CHANNEL_EOF:
            assert line.eof_wanted and not line.eof_out and not line.waits, "EOF out of turn"
            line.eof_out = True
        elif message == MSG_CHANNEL_CLOSE:
            assert not line.waits, "CLOSE before what waits"
            assert line.close_wanted or line.close_in or (line.eof_in and line.eof_out), "CLOSE for nothing"
            line.close_out = True
        else:
            assert message == MSG_CHANNEL_FAILURE, message
            self.failures.remove(remote)

    def _data_sent(self, line: Line, payload: bytes) -> None:
        data = payload[8:]
        assert words(payload, 2)[1] == len(data) > 0
        assert not line.eof_out, "data after EOF"
        assert not self.congested, "data on top of a carrier that is full"
        assert len(data) <= line.packet, "a packet longer than the far side takes"
        assert len(data) <= line.window, "more than the far side's window"
        assert data == line.written[line.sent : line.sent + len(data)], "not what was written"
        line.window -= len(data)
        line.sent += len(data)


def _bad(condition: bool) -> Verdict:
    return Verdict.BAD if condition else Verdict.GOOD
