"""The agent's own client over real sockets, for tests."""

from __future__ import annotations

from typing import Any

from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.config import ClusterConfig
from pipeops_agent.cluster.transport import Transport
from pipeops_agent.net import Connector


class Client:
    """
    Makes L{Api}s on the reactor that is given; L{close} ends their connections.

    @ivar observed: verb, resource and code of each call.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._connectors: list[Connector] = []
        self.observed: list[tuple[str, str, int | None]] = []

    def api(self, config: ClusterConfig) -> Api:
        """To any server."""
        connector = Connector(self._reactor, connect_timeout=10.0)
        self._connectors.append(connector)
        return Api(Transport(self._reactor, connector, config, version="0", observe=self._observe))

    async def close(self) -> None:
        """Close the connections that are not in use."""
        for connector in self._connectors:
            await connector.close()

    def _observe(self, verb: str, resource: str, code: int | None, seconds: float) -> None:
        self.observed.append((verb, resource, code))
