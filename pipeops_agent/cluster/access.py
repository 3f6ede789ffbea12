"""The way to the cluster that is configured now, in one place, so that a new one is everybody's at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.cluster.api import LiveApi
from pipeops_agent.cluster.config import ClusterConfig, Credential, Credentials
from pipeops_agent.cluster.errors import Misconfigured
from pipeops_agent.cluster.finding import NO_CLUSTER, Finder
from pipeops_agent.cluster.reach import Reach
from pipeops_agent.cluster.streaming import Streams
from pipeops_agent.cluster.transport import Observer, Transport
from pipeops_agent.net import Connector
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.problems import Unfit
from pipeops_agent.settings.proxies import Proxies
from pipeops_agent.settings.proxy_url import parse_proxy

CONNECT_TIMEOUT: Final = 5.0
"""Seconds for name, TCP, proxy and TLS: the API server is near."""


class ClusterAccess:
    """
    Keeps one L{Transport} to the configured cluster, and makes another one when its files change.

    @param reactor: everything that a reactor can do.
    @param observe: told of each call.
    @param keep: lets the log mask a secret until another has its name.
    @ivar api: the API, for as long as the process lives, whatever cluster is meant.
    """

    def __init__(
        self,
        reactor: Any,
        finder: Finder,
        *,
        version: str,
        observe: Observer,
        keep: Callable[[str, Secret], None],
    ) -> None:
        self._reactor = reactor
        self._keep = keep
        self._finder = finder
        self._version = version
        self._observe = observe
        self._print: object = None
        self._connector: Connector | None = None
        self._transport: Transport | None = None
        self._problem = "the cluster has not been looked for yet" if finder.configured else NO_CLUSTER
        self.api = LiveApi(self._current)

    @property
    def clock(self) -> IReactorTime:
        """The reactor, as what tells and waits for time."""
        clock: IReactorTime = self._reactor
        return clock

    @property
    def configured(self) -> bool:
        """Whether there is a cluster to be found."""
        return self._finder.configured

    @property
    def found(self) -> bool:
        """Whether one was found, so that there is a L{config}."""
        return self._transport is not None

    @property
    def config(self) -> ClusterConfig:
        """@raise Misconfigured: there is none, and why."""
        return self._current().config

    def streams(self, reach: Reach) -> Streams:
        """
        Streams to the pods of this cluster, by the same way as the calls.

        @raise Misconfigured: there is none, and why.
        """
        config, connector = self.config, self._connector
        assert connector is not None
        return Streams(self.clock, connector, config, reach, version=self._version, observe=self._observe)

    def _current(self) -> Transport:
        if self._transport is None:
            raise Misconfigured(self._problem)
        return self._transport

    def look(self, *, again: bool = False) -> bool:
        """
        Look for the cluster, where its files have changed since the last time, or there was none.

        @param again: also where they have not: what they name (a certificate's file) may have.
        @return: whether it is another cluster than before, so that nothing known of the old one holds.
        """
        if not self._finder.configured:
            return False
        seen = self._finder.fingerprint()
        if seen == self._print and not again:
            return False
        self._print = seen
        try:
            config = self._finder.find()
            known = _Known(config.credentials, self._keep)
            config = msgspec.structs.replace(config, credentials=known)
            connector = self._make_connector(config)
        except Misconfigured as error:
            # What was found before holds no more: its credentials may have been taken away on purpose.
            self._problem = error.sentence
            self._drop()
            return False
        before = None if self._transport is None else self._transport.config
        self._drop()
        self._connector = connector
        self._transport = Transport(
            self.clock, connector, config, version=self._version, observe=self._observe
        )
        return before is None or (before.base, before.tls) != (config.base, config.tls)

    def _make_connector(self, config: ClusterConfig) -> Connector:
        """A way out with the kubeconfig's proxy, and no other."""
        proxies = Proxies()
        if config.proxy is not None:
            try:
                proxy = parse_proxy(config.proxy.reveal(), "proxy-url")
            except Unfit as error:
                raise Misconfigured(f"{config.origin}: proxy-url: {error}") from None
            proxies = Proxies(https=proxy, http=proxy)
            for password in proxies.secrets()[:1]:
                self._keep("the cluster's proxy", password)
        return Connector(self._reactor, connect_timeout=CONNECT_TIMEOUT, proxies=lambda: proxies)

    def _drop(self) -> None:
        """Let go of the connections; what is under way ends by itself."""
        if self._connector is not None:
            Deferred.fromCoroutine(self._connector.close())  # it never fails
        self._connector = self._transport = None

    async def close(self) -> None:
        """Close the connections that nobody uses."""
        if self._connector is not None:
            await self._connector.close()


class _Known:
    """Credentials that the log knows by the time that somebody has them (L{Credentials})."""

    def __init__(self, credentials: Credentials, keep: Callable[[str, Secret], None]) -> None:
        self._credentials = credentials
        self._keep = keep
        self._last = Credential()

    async def current(self) -> Credential:
        found = await self._credentials.current()
        if found != self._last:
            self._last = found
            for name, secret in (("the cluster's token", found.token), ("the cluster's key", found.key)):
                if secret:
                    self._keep(name, secret)
        return found

    def refused(self) -> bool:
        return self._credentials.refused()
