"""
The sandbox, put together: one port with the HTTP contract, the chisel server and the console behind it.

    one listener -- ChiselSite --+-- upgrade to chisel-v3 -- ChiselServer -- bound ports on loopback
                                 +-- /api/ -- ContractResource -- Ledger
                                 +-- / and /faults -- console -- FaultBox
                                 +-- /health, /version: as chisel's own server
"""

from __future__ import annotations

import secrets
import shutil
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from pipeops_agent.clock import WallClock
from pipeops_agent.sandbox.api import ContractResource, Endpoint
from pipeops_agent.sandbox.bindings import Bound, Grant
from pipeops_agent.sandbox.callers import Guard, is_loopback
from pipeops_agent.sandbox.chisel import ChiselServer, new_host_key
from pipeops_agent.sandbox.console import FaultsResource, ListingResource
from pipeops_agent.sandbox.faults import Act, DropTunnels, FaultBox, Forget, OtherPorts
from pipeops_agent.sandbox.ledger import Agent, Ledger
from pipeops_agent.sandbox.pki import Authority
from pipeops_agent.sandbox.serving import Answer, Fixed, IServerReactor, Listener, Root
from pipeops_agent.sandbox.stand_ins import LOOPBACK, StandIns
from pipeops_agent.scheduling import Tasks
from pipeops_agent.secrets import Secret

_log = Logger(namespace="sandbox")

CA_FILE: Final = "ca.pem"
TOKEN_FILE: Final = "token"  # noqa: S105 - the name of a file


class SandboxError(Exception):
    """These settings can't be used; the text says why."""


class SandboxSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the sandbox is to be.

    @ivar listen: the address to listen on. Anything but loopback needs C{tls} and a C{token}, which the
        console then asks for too. Forwards are bound on loopback always.
    @ivar port: 0: a free one.
    @ivar tls: with a CA made at each start.
    @ivar names: further names of this machine, for the certificate.
    @ivar directory: where C{ca.pem} is written, and C{token} with C{write_token}; empty: a temporary one.
    @ivar token: what agents call with; None: one is made up.
    @ivar write_token: write the token to a file that only this user can read, for another process.
    @ivar stand_ins: start stand-ins for the Kubernetes API and the kubelet.
    @ivar poll_frequency: seconds between polls that the tunnel status asks for; 0: it asks for none.
    """

    listen: str = LOOPBACK
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    tls: bool = False
    names: tuple[str, ...] = ()
    directory: str = ""
    token: Secret | None = None
    write_token: bool = False
    stand_ins: bool = False
    poll_frequency: Annotated[int, msgspec.Meta(ge=0, le=600)] = 0

    @property
    def public(self) -> bool:
        """Whether other machines can reach it."""
        return not is_loopback(self.listen)

    def check(self) -> None:
        """@raise SandboxError: these settings are not safe."""
        if self.public and not (self.tls and self.token):
            raise SandboxError(f"listening on {self.listen} needs TLS and a token")


class SandboxService(MultiService):
    """
    A control plane in one process.

    @ivar token: what agents call with.
    """

    def __init__(self, reactor: IServerReactor, settings: SandboxSettings, wall: WallClock) -> None:
        """@raise SandboxError: these settings are not safe."""
        super().__init__()
        settings.check()
        self._settings = settings
        self.token = settings.token or Secret(secrets.token_urlsafe(32))
        self.faults = FaultBox()
        self.ledger = Ledger(wall, can_listen)
        self._tasks = Tasks()
        self._directory: Path | None = None
        self._authority = Authority(wall())
        self.chisel = ChiselServer(
            reactor, new_host_key(), self._authenticate, self.faults, self._opened, self._closed
        )
        self.chisel.setServiceParent(self)
        site = self.chisel.site(self._root(reactor, wall))
        tls = self._authority.server(self._names()) if settings.tls else None
        self._listener = Listener(reactor, site, interface=settings.listen, port=settings.port, tls=tls)
        self._listener.setServiceParent(self)
        self.stand_ins: StandIns | None = None
        if settings.stand_ins:
            self.stand_ins = StandIns(reactor, self._authority)
            self.stand_ins.setServiceParent(self)

    def _root(self, reactor: IServerReactor, wall: WallClock) -> Root:
        tasks, guard = self._tasks, Guard(self.token if self._settings.public else None)
        contract = ContractResource(
            reactor,
            self.ledger,
            self.faults,
            self.token,
            wall,
            endpoint=self._endpoint,
            on_registered=self._registered,
            poll_frequency=self._settings.poll_frequency,
            tasks=tasks,
        )
        children = {
            b"": ListingResource(self.ledger, self.faults, guard, self.facts, wall, tasks),
            b"faults": FaultsResource(self.faults, guard, self._perform, tasks),
            b"api": contract,
            **self.chisel.plain_paths(),
        }
        return Root(children, Fixed(Answer(status=404, body="Not found", content_type="text/plain"), tasks))

    def _names(self) -> list[str]:
        settings = self._settings
        names = [*settings.names, "localhost", LOOPBACK, "::1"]
        if settings.public:
            names += [settings.listen, socket.gethostname()]
        return names

    # -- where it is, once started

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self._settings.listen, self._listener.port

    @property
    def api_url(self) -> str:
        """What an agent of this machine sets as C{pipeops.api_url}."""
        return f"{'https' if self._settings.tls else 'http'}://{self._netloc}"

    @property
    def ca_file(self) -> Path | None:
        """The CA to trust; None where nothing here speaks TLS."""
        return self._file(CA_FILE, self._settings.tls or self._settings.stand_ins)

    @property
    def token_file(self) -> Path | None:
        """Where the token was written."""
        return self._file(TOKEN_FILE, self._settings.write_token)

    @property
    def _netloc(self) -> str:
        host, port = self.address
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _file(self, name: str, wanted: bool) -> Path | None:
        return self._directory / name if wanted and self._directory is not None else None

    def _endpoint(self) -> Endpoint:
        scheme = "wss" if self._settings.tls else "ws"
        return Endpoint(scheme=scheme, default_host=self._netloc, fingerprint=self.chisel.fingerprint)

    def facts(self) -> Mapping[str, Any]:
        """What there is to say about the sandbox, without secrets."""
        facts: dict[str, Any] = {"api_url": self.api_url, "fingerprint": self.chisel.fingerprint}
        if self.ca_file is not None:
            facts["ca_file"] = str(self.ca_file)
        if self.token_file is not None:
            facts["token_file"] = str(self.token_file)
        if self.stand_ins is not None:
            facts["kubernetes_api"] = "{}:{}".format(*self.stand_ins.kubernetes_api)
            facts["kubelet"] = "{}:{}".format(*self.stand_ins.kubelet)
        return facts

    # -- life

    def startService(self) -> None:
        """
        @raise CannotListenError: the address can't be had.
        @raise OSError: the directory can't be written.
        """
        try:
            self._write_files()
            super().startService()
        except BaseException:
            self._remove_files(None)
            raise
        _log.info("the sandbox is ready at {api_url}", **self.facts())

    def stopService(self) -> Deferred[None]:
        """Close everything; fires when nothing is left. A temporary directory goes too."""
        stopping = gatherResults([super().stopService(), self._tasks.stop()], consumeErrors=True)
        return stopping.addBoth(self._remove_files)

    def _write_files(self) -> None:
        settings = self._settings
        if not (settings.tls or settings.stand_ins or settings.write_token):
            return
        if settings.directory:
            self._directory = Path(settings.directory)
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        else:
            self._directory = Path(tempfile.mkdtemp(prefix="pipeops-sandbox-"))
        if self.ca_file is not None:
            self.ca_file.write_bytes(self._authority.pem)
        if self.token_file is not None:
            self.token_file.unlink(missing_ok=True)
            self.token_file.touch(mode=0o600, exist_ok=False)
            self.token_file.write_text(self.token.reveal())

    def _remove_files(self, result: Any) -> Any:
        token_file = self.token_file
        if token_file is not None:
            token_file.unlink(missing_ok=True)
        if self._directory is not None and not self._settings.directory:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._directory = None
        return result

    # -- what happens

    def _authenticate(self, user: str, password: Secret) -> Grant | None:
        agent = self.ledger.cluster(user)
        if agent is None or agent.password != password:
            return None
        return Grant(agent.agent_id, {port: name for name, port in agent.ports.items()})

    def _registered(self, agent: Agent, known: bool) -> None:
        how = "registered again" if known else "registered"
        _log.info(
            "{agent} {how} as cluster {cluster}", agent=agent.agent_id, how=how, cluster=agent.cluster_id
        )

    def _opened(self, bound: Bound) -> None:
        agent = self.ledger.agent(bound.subject)
        if agent is not None:
            agent.listening[bound.port] = bound.forward
        _log.info(
            "127.0.0.1:{port} -> {forward} of {agent}",
            port=bound.port,
            forward=bound.forward,
            agent=bound.subject,
            target=bound.target,
        )

    def _closed(self, bound: Bound) -> None:
        agent = self.ledger.agent(bound.subject)
        if agent is not None:
            agent.listening.pop(bound.port, None)
        _log.info("127.0.0.1:{port} is closed", port=bound.port, forward=bound.forward, agent=bound.subject)

    def _perform(self, act: Act) -> None:
        match act:
            case DropTunnels():
                self.chisel.drop_sessions("dropped, as the sandbox was told")
            case OtherPorts():
                self.ledger.move()
            case Forget():
                self.ledger.forget()


def can_listen(port: int) -> bool:
    """Whether C{port} of loopback can be listened on now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
        return True
