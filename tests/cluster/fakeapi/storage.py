"""What etcd and the watch cache are to the API server: objects, one counter, and a history."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

Object = dict[str, Any]


class Refused(Exception):
    """A failure that the API answers: code, reason and message of a C{Status}."""

    def __init__(self, code: int, reason: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.retry_after = retry_after


class Change(NamedTuple):
    """One entry of the history. C{before}: what it was until then, where it is modified."""

    version: int
    resource: str
    type: str
    object: Object
    before: Object | None = None


class Storage:
    """All objects, by resource (C{pods}, C{deployments.apps}) and key (C{namespace/name})."""

    def __init__(self, now: Callable[[], str] = lambda: "2026-03-04T12:00:00Z") -> None:
        self._now = now
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._history: list[Change] = []
        self._watchers: dict[object, Callable[[Change], None]] = {}
        self.version = 1000
        self.oldest = 1000
        """The oldest version from which a watch can go on."""

    # -- reading

    def all(self, resource: str, namespace: str | None) -> list[Object]:
        """The objects of one namespace or of all, in the order of their keys."""
        found = self._objects.get(resource, {})
        return [found[key] for key in sorted(found) if namespace is None or key[0] == namespace]

    def get(self, resource: str, namespace: str, name: str) -> Object:
        """One object. @raise Refused: 404."""
        try:
            return self._objects.get(resource, {})[namespace, name]
        except KeyError:
            raise Refused(404, "NotFound", f'{resource} "{name}" not found') from None

    def since(self, resource: str, version: int) -> Iterator[Change]:
        """What has happened after C{version}. @raise Refused: 410, it is too old."""
        if version < self.oldest:
            raise Refused(410, "Expired", f"too old resource version: {version} ({self.oldest})")
        return (
            change for change in self._history if change.version > version and change.resource == resource
        )

    def compact(self) -> None:
        """Forget the history: whoever goes on from before now gets 410."""
        self._history.clear()
        self.oldest = self.version

    def on_change(self, told: Callable[[Change], None]) -> Callable[[], None]:
        """Call C{told} with each change; the result, called, ends that."""
        key = object()
        self._watchers[key] = told
        return lambda: self._watchers.pop(key, None) and None

    # -- writing

    def create(self, resource: str, namespace: str, given: Object, *, dry_run: bool = False) -> Object:
        """Keep a new object. @raise Refused: 409, its name is taken."""
        made = copy.deepcopy(given)
        meta = made.setdefault("metadata", {})
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + uuid.uuid4().hex[:5]
        name = meta.get("name") or ""
        if not name:
            raise Refused(422, "Invalid", "metadata.name: Required value: name or generateName is required")
        if (namespace, name) in self._objects.get(resource, {}):
            raise Refused(409, "AlreadyExists", f'{resource} "{name}" already exists')
        if meta.get("resourceVersion"):
            raise Refused(400, "BadRequest", "resourceVersion should not be set on objects to be created")
        if namespace:
            meta["namespace"] = namespace
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = self._now()
        meta["generation"] = 1
        return self._keep(resource, "ADDED", made, dry_run)

    def replace(
        self, resource: str, namespace: str, name: str, given: Object, *, dry_run: bool = False
    ) -> Object:
        """Put C{given} in an object's place. @raise Refused: 404; 409, it has another version."""
        before = self.get(resource, namespace, name)
        made = copy.deepcopy(given)
        meta = made.setdefault("metadata", {})
        version = meta.get("resourceVersion")
        if version and version != before["metadata"]["resourceVersion"]:
            raise Refused(
                409,
                "Conflict",
                f'Operation cannot be fulfilled on {resource} "{name}": the object has been modified; please'
                " apply your changes to the latest version and try again",
            )
        for kept in ("name", "namespace", "uid", "creationTimestamp", "generation"):
            if kept in before["metadata"]:
                meta[kept] = before["metadata"][kept]
        if made.get("spec") != before.get("spec"):
            meta["generation"] = before["metadata"].get("generation", 0) + 1
        meta["resourceVersion"] = before["metadata"]["resourceVersion"]
        if "deletionTimestamp" in before["metadata"]:
            meta["deletionTimestamp"] = before["metadata"]["deletionTimestamp"]
            if not meta.get("finalizers"):
                return made if dry_run else self._remove(resource, namespace, name, made)
        if made == before:
            return before  # what changes nothing makes no new version
        return self._keep(resource, "MODIFIED", made, dry_run)

    def delete(
        self,
        resource: str,
        namespace: str,
        name: str,
        *,
        dry_run: bool = False,
        finalizer: str = "",
        **conditions: str | None,
    ) -> Object:
        """
        Remove an object; or mark it, where something has to be done before: it has finalizers.

        @param finalizer: one more.
        @raise Refused: 404; 409, it is not the one of C{uid}, C{resourceVersion}.
        """
        before = self.get(resource, namespace, name)
        for key, value in conditions.items():
            if value and before["metadata"][key] != value:
                found = before["metadata"][key]
                raise Refused(409, "Conflict", f"the {key} in the precondition ({value}) is not {found}")
        if dry_run:
            return before
        marked = copy.deepcopy(before)
        meta = marked["metadata"]
        finalizers = [*(meta.get("finalizers") or ()), *([finalizer] if finalizer else ())]
        if not finalizers:
            return self._remove(resource, namespace, name, marked)
        meta["finalizers"] = finalizers
        meta.setdefault("deletionTimestamp", self._now())
        return before if marked == before else self._keep(resource, "MODIFIED", marked, dry_run=False)

    def _remove(self, resource: str, namespace: str, name: str, last: Object) -> Object:
        del self._objects[resource][namespace, name]
        return self._note(resource, "DELETED", last)

    def _keep(self, resource: str, kind: str, made: Object, dry_run: bool) -> Object:
        if dry_run:
            return made
        meta = made["metadata"]
        objects, key = self._objects.setdefault(resource, {}), (meta.get("namespace", ""), meta["name"])
        before, objects[key] = objects.get(key), made
        return self._note(resource, kind, made, before)

    def _note(self, resource: str, kind: str, made: Object, before: Object | None = None) -> Object:
        self.version += 1
        made["metadata"]["resourceVersion"] = str(self.version)
        change = Change(self.version, resource, kind, copy.deepcopy(made), before)
        self._history.append(change)
        for told in tuple(self._watchers.values()):
            told(change)
        return made
