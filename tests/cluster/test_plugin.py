"""Tests of L{pipeops_agent.cluster.plugin}: credentials from a program."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from pipeops_agent.cluster.config import Credential
from pipeops_agent.cluster.errors import Misconfigured
from pipeops_agent.cluster.kubeconfig import ExecPlugin
from pipeops_agent.cluster.plugin import DEADLINE, LEAST, MAX_OUTPUT, PluginCredentials
from pipeops_agent.secrets import Secret
from tests.peers.processes import real_reactor

V1 = "client.authentication.k8s.io/v1"
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
TOKEN = "plugin-token-that-nobody-may-see"


class Program:
    """One run of a program (L{twisted.internet.interfaces.IProcessTransport}, as far as is needed)."""

    def __init__(self, protocol: ProcessProtocol, command: list[str], environ: dict[str, str]) -> None:
        self.command = command
        self.environ = environ
        self.signals: list[str] = []
        self.stdin = True
        self._protocol = protocol
        self._over = False

    def closeStdin(self) -> None:  # noqa: N802  # Twisted's name
        self.stdin = False

    def signalProcess(self, name: str) -> None:  # noqa: N802  # Twisted's name
        if self._over:
            raise ProcessExitedAlready
        self.signals.append(name)

    def write(self, data: bytes, descriptor: int = 1) -> None:
        """Let it write."""
        self._protocol.childDataReceived(descriptor, data)

    def end(self, status: int | None = 0) -> None:
        """Let it end; None: by a signal."""
        self._over = True
        reason = ProcessDone(0) if status == 0 else ProcessTerminated(status, None if status else 9)
        self._protocol.processEnded(Failure(reason))


class Programs(Clock):
    """Starts programs that do what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Program] = []
        self.problem: OSError | None = None

    def spawnProcess(  # noqa: N802  # Twisted's name
        self, protocol: ProcessProtocol, executable: str, args: list[str], env: dict[str, str]
    ) -> Program:
        if self.problem is not None:
            raise self.problem
        program = Program(protocol, [executable, *args[1:]], env)
        self.runs.append(program)
        protocol.makeConnection(program)
        return program


def said(api_version: str = V1, kind: str = "ExecCredential", **status: Any) -> bytes:
    """What a plugin writes."""
    return json.dumps({"apiVersion": api_version, "kind": kind, "status": status or None}).encode()


class PluginCase(SynchronousTestCase):
    """A plugin whose runs the test leads."""

    def setUp(self) -> None:
        self.reactor = Programs()
        self.credentials = self.make()

    def make(self, **plugin: Any) -> PluginCredentials:
        programs: Any = self.reactor
        return PluginCredentials(
            programs,
            ExecPlugin(**{"api_version": V1, "command": "login", **plugin}),
            Path("/etc/kube"),
            environ={"PATH": "/bin", "HOME": "/root", "PIPEOPS_TOKEN": "the-agents", "HTTPS_PROXY": "x"},
            wall=lambda: NOON + timedelta(seconds=self.reactor.seconds()),
        )

    def tearDown(self) -> None:
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    @property
    def run_(self) -> Program:
        """The last run."""
        return self.reactor.runs[-1]

    def ask(self) -> Deferred[Credential]:
        return Deferred.fromCoroutine(self.credentials.current())

    def got(self, output: bytes) -> Credential:
        """What is got where the program writes this."""
        asked = self.ask()
        self.run_.write(output)
        self.run_.end()
        found: Credential = self.successResultOf(asked)
        return found

    def refused(self, asked: Deferred[Credential]) -> str:
        sentence = self.failureResultOf(asked, Misconfigured).value.sentence
        self.assertNotIn(TOKEN, sentence)
        return str(sentence)


class RunTests(PluginCase):
    """Programs that do as they should."""

    def test_token(self) -> None:
        """Its token is the credential, and holds until it runs out, a minute early."""
        ends = (NOON + timedelta(seconds=600)).isoformat()
        found = self.got(said(token=TOKEN, expirationTimestamp=ends))
        self.assertEqual(found, Credential(token=Secret(TOKEN)))
        self.reactor.advance(539)
        self.assertEqual(self.successResultOf(self.ask()), found)
        self.assertEqual(len(self.reactor.runs), 1)
        self.reactor.advance(1)
        self.assertEqual(self.got(said(token="next")), Credential(token=Secret("next")))
        self.reactor.advance(10**6)
        self.successResultOf(self.ask())
        self.assertEqual(len(self.reactor.runs), 2)

    def test_wrong_clock(self) -> None:
        """A clock ten minutes ahead makes it run again and again, but not with each call."""
        self.got(said(token=TOKEN, expirationTimestamp=(NOON - timedelta(seconds=300)).isoformat()))
        self.reactor.advance(LEAST.total_seconds() - 1)
        self.assertEqual(self.successResultOf(self.ask()).token, Secret(TOKEN))
        self.reactor.advance(1)
        self.assertEqual(self.got(said(token="next")).token, Secret("next"))

    def test_certificate(self) -> None:
        """So is a certificate with its key."""
        found = self.got(said(clientCertificateData="CERT", clientKeyData="KEY"))
        self.assertEqual(found, Credential(certificate=b"CERT", key=Secret("KEY")))

    def test_started(self) -> None:
        """With its arguments, no standard input, and of the agent's environment only what is harmless."""
        self.credentials = self.make(
            command="./login",
            args=("--cluster", "shop"),
            env=(ExecPlugin.Variable("REGION", "eu"),),
        )
        self.got(said(token=TOKEN))
        self.assertEqual(self.run_.command, ["/etc/kube/login", "--cluster", "shop"])
        self.assertFalse(self.run_.stdin)
        environ = dict(self.run_.environ)
        info = json.loads(environ.pop("KUBERNETES_EXEC_INFO"))
        self.assertEqual(environ, {"PATH": "/bin", "HOME": "/root", "REGION": "eu"})
        self.assertEqual(info, {"apiVersion": V1, "kind": "ExecCredential", "spec": {"interactive": False}})

    def test_cluster_info(self) -> None:
        """Where it asks for it, it is told of the cluster."""
        self.credentials = self.make(provide_cluster_info=True, cluster_info={"server": "https://h:1"})
        self.got(said(token=TOKEN))
        info = json.loads(self.run_.environ["KUBERNETES_EXEC_INFO"])
        self.assertEqual(info["spec"], {"interactive": False, "cluster": {"server": "https://h:1"}})

    def test_looked_up(self) -> None:
        """A bare name is looked up in PATH."""
        self.got(said(token=TOKEN))
        self.assertEqual(self.run_.command, ["login"])

    def test_at_once(self) -> None:
        """Several that ask at once are answered by one run; one that gives up takes it from nobody."""
        first, second = self.ask(), self.ask()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.run_.write(said(token=TOKEN))
        self.run_.end()
        self.assertEqual(self.successResultOf(second), Credential(token=Secret(TOKEN)))
        self.assertEqual(len(self.reactor.runs), 1)

    def test_refused_by_the_server(self) -> None:
        """After a 401 it is run again; where there was nothing to refuse, that is no use."""
        self.assertFalse(self.credentials.refused())
        self.got(said(token=TOKEN))
        self.assertTrue(self.credentials.refused())
        self.assertEqual(self.got(said(token="next")).token, Secret("next"))


class TroubleTests(PluginCase):
    """Programs that don't."""

    def test_output(self) -> None:
        """What it writes is none of what it should: said, and not quoted."""
        for output, words in (
            (b"", "no ExecCredential"),
            (TOKEN.encode(), "no ExecCredential"),
            (b"\xff", "no ExecCredential"),
            (b'{"apiVersion":"\xff"}', "no ExecCredential"),
            (b"[" * 100_000, "no ExecCredential"),
            (said(token=[TOKEN]), "no ExecCredential"),
            (
                said(api_version="client.authentication.k8s.io/v1beta1", token=TOKEN),
                f"no ExecCredential of {V1}",
            ),
            (said(kind="Token", token=TOKEN), f"no ExecCredential of {V1}"),
            (said(), "neither a token nor a certificate"),
            (said(clientCertificateData="CERT"), "neither a token nor a certificate"),
        ):
            asked = self.ask()
            self.run_.write(output)
            self.run_.end()
            self.assertIn(
                f"exec login: its output {'is' if 'no' in words[:2] else 'has'} {words}", self.refused(asked)
            )

    def test_fails(self) -> None:
        """Its status and the last line of its complaint are told, and what would help."""
        self.credentials = self.make(install_hint="get it\x1b")
        asked = self.ask()
        self.run_.write(b"starting\nnot signed in\n", 2)
        self.run_.end(3)
        self.assertEqual(self.refused(asked), "exec login: it ended with status 3: not signed in (get it)")

    def test_killed(self) -> None:
        """One that a signal ends has no status."""
        asked = self.ask()
        self.run_.end(None)
        self.assertIn("status -1", self.refused(asked))

    def test_hangs(self) -> None:
        """One that does not end is killed in time, and asked again with the next call."""
        asked = self.ask()
        self.reactor.advance(DEADLINE)
        self.assertIn(f"did not end within {DEADLINE:g} s", self.refused(asked))
        self.assertEqual(self.run_.signals[-1], "KILL")
        self.assertEqual(self.got(said(token=TOKEN)).token, Secret(TOKEN))

    def test_too_much(self) -> None:
        """One that writes without an end is killed, whichever output it is."""
        for descriptor in (1, 2):
            asked = self.ask()
            self.run_.write(b"x" * (MAX_OUTPUT + 1), descriptor)
            self.assertEqual(self.run_.signals, ["KILL"])
            self.run_.end(None)
            self.assertIn(f"writes more than {MAX_OUTPUT} bytes", self.refused(asked))

    def test_not_there(self) -> None:
        """One that can't be started."""
        self.reactor.problem = FileNotFoundError(2, "No such file or directory")
        self.assertEqual(
            self.refused(self.ask()), "exec login: it can't be started: No such file or directory"
        )

    def test_unusable(self) -> None:
        """What can't work is refused before anything is run."""
        for plugin, words in (
            ({"api_version": "client.authentication.k8s.io/v1alpha1"}, "apiVersion"),
            ({"interactive_mode": "Always"}, "a person at a terminal"),
        ):
            with self.assertRaises(Misconfigured) as caught:
                self.make(**plugin)
            self.assertIn(words, str(caught.exception))


class ProcessTests(TestCase):
    """A real program, and processes."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    async def test_script(self) -> None:
        """A script beside the kubeconfig is run, and told of the cluster."""
        directory, reactor = self.directory, cast(Any, real_reactor())
        script = directory / "login"
        script.write_text(
            '#!/bin/sh\ncase "$KUBERNETES_EXEC_INFO" in *https://h:1*) ;; *) exit 4;; esac\n'
            f"printf '%s' '{said(token=TOKEN).decode()}'\n"
        )
        script.chmod(0o700)
        plugin = ExecPlugin(api_version=V1, command="./login", cluster_info={"server": "https://h:1"})
        credentials = PluginCredentials(
            reactor,
            plugin,
            directory,
            environ={},
            wall=lambda: NOON,
        )
        self.assertEqual(await credentials.current(), Credential(token=Secret(TOKEN)))
