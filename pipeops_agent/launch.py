"""From a command line and an environment to a service: settings, log, agent, and perhaps a sandbox."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from twisted.application.service import IServiceCollection, MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import ILogObserver, Logger, globalLogPublisher
from twisted.python.components import Componentized

from pipeops_agent.agent import Agent
from pipeops_agent.clock import utc_now
from pipeops_agent.errors import ExitStatus, FatalError
from pipeops_agent.log import AgentLog, LogConfig, Redactor
from pipeops_agent.process import Process
from pipeops_agent.sandbox.service import SandboxService, SandboxSettings
from pipeops_agent.settings import Loaded, Settings, SettingsError, load_settings
from pipeops_agent.settings.problems import DEFAULT
from pipeops_agent.shutdown import Shutdown
from pipeops_agent.sources import Host, unusable_files
from pipeops_agent.state import MemoryStateStore

SANDBOX_IGNORES: Final = frozenset(
    {
        "agent.state_file",
        "kubernetes.kubeconfig",
        "pipeops.api_url",
        "pipeops.cluster_service_account",
        "pipeops.cluster_token_file",
        "pipeops.endpoints.heartbeat",
        "pipeops.endpoints.register",
        "pipeops.endpoints.tunnel_status",
        "pipeops.token",
        "pipeops.token_file",
        "server.bind",
        "tunnel.allowed_servers",
    }
)
"""What C{--sandbox} pays no attention to: it must not touch or be reached by anything real, and just work."""

CHILD_STOP: Final = 4.7
"""Seconds that one of the top service's children may take to stop; the agent bounds its own steps below."""

ALL_STOP: Final = 4.8
"""Seconds for all of them together."""

_log = Logger(namespace="agent")


@dataclass(frozen=True)
class Surroundings:
    """Where the process was started: all that settings can depend on besides the command line."""

    environ: Mapping[str, str]
    cwd: Path
    home: Path
    uid: int

    @classmethod
    def of_this_process(cls) -> Surroundings:
        """The real ones. Without a home that can be found there is none: C{/nonexistent}."""
        try:
            home = Path.home()
        except RuntimeError:
            home = Path("/nonexistent")
        return cls(os.environ, Path.cwd(), home, os.getuid())

    @property
    def in_pod(self) -> bool:
        """Whether this is a container in a Kubernetes cluster."""
        return "KUBERNETES_SERVICE_HOST" in self.environ

    def host(self) -> Host:
        """This machine, as the agent takes it."""
        return Host(
            hostname=socket.gethostname(),
            environ=self.environ,
            home=self.home,
            wall=utc_now,
            random_bytes=secrets.token_bytes,
        )

    def load(self, options: Mapping[str, Any], **how: Any) -> Loaded:
        """@raise SettingsError: with everything that is wrong."""
        return load_settings(options, self.environ, cwd=self.cwd, home=self.home, uid=self.uid, **how)

    def load_to_run(self, options: Mapping[str, Any]) -> Loaded:
        """
        The settings, and the files that they name can be used.

        @raise SettingsError: with everything that is wrong.
        """
        loaded = self.load(options)
        problems = unusable_files(loaded)
        if problems:
            raise SettingsError(problems)
        return loaded


class TopService(MultiService):
    """
    The service that twistd is given: it puts the agent's log in the place of twistd's own.

    An observer set on the application before twistd starts its log has every line of the process, the
    first "starting up" included. Its children stop one after the other, the last one first, each in bounded
    time: twistd would wait for them for ever.

    @param end: called where the children can't be started.
    """

    def __init__(self, clock: IReactorTime, log: AgentLog, end: Callable[[ExitStatus], None]) -> None:
        super().__init__()
        self._clock = clock
        self._log = log
        self._end = end

    def setServiceParent(self, parent: IServiceCollection) -> None:
        """Join the application, with the log."""
        cast(Componentized, parent).setComponent(ILogObserver, self._log.observer)
        self._log.capture_libraries(globalLogPublisher)
        super().setServiceParent(parent)

    def startService(self) -> None:
        """Start the children. What goes wrong is a record and an exit status, where twistd would print."""
        try:
            super().startService()
        except FatalError as error:
            _log.critical("{error}", error=error.sentence)
            self._end(error.status)
        except Exception:
            _log.failure("the start has failed")
            self._end(ExitStatus.FAILURE)

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        shutdown = Shutdown(self._clock, within=ALL_STOP)
        for child in reversed(list(self)):
            shutdown.step(type(child).__name__, CHILD_STOP, partial(maybeDeferred, child.stopService))
        await shutdown.run()
        self._log.close()


class Signals(Service):
    """SIGHUP reads the settings again, SIGUSR1 opens the log file anew."""

    def __init__(self, process: Process, agent: Agent) -> None:
        self._process = process
        self._handlers = {signal.SIGHUP: agent.reload, signal.SIGUSR1: agent.reopen_log}

    def startService(self) -> None:
        super().startService()
        self._process.handle(self._handlers)

    def stopService(self) -> None:
        super().stopService()
        self._process.release()


class SandboxedAgent(MultiService):
    """An agent whose settings are known only once the sandbox beside it listens."""

    def __init__(self, begin: Callable[[MultiService], None]) -> None:
        super().__init__()
        self._begin = begin

    def startService(self) -> None:
        super().startService()
        self._begin(self)


def say_early(reactor: Any, options: Mapping[str, Any], around: Surroundings, error: FatalError) -> None:
    """
    Say why there is no agent, where there is no log yet either: a record as the log would write it.

    In plain text on stderr for people: at a terminal, with C{--sandbox}, or where they want the log so.
    """
    wanted = options["log-format"] or around.environ.get("PIPEOPS_LOGGING_FORMAT", "")
    person = options["sandbox"] or (sys.__stdout__ is not None and sys.__stdout__.isatty())
    if wanted == "text" or (person and wanted != "json"):
        sys.stderr.write(f"{error.sentence}\n")
        return
    log = AgentLog(LogConfig(), reactor, Redactor())
    fields: dict[str, Any] = {"error": error.sentence}
    if isinstance(error, SettingsError):
        fields["problems"] = [str(problem) for problem in error.problems]
    Logger(namespace="settings", observer=log.observer).critical("{error}", **fields)
    log.close()


def launch(reactor: Any, options: Mapping[str, Any], around: Surroundings) -> MultiService:
    """
    The service for C{options}.

    @raise SettingsError: the settings can't be used.
    @raise FatalError: it can't be done here.
    """
    process = Process(reactor)
    if options["sandbox"]:
        return _launch_sandbox(reactor, options, around, process)
    loaded = around.load_to_run(options)
    log = _make_log(reactor, loaded)
    top = TopService(reactor, log, process.end)
    _add_agent(top, reactor, loaded, log, around, process, reload=lambda: around.load_to_run(options))
    return top


def _make_log(reactor: Any, loaded: Loaded) -> AgentLog:
    try:
        return AgentLog(_log_config(loaded.settings), reactor, Redactor())
    except OSError as error:
        output = loaded.settings.logging.output
        sentence = f"can't write the log to {output}: {error.strerror} (logging.output)"
        raise FatalError(sentence, ExitStatus.CONFIG) from error


def _log_config(settings: Settings) -> LogConfig:
    logging = settings.logging
    return LogConfig(level=logging.level, format=logging.format, output=logging.output, levels=logging.levels)


def _add_agent(
    parent: MultiService,
    reactor: Any,
    loaded: Loaded,
    log: AgentLog,
    around: Surroundings,
    process: Process,
    **how: Any,
) -> None:
    """Make the agent and what listens to signals for it, as children of C{parent}."""
    agent = Agent(reactor, loaded, log, around.host(), end=lambda error: process.end(error.status), **how)
    Signals(process, agent).setServiceParent(parent)
    agent.setServiceParent(parent)


def _launch_sandbox(
    reactor: Any, options: Mapping[str, Any], around: Surroundings, process: Process
) -> MultiService:
    """The agent and a control plane of its own, in one process."""
    if around.in_pod:
        sentence = "--sandbox is for a laptop: it refuses to run in a Kubernetes pod"
        raise FatalError(sentence, ExitStatus.CONFIG)

    def load(**overrides: Any) -> Loaded:
        overrides["pipeops.proxy"] = "none"  # all of it is on loopback, whatever the environment names
        return around.load(options, ignore=SANDBOX_IGNORES, overrides=overrides, token_required=False)

    first = load()
    person = {"logging.format": "text"} if first.origins["logging.format"] is DEFAULT else {}
    loaded = load(**person)
    log = _make_log(reactor, loaded)
    sandbox = SandboxService(reactor, SandboxSettings(stand_ins=True), utc_now)
    port = _free_port() if loaded.origins["server.port"] is DEFAULT else loaded.settings.server.port

    def load_beside() -> Loaded:
        return load(**person, **_overrides(sandbox, loaded, port))

    top = TopService(reactor, log, process.end)
    sandbox.setServiceParent(top)

    def begin(parent: MultiService) -> None:
        for path, origin in loaded.ignored:
            _log.warn("--sandbox pays no attention to {setting} ({origin})", setting=path, origin=str(origin))
        log.redactor.learn(sandbox.token)
        _add_agent(
            parent,
            reactor,
            load_beside(),
            log,
            around,
            process,
            reload=load_beside,
            store=MemoryStateStore(),
        )

    SandboxedAgent(begin).setServiceParent(top)
    return top


def _overrides(sandbox: SandboxService, loaded: Loaded, port: int) -> dict[str, Any]:
    """What ties the agent to C{sandbox}; forwards that somebody has configured are kept."""
    overrides: dict[str, Any] = {
        "pipeops.api_url": sandbox.api_url,
        "pipeops.token": sandbox.token,
        "tunnel.allow_insecure": True,
        "server.port": port,
    }
    if loaded.origins["tunnel.forwards"] is DEFAULT and sandbox.stand_ins is not None:
        addresses = {
            "kubernetes-api": sandbox.stand_ins.kubernetes_api,
            "kubelet-metrics": sandbox.stand_ins.kubelet,
            "agent-http": ("127.0.0.1", port),
        }
        overrides["tunnel.forwards"] = tuple(
            msgspec.structs.replace(forward, local_addr="{}:{}".format(*addresses[forward.name]))
            for forward in loaded.settings.tunnel.forwards
        )
    return overrides


def _free_port() -> int:
    """A port on loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
