"""Whether an object is within a caller's reach: the owner's rules, scopes, what is the agent's alone."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pipeops_agent.caller import Caller, right_of
from pipeops_agent.cluster.resources import LEASES, NAMESPACES, SECRETS, Resource
from pipeops_agent.cluster.scope import OutOfReach, Scope


class NotGranted(OutOfReach):
    """No scope of the caller's covers it; the message names one that would."""


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """
    What operations, logs, streams and proxied requests ask before anything else.

    It is the one place that sees caller, verb, kind, namespace and name of every object that is touched.

    @ivar private: C{(resource's name, namespace, name)} of the agent's own objects. The agent may read and
        write them, but a caller without a Kubernetes token of its own acts with the agent's rights, and is
        not meant to get at the agent's identity, or to take its Lease, with them.
    @ivar home: the agent's own namespace, where programs in pods can read its account's token; empty: none.
    @ivar asked: what the caller asks for, by the names that its scopes may have for it: one of them must be
        covered, for each object. Empty: nobody has asked, the agent does it of its own accord.
    """

    scope: Scope = Scope()
    private: frozenset[tuple[str, str, str]] = frozenset()
    home: str = ""
    asked: tuple[str, ...] = ()

    @classmethod
    def of(cls, scope: Scope, *, namespace: str, state_secret: str, lease: str) -> Reach:
        """
        The reach of an agent's callers.

        @param namespace: the agent's own, where its two objects are.
        """
        return cls(
            scope=scope,
            private=frozenset(
                {(SECRETS.name, namespace, state_secret), (LEASES.name, namespace, lease)},
            ),
            home=namespace,
        )

    def asking(self, *names: str) -> Reach:
        """The same for who asks for an operation that has these names."""
        return msgspec.structs.replace(self, asked=names)

    @property
    def limited(self) -> bool:
        """Whether some namespaces are out of reach, so that an answer about all of them can't be given."""
        return bool(self.scope.namespaces or self.scope.denied_namespaces)

    def check(
        self,
        caller: Caller,
        verbs: Iterable[str],
        resource: Resource,
        namespace: str | None,
        *,
        name: str = "",
    ) -> None:
        """
        Let pass what is within reach.

        @param verbs: the operation, and the API's own verbs for what it does: each may have been denied.
        @param namespace: None: all of them, or an object that has none.
        @raise OutOfReach: it is not; L{NotGranted} where the owner would allow it.
        """
        self.check_owner(verbs, resource, namespace, name=name)
        self._check_granted(caller, resource, namespace, name)
        if name and self.hides(caller, resource, namespace, name):
            raise OutOfReach(f"{resource.plural} {name} is the agent's own")

    def check_inside(self, caller: Caller, namespace: str) -> None:
        """
        Let pass who may get into pods of a namespace: in the agent's own lies what it proves itself with.

        @raise OutOfReach: only with a Kubernetes token of the caller's own.
        """
        if namespace == self.home and caller.kubernetes_token is None:
            raise OutOfReach(
                f"pods of {namespace}, the agent's own namespace, need a Kubernetes token of your own"
            )

    def check_owner(
        self, verbs: Iterable[str], resource: Resource, namespace: str | None, *, name: str = ""
    ) -> None:
        """
        Let pass what the owner allows: for what comes of an operation that has passed L{check} itself.

        @raise OutOfReach: the owner does not.
        """
        for verb in verbs:
            self.scope.check(verb, resource, namespace, name=name)

    def check_asked(self, caller: Caller) -> None:
        """
        Let pass who may do what is asked for somewhere; for what is about no object.

        @raise NotGranted: the caller may nowhere.
        """
        if self.asked and not any(
            grant.right == right_of(name) and (not grant.verbs or name in grant.verbs)
            for grant in caller.scopes
            for name in self.asked
        ):
            name = self.asked[0]
            raise NotGranted(f"{name} needs a scope for it: {right_of(name)}, or {right_of(name)}:{name}")

    def check_name(self, operation: str) -> None:
        """
        Let pass an operation that changes nothing, whatever it is called, unless it is denied by its name.

        @raise OutOfReach: it is.
        """
        if self.scope.denies(operation):
            raise OutOfReach(f"{operation} is not allowed: access.deny.verbs")

    def hides(self, caller: Caller, resource: Resource, namespace: str | None, name: str) -> bool:
        """Whether this object must be left out of what C{caller} is shown."""
        if resource.name == NAMESPACES.name:
            return not self.scope.reaches(name)
        if namespace and not self.scope.reaches(namespace):
            return True
        return caller.kubernetes_token is None and (resource.name, namespace or "", name) in self.private

    def hides_some(self, caller: Caller, resource: Resource, namespace: str | None) -> bool:
        """Whether a list of C{resource}, in C{namespace} or (None) everywhere, holds what must be hidden."""
        if namespace is None and self.limited and (resource.namespaced or resource.name == NAMESPACES.name):
            return True
        return caller.kubernetes_token is None and any(
            resource.name == kind and namespace in (None, place) for kind, place, _ in self.private
        )

    def _check_granted(self, caller: Caller, resource: Resource, namespace: str | None, name: str) -> None:
        if not self.asked:
            return
        place = (name if resource.name == NAMESPACES.name else namespace) or ""
        if any(caller.allows(each, kind=resource.name, namespace=place) for each in self.asked):
            return
        right, where = right_of(self.asked[0]), f" in {place}" if place else ""
        fitting = ":".join(filter(None, (right, self.asked[0], resource.name, place)))
        raise NotGranted(f"{self.asked[0]} of {resource.name}{where} needs a scope for it: {fitting}")
