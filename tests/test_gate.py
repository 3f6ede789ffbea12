"""Tests for L{pipeops_agent.gate}."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.gate import OpenGate, StartGate


class OpenGateTests(SynchronousTestCase):
    """The gate of an agent without rivals."""

    def test_open(self) -> None:
        """Everybody may enter at once and leave at once, in any order and number."""
        gate: StartGate = OpenGate()
        self.successResultOf(gate.leave())
        for _ in range(2):
            self.successResultOf(gate.enter())
        for _ in range(2):
            self.successResultOf(gate.leave())

    def test_never_lost(self) -> None:
        """It is never lost, and each who asks has a Deferred of its own to cancel."""
        gate: StartGate = OpenGate()
        first, second = gate.when_lost(), gate.when_lost()
        self.assertNoResult(first)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertNoResult(second)
