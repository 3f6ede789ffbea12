"""
The cluster as the agent sees it: one store for each kind, kept by reflectors, read by everybody.

Reading never waits and never asks the API server. What a store holds is worth what its state says
(L{ListStatus<pipeops_agent.cluster.reflector.ListStatus>}).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec

from pipeops_agent.cluster.objects import KINDS, Object
from pipeops_agent.cluster.reflector import ListStatus

Kept = TypeVar("Kept", bound=Object)
Told = TypeVar("Told", bound=Callable[..., None])

_WORST: Final = ("broken", "listing", "pending", "denied", "absent", "live")
"""What is said of a store that several lists keep: the first of these that one of them is in."""


class Change(msgspec.Struct, frozen=True):
    """C{item} is there, new or changed; or, with C{gone}, is there no more."""

    kind: str
    item: Object
    gone: bool = False


class Store(Generic[Kept]):
    """
    The objects of one kind, by key.

    @param changed: told of every change, after it was made.
    @param noted: told when the state of one of its lists is another one.
    """

    def __init__(
        self, kind: str, changed: Callable[[Change], None], noted: Callable[[str], None] = lambda kind: None
    ) -> None:
        self.kind = kind
        self._changed = changed
        self._noted = noted
        self._items: dict[str, Kept] = {}
        self._lists: dict[str | None, ListStatus] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Kept]:
        """The objects, in no order; the store must not change meanwhile."""
        return iter(self._items.values())

    def get(self, name: str, namespace: str = "") -> Kept | None:
        """One object."""
        return self._items.get(f"{namespace}/{name}" if namespace else name)

    def at(self, key: str) -> Kept:
        """The object with this key, which is there."""
        return self._items[key]

    def keys(self) -> KeysView[str]:
        """The keys, in no order; the store must not change meanwhile."""
        return self._items.keys()

    @property
    def statuses(self) -> Mapping[str | None, ListStatus]:
        """The state of each list that it is made of, by namespace; None: all of them in one."""
        return self._lists

    @property
    def status(self) -> ListStatus | None:
        """The state of the list that is worst off; None: there is no list yet."""
        return min(self._lists.values(), key=lambda each: _WORST.index(each.state), default=None)

    def put(self, item: Kept) -> None:
        """C{item} is there; the same version again is no change."""
        before = self._items.get(item.key)
        if before is not None and before.resource_version == item.resource_version:
            return
        self._items[item.key] = item
        self._changed(Change(self.kind, item))

    def drop(self, key: str) -> None:
        """The object with this key is gone."""
        item = self._items.pop(key, None)
        if item is not None:
            self._changed(Change(self.kind, item, gone=True))

    def part(self, namespace: str | None) -> StorePart:
        """Where the list of one namespace goes, or (None) that of all."""
        return StorePart(self, namespace)

    def forget(self, namespace: str | None) -> None:
        """This list is not kept any more: its objects go, and its state."""
        self.clear(namespace)
        self.release(namespace)

    def clear(self, namespace: str | None) -> None:
        """The objects of this list go; its state stays."""
        for key in tuple(self.part(namespace).keys()):
            self.drop(key)

    def release(self, namespace: str | None) -> None:
        """Another list keeps these objects now: the state of this one goes, they stay."""
        if self._lists.pop(namespace, None) is not None:
            self._noted(self.kind)

    def note(self, namespace: str | None, status: ListStatus) -> None:
        """The list of C{namespace} is in another state."""
        self._lists[namespace] = status
        self._noted(self.kind)


class StorePart:
    """One list's part of a store (L{pipeops_agent.cluster.reflector.Sink})."""

    def __init__(self, store: Store[Any], namespace: str | None) -> None:
        self._store = store
        self._namespace = namespace
        self.put = store.put
        self.drop = store.drop

    def keys(self) -> Iterable[str]:
        """The keys of its objects."""
        prefix = "" if self._namespace is None else f"{self._namespace}/"
        return (item.key for item in self._store if item.key.startswith(prefix))

    def status_changed(self, status: ListStatus) -> None:
        """The list's state is another one now."""
        self._store.note(self._namespace, status)


class Inventory:
    """All stores, and who is told of their changes."""

    def __init__(self) -> None:
        self._listeners: dict[object, Callable[[Change], None]] = {}
        self._watchers: dict[object, Callable[[str], None]] = {}
        self._stores: dict[str, Store[Any]] = {
            kind.name: Store(kind.name, self._tell, self._noted) for kind in KINDS
        }

    def __getitem__(self, kind: str) -> Store[Any]:
        return self._stores[kind]

    def __iter__(self) -> Iterator[Store[Any]]:
        return iter(self._stores.values())

    def on_change(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Call C{listener} with every change from now on; the result, called, ends that."""
        return _keep(self._listeners, listener)

    def on_status(self, listener: Callable[[str], None]) -> Callable[[], None]:
        """Call C{listener} with the kind whenever the state of one of its lists has changed."""
        return _keep(self._watchers, listener)

    def _tell(self, change: Change) -> None:
        for listener in tuple(self._listeners.values()):
            listener(change)

    def _noted(self, kind: str) -> None:
        for watcher in tuple(self._watchers.values()):
            watcher(kind)


def _keep(listeners: dict[object, Told], listener: Told) -> Callable[[], None]:
    """Keep C{listener} until the result is called."""
    key = object()
    listeners[key] = listener

    def stop() -> None:
        listeners.pop(key, None)

    return stop
