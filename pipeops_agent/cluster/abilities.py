"""What can be done in the cluster: the agent's rights, within the owner's rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pipeops_agent.cluster.needs import Feature
from pipeops_agent.cluster.rights import Report, Verdict
from pipeops_agent.cluster.scope import Scope
from pipeops_agent.status import AbilityStatus

MAX_TOLD: Final = 50
"""Namespaces that are told of one ability; of more only so many, for what is not told is not promised."""

_OTHER_NAMES: Final = {"apply": ("deploy",), "drain": ("evict", "delete")}
"""What an operation is called where the owner denies it, if not by its own name or the API's verbs for it."""


def abilities(features: Sequence[Feature], report: Report, scope: Scope) -> tuple[AbilityStatus, ...]:
    """
    Whether each of C{features} can be done, where, and what stands in the way.

    Denied kinds don't count here: they take one kind of objects away, not an operation.
    """
    return tuple(_ability(feature, report.features[feature.name], scope) for feature in features)


def told(found: Sequence[AbilityStatus]) -> tuple[str, ...]:
    """What can be done, as registrations say it: C{scale}, C{exec@shop}. What can't is left out."""
    return tuple(_told(found))


def _told(found: Sequence[AbilityStatus]) -> Iterator[str]:
    for each in found:
        if each.state == "allowed":
            yield each.name
        for namespace in each.namespaces[:MAX_TOLD]:
            yield f"{each.name}@{namespace}"


def _ability(feature: Feature, verdict: Verdict, scope: Scope) -> AbilityStatus:
    if feature.own:
        return AbilityStatus(name=feature.name, state=verdict.state, message=verdict.sentence)
    rule = _denied_by(feature, scope)
    if rule:
        return AbilityStatus(name=feature.name, state="denied", message=f"not allowed: {rule}")
    namespaces: tuple[str, ...] = ()
    if verdict.state == "namespaces":
        namespaces = tuple(filter(scope.reaches, verdict.namespaces))
    elif verdict.state == "allowed" and scope.namespaces and _in_namespaces(feature):
        namespaces = tuple(sorted(filter(scope.reaches, scope.namespaces)))
    else:
        return AbilityStatus(name=feature.name, state=verdict.state, message=verdict.sentence)
    if not namespaces:
        message = verdict.sentence or "not allowed: kubernetes.namespaces, access.deny.namespaces"
        return AbilityStatus(name=feature.name, state="denied", message=message)
    return AbilityStatus(
        name=feature.name, state="namespaces", namespaces=namespaces, message=verdict.sentence
    )


def _denied_by(feature: Feature, scope: Scope) -> str:
    """The setting by which the owner denies it everywhere; empty: none does."""
    if scope.read_only and not feature.reads:
        return "access.read_only"
    names = {feature.name, *_OTHER_NAMES.get(feature.name, ()), *(need.verb for need in feature.needs)}
    if any(map(scope.denies, names)):
        return "access.deny.verbs"
    if scope.namespaces and not feature.reads and not _in_namespaces(feature):
        return "kubernetes.namespaces"
    return ""


def _in_namespaces(feature: Feature) -> bool:
    """Whether it can be had in single namespaces."""
    return all(need.namespaced for need in feature.needs)
