"""
The token that the control plane is given for the tunnelled API: an account's of its own, by TokenRequest.

So its rights are the owner's choice, and the agent's own token never leaves the pod.
"""

from __future__ import annotations

import random as _random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pipeops_agent.backoff import Backoff
from pipeops_agent.clock import WallClock
from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.config import ClusterConfig
from pipeops_agent.cluster.errors import BadAnswer, ClusterError, Misconfigured, StatusError
from pipeops_agent.cluster.needs import Need, rules
from pipeops_agent.cluster.resources import SERVICE_ACCOUNTS
from pipeops_agent.net.tls import MAX_FILE_BYTES
from pipeops_agent.scheduling import PeriodicService
from pipeops_agent.secrets import Secret
from pipeops_agent.tokens import SettingsToken

LIFETIME: Final = 3600
"""Seconds that a token is asked for; the API server decides."""

RENEWAL: Final = 0.8
"""The part of its life after which a token is renewed."""

MIN_PAUSE: Final = 10.0
"""Seconds between two requests at least, however short the lives are that the server gives."""

IN_CLUSTER_NAME: Final = "kubernetes.default.svc"
"""A name that every API server's certificate is for."""

_log = Logger(namespace="cluster")


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    expiration_seconds: int = LIFETIME


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    token: str = ""
    expiration_timestamp: datetime | None = None


class _TokenRequest(msgspec.Struct, frozen=True, rename="camel"):
    """C{authentication.k8s.io/v1 TokenRequest}."""

    spec: _Spec = _Spec()
    status: _Status = _Status()
    api_version: str = "authentication.k8s.io/v1"
    kind: str = "TokenRequest"


class ServiceAccountToken(Service):
    """
    The present token of one service account (L{pipeops_agent.tokens.TokenSource}), renewed while running.

    One that can't be renewed is given out until it ends, then none. Listeners are told of each new token, and
    when there is none any more.

    @param namespace: the account's, asked at each request.
    @param told: called when C{problem} has changed.
    @ivar problem: why there is no new one, in a sentence; None: all is well.
    """

    def __init__(
        self,
        clock: IReactorTime,
        api: Api,
        namespace: Callable[[], str],
        account: str,
        *,
        wall: WallClock,
        told: Callable[[], None] = lambda: None,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._clock = clock
        self._api = api
        self._namespace = namespace
        self._account = account
        self._wall = wall
        self._told = told
        self._waiting: list[Deferred[None]] = []
        self._holder = SettingsToken(None)
        self._ends = self._asked_at = 0.0
        self._renew_in = MIN_PAUSE
        self._backoff = Backoff(clock, interval=MIN_PAUSE, step=MIN_PAUSE, cap=300.0, random=random)
        self._renewing = PeriodicService(
            clock, self._renew, lambda: self._renew_in, what="renewing the control plane's token"
        )
        self.problem: str | None = None

    # -- TokenSource

    def current(self) -> Secret | None:
        if self._clock.seconds() >= self._ends:
            self._holder.replace(None)
        return self._holder.current()

    def refresh(self) -> bool:
        """It was refused: another one is asked for, and the listeners are told when it is there."""
        if self._clock.seconds() - self._asked_at >= MIN_PAUSE:
            self._renewing.wake()
        return False

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._holder.on_change(callback)

    async def asked(self) -> None:
        """Wait until it was asked for once more, whatever comes of it; not at all where there is one."""
        if self.current() is None:
            waiter: Deferred[None] = Deferred()
            self._waiting.append(waiter)
            await waiter

    # -- Service

    def startService(self) -> None:
        super().startService()
        self._renewing.startService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._renewing.stopService()

    async def _renew(self) -> None:
        self._asked_at = self._clock.seconds()
        try:
            status = await self._request()
        except ClusterError as error:
            self._failed(error)
        else:
            self._succeeded(status)
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)

    async def _request(self) -> _Status:
        found = await self._api.create(
            _TokenRequest,
            SERVICE_ACCOUNTS,
            _TokenRequest(),
            namespace=self._namespace(),
            name=self._account,
            subresource="token",
        )
        if not found.status.token:
            raise BadAnswer("create serviceaccounts/token: the answer has no token")
        return found.status

    def _succeeded(self, status: _Status) -> None:
        life = self._life(status)
        if self.problem is not None:
            _log.info("there is a new token for the control plane again")
        self.problem = None
        self._backoff.succeeded()
        self._renew_in = max(MIN_PAUSE, life * RENEWAL)
        self._ends = self._clock.seconds() + life
        self._told()
        self._holder.replace(Secret(status.token))

    def _life(self, status: _Status) -> float:
        """
        The seconds that a token lives. A wall clock that is wrong by more than that must not make a good
        token look dead, so what was asked for counts where its end makes no sense.
        """
        if status.expiration_timestamp is not None:
            life = (status.expiration_timestamp - self._wall()).total_seconds()
            if MIN_PAUSE < life < 48 * 3600:
                return life
        return float(LIFETIME)

    def _failed(self, error: ClusterError) -> None:
        self._renew_in = MIN_PAUSE + self._backoff.failed()
        said = error.sentence
        if isinstance(error, StatusError) and error.forbidden:
            need = Need(verb="create", resource="serviceaccounts/token", name=self._account)
            said += f"; a Role in {self._namespace()} grants it with {rules([need])[0]}"
        if self.problem is None:
            _log.warn("there is no new token for the control plane: {problem}", problem=said)
        elif said != self.problem:
            _log.debug("there is still no new token for the control plane: {problem}", problem=said)
        self.problem = said
        self._told()
        self.current()  # where the old one has ended meanwhile, the listeners hear of it


def verification(config: ClusterConfig) -> tuple[str, str]:
    """
    How the tunnelled API is verified: the CA (PEM) and the server's name (C{k8s_ca}, C{k8s_server_name}).

    @raise Misconfigured: the CA can't be read.
    """
    tls = config.tls
    if tls is None:
        return "", ""
    authority = tls.ca_data
    if not authority and tls.ca_file:
        try:
            with Path(tls.ca_file).open("rb") as file:
                authority = file.read(MAX_FILE_BYTES)
        except OSError as error:
            raise Misconfigured(f"the cluster's CA {tls.ca_file} can't be read: {error.strerror}") from None
    in_pod = config.origin == "the pod's service account"
    name = tls.server_name or (IN_CLUSTER_NAME if in_pod else config.host)
    return authority.decode("ascii", "replace"), name
