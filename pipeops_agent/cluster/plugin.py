"""
Credentials from a program (client-go credential plugins, C{client.authentication.k8s.io}).

It is started by the reactor, with a deadline, a bound on what it may say, and an environment that holds none
of the agent's secrets.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import Interface

from pipeops_agent.clock import WallClock
from pipeops_agent.cluster.config import Credential
from pipeops_agent.cluster.errors import NOT_JSON, Misconfigured, printable
from pipeops_agent.cluster.kubeconfig import ExecPlugin
from pipeops_agent.scheduling import DeadlineExceeded, bounded
from pipeops_agent.secrets import Secret

DEADLINE: Final = 15.0
"""Seconds that a plugin may take: some ask a cloud's servers."""

MAX_OUTPUT: Final = 1 << 20
"""The most that a plugin may write, in bytes, to each of its two outputs."""

EARLY: Final = timedelta(seconds=60)
"""A credential is not used for the last minute of its life."""

LEAST: Final = timedelta(seconds=10)
"""A credential is used for so long at least: with a wrong clock, each call would run the plugin."""

API_VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")

KEPT_VARIABLES: Final = ("PATH", "HOME", "USER", "LANG", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""What a plugin gets of the agent's own environment; proxies and cloud settings belong in its C{env}."""


class IPluginReactor(IReactorProcess, IReactorTime, Interface):
    """What running a plugin needs of the reactor."""


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: datetime | None = None


class _ExecCredential(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    status: _Status | None = None


class PluginCredentials:
    """
    What a plugin gives, until it runs out (L{pipeops_agent.cluster.config.Credentials}).

    Several that ask at once are answered by one run.
    """

    def __init__(
        self,
        reactor: IPluginReactor,
        plugin: ExecPlugin,
        directory: Path,
        *,
        environ: Mapping[str, str],
        wall: WallClock,
    ) -> None:
        if plugin.api_version not in API_VERSIONS:
            raise Misconfigured(f"exec {plugin.command}: apiVersion must be one of {', '.join(API_VERSIONS)}")
        if plugin.interactive_mode == "Always":
            raise Misconfigured(
                f"exec {plugin.command}: interactiveMode: Always needs a person at a terminal"
            )
        self._reactor = reactor
        self._plugin = plugin
        # As client-go: what has a slash is relative to the kubeconfig, a bare name is looked up in PATH.
        self._program = str(directory / plugin.command) if "/" in plugin.command else plugin.command
        self._environ = self._environment(environ)
        self._wall = wall
        self._credential: Credential | None = None
        self._until: datetime | None = None
        self._waiting: list[Deferred[Credential]] = []

    async def current(self) -> Credential:
        if self._credential is not None and (self._until is None or self._wall() < self._until):
            return self._credential
        waiter: Deferred[Credential] = Deferred()
        self._waiting.append(waiter)
        if len(self._waiting) == 1:
            # Not the caller's own coroutine: others may wait for the same run when this one is cancelled.
            Deferred.fromCoroutine(self._renew()).addBoth(self._answer)
        return await waiter

    def refused(self) -> bool:
        had, self._credential = self._credential is not None, None
        return had

    def _answer(self, result: Credential | Failure) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(result)  # a Failure given to a callback is an errback

    async def _renew(self) -> Credential:
        output = await self._run()
        try:
            said = msgspec.json.decode(output, type=_ExecCredential)
        except NOT_JSON as error:
            # The error names types and places; the output itself may hold a token.
            raise self._problem(f"its output is no ExecCredential: {error}") from None
        if said.kind != "ExecCredential" or said.api_version != self._plugin.api_version:
            raise self._problem(f"its output is no ExecCredential of {self._plugin.api_version}")
        status = said.status or _Status()
        if not status.token and not (status.client_certificate_data and status.client_key_data):
            raise self._problem("its output has neither a token nor a certificate with its key")
        self._credential = Credential(
            token=Secret(status.token) if status.token else None,
            certificate=status.client_certificate_data.encode(),
            key=Secret(status.client_key_data) if status.client_key_data else None,
        )
        expiry = status.expiration_timestamp
        self._until = None if expiry is None else max(expiry - EARLY, self._wall() + LEAST)
        return self._credential

    async def _run(self) -> bytes:
        run = _Run()
        arguments = [self._program, *(self._plugin.args or ())]
        try:
            self._reactor.spawnProcess(run, self._program, arguments, env=self._environ)
        except OSError as error:
            raise self._problem(f"it can't be started: {error.strerror}") from error
        try:
            status = await bounded(self._reactor, DEADLINE, run.ended, "the plugin")
        except DeadlineExceeded:
            raise self._problem(f"it did not end within {DEADLINE:g} s") from None
        finally:
            run.kill()
        if run.too_long:
            raise self._problem(f"it writes more than {MAX_OUTPUT} bytes")
        if status != 0:
            said = printable(run.errors.decode("utf-8", "replace").strip().rpartition("\n")[2], 300)
            raise self._problem(f"it ended with status {status}" + (f": {said}" if said else ""))
        return bytes(run.output)

    def _problem(self, what: str) -> Misconfigured:
        hint = printable(self._plugin.install_hint, 300)
        return Misconfigured(f"exec {self._program}: {what}" + (f" ({hint})" if hint else ""))

    def _environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        kept = {name: environ[name] for name in KEPT_VARIABLES if name in environ}
        kept.update({variable.name: variable.value for variable in self._plugin.env or ()})
        spec: dict[str, Any] = {"interactive": False}
        if self._plugin.cluster_info is not None:
            spec["cluster"] = self._plugin.cluster_info
        info = {"apiVersion": self._plugin.api_version, "kind": "ExecCredential", "spec": spec}
        kept["KUBERNETES_EXEC_INFO"] = json.dumps(info)
        # Without PATH execvpe would search where it likes.
        kept.setdefault("PATH", os.defpath)
        return kept


class _Run(ProcessProtocol):
    """One run of a plugin."""

    def __init__(self) -> None:
        self.output = bytearray()
        self.errors = bytearray()
        self.too_long = False
        self.ended: Deferred[int] = Deferred(lambda _: self.kill())
        self._over = False

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.closeStdin()

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N802, N803  # Twisted's names
        into = self.output if childFD == 1 else self.errors
        into += data
        if len(into) > MAX_OUTPUT:
            self.too_long = True
            into.clear()
            self.kill()

    def processEnded(self, reason: Failure) -> None:
        self._over = True
        if not self.ended.called:
            # exitCode is None where a signal ended it.
            code = getattr(reason.value, "exitCode", None)
            self.ended.callback(-1 if code is None else code)

    def kill(self) -> None:
        """End it now, if it has not ended."""
        if self._over or self.transport is None:
            return
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")
