"""
Callers with tokens of the cluster's own: who they are, whether they may use the agent, and what they see.

Who has one acts with it: what the agent does for them goes out with their own token, so that nobody does
through the agent what RBAC forbids them. What it shows of its own inventory is asked for by namespace.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from twisted.internet.interfaces import IReactorTime

from pipeops_agent.access.denied import Denied
from pipeops_agent.access.origins import Origin
from pipeops_agent.access.tokens import Known
from pipeops_agent.caller import OPERATE, READ, Caller, Grant
from pipeops_agent.cluster.errors import ClusterError, Misconfigured, StatusError
from pipeops_agent.cluster.resources import Resource
from pipeops_agent.cluster.reviews import Attributes, Identity, Reviews, TooMany
from pipeops_agent.net.text import printable
from pipeops_agent.scheduling import sleep
from pipeops_agent.secrets import Secret

DEPLOYMENT: Final = "pipeops-agent"
"""The object that stands for the agent in RBAC: who may get it may read, who may update it may operate."""

PATIENCE: Final = 10.0
"""Seconds for which a token waits for its turn where one origin shows many."""

WAITING: Final = 50
"""Tokens that wait for their turn at one time; others are told at once to come later."""

RETRY: Final = 5.0
"""Seconds after which it is worth asking again where the API server does not answer."""

MAX_NAMESPACES: Final = 200
"""Namespaces that one caller is asked about one by one; of more the first are shown, by name."""

_RIGHTS: Final = ((READ, "get"), (OPERATE, "update"))


class KubernetesTokens:
    """
    Knows the cluster's own tokens (L{pipeops_agent.access.gate.ClusterTokens}).

    @param namespace: the agent's own; asked each time.
    """

    def __init__(self, clock: IReactorTime, reviews: Reviews, namespace: Callable[[], str]) -> None:
        self._clock = clock
        self._reviews = reviews
        self._namespace = namespace
        self._waiting = 0

    async def find(self, token: Secret, origin: Origin) -> Known | None:
        """See L{ClusterTokens.find<pipeops_agent.access.gate.ClusterTokens.find>}."""
        try:
            identity = await self._in_turn(token, origin)
            if identity is None:
                return None
            scopes = [Grant(right) for right, verb in _RIGHTS if await self._may(identity, verb)]
        except ClusterError as error:
            if isinstance(error, Misconfigured):
                return None  # there is no cluster that it could belong to
            raise unavailable(error) from error
        return Known(
            subject=f"kubernetes:{printable(identity.username)}",
            scopes=frozenset(scopes),
            kubernetes_token=token,
        )

    async def _in_turn(self, token: Secret, origin: Origin) -> Identity | None:
        """
        Who it belongs to, also where others of the same origin have shown too many: a valid token is then
        late, not refused.

        @raise Denied: it would have to wait too long.
        """
        until = self._clock.seconds() + PATIENCE
        while True:
            try:
                return await self._reviews.identify(token, origin.client)
            except TooMany as error:
                if self._waiting >= WAITING or self._clock.seconds() + error.retry_after > until:
                    raise Denied("too_many", error.sentence, retry_after=error.retry_after) from None
                wait = error.retry_after
            self._waiting += 1
            try:
                await sleep(self._clock, wait)
            finally:
                self._waiting -= 1

    async def _may(self, identity: Identity, verb: str) -> bool:
        return await self._reviews.allowed(
            identity,
            Attributes(
                verb=verb, group="apps", resource="deployments", namespace=self._namespace(), name=DEPLOYMENT
            ),
        )


class Sight:
    """
    What of the agent's inventory a caller is shown: by scopes, and for Kubernetes callers by their rights.

    The owner's rules (L{pipeops_agent.cluster.scope}) come before it.
    """

    def __init__(self, reviews: Reviews) -> None:
        self._reviews = reviews

    async def namespaces(
        self, caller: Caller, verb: str, resource: Resource, known: Collection[str], *, subresource: str = ""
    ) -> frozenset[str] | None:
        """
        The namespaces whose objects C{caller} may see; None: all of them, and what has no namespace.

        @param verb: C{list}, or for logs C{get} with the subresource C{log}.
        @param known: the namespaces that there are.
        @raise Denied: the caller's rights can't be asked for now.
        """
        by_scope = self._by_scope(caller, verb, resource, known)
        if caller.kubernetes_token is None or by_scope == frozenset():
            return by_scope
        try:
            return await self._by_rights(caller, verb, resource, known, by_scope, subresource)
        except ClusterError as error:
            raise unavailable(error) from error

    def _by_scope(
        self, caller: Caller, verb: str, resource: Resource, known: Collection[str]
    ) -> frozenset[str] | None:
        if caller.allows(verb, kind=resource.name):
            return None
        return frozenset(one for one in known if caller.allows(verb, kind=resource.name, namespace=one))

    async def _by_rights(
        self,
        caller: Caller,
        verb: str,
        resource: Resource,
        known: Collection[str],
        by_scope: frozenset[str] | None,
        subresource: str,
    ) -> frozenset[str] | None:
        token = caller.kubernetes_token
        identity = None if token is None else await self._reviews.identify(token, caller.origin)
        if identity is None:
            return frozenset()  # it has expired meanwhile

        async def allowed(namespace: str) -> bool:
            attributes = Attributes(
                verb=verb,
                group=resource.group,
                resource=resource.plural,
                subresource=subresource,
                namespace=namespace,
            )
            return await self._reviews.allowed(identity, attributes)

        if await allowed(""):
            return by_scope
        if not resource.namespaced:
            return frozenset()
        asked = sorted(known if by_scope is None else by_scope)[:MAX_NAMESPACES]
        return frozenset([one for one in asked if await allowed(one)])


def unavailable(error: ClusterError) -> Denied:
    """That the API server can't be asked about somebody; nothing of what they have shown is in it."""
    if isinstance(error, TooMany):
        return Denied("too_many", error.sentence, retry_after=error.retry_after)
    if isinstance(error, StatusError) and error.forbidden:
        return Denied(
            "unavailable",
            "the agent may not ask the cluster about its callers (rights: create on tokenreviews and"
            " subjectaccessreviews)",
        )
    return Denied("unavailable", "the cluster can't be asked about this token now", retry_after=RETRY)
