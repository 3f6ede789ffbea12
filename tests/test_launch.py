"""Tests for L{pipeops_agent.launch}, without a process of its own; C{tests.agent.test_twistd} has those."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from twisted.application.service import Application, IServiceCollection, MultiService, Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent import launch
from pipeops_agent.agent import Agent
from pipeops_agent.errors import ExitStatus, FatalError
from pipeops_agent.launch import Surroundings, TopService
from pipeops_agent.log import AgentLog, LogConfig, Redactor
from pipeops_agent.options import Options
from pipeops_agent.settings import SettingsError


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.home = Path(self.mktemp()).resolve()
        self.home.mkdir(mode=0o700)
        self.log_file = self.home / "log"

    def options(self, *arguments: str) -> Options:
        options = Options()
        options.parseOptions(["--log-output", str(self.log_file), *arguments])
        return options

    def around(self, environ: Mapping[str, str] | None = None) -> Surroundings:
        return Surroundings(environ or {}, self.home, self.home, os.getuid())

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]


class SurroundingsTests(Case):
    def test_this_process(self) -> None:
        """The real environment, directory and user."""
        around = Surroundings.of_this_process()
        self.assertIs(around.environ, os.environ)
        self.assertEqual((around.cwd, around.uid), (Path.cwd(), os.getuid()))

    def test_no_home(self) -> None:
        """A user without a home, as in some containers, has one that is not there."""

        def home() -> Path:
            raise RuntimeError("can't determine home directory")

        self.patch(Path, "home", home)
        self.assertEqual(Surroundings.of_this_process().home, Path("/nonexistent"))

    def test_pod(self) -> None:
        """Kubernetes sets a variable in each of its pods."""
        self.assertFalse(self.around().in_pod)
        self.assertTrue(self.around({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}).in_pod)

    def test_host(self) -> None:
        """What the agent takes of it: a name, and as many random bytes as asked for."""
        host = self.around().host()
        self.assertTrue(host.hostname)
        self.assertEqual(len(host.random_bytes(6)), 6)


class LaunchTests(Case):
    def launch(self, *arguments: str, **environ: str) -> MultiService:
        return launch.launch(self.reactor, self.options(*arguments), self.around(environ))

    def test_agent(self) -> None:
        """An agent, and who hears signals for it, which stops after the agent: SIGHUP must not kill it."""
        top = self.launch(PIPEOPS_TOKEN="a-token-of-a-test")
        signals, agent = top
        self.assertIsInstance(agent, Agent)
        self.assertIsInstance(signals, launch.Signals)

    def test_wrong_settings(self) -> None:
        """Everything that is wrong with them; nothing was started for that, and no log opened."""
        with self.assertRaises(SettingsError) as caught:
            self.launch("--port", "none")
        self.assertEqual(len(caught.exception.problems), 2)
        self.assertFalse(self.log_file.exists())

    def test_log_that_can_not_be_written(self) -> None:
        """Which file, why, and by which setting: status 78."""
        self.log_file.mkdir()
        with self.assertRaises(FatalError) as caught:
            self.launch(PIPEOPS_TOKEN="a-token-of-a-test")
        self.assertEqual(caught.exception.status, ExitStatus.CONFIG)
        expected = f"can't write the log to {self.log_file}: Is a directory (logging.output)"
        self.assertEqual(caught.exception.sentence, expected)

    def test_no_sandbox_in_a_pod(self) -> None:
        """There it might be taken for the real one."""
        with self.assertRaises(FatalError) as caught:
            self.launch("--sandbox", KUBERNETES_SERVICE_HOST="10.96.0.1")
        self.assertEqual(caught.exception.status, ExitStatus.CONFIG)

    def test_sandbox_without_proxies(self) -> None:
        """The sandbox is on loopback: what the environment says of proxies does not concern it."""
        self.launch("--sandbox", HTTPS_PROXY="ftp://no.proxy.at.all")


class Child(Service):
    """Notes what happens to it in C{done}."""

    def __init__(self, name: str, done: list[str], failure: Exception | None = None) -> None:
        self.title = name
        self.done = done
        self.failure = failure
        self.stopping: Deferred[None] = Deferred()

    def startService(self) -> None:
        super().startService()
        self.done.append(f"{self.title} starts")
        if self.failure is not None:
            raise self.failure

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self.done.append(f"{self.title} stops")
        return self.stopping


class TopServiceTests(Case):
    def setUp(self) -> None:
        super().setUp()
        self.log = AgentLog(LogConfig(output=str(self.log_file)), self.reactor, Redactor())
        self.addCleanup(self.log.close)
        self.ended: list[ExitStatus] = []
        self.done: list[str] = []
        self.top = TopService(self.reactor, self.log, self.ended.append)

    def observed(self, call: Callable[[], object]) -> None:
        """Make C{call} with the log in place."""
        globalLogPublisher.addObserver(self.log.observer)
        try:
            call()
        finally:
            globalLogPublisher.removeObserver(self.log.observer)

    def test_takes_the_log_over(self) -> None:
        """The application has our observer before twistd starts its log."""
        application: Any = Application("pipeops-agent")
        self.top.setServiceParent(application)
        self.assertIs(application.getComponent(ILogObserver), self.log.observer)
        self.assertEqual(list(IServiceCollection(application)), [self.top])

    def test_stops_one_after_the_other(self) -> None:
        """The last comes first; the log is closed when all have ended."""
        first, second = Child("first", self.done), Child("second", self.done)
        for child in (first, second):
            child.setServiceParent(self.top)
        self.top.startService()
        stopping = self.top.stopService()
        second.stopping.callback(None)
        self.assertNoResult(stopping)
        first.stopping.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(self.done, ["first starts", "second starts", "second stops", "first stops"])

    def test_does_not_wait_for_ever(self) -> None:
        """Children that don't end are left behind, all of them in less than five seconds."""
        for name in ("first", "second"):
            Child(name, self.done).setServiceParent(self.top)
        self.top.startService()
        stopping = self.top.stopService()
        self.observed(lambda: self.reactor.pump([0.1] * 49))
        self.successResultOf(stopping)
        self.assertEqual(self.done[2:], ["second stops", "first stops"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_child_that_says_why(self) -> None:
        """A child that can't be started for a known reason: one record, and that reason's status."""
        error = FatalError("there is no room", ExitStatus.CONFIG)
        Child("first", self.done, error).setServiceParent(self.top)
        self.observed(self.top.startService)
        self.assertEqual(self.ended, [ExitStatus.CONFIG])
        self.assertEqual([record["msg"] for record in self.records()], ["there is no room"])

    def test_child_that_fails(self) -> None:
        """Any other error ends the agent with 1, and is in the log instead of on twistd's terminal."""
        error = CannotListenError("127.0.0.1", 1, OSError("taken"))
        Child("first", self.done, error).setServiceParent(self.top)
        self.observed(self.top.startService)
        self.assertEqual(self.ended, [ExitStatus.FAILURE])
        self.assertEqual(len(self.flushLoggedErrors(CannotListenError)), 1)
        (record,) = self.records()
        self.assertIn("traceback", record)


class SignalsTests(Case):
    def test_while_running(self) -> None:
        """Both signals have handlers from start to stop, and the former ones afterwards."""
        handled: dict[signal.Signals, Callable[[], None]] = {}

        class Process:
            def handle(self, handlers: Mapping[signal.Signals, Callable[[], None]]) -> None:
                handled.update(handlers)

            def release(self) -> None:
                handled.clear()

        class Hearing:
            def __init__(self) -> None:
                self.heard: list[str] = []

            def reload(self) -> None:
                self.heard.append("reload")

            def reopen_log(self) -> None:
                self.heard.append("reopen")

        agent = Hearing()
        signals = launch.Signals(cast(Any, Process()), cast(Any, agent))
        signals.startService()
        handled[signal.SIGHUP]()
        handled[signal.SIGUSR1]()
        self.assertEqual(agent.heard, ["reload", "reopen"])
        signals.stopService()
        self.assertEqual(handled, {})
