"""The watches of the fake API server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.web.server import Request

from pipeops_agent.cluster import resources
from tests.cluster.fakeapi.selectors import Selection
from tests.cluster.fakeapi.storage import Change, Object, Refused, Storage


class Asked(NamedTuple):
    """What one request is about."""

    verb: str
    resource: resources.Resource
    namespace: str | None
    name: str | None
    subresource: str
    query: dict[str, str]
    user: str


class Served(Protocol):
    """What a watch is a watch of: L{FakeApi<tests.cluster.fakeapi.server.FakeApi>}."""

    storage: Storage
    clock: IReactorTime | None
    watches: list[Watch]


class Watch:
    """One watch that is being served."""

    def __init__(self, api: Served, asked: Asked, request: Request, selection: Selection) -> None:
        self._api = api
        self._asked = asked
        self.request = request
        self._selection = selection
        self._stop: Callable[[], None] = lambda: None
        self._timers: list[IDelayedCall] = []
        api.watches.append(self)
        request.notifyFinish().addBoth(lambda _: self._forget())

    def begin(self, version: int, *, initial: bool) -> None:
        """
        Send what has happened since C{version}, and go on; with 0, what is there.

        @param initial: what is there, and a bookmark that says that this was all.
        @raise Refused: 410.
        """
        storage, asked = self._api.storage, self._asked
        if initial or not version:
            for each in storage.all(asked.resource.name, asked.namespace):
                if self._selection.selects(each):
                    self._write("ADDED", each)
            if initial:
                self.bookmark({"annotations": {"k8s.io/initial-events-end": "true"}})
        else:
            for change in storage.since(asked.resource.name, version):
                self._changed(change)
        self._stop = storage.on_change(self._changed)
        clock, seconds = self._api.clock, float(asked.query.get("timeoutSeconds", "0"))
        if clock is not None and seconds:
            self._timers = [
                clock.callLater(max(seconds - 2.0, seconds / 2), self.bookmark),
                clock.callLater(seconds, self.end),
            ]

    def fail(self, refusal: Refused) -> None:
        """Say why it ends."""
        self._write("ERROR", status_of(refusal))
        self.end()

    def _changed(self, change: Change) -> None:
        asked = self._asked
        if change.resource != asked.resource.name:
            return
        if asked.namespace is not None and change.object["metadata"].get("namespace") != asked.namespace:
            return
        selects, kind = self._selection.selects, change.type
        if kind == "MODIFIED" and change.before is not None:
            was, is_now = selects(change.before), selects(change.object)
            kind = "MODIFIED" if was and is_now else "DELETED" if was else "ADDED" if is_now else ""
        elif not selects(change.object):
            kind = ""
        if kind:
            self._write(kind, change.object)

    def bookmark(self, more: dict[str, Any] | None = None) -> None:
        """Say how far the watch is."""
        version = str(self._api.storage.version)
        meta = {"resourceVersion": version, "creationTimestamp": None, **(more or {})}
        self._write("BOOKMARK", {"metadata": meta})

    def end(self, *, cut: bool = False) -> None:
        """End the answer, or lose the connection in the middle of it."""
        if cut:
            self.request.loseConnection()
        else:
            self.request.finish()

    def _write(self, kind: str, found: Object) -> None:
        resource = self._asked.resource
        whole = {"kind": resource.kind, "apiVersion": resource.api_version, **found}
        self.request.write(json.dumps({"type": kind, "object": whole}).encode() + b"\n")

    def _forget(self) -> None:
        self._stop()
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        if self in self._api.watches:
            self._api.watches.remove(self)


def status_of(refusal: Refused) -> dict[str, Any]:
    """The C{Status} of a refusal."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": str(refusal),
        "reason": refusal.reason,
        "code": refusal.code,
    }
