"""The connection layer as hypothesis drives it beside its model: each step makes sense in its state."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from twisted.conch.ssh.common import NS
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.ssh.connection import MIN_PACKET
from pipeops_agent.tunnel.ssh.messages import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
)
from tests.fuzz.connection import WINDOW, Bench
from tests.fuzz.model import MAX_WINDOW

EXAMPLES = int(os.environ.get("PIPEOPS_FUZZ_EXAMPLES", "100"))

places = st.integers(0, 7)
amounts = st.sampled_from([0, 1, 100, 1023, 1024, 1025, WINDOW // 4, WINDOW, WINDOW + 1, 40_000])
windows = st.sampled_from([0, 1, 1000, WINDOW, 100_000, MAX_WINDOW - 1, MAX_WINDOW])


class Connection(RuleBasedStateMachine):
    """A far side that keeps the rules until it is told to break one; an owner that does anything it may."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self._numbers = 0

    def teardown(self) -> None:
        self.bench.finish()

    def _alive(self) -> bool:
        return not self.bench.broken

    def _number(self) -> bytes:
        """A number of the far side that it has not used."""
        self._numbers += 1
        return (0xFFFFFF00 + self._numbers).to_bytes(4, "big")

    def _line(self, place: int) -> tuple[bytes, Any]:
        lines = sorted(self.bench.model.lines.items())
        local, line = lines[place % len(lines)]
        return local.to_bytes(4, "big"), line

    def _with_lines(self) -> bool:
        return self._alive() and bool(self.bench.model.lines)

    @precondition(_alive)
    @rule(window=windows, size=st.sampled_from([MIN_PACKET - 1, MIN_PACKET, 32 * 1024, MAX_WINDOW]))
    def asked(self, window: int, size: int) -> None:
        """The far side asks for a channel."""
        numbers = self._number() + window.to_bytes(4, "big") + size.to_bytes(4, "big")
        self.bench.receive(MSG_CHANNEL_OPEN, NS(b"chisel") + numbers + b"localhost:6443")

    @precondition(lambda self: self._alive() and self.bench.requests)
    @rule(place=places, accept=st.booleans())
    def decided(self, place: int, accept: bool) -> None:
        """The owner has made up its mind."""
        (self.bench.accept if accept else self.bench.refuse)(place)

    @precondition(_alive)
    @rule()
    def opens(self) -> None:
        """The owner asks for a channel."""
        self.bench.open()

    @precondition(lambda self: self._alive() and self.bench.model.opening)
    @rule(place=places, window=windows, size=st.sampled_from([MIN_PACKET, 5000, 32 * 1024]))
    def confirmed(self, place: int, window: int, size: int) -> None:
        """The far side confirms one."""
        opening = sorted(self.bench.model.opening)
        numbers = (window.to_bytes(4, "big"), size.to_bytes(4, "big"))
        local = opening[place % len(opening)].to_bytes(4, "big")
        self.bench.receive(MSG_CHANNEL_OPEN_CONFIRMATION, b"".join((local, self._number(), *numbers)))

    @precondition(lambda self: self._alive() and self.bench.model.opening)
    @rule(place=places)
    def refused(self, place: int) -> None:
        """It refuses one."""
        opening = sorted(self.bench.model.opening)
        local = opening[place % len(opening)].to_bytes(4, "big")
        self.bench.receive(MSG_CHANNEL_OPEN_FAILURE, local + bytes(4) + NS(b"no") + NS(b""))

    @precondition(_with_lines)
    @rule(place=places, count=amounts, extended=st.booleans())
    def data_comes(self, place: int, count: int, extended: bool) -> None:
        """Data within the window, where there may be some."""
        local, line = self._line(place)
        if not line.eof_in:
            data = NS(bytes(min(count, line.credit)))
            if extended:
                self.bench.receive(MSG_CHANNEL_EXTENDED_DATA, local + bytes(4) + data)
            else:
                self.bench.receive(MSG_CHANNEL_DATA, local + data)

    @precondition(_with_lines)
    @rule(place=places, more=windows)
    def window_comes(self, place: int, more: int) -> None:
        """Room for more."""
        local, line = self._line(place)
        more = min(more, MAX_WINDOW - line.window)
        self.bench.receive(MSG_CHANNEL_WINDOW_ADJUST, local + more.to_bytes(4, "big"))

    @precondition(_with_lines)
    @rule(place=places, message=st.sampled_from([MSG_CHANNEL_EOF, MSG_CHANNEL_CLOSE]))
    def end_comes(self, place: int, message: int) -> None:
        """The far side ends one way, or both."""
        local, _ = self._line(place)
        self.bench.receive(message, local)

    @precondition(_with_lines)
    @rule(place=places, count=amounts)
    def writes(self, place: int, count: int) -> None:
        """The owner writes."""
        self.bench.write(place, count)

    @precondition(_with_lines)
    @rule(place=places, how=st.integers(0, 2))
    def ends(self, place: int, how: int) -> None:
        """The owner ends one way, both, or at once."""
        self.bench.end(place, how)

    @precondition(_with_lines)
    @rule(place=places)
    def consumes(self, place: int) -> None:
        """What came was delivered."""
        self.bench.consume(place)

    @precondition(_alive)
    @rule(congested=st.booleans())
    def carrier(self, congested: bool) -> None:
        """The way out is full, or free again."""
        self.bench.congest(congested)

    @precondition(_alive)
    @rule(cancel=st.booleans())
    def asks(self, cancel: bool) -> None:
        """The owner asks something."""
        self.bench.request(cancel=cancel)

    @precondition(lambda self: self._alive() and self.bench.model.replies)
    @rule(good=st.booleans())
    def answered(self, good: bool) -> None:
        """The far side answers."""
        self.bench.receive(MSG_REQUEST_SUCCESS if good else MSG_REQUEST_FAILURE, b"pong")

    @precondition(_alive)
    @rule(name=st.sampled_from([b"ping", b"no"]), reply=st.booleans())
    def is_asked(self, name: bytes, reply: bool) -> None:
        """The far side asks."""
        self.bench.receive(MSG_GLOBAL_REQUEST, NS(name) + bytes((reply,)))

    @precondition(lambda self: self.bench.broken)
    @rule()
    def over(self) -> None:
        """The far side was cut off: nothing more comes."""

    @precondition(_with_lines)
    @rule(place=places, how=st.integers(0, 2))
    def breaks_the_rules(self, place: int, how: int) -> None:
        """The far side sends beyond the window, opens it beyond 4 GiB, or names no open channel."""
        local, line = self._line(place)
        if how == 0:
            self.bench.receive(MSG_CHANNEL_DATA, local + NS(bytes(line.credit + 1)))
        elif how == 1 and line.window:
            self.bench.receive(MSG_CHANNEL_WINDOW_ADJUST, local + MAX_WINDOW.to_bytes(4, "big"))
        else:
            self.bench.receive(MSG_CHANNEL_EOF, (77_777).to_bytes(4, "big"))


class ConnectionTests(SynchronousTestCase):
    """Random lives of a connection."""

    def test_lives(self) -> None:
        """Whatever comes when, layer and model agree at each step, and nothing is left at the end."""
        run_state_machine_as_test(
            Connection,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=50,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )
