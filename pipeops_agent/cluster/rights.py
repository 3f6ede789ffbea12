"""
What the agent may do in its cluster: asked of the API server at start and every hour, never assumed.

For each right the server is asked whether it is granted everywhere (SelfSubjectAccessReview). Where it is
not, and it can be granted in single namespaces, the rules of each are read (SelfSubjectRulesReview), and
where those are incomplete, as with a webhook authorizer, each right is asked about, in some of them. Nothing
is ever self-granted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, Literal

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.errors import ClusterError, StatusError
from pipeops_agent.cluster.needs import Feature, Need, rules
from pipeops_agent.cluster.resources import NAMESPACES, Resource
from pipeops_agent.cluster.scope import Scope
from pipeops_agent.scheduling import PeriodicService, together

INTERVAL: Final = 3600.0
"""Seconds between two looks."""

RETRY: Final = 60.0
"""Seconds until the next look after one that failed."""

MAX_NAMESPACES: Final = 200
"""Namespaces whose rules are read; where there are more, settings should name those that are meant."""

MAX_INCOMPLETE: Final = 10
"""
Namespaces where each right is asked about, as their rules are not all shown: a webhook beside RBAC hides its
own. So it is in most managed clusters, for every namespace; in others what RBAC shows counts.
"""

MAX_NAMED: Final = 10
"""Namespaces that one message names."""

AT_ONCE: Final = 8
"""Questions under way at one time: the start waits for the answers."""

_log = Logger(namespace="cluster")

ACCESS: Final = Resource(
    group="authorization.k8s.io",
    version="v1",
    plural="selfsubjectaccessreviews",
    kind="SelfSubjectAccessReview",
    namespaced=False,
)
RULES: Final = Resource(
    group="authorization.k8s.io",
    version="v1",
    plural="selfsubjectrulesreviews",
    kind="SelfSubjectRulesReview",
    namespaced=False,
)


class Rule(msgspec.Struct, frozen=True, rename="camel"):
    """C{authorization.k8s.io ResourceRule}: what is granted, C{*} for all."""

    verbs: tuple[str, ...] = ()
    api_groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    resource_names: tuple[str, ...] = ()

    def grants(self, need: Need) -> bool:
        """Whether it grants C{need}, as RBAC reads it."""
        sub = need.resource.partition("/")[2]
        resources = {"*", need.resource} | ({f"*/{sub}"} if sub else set())
        return (
            not {"*", need.verb}.isdisjoint(self.verbs)
            and not {"*", need.group}.isdisjoint(self.api_groups)
            and not resources.isdisjoint(self.resources)
            and (not self.resource_names or need.name in self.resource_names)
        )


class _RulesStatus(msgspec.Struct, frozen=True, rename="camel"):
    resource_rules: tuple[Rule, ...] = ()
    incomplete: bool = False


class _Rules(msgspec.Struct, frozen=True):
    status: _RulesStatus


class _AccessStatus(msgspec.Struct, frozen=True):
    allowed: bool = False


class _Access(msgspec.Struct, frozen=True):
    status: _AccessStatus


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """
    A right that is not granted everywhere it is meant to be.

    @ivar namespaces: where it is missing; empty: everywhere.
    """

    need: Need
    namespaces: tuple[str, ...] = ()


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """
    Whether a feature can work.

    @ivar state: C{namespaces}: in C{namespaces} alone.
    """

    state: Literal["allowed", "denied", "namespaces"]
    namespaces: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()

    def allows(self, namespace: str | None) -> bool:
        """Whether it works in C{namespace}, or (None) everywhere."""
        return self.state == "allowed" or (self.state == "namespaces" and namespace in self.namespaces)

    @property
    def sentence(self) -> str:
        """What is missing, and the RBAC rules that would grant it; empty: nothing."""
        places: dict[tuple[str, ...], list[Need]] = {}
        for each in self.missing:
            places.setdefault(each.namespaces, []).append(each.need)
        return "; ".join(_wanted(needs, namespaces) for namespaces, needs in places.items())


def _wanted(needs: Sequence[Need], namespaces: Sequence[str]) -> str:
    some, more = namespaces[:MAX_NAMED], len(namespaces) - MAX_NAMED
    where = f" in {', '.join(some)}" + (f" and {more} more" if more > 0 else "") if namespaces else ""
    role = "a Role there" if namespaces else "a ClusterRole"
    rights = ", ".join(need.words for need in needs)
    return f"the agent lacks the right to {rights}{where}; {role} grants it with {', '.join(rules(needs))}"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent may do, at one moment: a verdict for each feature's name."""

    features: dict[str, Verdict]


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """
    Where the agent is to work.

    @ivar names: namespaces, each of which is looked at where a right is not granted in the whole cluster.
    @ivar whole: whether all of the cluster is meant, and not those alone.
    """

    names: tuple[str, ...] = ()
    whole: bool = True


class _Named(msgspec.Struct, frozen=True):
    name: str


class _Namespace(msgspec.Struct, frozen=True):
    metadata: _Named


async def places_within(api: Api, scope: Scope, home: str) -> Places:
    """
    The namespaces that C{scope} allows; where it allows all, those that there are, the agent's own first.

    @raise ClusterError: the API server can't be asked. That it does not let the agent list them is none.
    """
    if scope.namespaces:
        return Places(names=tuple(sorted(filter(scope.reaches, scope.namespaces))), whole=False)
    names = [home]
    try:
        page = await api.page(_Namespace, NAMESPACES, limit=MAX_NAMESPACES)
    except StatusError as error:
        if not error.forbidden:
            raise
    else:
        names += [item.metadata.name for item in page.items if item.metadata.name != home]
    return Places(names=tuple(filter(scope.reaches, names[:MAX_NAMESPACES])))


async def review(api: Api, features: Sequence[Feature], places: Places) -> Report:
    """
    Ask what C{api}'s own credential may do.

    @raise ClusterError: the API server can't be asked.
    """
    return await _Rights(api, places).look(features)


class _Rights:
    """Where each right is granted, as far as it has been asked: each question once, some at a time."""

    def __init__(self, api: Api, places: Places) -> None:
        self._api = api
        self._places = places
        self._granted: dict[tuple[Need, str], bool] = {}
        self._rules: dict[str, _RulesStatus] = {}

    async def look(self, features: Sequence[Feature]) -> Report:
        common = dict.fromkeys(
            need for feature in features if not feature.namespace for need in feature.needs
        )
        await self._ask((need, "") for need in common)
        scattered = [need for need in common if need.namespaced and not self._granted[need, ""]]
        wanted = {feature.namespace: feature.needs for feature in features if feature.namespace}
        names = dict.fromkeys([*wanted, *(self._places.names if scattered else ())])
        await together((partial(self._read_rules, name) for name in names), limit=AT_ONCE)
        hazy = [name for name, rules in self._rules.items() if rules.incomplete][:MAX_INCOMPLETE]
        await self._ask(
            (need, name)
            for name in hazy
            for need in dict.fromkeys([*wanted.get(name, ()), *scattered])
            if not self._shown(need, name)
        )
        return Report(features={feature.name: self._verdict(feature) for feature in features})

    async def _ask(self, questions: Iterable[tuple[Need, str]]) -> None:
        async def ask(need: Need, namespace: str) -> None:
            self._granted[need, namespace] = await self_access(self._api, need, namespace)

        await together((partial(ask, *question) for question in questions), limit=AT_ONCE)

    async def _read_rules(self, namespace: str) -> None:
        body = {"apiVersion": RULES.api_version, "kind": RULES.kind, "spec": {"namespace": namespace}}
        self._rules[namespace] = (await self._api.create(_Rules, RULES, body)).status

    def _shown(self, need: Need, namespace: str) -> bool:
        return any(rule.grants(need) for rule in self._rules[namespace].resource_rules)

    def _allowed_in(self, need: Need, namespace: str) -> bool:
        return self._shown(need, namespace) or self._granted.get((need, namespace), False)

    def _verdict(self, feature: Feature) -> Verdict:
        within: frozenset[str] | None = None  # everywhere
        missing = []
        for need in feature.needs:
            granted = self._where(need, feature.namespace)
            if granted is None:
                continue
            within = granted if within is None else within & granted
            missing.append(self._missing(need, granted, feature.namespace))
        if within is None:
            return Verdict(state="allowed")
        if not within:
            return Verdict(state="denied", missing=tuple(missing))
        return Verdict(
            state="namespaces",
            namespaces=tuple(sorted(within)),
            missing=tuple(each for each in missing if each.namespaces),
        )

    def _missing(self, need: Need, granted: frozenset[str], only: str) -> Missing:
        if only:
            return Missing(need=need, namespaces=(only,))
        if not need.namespaced or (self._places.whole and not granted):
            return Missing(need=need)
        return Missing(
            need=need, namespaces=tuple(each for each in self._places.names if each not in granted)
        )

    def _where(self, need: Need, only: str) -> frozenset[str] | None:
        """The namespaces where C{need} is granted; None: everywhere that is meant."""
        if only:
            return None if self._allowed_in(need, only) else frozenset()
        if self._granted[need, ""]:
            return None
        if not need.namespaced:
            return frozenset()
        return frozenset(each for each in self._places.names if self._allowed_in(need, each))


async def self_access(api: Api, need: Need, namespace: str) -> bool:
    """
    Whether C{api}'s own credential has the right C{need}.

    @param namespace: empty: in all of them.
    """
    plural, _, sub = need.resource.partition("/")
    attributes: dict[str, Any] = {
        "verb": need.verb,
        "group": need.group,
        "resource": plural,
        "subresource": sub,
        "name": need.name,
        "namespace": namespace,
    }
    body = {
        "apiVersion": ACCESS.api_version,
        "kind": ACCESS.kind,
        "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
    }
    return (await api.create(_Access, ACCESS, body)).status.allowed


class RightsService(PeriodicService):
    """
    Keeps the L{Report}: asked when started, then every hour.

    @param features: and C{places}: asked at each look, as they may change.
    @param told: is told of each report.
    @ivar report: None: there was none yet.
    """

    def __init__(
        self,
        clock: IReactorTime,
        api: Api,
        features: Callable[[], Sequence[Feature]],
        places: Callable[[], Awaitable[Places]],
        told: Callable[[Report], None],
    ) -> None:
        super().__init__(clock, self._look, self._pause, what="asking for the agent's rights")
        self._api = api
        self._features = features
        self._places = places
        self._told = told
        self._failed = False
        self._waiting: list[Deferred[None]] = []
        self._generation = 0
        self._settled = False
        self._said: Report | None = None
        self.report: Report | None = None

    async def looked(self) -> None:
        """Wait until it was asked of this cluster, whatever came of it."""
        if not self._settled:
            waiter: Deferred[None] = Deferred()
            self._waiting.append(waiter)
            await waiter

    def forget(self) -> None:
        """Nothing that is known holds any more: another cluster, or other rules."""
        self._generation += 1
        self.report, self._settled = None, False
        self.wake()

    def retry(self) -> None:
        """Where it could not be asked the last time, ask again."""
        if self._failed:
            self.wake()

    def _pause(self) -> float:
        return RETRY if self._failed else INTERVAL

    async def _look(self) -> None:
        generation = self._generation
        try:
            report = await review(self._api, self._features(), await self._places())
        except ClusterError as error:
            # Whether the server is there is others' affair to tell.
            if not self._failed and isinstance(error, StatusError):
                _log.warn("what this agent may do can't be asked: {error}", error=error.sentence)
            self._failed = True
        else:
            self._failed = False
            if generation == self._generation:
                _say(self._said, report)
                self.report = self._said = report
                self._told(report)
        if generation == self._generation:
            self._settle()

    def _settle(self) -> None:
        self._settled = True
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)


def _say(before: Report | None, now: Report) -> None:
    """What can't work, or not everywhere, is said once, and again when that has changed."""
    for name, verdict in now.features.items():
        if not verdict.missing or (before is not None and before.features.get(name) == verdict):
            continue
        _log.info("{feature}: {missing}", feature=name, state=verdict.state, missing=verdict.sentence)
