"""The kubelets' own figures: C{/stats/summary}, asked at each node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgspec
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.cluster.api import decoder
from pipeops_agent.cluster.call import Call
from pipeops_agent.cluster.config import ClusterConfig
from pipeops_agent.cluster.errors import NOT_JSON, BadAnswer, ClusterError, Misconfigured
from pipeops_agent.cluster.objects import Node
from pipeops_agent.cluster.transport import AgentSource, Observer, Transport

PORT: Final = 10250
"""Where a kubelet listens, if its node does not say."""

TOGETHER: Final = 8
"""Kubelets that are asked at one time."""

MOST_NODES: Final = 200
"""Nodes that are asked in one round: more have a metrics-server."""

TIMEOUT: Final = 10.0
"""Seconds that one kubelet may take."""

MAX_SUMMARY: Final = 4 * 1024 * 1024
"""The longest summary that is read, in bytes: a few kilobytes for each pod."""

CA_REMEDY: Final = (
    "serverTLSBootstrap lets the cluster's CA sign the kubelets' certificates; or use metrics-server"
)
"""What to do about a kubelet that has signed its own certificate, as it does by default."""


class _Cpu(msgspec.Struct, rename="camel"):
    usage_nano_cores: int = 0


class _Memory(msgspec.Struct, rename="camel"):
    working_set_bytes: int = 0


class _Figures(msgspec.Struct):
    cpu: _Cpu | None = None
    memory: _Memory | None = None

    @property
    def cores(self) -> float:
        """Processors."""
        return 0.0 if self.cpu is None else self.cpu.usage_nano_cores / 1e9

    @property
    def bytes(self) -> float:
        """Memory."""
        return 0.0 if self.memory is None else float(self.memory.working_set_bytes)


class _Ref(msgspec.Struct):
    name: str = ""
    namespace: str = ""


class PodFigures(_Figures):
    """C{pods[]}."""

    ref: _Ref = msgspec.field(name="podRef", default_factory=_Ref)


class Summary(msgspec.Struct):
    """C{stats/v1alpha1 Summary}, of which only the sums are kept."""

    node: _Figures = msgspec.field(default_factory=_Figures)
    pods: list[PodFigures] = []


class Missing(msgspec.Struct):
    """The nodes of which there is no summary, and the first reason."""

    count: int = 0
    error: ClusterError | None = None

    def add(self, error: ClusterError) -> None:
        """One more."""
        self.count += 1
        self.error = self.error or error

    @property
    def refused(self) -> bool:
        """Whether it is a matter of rights or of trust, which time alone does not change."""
        error = self.error
        return error is not None and not error.retryable


class RoundAgents(AgentSource, Protocol):
    """Gives HTTP agents, and closes their connections: a L{Connector<pipeops_agent.net.Connector>}."""

    async def close(self) -> None:
        """Close the connections that nobody uses."""
        ...


class Kubelets:
    """
    Asks kubelets.

    @param config: the cluster's: its credentials, and the CA that a kubelet must be known by.
    @param agents: HTTP without proxies, for one round: each node has TLS of its own.
    """

    def __init__(
        self,
        clock: IReactorTime,
        config: Callable[[], ClusterConfig],
        agents: Callable[[], RoundAgents],
        *,
        version: str,
        observe: Observer,
    ) -> None:
        self._clock = clock
        self._config = config
        self._agents = agents
        self._version = version
        self._observe = observe

    async def ask(self, nodes: Sequence[Node]) -> tuple[dict[str, Summary], Missing]:
        """
        The summaries, by node, and what is missing.

        @raise Misconfigured: there is no cluster, or nothing by which a kubelet could be known.
        """
        config = self._config()
        if config.tls is None or not (config.tls.ca_file or config.tls.ca_data):
            # The token must go to nobody whom the cluster's own CA does not vouch for.
            raise Misconfigured("the cluster's CA is not known, by which a kubelet must prove itself")
        found: dict[str, Summary] = {}
        missing = Missing()
        waiting = list(nodes[:MOST_NODES])
        agents = self._agents()
        for node in nodes[MOST_NODES:]:
            missing.add(Misconfigured(f"{node.name}: no more than {MOST_NODES} kubelets are asked"))

        async def ask_some() -> None:
            while waiting:
                node = waiting.pop()
                try:
                    found[node.name] = await self._summary(agents, config, node)
                except ClusterError as error:
                    missing.add(error)

        asking = [Deferred.fromCoroutine(ask_some()) for _ in range(min(TOGETHER, len(waiting)))]
        try:
            outcomes: list[tuple[bool, Any]] = await DeferredList(asking, consumeErrors=True)
        finally:
            await agents.close()
        for succeeded, result in outcomes:
            if not succeeded:
                result.raiseException()
        return found, missing

    async def _summary(self, agents: AgentSource, config: ClusterConfig, node: Node) -> Summary:
        host = node.internal_ip or node.external_ip
        if not host:
            raise Misconfigured(f"node {node.name} has no address")
        assert config.tls is not None
        there = msgspec.structs.replace(
            config,
            host=host,
            port=node.kubelet_port or PORT,
            prefix="",
            # Every kubelet's certificate is for its node's name; not every one for the address.
            tls=msgspec.structs.replace(config.tls, server_name=node.name, ca_remedy=CA_REMEDY),
        )
        transport = Transport(self._clock, agents, there, version=self._version, observe=self._observe)
        call = Call(
            method="GET",
            verb="get",
            resource="nodes/stats",
            path="/stats/summary",
            query=(("only_cpu_and_memory", "true"),),
            timeout=TIMEOUT,
            limit=MAX_SUMMARY,
        )
        answer = await transport.call(call)
        try:
            summary: Summary = decoder(Summary).decode(answer.body)
        except NOT_JSON as error:
            raise BadAnswer(f"the kubelet of {node.name} answers no summary: {error}") from error
        return summary
