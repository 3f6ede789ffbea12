"""
What the agent may do in its cluster: asked of the API server at start and every hour, never assumed.

For each right the server is asked whether it is granted everywhere (SelfSubjectAccessReview). Where it is
not, and it can be granted in single namespaces, the rules of each are read (SelfSubjectRulesReview), and
where those are incomplete, as with a webhook authorizer, each right is asked about. Nothing is ever
self-granted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.errors import ClusterError
from pipeops_agent.cluster.needs import Feature, Need
from pipeops_agent.cluster.resources import Resource
from pipeops_agent.scheduling import PeriodicService

INTERVAL: Final = 3600.0
"""Seconds between two looks."""

RETRY: Final = 60.0
"""Seconds until the next look after one that failed."""

MAX_NAMESPACES: Final = 200
"""Namespaces whose rules are read; where there are more, settings should name those that are meant."""

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

    @ivar right: C{patch deployments.apps/scale}.
    @ivar rule: the RBAC rule that would grant it, in YAML.
    @ivar kind: C{ClusterRole} where it is not granted in single namespaces.
    @ivar namespaces: where it is missing; empty: everywhere.
    """

    right: str
    rule: str
    kind: Literal["Role", "ClusterRole"]
    namespaces: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """For people."""
        where = f" in {', '.join(self.namespaces[:10])}" if self.namespaces else ""
        return (
            f"the right to {self.right} is missing{where}; this rule in a {self.kind} grants it: {self.rule}"
        )


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


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent may do, at one moment: a verdict for each feature's name."""

    features: dict[str, Verdict]

    @property
    def missing(self) -> tuple[Missing, ...]:
        """Every right that is missing, once each."""
        return tuple(dict.fromkeys(right for verdict in self.features.values() for right in verdict.missing))


async def review(api: Api, features: Sequence[Feature], namespaces: Sequence[str]) -> Report:
    """
    Ask what C{api}'s own credential may do.

    @param namespaces: those that are meant; where a right is not granted in all of the cluster.
    @raise ClusterError: the API server can't be asked.
    """
    found = _Rights(api, namespaces[:MAX_NAMESPACES])
    return Report(features={feature.name: await found.verdict(feature) for feature in features})


class _Rights:
    """Where each right is granted, as far as it has been asked: each question once."""

    def __init__(self, api: Api, namespaces: Sequence[str]) -> None:
        self._api = api
        self._namespaces = tuple(namespaces)
        self._granted: dict[Need, frozenset[str] | None] = {}
        self._rules: dict[str, _RulesStatus] = {}

    async def verdict(self, feature: Feature) -> Verdict:
        within: frozenset[str] | None = None  # everywhere
        missing = []
        for need in feature.needs:
            granted = await self._where(need, feature.namespace)
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
        meant = ((only,) if only else self._namespaces) if need.namespaced else ()
        lacking = [each for each in meant if each not in granted]
        return Missing(
            right=need.words,
            rule=need.rule,
            kind="Role" if meant else "ClusterRole",
            namespaces=tuple(lacking),
        )

    async def _where(self, need: Need, only: str) -> frozenset[str] | None:
        """The namespaces where C{need} is granted; None: everywhere that is meant."""
        if only:
            return None if await self._allowed_in(need, only) else frozenset()
        if need not in self._granted:
            if await self._allowed(need, ""):
                self._granted[need] = None
            elif not need.namespaced:
                self._granted[need] = frozenset()
            else:
                self._granted[need] = frozenset(
                    [each for each in self._namespaces if await self._allowed_in(need, each)]
                )
        return self._granted[need]

    async def _allowed_in(self, need: Need, namespace: str) -> bool:
        rules = self._rules.get(namespace)
        if rules is None:
            body = {"apiVersion": RULES.api_version, "kind": RULES.kind, "spec": {"namespace": namespace}}
            rules = (await self._api.create(_Rules, RULES, body)).status
            self._rules[namespace] = rules
        if any(rule.grants(need) for rule in rules.resource_rules):
            return True
        return rules.incomplete and await self._allowed(need, namespace)

    async def _allowed(self, need: Need, namespace: str) -> bool:
        return await self_access(self._api, need, namespace)


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

    @param namespaces: those within reach, asked at each look, as they may change.
    @param told: is told of each report.
    @ivar report: None: there was none yet.
    """

    def __init__(
        self,
        clock: IReactorTime,
        api: Api,
        features: Sequence[Feature],
        namespaces: Callable[[], Awaitable[Sequence[str]]],
        told: Callable[[Report], None],
    ) -> None:
        super().__init__(clock, self._look, self._pause, what="asking for the agent's rights")
        self._api = api
        self._features = features
        self._namespaces = namespaces
        self._told = told
        self._failed = False
        self.report: Report | None = None

    def _pause(self) -> float:
        return RETRY if self._failed else INTERVAL

    async def _look(self) -> None:
        try:
            report = await review(self._api, self._features, await self._namespaces())
        except ClusterError as error:
            if not self._failed:
                _log.warn("what this agent may do can't be asked: {error}", error=error.sentence)
            self._failed = True
            return
        self._failed = False
        before, self.report = self.report, report
        _say(before, report)
        self._told(report)


def _say(before: Report | None, now: Report) -> None:
    """What can't work, or not everywhere, is said once, and again when that has changed."""
    for name, verdict in now.features.items():
        if not verdict.missing or (before is not None and before.features.get(name) == verdict):
            continue
        _log.info(
            "{feature}: {state}; the agent lacks the right to {rights}",
            feature=name,
            state="denied" if verdict.state == "denied" else f"only in {', '.join(verdict.namespaces[:10])}",
            rights=", ".join(each.right for each in verdict.missing),
            rules="\n".join(each.rule for each in verdict.missing),
        )
