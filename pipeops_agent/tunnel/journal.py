"""What the tunnel says in the log: one line per state, repeated failures once, each complaint once."""

from __future__ import annotations

from typing import Final

from twisted.logger import Logger, LogLevel

from pipeops_agent.tunnel.allocation import Plan
from pipeops_agent.tunnel.line import Entry, Line

_log = Logger(namespace="tunnel")

MAX_REMEMBERED: Final = 256
"""How many complaints about allocations are remembered; their names come from outside."""

_ENTERED: Final = "{role} is {state}: {why} ({before} for {lasted:.1f} s)"


class Journal:
    """
    Writes the log of all lines.

    A failure like the one before it, and the attempt between them, are written at debug level; every line
    has the number of failures in a row as a field.

    @param max_attempts: after so many failures in a row an error is logged, once; 0: never.
    """

    def __init__(self, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._last_failures: dict[Line, str] = {}
        self._said_failing = False
        self._problem: str | None = None
        self._skipped: set[str] = set()

    def plan(self, plan: Plan) -> None:
        """Complain about what can't be used of an order: each thing once."""
        if plan.problem is not None and plan.problem != self._problem:
            _log.error("there can be no tunnel: {problem}", problem=plan.problem)
        if plan.problem is not None or plan.target is not None:
            self._problem = plan.problem
        for sentence in plan.skipped:
            if sentence not in self._skipped:
                if len(self._skipped) >= MAX_REMEMBERED:
                    self._skipped.clear()
                self._skipped.add(sentence)
                _log.warn("an allocation of the control plane is not used: {reason}", reason=sentence)

    def replaced(self, former: Line, line: Line) -> None:
        """C{line} goes on with C{former}'s row of failures; that and all others are left behind."""
        last = self._last_failures.get(former)
        self._last_failures = {} if last is None else {line: last}

    def entered(self, line: Line, entry: Entry) -> None:
        """Write the line of one state entered."""
        serious = LogLevel.info if entry.problem is None else LogLevel.warn
        _log.emit(
            LogLevel.debug if self._is_repetition(line, entry) else serious,
            _ENTERED,
            role=line.role,
            state=entry.state,
            why=entry.why,
            before=entry.before,
            lasted=round(entry.lasted, 3),
            failures=line.failures,
            log_counted=True,
        )
        if entry.state == "connected":
            self._said_failing = False
        elif entry.problem is not None and line.failures == self._max_attempts and not self._said_failing:
            self._said_failing = True
            _log.error(
                "{role} has failed {failures} times in a row, and is tried further: {problem}",
                role=line.role,
                failures=line.failures,
                problem=entry.problem.sentence,
            )

    def _is_repetition(self, line: Line, entry: Entry) -> bool:
        """Whether this is a failure like the one before, or the attempt in between."""
        last = self._last_failures.get(line)
        if entry.problem is not None:
            self._last_failures[line] = entry.problem.sentence
            return entry.problem.sentence == last
        if entry.state == "connecting":
            return last is not None
        self._last_failures.pop(line, None)
        return False
