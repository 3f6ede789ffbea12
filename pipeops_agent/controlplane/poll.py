"""The poll for the tunnel: what the control plane wants, asked again and again, passed on as orders."""

from __future__ import annotations

import random as _random
from collections.abc import Awaitable, Callable
from typing import Protocol

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pipeops_agent.controlplane.errors import ApiError
from pipeops_agent.controlplane.retry import Retry
from pipeops_agent.controlplane.tunnel_answer import TunnelAnswer
from pipeops_agent.orders import TunnelOrder
from pipeops_agent.scheduling import PeriodicService
from pipeops_agent.settings.model_pipeops import ReconnectSettings
from pipeops_agent.settings.model_tunnel import TunnelSettings

_log = Logger(namespace="controlplane")


class TunnelAsker(Protocol):
    """What a poll goes out by: L{pipeops_agent.controlplane.client.ControlPlaneClient}."""

    def tunnel_status(
        self, *, cluster_id: str, agent_id: str, tunnel: TunnelSettings
    ) -> Awaitable[TunnelAnswer | None]:
        """@raise ApiError: the poll failed."""


class TunnelPollService(Service):
    """
    Polls at once, then each C{interval} (or as the last answer says), for as long as it runs.

    A poll that failed, or whose answer can't be used, changes nothing.

    @param ids: the cluster's and the agent's id, asked for each poll.
    @param interval: C{tunnel.poll_interval}, or C{agent.poll_interval} where that is unset.
    @param obey: is handed each order, also one that says the same as the last.
    @ivar on_recovery: called when an outage ends.
    """

    def __init__(
        self,
        clock: IReactorTime,
        client: TunnelAsker,
        reconnect: ReconnectSettings,
        tunnel: TunnelSettings,
        *,
        ids: Callable[[], tuple[str, str]],
        interval: float,
        obey: Callable[[TunnelOrder], None],
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._client = client
        self._tunnel = tunnel
        self._ids = ids
        self._interval = interval
        self._poll_after: float | None = None
        self._obey = obey
        self.on_recovery: Callable[[], None] = _nothing
        self._refreshed: list[Callable[[], None]] = []
        self._unknown_status: str | None = None
        self._retry = Retry(clock, reconnect, _log, "tunnel status", random=random)
        self._periodic = PeriodicService(clock, self._poll, self._delay, what="tunnel poll", from_start=True)

    def startService(self) -> None:
        super().startService()
        self._periodic.startService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._periodic.stopService()

    def wake(self) -> None:
        """Poll now."""
        self._periodic.wake()

    def refresh(self, then: Callable[[], None]) -> None:
        """Poll now, and call C{then} when that is done: with the order that came of it, if one did."""
        self._refreshed.append(then)
        self._periodic.wake()

    def nudge(self) -> None:
        """The control plane has been reached by another way: try now, if only the network was in between."""
        if self._retry.worth_waking:
            self._periodic.wake()

    def _delay(self) -> float:
        return self._retry.delay(self._interval if self._poll_after is None else self._poll_after)

    async def _poll(self) -> None:
        refreshed, self._refreshed = self._refreshed, []
        await self._ask()
        for then in refreshed:
            then()

    async def _ask(self) -> None:
        self._retry.began()
        cluster_id, agent_id = self._ids()
        try:
            answer = await self._client.tunnel_status(
                cluster_id=cluster_id, agent_id=agent_id, tunnel=self._tunnel
            )
        except ApiError as error:
            self._retry.failed(error)
            return
        except CancelledError:
            raise
        except Exception as error:
            _log.failure("a poll for the tunnel could not be made")
            self._retry.failed(ApiError(f"tunnel status: {type(error).__name__} in the agent"))
            return
        if self._retry.succeeded():
            self.on_recovery()
        self._take(answer)

    def _take(self, answer: TunnelAnswer | None) -> None:
        self._poll_after = None if answer is None else answer.poll_after
        if answer is None:
            _log.debug("the control plane has no tunnels")
            return
        if answer.unknown_status != self._unknown_status:
            self._unknown_status = answer.unknown_status
            if answer.unknown_status is not None:
                _log.warn(
                    "the control plane says {status!r} of the tunnel, which this agent does not know: nothing"
                    " changes",
                    status=answer.unknown_status,
                )
        if answer.order is not None:
            self._obey(answer.order)


def _nothing() -> None:
    """For a callback that nobody has set."""
