"""Exec, attach and port-forward: WebSockets to pods through the API server."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint

from pipeops_agent.caller import Caller
from pipeops_agent.cluster.call import Call
from pipeops_agent.cluster.config import ClusterConfig, Credential
from pipeops_agent.cluster.errors import ClusterError, StatusError, Unreachable
from pipeops_agent.cluster.reach import Reach
from pipeops_agent.cluster.resources import PODS
from pipeops_agent.cluster.sessions import V4, V5, ExecSession, PortForward
from pipeops_agent.cluster.socket import ApiSocket, socket_factory
from pipeops_agent.cluster.transport import Observer
from pipeops_agent.net import ClientTLS, ConnectProblem
from pipeops_agent.scheduling import DeadlineExceeded, bounded
from pipeops_agent.secrets import Secret

UPGRADE_TIMEOUT: Final = 30.0
"""Seconds until a WebSocket must be there, connection and renewed credentials included."""


class EndpointSource(Protocol):
    """Gives ways to connect: the connector (L{pipeops_agent.net.Connector})."""

    def endpoint(self, host: str, port: int, *, tls: ClientTLS | None = None) -> IStreamClientEndpoint:
        """One that speaks TLS like this."""
        ...


class Terminal(msgspec.Struct, frozen=True, kw_only=True):
    """
    How a process is connected.

    @ivar container: empty: the pod's only one.
    @ivar stdin: whether it is written to.
    @ivar tty: it has a terminal; then all that it writes comes as C{stdout}.
    """

    namespace: str
    pod: str
    container: str = ""
    stdin: bool = False
    tty: bool = False


class Streams:
    """
    Opens streams to pods.

    Each raises C{OutOfReach} where the owner does not allow it, or no scope of the caller's does;
    L{StatusError} where the API server says no; L{Unreachable} where it says nothing.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        endpoints: EndpointSource,
        config: ClusterConfig,
        reach: Reach,
        *,
        version: str,
        observe: Observer,
    ) -> None:
        self._reactor = reactor
        self._endpoints = endpoints
        self._config = config
        self._reach = reach
        self._version = version
        self._observe = observe

    async def exec(
        self, caller: Caller, terminal: Terminal, command: tuple[str, ...], *, called: str = "exec"
    ) -> ExecSession:
        """
        Run C{command} in a container.

        @param called: by which name it was asked for: C{shell}; it is the same to who denies C{exec}, or may.
        """
        query = [*_query(terminal), *(("command", part) for part in command)]
        names = tuple(dict.fromkeys((called, "exec")))
        return await self._process(caller, "exec", terminal, query, names)

    async def attach(self, caller: Caller, terminal: Terminal) -> ExecSession:
        """Connect to a container's main process."""
        return await self._process(caller, "attach", terminal, _query(terminal), ("attach",))

    async def port_forward(self, caller: Caller, namespace: str, pod: str, port: int) -> PortForward:
        """Open one connection to a port of a pod."""
        reach = self._reach.asking("portforward")
        reach.check(caller, ("portforward", "port-forward"), PODS, namespace, name=pod)
        reach.check_inside(caller, namespace)
        what = f"port-forward to {namespace}/{pod}:{port}"
        call = _call("portforward", namespace, pod, [("ports", str(port))], caller.kubernetes_token)
        return PortForward(await self._open(call, what, [V4]), what)

    async def _process(
        self,
        caller: Caller,
        verb: str,
        terminal: Terminal,
        query: list[tuple[str, str]],
        names: tuple[str, ...],
    ) -> ExecSession:
        reach = self._reach.asking(*names)
        reach.check(caller, names, PODS, terminal.namespace, name=terminal.pod)
        reach.check_inside(caller, terminal.namespace)
        what = f"{verb} in {terminal.namespace}/{terminal.pod}"
        call = _call(verb, terminal.namespace, terminal.pod, query, caller.kubernetes_token)
        return ExecSession(self._reactor, await self._open(call, what, [V5, V4]), what)

    async def _open(self, call: Call, what: str, protocols: list[str]) -> ApiSocket:
        try:
            return await bounded(self._reactor, call.timeout, self._attempts(call, what, protocols), what)
        except DeadlineExceeded as error:
            place = self._config.authority
            raise Unreachable(f"{what}: no answer from {place} within {call.timeout:g} s") from error

    async def _attempts(self, call: Call, what: str, protocols: list[str]) -> ApiSocket:
        """Connect; once more with another credential, where the first one is refused."""
        try:
            return await self._once(call, what, protocols)
        except StatusError as error:
            if not error.unauthorized or call.token is not None or not self._config.credentials.refused():
                raise
        return await self._once(call, what, protocols)

    async def _once(self, call: Call, what: str, protocols: list[str]) -> ApiSocket:
        credential = await self._config.credentials.current()
        began, code = self._reactor.seconds(), None
        try:
            socket = await self._connect(call, what, protocols, credential)
            code = 101
            return socket
        except StatusError as error:
            code = error.code
            raise
        finally:
            self._observe(call.verb, call.resource, code, self._reactor.seconds() - began)

    async def _connect(
        self, call: Call, what: str, protocols: list[str], credential: Credential
    ) -> ApiSocket:
        # A caller's own token must not travel beside the agent's certificate: that would be who it is.
        who = credential if call.token is None else Credential(token=call.token)
        tls = self._config.tls
        if tls is not None and who.certificate:
            tls = msgspec.structs.replace(tls, cert_data=who.certificate, key_data=who.key)
        headers = {"User-Agent": f"PipeOps-Agent/{self._version}"}
        if who.token:
            headers["Authorization"] = f"Bearer {who.token.reveal()}"
        socket = ApiSocket(self._reactor, what)
        target = self._config.prefix + call.target
        factory = socket_factory(
            self._reactor, self._config.authority, target, protocols, headers, lambda: socket
        )
        endpoint = self._endpoints.endpoint(self._config.host, self._config.port, tls=tls)
        try:
            await endpoint.connect(factory)
        except ConnectProblem as problem:
            sentence = f"{what}: {problem}"
            raise Unreachable(sentence, retryable=problem.retryable, sent=False) from problem
        await socket.opened
        if socket.subprotocol not in protocols:
            socket.abort("no subprotocol")
            raise ClusterError(f"{what}: the API server speaks none of {', '.join(protocols)}")
        return socket


def _query(terminal: Terminal) -> list[tuple[str, str]]:
    query = [("container", terminal.container)] if terminal.container else []
    # With a terminal there is no stderr of its own, and the API server refuses to be asked for it.
    wanted = {"stdin": terminal.stdin, "stdout": True, "stderr": not terminal.tty, "tty": terminal.tty}
    return query + [(name, "true") for name, is_wanted in wanted.items() if is_wanted]


def _call(
    subresource: str, namespace: str, pod: str, query: list[tuple[str, str]], token: Secret | None
) -> Call:
    return Call(
        method="GET",
        verb="get",  # what RBAC is asked for: a WebSocket begins with a GET
        resource=f"pods/{subresource}",
        path=PODS.path(namespace=namespace, name=pod, subresource=subresource),
        query=tuple(query),
        timeout=UPGRADE_TIMEOUT,
        token=token,
    )
