"""The features: what is switched on, and whether it works now."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from pipeops_agent.cluster.needs import OPERATIONS
from pipeops_agent.health import Feature, FeatureState, Registry
from pipeops_agent.settings import Settings
from pipeops_agent.status import AgentStatus, ClusterStatus, KindStatus

MAX_NAMED: Final = 10
"""Namespaces that a reason names."""

_KEPT: Final = ("live", "broken")
"""The states of a list that has something to show."""


def standard_features(settings: Settings, *, has_home: bool) -> Registry[Feature]:
    """
    The features that every agent has.

    @param settings: those at start: what they say here needs a restart.
    @param has_home: whether the agent runs in a pod of its cluster.
    """
    features: Registry[Feature] = Registry()
    features.add(Feature(name="kubernetes", state=_kubernetes))
    features.add(Feature(name="inventory", state=_inventory))
    features.add(Feature(name="service_discovery", state=_discovery))
    features.add(Feature(name="cluster_metrics", state=_cluster_metrics))
    for operation in OPERATIONS:
        features.add(Feature(name=operation, state=partial(_ability, operation)))
    features.add(Feature(name="cluster_token", state=_cluster_token(settings)))

    def leader_election(status: AgentStatus) -> FeatureState:
        if not settings.agent.leader_election:
            return FeatureState(enabled=False, available=has_home, reason="agent.leader_election is off")
        if not has_home:
            reason = "there is a Lease only for an agent in a pod of its cluster (kubernetes.in_cluster)"
            return FeatureState(enabled=True, available=False, reason=reason)
        standby = status.phase == "standby"
        reason = status.registration.message if standby else "this agent is the active one"
        return FeatureState(enabled=True, available=True, reason=reason)

    features.add(Feature(name="leader_election", state=leader_election))
    server = settings.server
    features.add(_switched("websocket", server.enable_websocket, "server.enable_websocket", "/ws"))
    features.add(_switched("sse", server.enable_sse, "server.enable_sse", "/api/realtime/events"))
    return features


def _switched(name: str, on: bool, setting: str, path: str) -> Feature:
    """A feature that is there whenever it is switched on."""
    reason = f"{path} is served" if on else f"{setting} is off"
    state = FeatureState(enabled=on, available=on, reason=reason)
    return Feature(name=name, state=lambda status: state)


def _kubernetes(status: AgentStatus) -> FeatureState:
    cluster = status.cluster
    return FeatureState(enabled=cluster.configured, available=cluster.reachable, reason=cluster.message)


def _inventory(status: AgentStatus) -> FeatureState:
    cluster = status.cluster
    missing = [each for each in cluster.lists if each.state not in _KEPT or each.message]
    shown = any(each.state in _KEPT for each in cluster.lists)
    if missing and shown:
        reason = "; ".join(_why(each) for each in missing)
    else:
        reason = _kept(cluster, cluster.lists)
    return FeatureState(enabled=cluster.configured, available=shown, reason=reason)


def _discovery(status: AgentStatus) -> FeatureState:
    cluster = status.cluster
    needed = [each for each in cluster.lists if each.kind in ("services", "endpointslices")]
    available = len(needed) == 2 and all(each.state in _KEPT for each in needed)
    return FeatureState(enabled=cluster.configured, available=available, reason=_kept(cluster, needed))


def _cluster_metrics(status: AgentStatus) -> FeatureState:
    cluster = status.cluster
    if cluster.usage is not None:
        reason = f"from {cluster.usage}" + (f"; {cluster.usage_message}" if cluster.usage_message else "")
    else:
        reason = cluster.usage_message or _unwatched(cluster)
    return FeatureState(enabled=cluster.configured, available=cluster.usage is not None, reason=reason)


def _ability(name: str, status: AgentStatus) -> FeatureState:
    cluster = status.cluster
    found = next((each for each in cluster.abilities if each.name == name), None)
    if found is None or not cluster.reachable:
        reason = "the API server has not been asked yet" if cluster.reachable else cluster.message
        return FeatureState(enabled=cluster.configured, available=False, reason=reason)
    reasons = []
    if found.namespaces:
        reasons.append(f"in {', '.join(found.namespaces[:MAX_NAMED])} alone")
    if found.message:
        reasons.append(found.message)
    return FeatureState(
        enabled=True, available=found.state != "denied", reason="; ".join(reasons) or "allowed"
    )


def _cluster_token(settings: Settings) -> Callable[[AgentStatus], FeatureState]:
    """The token that the control plane is given for the tunnelled API."""
    pipeops = settings.pipeops
    enabled = bool(pipeops.cluster_token_file or pipeops.cluster_service_account)

    def state(status: AgentStatus) -> FeatureState:
        message = status.cluster.token_message
        if not enabled:
            message = "neither pipeops.cluster_service_account nor pipeops.cluster_token_file is set"
        return FeatureState(
            enabled=enabled, available=enabled and not message, reason=message or "the control plane has one"
        )

    return state


def _kept(cluster: ClusterStatus, lists: Iterable[KindStatus]) -> str:
    reasons = [_why(each) for each in lists if each.state != "live" or each.message]
    if reasons:
        return "; ".join(reasons)
    return "all lists are watched" if cluster.lists else _unwatched(cluster)


def _unwatched(cluster: ClusterStatus) -> str:
    if not cluster.configured or not cluster.reachable:
        return cluster.message
    return "the cluster is watched once this agent is registered and active"


def _why(status: KindStatus) -> str:
    return f"{status.kind}: {status.state}" + (f" ({status.message})" if status.message else "")
