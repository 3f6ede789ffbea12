"""The heartbeat: that the agent lives, how it is, and whether its tunnel stands."""

from __future__ import annotations

import random as _random
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pipeops_agent.build import build_info
from pipeops_agent.clock import WallClock, rfc3339
from pipeops_agent.controlplane.errors import ApiError
from pipeops_agent.controlplane.messages import AgentWord, Heartbeat, HeartbeatAnswer, TunnelWord
from pipeops_agent.controlplane.retry import Retry
from pipeops_agent.errors import ExitStatus, FatalError
from pipeops_agent.health import HealthCheck, Registry
from pipeops_agent.scheduling import PeriodicService, bounded
from pipeops_agent.settings.model_pipeops import ReconnectSettings
from pipeops_agent.status import StatusBoard

_log = Logger(namespace="heartbeat")

UNKNOWN_ANSWERS: Final = 3
"""So many 404 in a row..."""
UNKNOWN_SECONDS: Final = 30.0
"""...over at least so long mean that the control plane has forgotten the cluster."""
ASK_AGAIN: Final = 60.0
"""Seconds between two requests to register again."""
LAST_WORD: Final = 1.0
"""Seconds that the heartbeat C{stopping} may take."""

_TUNNEL_WORDS: Final[Mapping[str, TunnelWord]] = {"connected": "connected", "connecting": "connecting"}

Metadata = Mapping[str, str | int | float]


class HeartbeatSender(Protocol):
    """What a heartbeat goes out by: L{pipeops_agent.controlplane.client.ControlPlaneClient}."""

    def heartbeat(self, heartbeat: Heartbeat) -> Awaitable[HeartbeatAnswer]:
        """@raise ApiError: it did not get through."""


class HeartbeatReport:
    """
    Makes the body of a heartbeat from what is known at the moment.

    @param ids: the cluster's and the agent's id, asked each time. No answer to a heartbeat changes them.
    @param checks: a failing one makes the status C{degraded}.
    @param metadata: what else is known, asked each time.
    """

    def __init__(
        self,
        clock: IReactorTime,
        board: StatusBoard,
        wall: WallClock,
        *,
        ids: Callable[[], tuple[str, str]],
        checks: Registry[HealthCheck],
        metadata: Callable[[], Metadata] = dict,
    ) -> None:
        self._clock = clock
        self._board = board
        self._wall = wall
        self._ids = ids
        self._checks = checks
        self._metadata = metadata
        self._started = clock.seconds()

    def __call__(self, status: AgentWord | None = None) -> Heartbeat:
        """The body; C{status} as the checks say unless it is given."""
        cluster_id, agent_id = self._ids()
        now = self._board.now
        if status is None:
            # That heartbeats fail is no news to whoever reads one.
            well = all(check.check(now).ok for check in self._checks if check.name != "heartbeat")
            status = "active" if well else "degraded"
        return Heartbeat(
            cluster_id=cluster_id,
            agent_id=agent_id,
            status=status,
            tunnel_status=_TUNNEL_WORDS.get(now.tunnel.state, "disconnected"),
            timestamp=rfc3339(self._wall()),
            metadata={
                **self._metadata(),
                "uptime": f"{int(self._clock.seconds() - self._started)}s",
                "version": build_info().version,
            },
        )


class HeartbeatService(Service):
    """
    Sends a heartbeat at once, then one each C{interval}, for as long as it runs.

    They neither overlap nor queue: one that failed is dropped, and the next carries the present
    state. What becomes of them is on the status board.

    @param interval: C{agent.poll_interval}.
    @param report: makes the body of each.
    @param on_fatal: called where C{reconnect.enabled} is false and the connection was lost.
    @param on_unknown: called when the control plane does not know the cluster, at most once a minute.
    @ivar on_recovery: called when an outage ends.
    @ivar on_advice: called when an answer advises to look at the tunnel: with a sentence that says why, and
        whether it is to be connected anew.
    """

    def __init__(
        self,
        clock: IReactorTime,
        client: HeartbeatSender,
        board: StatusBoard,
        wall: WallClock,
        reconnect: ReconnectSettings,
        *,
        interval: float,
        report: HeartbeatReport,
        on_fatal: Callable[[FatalError], None],
        on_unknown: Callable[[], None],
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._clock = clock
        self._client = client
        self._board = board
        self._wall = wall
        self._reconnect = reconnect
        self._report = report
        self._on_fatal = on_fatal
        self._on_unknown = on_unknown
        self.on_recovery: Callable[[], None] = _nothing
        self.on_advice: Callable[[str, bool], None] = _nothing
        self._last_answer = HeartbeatAnswer()
        self._retry = Retry(clock, reconnect, _log, "heartbeat", random=random)
        self._unknown = _Unknown(clock)
        self._refusal_said = False
        self._periodic = PeriodicService(
            clock, self._beat, lambda: self._retry.delay(interval), what="heartbeat", from_start=True
        )

    def startService(self) -> None:
        super().startService()
        self._periodic.startService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._periodic.stopService()

    def wake(self) -> None:
        """Send the next heartbeat now: something has changed that the control plane should know."""
        self._periodic.wake()

    def nudge(self) -> None:
        """The control plane has been reached by another way: try now, if only the network was in between."""
        if self._retry.worth_waking:
            self._periodic.wake()

    async def send_stopping(self) -> None:
        """Say goodbye; at most one second, and never an error."""
        try:
            last = self._client.heartbeat(self._report("stopping"))
            await bounded(self._clock, LAST_WORD, last, "the last heartbeat")
        except CancelledError:
            raise
        except Exception as error:
            _log.debug("the control plane was not told of the stop: {error}", error=str(error))

    async def _beat(self) -> None:
        self._retry.began()
        try:
            answer = await self._client.heartbeat(self._report())
        except ApiError as error:
            self._failed(error)
        except CancelledError:
            raise
        except Exception as error:
            # A bug of ours must neither end the heartbeats nor leave the board saying that all is well.
            _log.failure("a heartbeat could not be sent")
            self._failed(ApiError(f"heartbeat: {type(error).__name__} in the agent"))
        else:
            self._succeeded()
            self._take(answer)

    def _succeeded(self) -> None:
        now = self._wall()
        before = self._board.now.heartbeat
        self._board.set_heartbeat(
            state="ok",
            since=before.since if before.state == "ok" else now,
            last_success=now,
            failures=0,
            message="heartbeats get through",
        )
        self._unknown.reset()
        self._refusal_said = False
        if self._retry.succeeded():
            self.on_recovery()

    def _take(self, answer: HeartbeatAnswer) -> None:
        """
        Follow the advice of an answer, once: one that says the same as the last asks for nothing new.

        Else a control plane that goes on to say C{reconnect} would keep the tunnel from ever lasting.
        """
        last, self._last_answer = self._last_answer, answer
        if answer.problem is not None and answer.problem != last.problem:
            _log.warn("a part of the answer to a heartbeat is not used: {problem}", problem=answer.problem)
        if answer.reconnect and not last.reconnect:
            self.on_advice(answer.message or "no reason given", True)
        elif answer.server is not None and answer.server != last.server:
            self.on_advice(f"the heartbeat names the server {answer.server}", False)

    def _failed(self, error: ApiError) -> None:
        self._retry.failed(error, said=self._say_if_refused(error))
        before = self._board.now.heartbeat
        state = "disconnected" if error.refused or self._given_up() else "failing"
        if before.state == "disconnected":
            state = "disconnected"  # until one gets through
        if state == "disconnected" != before.state and not error.refused:
            _log.error(
                "disconnected from the control plane after {failures} failed heartbeats in a row; the agent"
                " keeps trying: {error}",
                failures=self._retry.failures,
                error=error.sentence,
            )
        self._board.set_heartbeat(
            state=state,
            since=before.since if before.state == state else self._wall(),
            failures=self._retry.failures,
            message=error.sentence,
        )
        if self._unknown.after(error):
            _log.warn("the control plane does not know this cluster any more: registering again")
            self._on_unknown()
        if not self._reconnect.enabled and error.lost:
            self._on_fatal(
                FatalError(
                    f"the connection to the control plane is lost, and pipeops.reconnect.enabled is false:"
                    f" {error.sentence}",
                    ExitStatus.UNAVAILABLE,
                    error.response,
                )
            )

    def _given_up(self) -> bool:
        limit = self._reconnect.max_attempts
        return 0 < limit <= self._retry.failures

    def _say_if_refused(self, error: ApiError) -> bool:
        """Log a refusal, the first of an outage; return whether it was."""
        if not error.refused or self._refusal_said:
            return False
        _log.error("{error}", error=error.sentence, response=error.response, log_counted=True)
        self._refusal_said = True
        return True


class _Unknown:
    """Decides from the answers whether the control plane has forgotten the cluster."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._count = 0
        self._first = 0.0
        self._asked: float | None = None

    def reset(self) -> None:
        """An answer came that knows the cluster, or none at all."""
        self._count = 0

    def after(self, error: ApiError) -> bool:
        """Whether, with C{error}, it is time to register again."""
        if error.status != 404 or not error.json_object:
            self.reset()
            return False
        now = self._clock.seconds()
        if self._count == 0:
            self._first = now
        self._count += 1
        if self._count < UNKNOWN_ANSWERS or now - self._first < UNKNOWN_SECONDS:
            return False
        if self._asked is not None and now - self._asked < ASK_AGAIN:
            return False
        self._asked = now
        return True


def _nothing(*_: object) -> None:
    """For a callback that nobody has set."""
