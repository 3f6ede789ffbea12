"""Tests for L{pipeops_agent.shutdown}."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.shutdown import Shutdown
from tests.controlplane.logs import Records


class ShutdownTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.shutdown = Shutdown(self.clock)
        self.done: list[str] = []
        self.records = Records(self)

    def step(self, what: str, seconds: float = 1.0, shutdown: Shutdown | None = None) -> Deferred[None]:
        """Add a step that ends when the result is fired; it notes that it was called, and cancelled."""
        ending: Deferred[None] = Deferred(lambda _: self.done.append(f"{what} cancelled"))

        async def stop() -> None:
            self.done.append(what)
            await ending

        (shutdown or self.shutdown).step(what, seconds, stop)
        return ending

    def run_all(self, shutdown: Shutdown | None = None) -> Deferred[None]:
        return Deferred.fromCoroutine((shutdown or self.shutdown).run())

    def tearDown(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing(self) -> None:
        """Without steps it is over at once."""
        self.successResultOf(self.run_all())
        self.assertEqual(self.shutdown.bound, 0)

    def test_one_after_the_other(self) -> None:
        """A step begins when the one before has ended."""
        first, second = self.step("first"), self.step("second")
        running = self.run_all()
        self.assertEqual(self.done, ["first"])
        first.callback(None)
        self.assertEqual(self.done, ["first", "second"])
        self.assertNoResult(running)
        second.callback(None)
        self.successResultOf(running)
        self.assertEqual(self.records.at("warn"), [])

    def test_late(self) -> None:
        """One that takes longer than it may is cancelled, named, and left behind."""
        self.step("the tunnel", 2.0)
        last = self.step("last")
        running = self.run_all()
        self.clock.advance(1.9)
        self.assertEqual(self.done, ["the tunnel"])
        self.clock.advance(0.2)
        self.assertEqual(self.done, ["the tunnel", "the tunnel cancelled", "last"])
        self.assertEqual(
            self.records.at("warn"), ["stopping: the tunnel took longer than 2 s; going on without it"]
        )
        last.callback(None)
        self.successResultOf(running)

    def test_fails(self) -> None:
        """One that fails, at once or later, is logged by its name, and the next goes on."""

        def stop() -> Deferred[None]:
            raise ZeroDivisionError

        self.shutdown.step("at once", 1.0, stop)
        later = self.step("later")
        last = self.step("last")
        running = self.run_all()
        later.errback(ValueError("broken"))
        last.callback(None)
        self.successResultOf(running)
        self.assertEqual(
            self.records.at("critical"),
            ["stopping: at once failed; going on", "stopping: later failed; going on"],
        )
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError, ValueError)), 2)

    def test_cancelled(self) -> None:
        """Whoever cancels the whole ends it: what is under way is cancelled, the rest is not begun."""
        self.step("first")
        self.step("second")
        running = self.run_all()
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.assertEqual(self.done, ["first", "first cancelled"])

    def test_bound(self) -> None:
        """The sum of all steps, or what all may take together."""
        for shutdown, bound in ((self.shutdown, 3.5), (Shutdown(self.clock, within=3), 3.0)):
            shutdown.step("first", 1.5, lambda: succeed(None))
            shutdown.step("second", 2.0, lambda: succeed(None))
            self.assertEqual(shutdown.bound, bound)

    def test_within(self) -> None:
        """Once the whole's time is up, what is left is still called, and cancelled in the same turn."""
        shutdown = Shutdown(self.clock, within=1.0)
        for what in ("first", "second", "third"):
            self.step(what, 0.8, shutdown)
        running = self.run_all(shutdown)
        self.clock.advance(0.8)
        self.clock.advance(0.2)
        self.clock.advance(0)
        self.successResultOf(running)
        self.assertEqual(
            self.done, ["first", "first cancelled", "second", "second cancelled", "third", "third cancelled"]
        )
