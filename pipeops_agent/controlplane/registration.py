"""Registration: once at start, where failing is fatal; later whenever it is asked for, where it is not."""

from __future__ import annotations

import random as _random
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pipeops_agent.backoff import Backoff
from pipeops_agent.clock import WallClock
from pipeops_agent.controlplane.errors import ApiError
from pipeops_agent.controlplane.messages import Registered, Registration
from pipeops_agent.errors import ExitStatus, FatalError
from pipeops_agent.scheduling import Tasks, sleep
from pipeops_agent.settings.model_pipeops import PipeopsSettings
from pipeops_agent.state import Conflict, State, StateStore, Stored, Unavailable
from pipeops_agent.status import StatusBoard

_log = Logger(namespace="controlplane")

BETWEEN_REGISTRATIONS: Final = 60.0
"""Seconds that lie at least between two registrations after the first."""
MAX_CONFLICTS: Final = 5
"""So often another writer may come between before saving is given up."""


class Registrar(Protocol):
    """What a registration goes out by: L{pipeops_agent.controlplane.client.ControlPlaneClient}."""

    def register(self, registration: Registration) -> Awaitable[Registered]:
        """@raise ApiError: it did not work."""


class RegistrationService(Service):
    """
    Makes this agent known, and keeps what came back.

    C{await at_start()} before anything else starts. As a service it then does what L{again} asks for;
    stopping cancels that.

    @ivar state: who this agent is; after L{at_start} with a cluster id. It is replaced only after it
        has been stored.
    @param stored: what the store holds; its state has the agent's id.
    @param describe: makes the body, anew for each attempt.
    """

    def __init__(
        self,
        clock: IReactorTime,
        client: Registrar,
        settings: PipeopsSettings,
        board: StatusBoard,
        wall: WallClock,
        store: StateStore,
        *,
        stored: Stored,
        state: State,
        describe: Callable[[State], Registration],
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._clock = clock
        self._client = client
        self._settings = settings
        self._board = board
        self._wall = wall
        self._store = store
        self._version = stored.version
        self._kept = stored.state
        self.state = state
        self._describe = describe
        self._random = random
        self._tasks = Tasks()
        self._attempts = 0
        self._last: float | None = None
        self._wanted = False

    @property
    def ids(self) -> tuple[str, str]:
        """The cluster's and the agent's id. Only after L{at_start}."""
        assert self.state.cluster_id is not None
        return self.state.cluster_id, self.state.agent_id

    async def at_start(self) -> State:
        """
        Register. What came back is stored before this returns and before the status says so.

        Where no connection comes about, or the answer is 5xx or 429, it is tried again for
        C{pipeops.registration.retry_for}; all else is final.

        @raise FatalError: this agent must not run.
        """
        deadline = self._clock.seconds() + self._settings.registration.retry_for
        backoff = self._backoff()
        while True:
            try:
                answer = await self._ask()
            except ApiError as error:
                wait = max(backoff.failed(), error.retry_after or 0.0)
                if not error.retryable or self._clock.seconds() + wait > deadline:
                    raise _fatal(error) from error
                _log.warn(
                    "registration failed, trying again in {wait} s: {error}",
                    wait=round(wait, 1),
                    error=error.sentence,
                )
            else:
                await self._accept(answer)
                return self.state
            await sleep(self._clock, wait)

    def again(self, reason: str) -> None:
        """
        Register again in the background: the control plane forgot us, or a token or CA has changed.

        At most once a minute; a request that comes sooner waits for its time, and several are one.
        """
        if not self.running or self._wanted:
            return
        self._wanted = True
        _log.info("registering again: {reason}", reason=reason)
        self._tasks.spawn(self._again(), "registering again")

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._tasks.stop()

    def _backoff(self) -> Backoff:
        reconnect = self._settings.reconnect
        return Backoff(self._clock, interval=reconnect.interval, step=reconnect.backoff, random=self._random)

    async def _again(self) -> None:
        try:
            backoff = self._backoff()
            wait = 0.0 if self._last is None else self._last + BETWEEN_REGISTRATIONS - self._clock.seconds()
            if wait > 0:
                await sleep(self._clock, wait)
            while True:
                try:
                    await self._accept(await self._ask())
                except CancelledError:
                    raise
                except ApiError as error:
                    wait = max(backoff.failed(), error.retry_after or 0.0, BETWEEN_REGISTRATIONS)
                    _log.warn("registering again failed: {error}", error=error.sentence)
                except FatalError as error:  # of saving: the agent goes on with what it has
                    wait = BETWEEN_REGISTRATIONS
                    _log.error("{error}", error=error.sentence)
                else:
                    return
                await sleep(self._clock, wait)
        finally:
            self._wanted = False

    async def _ask(self) -> Registered:
        self._attempts += 1
        self._last = self._clock.seconds()
        status = self._board.now.registration
        self._board.set_registration(
            attempts=self._attempts,
            message=status.message if status.registered else "registering with the control plane",
        )
        try:
            return await self._client.register(self._describe(self.state))
        except ApiError as error:
            # A cluster once registered stays so until an answer says otherwise.
            if not self._board.now.registration.registered:
                self._board.set_registration(message=error.sentence)
            raise

    async def _accept(self, answer: Registered) -> None:
        """Store what came back, and only then let it be seen."""
        before = self.state.cluster_id
        await self._save(answer)
        if before is not None and before != answer.cluster_id:
            _log.warn(
                "the control plane knows this agent as another cluster now: {cluster_id}, before {previous}",
                cluster_id=answer.cluster_id,
                previous=before,
            )
        status = self._board.now.registration
        same = status.registered and status.cluster_id == answer.cluster_id
        self._board.set_registration(
            registered=True,
            since=status.since if same else self._wall(),
            message="registered",
            cluster_id=answer.cluster_id,
        )
        _log.info(
            "registered as cluster {cluster_id}",
            cluster_id=answer.cluster_id,
            agent_id=self.state.agent_id,
            known=answer.known,
        )

    async def _save(self, answer: Registered) -> None:
        """
        Keep the answer. A store that is away is waited for; one that somebody else has written is read.

        @raise FatalError: another agent writes there.
        """
        backoff = self._backoff()
        conflicts = 0
        while True:
            state = self.state.registered_as(answer.cluster_id, answer.cluster_token)
            if state == self._kept:
                self.state = state
                return
            try:
                stored = await self._store.save(state, self._version)
            except Conflict:
                conflicts += 1
                await self._reload(conflicts)
            except Unavailable as error:
                _log.warn("registered, but the state can't be kept yet: {error}", error=str(error))
                self._board.set_registration(message=f"registered, but the state can't be kept yet: {error}")
                await sleep(self._clock, backoff.failed())
            else:
                self._version, self._kept, self.state = stored.version, state, state
                return

    async def _reload(self, conflicts: int) -> None:
        """After a conflict: see what is there now. Content of this same agent is taken over."""
        if conflicts > MAX_CONFLICTS:
            raise FatalError(f"somebody else keeps writing to {self._store.describe()}", ExitStatus.FAILURE)
        try:
            stored = await self._store.load()
        except Unavailable:
            return  # the next attempt to save finds out, and waits
        if stored.state is not None and stored.state.agent_id != self.state.agent_id:
            raise FatalError(
                f"{self._store.describe()} belongs to another agent now, {stored.state.agent_id}",
                ExitStatus.FAILURE,
            )
        self._version, self._kept = stored.version, stored.state
        if stored.state is not None:
            self.state = stored.state


def _fatal(error: ApiError) -> FatalError:
    """
    What ends the process at start, with the status that tells a supervisor why.

    Refused is what the control plane says no to: 4xx. 429 is no such word, but that it has no time for one,
    and is retried like 5xx. All else that is not in the contract (a redirect, 202, 204) says nothing about
    this agent, as if somebody else had answered: malformed, so that the control plane was not reached.
    """
    status = ExitStatus.UNAVAILABLE
    if error.unusable_settings:
        status = ExitStatus.CONFIG
    elif error.status is not None and 400 <= error.status < 500 and error.status != 429:
        status = ExitStatus.NOPERM
    return FatalError(error.sentence, status, error.response)
