"""
What of the cluster is within reach, whoever asks: the owner's switch and the namespaces that are allowed.

It comes from the local settings alone (C{access.*}, C{kubernetes.namespaces}) and is asked before anything
else, by lists, watches, logs, exec, operations and proxied requests alike. Rights (RBAC, scopes of tokens)
come after it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from pipeops_agent.cluster.resources import NAMESPACES, NODE_METRICS, NODES, Resource
from pipeops_agent.settings import Settings

READING: Final = frozenset({"get", "list", "watch", "logs"})
"""The verbs that change nothing; each of the others is refused where the owner allows reading alone."""

APPLYING: Final = ("apply", "deploy", "patch", "create")
"""What a server-side apply is, by every name by which it may be denied: it makes what is not there."""

_SHARED: Final = frozenset({NODES.name, NODE_METRICS.name, NAMESPACES.name})
"""
What has no namespace and can be read all the same where only some namespaces are within reach: by it one sees
where one's pods run. Anything else that has none (roles, volumes, CRDs, webhooks) is about the others too.
"""


class OutOfReach(Exception):
    """The owner of this cluster does not allow it; the message says which setting decides."""


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """
    The owner's rules.

    @ivar namespaces: the only ones within reach; empty: all. Of what has no namespace nodes can be read,
        and these namespaces themselves; nothing can be changed, as with Kubernetes' own role C{admin} in a
        namespace.
    @ivar denied_namespaces: not within reach even if they are named above. Alone they take nothing else away:
        what has no namespace stays within reach.
    @ivar denied_verbs: operations (C{exec}, C{scale}) and verbs of the API (C{delete}), as people write them.
    @ivar denied_kinds: C{Secret}, C{secrets} or C{deployments.apps}, in any case of letters.
    """

    read_only: bool = False
    namespaces: frozenset[str] = frozenset()
    denied_namespaces: frozenset[str] = frozenset()
    denied_verbs: frozenset[str] = frozenset()
    denied_kinds: frozenset[str] = frozenset()

    @classmethod
    def of(cls, settings: Settings) -> Scope:
        """The rules in C{settings}."""
        deny, kubernetes = settings.access.deny, settings.kubernetes
        return cls(
            read_only=settings.access.read_only,
            namespaces=frozenset(kubernetes.namespaces),
            denied_namespaces=frozenset((*kubernetes.denied_namespaces, *deny.namespaces)),
            denied_verbs=frozenset(map(str.lower, deny.verbs)),
            denied_kinds=frozenset(map(str.lower, deny.kinds)),
        )

    def reaches(self, namespace: str) -> bool:
        """Whether C{namespace} is within reach."""
        if namespace in self.denied_namespaces:
            return False
        return not self.namespaces or namespace in self.namespaces

    def covers(self, resource: Resource) -> bool:
        """Whether this kind of objects is within reach."""
        names = {resource.kind, resource.plural, resource.name}
        return self.denied_kinds.isdisjoint(name.lower() for name in names)

    def denies(self, verb: str) -> bool:
        """Whether an operation or a verb is denied: by C{port-forward}, C{portforward} is meant as well."""
        return _spelled(verb) in map(_spelled, self.denied_verbs)

    def check(self, verb: str, resource: Resource, namespace: str | None, *, name: str = "") -> None:
        """
        Let pass what is within reach.

        @param verb: an operation or a verb of the API; the strictest name that fits.
        @param namespace: None: all of them, or an object that has none.
        @param name: the object's, where one is meant: a namespace is an object as well.
        @raise OutOfReach: it is not.
        """
        if self.read_only and verb not in READING:
            raise OutOfReach(f"{verb} is not allowed: access.read_only is set")
        if self.denies(verb):
            raise OutOfReach(f"{verb} is not allowed: access.deny.verbs")
        if not self.covers(resource):
            raise OutOfReach(f"{resource.name} are out of reach: access.deny.kinds")
        within = name if resource.name == NAMESPACES.name else namespace
        if within and not self.reaches(within):
            raise OutOfReach(
                f"namespace {within} is out of reach: kubernetes.namespaces, access.deny.namespaces"
            )
        if not resource.namespaced:
            self._check_shared(verb, resource)
        elif not within and verb not in READING and (self.namespaces or self.denied_namespaces):
            raise OutOfReach(
                f"{verb} needs one namespace: some are out of reach (kubernetes.namespaces,"
                " access.deny.namespaces)"
            )

    def _check_shared(self, verb: str, resource: Resource) -> None:
        """What has no namespace belongs to all of them."""
        if self.namespaces and not (verb in READING and resource.name in _SHARED):
            raise OutOfReach(
                f"{verb} on {resource.name} concerns all namespaces: kubernetes.namespaces allows some"
            )


def _spelled(verb: str) -> str:
    return verb.lower().replace("-", "").replace("_", "")
