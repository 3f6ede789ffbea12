"""Those who stay connected: each has a place of its own, and is asked about again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.access.limits import Place
from pipeops_agent.access.origins import Origin
from pipeops_agent.caller import READ, Caller
from pipeops_agent.scheduling import PeriodicService, Tasks
from pipeops_agent.web.access import Access, Credential
from pipeops_agent.web.api.lists import Sight
from pipeops_agent.web.replies import Refusal
from pipeops_agent.web.view import View

REVIEW: Final = 20.0
"""Seconds between two questions whether somebody may still be here."""


class Presence:
    """
    Somebody who stays.

    @ivar caller: who it is, as it was last asked; None: that is still to be shown, with a session's key.
    @ivar origin: where they are.
    """

    def __init__(
        self,
        presences: Presences,
        credential: Credential,
        caller: Caller | None,
        place: Place,
        go: Callable[[Refusal], None],
    ) -> None:
        self._presences = presences
        self._credential = credential
        self._place = place
        self._go = go
        self._asking = False
        self._view: View | None = None
        self.caller = caller

    @property
    def origin(self) -> Origin:
        """Where they are."""
        return self._credential.origin

    @property
    def view(self) -> View | None:
        """What it sees of the cluster; None: all of it."""
        caller = self.caller
        if self._view is None and caller is not None and caller.kubernetes_token is not None:
            self._view = self._presences.view(lambda: self.caller or caller, self._go)
        return self._view

    async def show_key(self, key: str) -> None:
        """
        Become the caller whose session's key this is.

        @raise Refusal: it is not.
        """
        credential = self._credential.with_key(key)
        self.caller = await self._presences.access.check(credential, READ, partly=True)
        self._credential = credential

    async def review(self) -> None:
        """Ask again; who may not stay, or may less than before, is told to go."""
        before = self.caller
        if before is None or self._asking:
            return
        self._asking = True
        try:
            self.caller = caller = await self._presences.access.check(self._credential, READ, partly=True)
            if not before.scopes <= caller.scopes:
                raise Refusal(403, "forbidden", "you may less than when you came; come again")
            if self._view is not None:
                await self._view.look()
        except Refusal as refusal:
            self._go(refusal)
        finally:
            self._asking = False

    def leave(self) -> None:
        """The place is free again."""
        if self._view is not None:
            self._view.stop()
        self._place.release()
        self._presences.left(self)


class Presences:
    """
    All of them.

    What was allowed once is not allowed for ever: a token is taken away, a session ends, a right in the
    cluster is withdrawn. Who can't be asked about is let go as well, and may come again.

    @param sight: what they see of the cluster.
    @ivar access: what knows them.
    """

    def __init__(self, clock: IReactorTime, access: Access, sight: Sight) -> None:
        self.access = access
        self._clock = clock
        self._sight = sight
        self._present: dict[Presence, None] = {}
        self._tasks = Tasks()
        self._ticking = PeriodicService(clock, self._review, lambda: REVIEW, what="asking who may stay")

    def enter(self, credential: Credential, caller: Caller | None, go: Callable[[Refusal], None]) -> Presence:
        """
        Let somebody in.

        @param go: called with the reason when they may not stay.
        @raise Refusal: 429, they have as many places as they may.
        """
        place = self.access.hold(credential.origin, "subscriptions")
        presence = Presence(self, credential, caller, place, go)
        self._present[presence] = None
        return presence

    def view(self, caller: Callable[[], Caller], go: Callable[[Refusal], None]) -> View:
        """What a caller with a Kubernetes token sees."""
        return View(self._clock, self._sight, caller, go)

    def left(self, presence: Presence) -> None:
        """They have gone."""
        self._present.pop(presence, None)

    def __len__(self) -> int:
        return len(self._present)

    def start(self) -> None:
        """Ask from now on."""
        self._ticking.startService()

    def stop(self) -> Deferred[None]:
        """Ask no more."""
        ending = gatherResults([self._ticking.stopService(), self._tasks.stop()])
        return ending.addCallback(lambda _: None)

    async def _review(self) -> None:
        for presence in tuple(self._present):
            self._tasks.spawn(presence.review(), "asking whether somebody may stay")
