"""Tests for L{pipeops_agent.watch.shown}: nothing that others have written steers a terminal."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.watch.shown import (
    MAX_LINE,
    Lines,
    event_json,
    event_line,
    health_lines,
    runtime_line,
)
from pipeops_agent.watch.sse import ServerEvent
from pipeops_agent.web.api.examples import EXAMPLES

EVIL = "\x1b]0;owned\x07\x1b[2J\r\nnext\u202e\x9b31m\x7f"


def event(name: str, data: Any) -> ServerEvent:
    return ServerEvent(name, msgspec.json.encode(data).decode(), "ab-1")


class EventTests(SynchronousTestCase):
    """Events, for people and for programs."""

    def test_event(self) -> None:
        """When, what, and what belongs to it."""
        happened = {
            "start": "ab",
            "seq": 1,
            "time": "2025-10-15T08:00:00Z",
            "channel": "agent",
            "event": "phase",
            "data": {"phase": "running", "why": "it is time", "n": 3},
        }
        self.assertEqual(
            event_line(event("agent", happened)),
            '2025-10-15T08:00:00Z agent.phase phase=running why="it is time" n=3',
        )

    def test_log(self) -> None:
        """A record of the agent's own, and a line of a pod's."""
        record = {"time": "T", "level": "info", "component": "agent", "msg": "hello", "n": 1}
        self.assertEqual(event_line(event("log", record)), "T info  agent hello n=1")
        self.assertEqual(event_line(event("log", {"line": "from a pod"})), "from a pod")

    def test_gap(self) -> None:
        """That something is missing is said, and how much where that is known."""
        self.assertEqual(event_line(event("gap", {"count": 3})), "-- 3 events are missing here")
        self.assertEqual(event_line(event("gap", {})), "-- events are missing here")

    def test_anything_else(self) -> None:
        """What is no JSON object is shown as it is."""
        self.assertEqual(event_line(ServerEvent("odd", "text", "")), "odd: text")
        self.assertEqual(event_line(event("status", {"agent_id": "a"})), "status: agent_id=a")

    def test_control_characters(self) -> None:
        """They are shown, wherever they stand."""
        happened = {"time": EVIL, "channel": EVIL, "event": EVIL, "data": {EVIL: EVIL}}
        for each in (
            event("log", {"line": EVIL}),
            event("log", {"msg": EVIL, "level": EVIL}),
            event("agent", happened),
            event("gap", {"count": EVIL}),
            ServerEvent(EVIL, EVIL, EVIL),
        ):
            for line in (event_line(each), event_json(each)):
                self.assertTrue(line.isprintable(), line)
                self.assertIn("x1b" if "x1b" in line else "u001b", line)

    @given(st.text(max_size=50), st.text(max_size=50))
    def test_any_text(self, name: str, data: str) -> None:
        """Whatever an event holds makes one line that can be printed; JSON comes back as it was."""
        each = ServerEvent(name, data, "")
        self.assertTrue(event_line(each).isprintable())
        shown = event_json(each)
        self.assertTrue(shown.isascii() and shown.isprintable())
        self.assertEqual(json.loads(shown)["event"], name)


class FigureTests(SynchronousTestCase):
    """State and figures, of the answers' own types."""

    def example(self, name: str) -> Any:
        return msgspec.to_builtins(EXAMPLES[name])

    def test_health(self) -> None:
        """Agent, checks, tunnel, forwards; hostile texts in it are shown as they are."""
        health = self.example("get_detailed_health")
        health["checks"]["tunnel"]["ok"] = False
        health["checks"]["tunnel"]["message"] = EVIL
        lines = health_lines(health)
        self.assertTrue(all(line.isprintable() for line in lines))
        self.assertEqual(lines[0], "agent-shop-3f2a9c1b7d5e 1.0.0: healthy, running, up 3600s")
        self.assertRegex("\n".join(lines), r"tunnel +FAILED \\x1b")
        self.assertRegex(lines[-1], r"kubernetes-api +proven +port 20001, 1 open")

    def test_runtime(self) -> None:
        """One line."""
        line = runtime_line(self.example("get_runtime"))
        self.assertTrue(re.search(r"cpu 0\.4 %, memory 56\.1 MB, 24 descriptors, lag 1\.2 ms", line), line)


class LinesTests(SynchronousTestCase):
    """Output in pieces."""

    def setUp(self) -> None:
        self.written: list[str] = []
        self.lines = Lines(self.written.append)

    def test_pieces(self) -> None:
        """A line that comes in pieces is one; the last one needs no end."""
        for piece in ("he", "llo\r\nwor", "ld\n\nrest"):
            self.lines.add(piece)
        self.assertEqual(self.written, ["hello", "world", ""])
        self.lines.end()
        self.assertEqual(self.written[-1], "rest")

    def test_control_characters(self) -> None:
        """They are shown."""
        self.lines.add(EVIL + "\n")
        self.assertTrue(all(line.isprintable() for line in self.written))

    def test_no_end(self) -> None:
        """A line without end is written when it is long enough."""
        for _ in range(3):
            self.lines.add("x" * MAX_LINE)
        self.assertGreaterEqual(len(self.written), 1)
        self.assertLessEqual(len(self.lines._rest), MAX_LINE)
