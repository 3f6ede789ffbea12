"""The fake API server on a port of loopback: it can die, and come back."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.protocols.policies import WrappingFactory
from twisted.web.server import Site

from pipeops_agent.scheduling import sleep
from tests.cluster.fakeapi.server import FakeApi


class ListeningApi:
    """
    Serves C{api}, with TLS where C{tls} says how.

    @ivar port: the same each time that it starts.
    """

    def __init__(self, reactor: Any, api: FakeApi, tls: Any = None) -> None:
        self._reactor = reactor
        site = Site(api)
        site.noisy = False
        self._factory = WrappingFactory(site)
        self._factory.noisy = False
        self._tls = tls
        self._listening: Any = None
        self.port = 0

    def start(self) -> None:
        """Listen."""
        reactor, place = self._reactor, (self.port, self._factory)
        if self._tls is None:
            self._listening = reactor.listenTCP(*place, interface="127.0.0.1")
        else:
            self._listening = reactor.listenSSL(*place, self._tls, interface="127.0.0.1")
        self.port = self._listening.getHost().port

    async def stop(self) -> None:
        """Die: nobody listens, and every connection is reset."""
        if self._listening is None:
            return
        listening, self._listening = self._listening, None
        await maybeDeferred(listening.stopListening)
        while self._factory.protocols:
            for connection in tuple(self._factory.protocols):
                connection.transport.abortConnection()
            await sleep(self._reactor, 0)
