"""Registration at start and later."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.controlplane import ApiError, Registered, Registration, RegistrationService
from pipeops_agent.errors import ExitStatus, FatalError
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model_pipeops import PipeopsSettings, ReconnectSettings, RegistrationSettings
from pipeops_agent.state import Conflict, MemoryStateStore, State, Stored
from tests.controlplane.fakes import ScriptedCalls, World, network_error, server_error
from tests.controlplane.logs import Records

UUID = "550e8400-e29b-41d4-a716-446655440000"
OTHER = "11111111-e29b-41d4-a716-446655440000"
ANSWER = Registered(cluster_id=UUID, cluster_token=Secret("cluster-token"))


class FakeRegistrar(ScriptedCalls):
    def register(self, registration: Registration) -> Deferred[Registered]:
        return self.take(registration)


class SlowStore(MemoryStateStore):
    """Saves when the test lets it."""

    def __init__(self, state: State | None = None) -> None:
        super().__init__(state)
        self.gate: Deferred[None] | None = None

    async def save(self, state: State, version: str) -> Stored:
        if self.gate is not None:
            await self.gate
        return await super().save(state, version)


class Case(SynchronousTestCase):
    """A registration service with everything around it in memory."""

    def setUp(self) -> None:
        self.records = Records(self)
        self.world = World()
        self.clock = self.world.clock
        self.board = self.world.board
        self.registrar = FakeRegistrar()
        self.registrar.default = ANSWER
        self.begin()

    def begin(
        self,
        *,
        state: State | None = None,
        retry_for: float = 0.0,
        random: float = 1.0,
        reconnect: ReconnectSettings | None = None,
    ) -> None:
        """Make the service; C{state} is what the store holds."""
        self.store = SlowStore(state)
        stored = self.successResultOf(Deferred.fromCoroutine(self.store.load()))
        self.service = RegistrationService(
            self.clock,
            self.registrar,
            PipeopsSettings(
                registration=RegistrationSettings(retry_for=retry_for),
                reconnect=reconnect or ReconnectSettings(),
            ),
            self.board,
            self.world.wall,
            self.store,
            stored=stored,
            state=state or State(agent_id="agent-1"),
            describe=lambda state: Registration(contract_version=1, agent_id=state.agent_id),
            random=lambda: random,
        )

    def start(self) -> Deferred[State]:
        return Deferred.fromCoroutine(self.service.at_start())

    def kept(self) -> State | None:
        return self.successResultOf(Deferred.fromCoroutine(self.store.load())).state

    def fatal(self, starting: Deferred[State]) -> FatalError:
        error = self.failureResultOf(starting, FatalError).value
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(self.board.now.registration.registered)
        assert isinstance(error, FatalError)
        return error


class AtStartTests(Case):
    """L{RegistrationService.at_start}."""

    def test_success(self) -> None:
        """What came back is stored and on the board."""
        state = self.successResultOf(self.start())
        expected = State(agent_id="agent-1", cluster_id=UUID, cluster_token=Secret("cluster-token"))
        self.assertEqual((state, self.service.state, self.kept()), (expected, expected, expected))
        self.assertEqual(self.service.ids, (UUID, "agent-1"))
        status = self.board.now.registration
        self.assertEqual((status.registered, status.cluster_id, status.attempts), (True, UUID, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stored_before_announced(self) -> None:
        """Nobody hears of the cluster before its id has been stored."""
        self.store.gate = Deferred()
        starting = self.start()
        self.assertNoResult(starting)
        self.assertFalse(self.board.now.registration.registered)
        self.assertIsNone(self.service.state.cluster_id)
        self.store.gate.callback(None)
        self.successResultOf(starting)
        self.assertTrue(self.board.now.registration.registered)

    def test_same_again(self) -> None:
        """A restarted agent registers again with the same id; what has not changed is not written."""
        known = State(agent_id="agent-7", cluster_id=UUID, cluster_token=Secret("cluster-token"))
        self.begin(state=known)
        self.store.gate = Deferred()  # saving would hang
        self.assertEqual(self.successResultOf(self.start()), known)
        self.assertEqual(self.registrar.calls[0].agent_id, "agent-7")

    def test_other_cluster(self) -> None:
        """Another UUID replaces the stored one, which is kept beside it; one warning says so."""
        self.begin(state=State(agent_id="agent-1", cluster_id=OTHER, cluster_token=Secret("old")))
        self.successResultOf(self.start())
        kept = self.kept()
        assert kept is not None
        self.assertEqual((kept.cluster_id, kept.previous_cluster_id), (UUID, OTHER))
        (warning,) = self.records.at("warn")
        self.assertIn(UUID, warning)
        self.assertIn(OTHER, warning)

    def test_exit_statuses(self) -> None:
        """Each failure ends with the status that tells a supervisor why, and with the answer."""
        for error, status in (
            (ApiError("x", status=401, response="r"), ExitStatus.NOPERM),
            (ApiError("x", status=403, response="r"), ExitStatus.NOPERM),
            (ApiError("x", status=404, response="r"), ExitStatus.NOPERM),
            (ApiError("x", status=409, response="r"), ExitStatus.NOPERM),
            (ApiError("x", status=429, response="r", retryable=True), ExitStatus.UNAVAILABLE),
            (ApiError("x", status=500, response="r", retryable=True), ExitStatus.UNAVAILABLE),
            (ApiError("x", status=200, response="r"), ExitStatus.UNAVAILABLE),
            (ApiError("x", status=202, response="r"), ExitStatus.UNAVAILABLE),
            (ApiError("x", status=204, response="r"), ExitStatus.UNAVAILABLE),
            (ApiError("x", status=301, response="r"), ExitStatus.UNAVAILABLE),
            (ApiError("x", status=308, response="r"), ExitStatus.UNAVAILABLE),
            (ApiError("x", status=410, response="r"), ExitStatus.NOPERM),
            (ApiError("x", retryable=True), ExitStatus.UNAVAILABLE),
            (ApiError("x"), ExitStatus.UNAVAILABLE),
            (ApiError("x", unusable_settings=True), ExitStatus.CONFIG),
        ):
            self.registrar.default = error
            fatal = self.fatal(self.start())
            self.assertEqual((fatal.sentence, fatal.status), ("x", status))
            self.assertEqual(fatal.response, error.response)
            self.assertEqual(self.board.now.registration.message, "x")

    def test_at_once_by_default(self) -> None:
        """Without C{retry_for} the first failure is the last, also one that could pass."""
        self.registrar.default = network_error()
        self.fatal(self.start())
        self.assertEqual(len(self.registrar.calls), 1)

    def test_retried(self) -> None:
        """What can pass is tried again for C{retry_for}, with growing waits; the body is made anew."""
        self.begin(retry_for=100)
        self.registrar.outcomes = [network_error(), server_error(503), server_error(429)]
        starting = self.start()
        # The bounds: 5 + 5 * (2^n - 1) seconds, 30 at most.
        for calls, wait in ((1, 10), (2, 20), (3, 30)):
            self.assertEqual(len(self.registrar.calls), calls)
            self.clock.advance(wait - 0.1)
            self.assertEqual(len(self.registrar.calls), calls)
            self.assertNoResult(starting)
            self.clock.advance(0.2)
        self.successResultOf(starting)
        self.assertEqual(self.board.now.registration.attempts, 4)

    def test_waits_are_settings(self) -> None:
        """The waits are made of C{reconnect.interval} and C{reconnect.backoff}."""
        self.begin(retry_for=100, reconnect=ReconnectSettings(interval=2.0, backoff=1.0))
        self.registrar.outcomes = [network_error(), network_error()]
        starting = self.start()
        for calls, wait in ((1, 3), (2, 5)):
            self.clock.advance(wait - 0.1)
            self.assertEqual(len(self.registrar.calls), calls)
            self.clock.advance(0.2)
        self.successResultOf(starting)

    def test_full_jitter(self) -> None:
        """The waits are random between nothing and the bound."""
        self.begin(retry_for=60, random=0.1)
        self.registrar.outcomes = [network_error()]
        starting = self.start()
        self.clock.advance(0.9)
        self.assertNoResult(starting)
        self.clock.advance(0.1)
        self.successResultOf(starting)

    def test_time_is_up(self) -> None:
        """When the next wait would pass C{retry_for}, the last failure is fatal, at once."""
        self.begin(retry_for=12)
        self.registrar.default = network_error()
        starting = self.start()
        self.clock.advance(10)
        self.fatal(starting)
        self.assertEqual(len(self.registrar.calls), 2)

    def test_retry_after(self) -> None:
        """A wait that the answer asks for is kept."""
        self.begin(retry_for=60, random=0.0)
        self.registrar.outcomes = [server_error(429, retry_after=17.0)]
        starting = self.start()
        self.clock.advance(16.9)
        self.assertNoResult(starting)
        self.clock.advance(0.2)
        self.successResultOf(starting)

    def test_never_retried(self) -> None:
        """Refusals and malformed answers are fatal whatever C{retry_for} says."""
        self.begin(retry_for=3600)
        for error in (ApiError("no", status=403), ApiError("bad", status=200), ApiError("tls")):
            self.registrar.default = error
            self.fatal(self.start())

    def test_store_is_away(self) -> None:
        """A store that can't be written is waited for: not fatal, not announced, said."""
        self.store.broken = "read-only file system"
        starting = self.start()
        self.assertNoResult(starting)
        self.assertIn("read-only file system", self.board.now.registration.message)
        self.assertFalse(self.board.now.registration.registered)
        self.store.broken = None
        self.clock.advance(10)
        self.successResultOf(starting)
        self.assertEqual(len(self.registrar.calls), 1)

    def test_own_state_was_written(self) -> None:
        """Somebody else wrote this agent's state meanwhile: it is read, and the answer put on top."""
        other = MemoryStateStore(State(agent_id="agent-1", cluster_id=OTHER))
        self.store.content = other.content
        self.successResultOf(self.start())
        kept = self.kept()
        assert kept is not None
        self.assertEqual((kept.cluster_id, kept.previous_cluster_id), (UUID, OTHER))

    def test_foreign_state_was_written(self) -> None:
        """Another agent's state there: two agents must not share one place."""
        self.store.content = MemoryStateStore(State(agent_id="agent-2")).content
        fatal = self.fatal(self.start())
        self.assertIn("agent-2", fatal.sentence)
        self.assertEqual(fatal.status, ExitStatus.FAILURE)

    def test_endless_conflict(self) -> None:
        """Somebody who writes all the time does not keep this in a loop for ever."""

        class Busy(MemoryStateStore):
            async def save(self, state: State, version: str) -> Stored:
                raise Conflict("again")

        self.service._store = Busy()
        self.assertIn("keeps writing", self.fatal(self.start()).sentence)

    def test_cancelled(self) -> None:
        """Stopping in the middle ends it: in the call, and in the wait."""
        self.begin(retry_for=60)
        self.registrar.outcomes = [Deferred(), network_error()]
        for _ in range(2):
            starting = self.start()
            starting.cancel()
            self.failureResultOf(starting, CancelledError)
            self.assertEqual(self.clock.getDelayedCalls(), [])


class AgainTests(Case):
    """L{RegistrationService.again}."""

    def setUp(self) -> None:
        super().setUp()
        self.successResultOf(self.start())
        self.service.startService()
        self.addCleanup(self.stopped)

    def stopped(self) -> None:
        """After stopping, nothing is left."""
        self.successResultOf(self.service.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def again(self) -> None:
        self.service.again("the control plane forgot")

    def test_at_most_once_a_minute(self) -> None:
        """A minute lies between two registrations, and several requests are one."""
        self.again()
        self.again()
        self.clock.advance(59)
        self.assertEqual(len(self.registrar.calls), 1)
        self.clock.advance(1)
        self.assertEqual(len(self.registrar.calls), 2)
        self.clock.advance(120)
        self.again()
        self.assertEqual(len(self.registrar.calls), 3)

    def test_not_fatal(self) -> None:
        """A failure is tried again, and the agent counts as registered meanwhile."""
        self.registrar.outcomes = [ApiError("no", status=403), network_error()]
        self.clock.advance(60)
        self.again()
        for calls in (2, 3):
            self.assertEqual(len(self.registrar.calls), calls)
            self.assertTrue(self.board.now.registration.registered)
            self.assertEqual(self.board.now.registration.message, "registered")
            self.clock.advance(60)
        self.assertEqual(len(self.registrar.calls), 4)
        self.assertEqual(len(self.records.at("warn")), 2)

    def test_other_cluster(self) -> None:
        """A different UUID replaces the old one, for all who ask from then on."""
        self.registrar.default = Registered(cluster_id=OTHER)
        self.clock.advance(60)
        self.again()
        self.assertEqual(self.service.ids, (OTHER, "agent-1"))
        self.assertEqual(self.service.state.previous_cluster_id, UUID)
        self.assertIsNone(self.service.state.cluster_token)
        self.assertEqual(len(self.records.at("warn")), 1)

    def test_foreign_state(self) -> None:
        """A place that was taken over is an error, not the end of a running agent."""
        self.store.content = MemoryStateStore(State(agent_id="agent-2")).content
        self.registrar.default = Registered(cluster_id=OTHER)
        self.clock.advance(60)
        self.again()
        self.assertEqual(len(self.records.at("error")), 1)
        self.assertEqual(self.service.ids, (UUID, "agent-1"))

    def test_stop(self) -> None:
        """Stopping cancels the call under way; nothing begins after it."""
        under_way: Deferred[Any] = Deferred()
        self.registrar.outcomes = [under_way]
        self.clock.advance(60)
        self.again()
        self.successResultOf(self.service.stopService())
        self.again()
        self.assertEqual(len(self.registrar.calls), 2)
