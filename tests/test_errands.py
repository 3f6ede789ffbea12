"""Tests for L{pipeops_agent.errands}, with files in a temporary directory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent import sources
from pipeops_agent.clock import utc_now
from pipeops_agent.errands import Errand, check_config, reset_state, show_status
from pipeops_agent.errors import ExitStatus
from pipeops_agent.launch import Surroundings
from pipeops_agent.options import Options
from pipeops_agent.scheduling import as_deferred
from pipeops_agent.settings import SettingsError
from pipeops_agent.state import FileStateStore, State, kept_state_files
from tests.net.authority import Authority


class ErrandCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Path(self.mktemp()).resolve()
        self.home.mkdir(mode=0o700)
        self.system = self.home / "system"
        # Not the machine's own /var/lib/pipeops.
        self.patch(sources, "kept_state_files", partial(kept_state_files, system=self.system))

    def start(
        self, errand: Errand, *arguments: str, environ: Mapping[str, str] | None = None
    ) -> Deferred[tuple[str, ExitStatus]]:
        options = Options()
        options.parseOptions(arguments)
        around = Surroundings(environ or {}, self.home, self.home, os.getuid())
        return as_deferred(errand(MemoryReactorClock(), options, around))

    def run_errand(
        self, errand: Errand, *arguments: str, environ: Mapping[str, str] | None = None
    ) -> tuple[str, ExitStatus]:
        return self.successResultOf(self.start(errand, *arguments, environ=environ))

    def problems(self, errand: Errand, *arguments: str) -> int:
        """How many problems with the settings keep the errand from being run."""
        error = self.failureResultOf(self.start(errand, *arguments), SettingsError).value
        assert isinstance(error, SettingsError)
        return len(error.problems)


class ResetTests(ErrandCase):
    def setUp(self) -> None:
        super().setUp()
        self.environ = {"XDG_STATE_HOME": str(self.home / "xdg")}
        self.places = [
            self.system / "state.json",
            self.home / "xdg" / "pipeops" / "state.json",
            self.home / ".local" / "state" / "pipeops" / "state.json",
        ]

    def keep(self, path: Path, agent_id: str, cluster_id: str | None = None) -> None:
        """Have a state kept in C{path}."""
        store = FileStateStore(path, wall=utc_now)

        async def save() -> None:
            stored = await store.load()
            await store.save(State(agent_id=agent_id, cluster_id=cluster_id), stored.version)

        self.successResultOf(Deferred.fromCoroutine(save()))

    def reset(self, *arguments: str) -> tuple[str, ExitStatus]:
        return self.run_errand(reset_state, "--reset-state", *arguments, environ=self.environ)

    def test_nothing_to_forget(self) -> None:
        """That is no failure."""
        self.assertEqual(self.reset(), ("there is no state to forget", ExitStatus.OK))

    def test_one(self) -> None:
        """It is said who was forgotten, and where a copy is."""
        self.keep(self.places[1], "agent-one", "cluster-one")
        text, status = self.reset()
        self.assertEqual(status, ExitStatus.OK)
        self.assertEqual(
            text,
            "forgotten: agent agent-one, cluster cluster-one;"
            f" a copy is kept beside the file {self.places[1]}",
        )
        self.assertFalse(self.places[1].exists())
        self.assertEqual(len(list(self.places[1].parent.glob("state.json.reset-*"))), 1)

    def test_everywhere(self) -> None:
        """A state of earlier days, in a place that is not used now, would be found next: it goes as well."""
        for number, place in enumerate(self.places):
            self.keep(place, f"agent-{number}")
        text, status = self.reset()
        self.assertEqual(status, ExitStatus.OK)
        self.assertEqual(
            [line.split(",")[0] for line in text.splitlines()],
            [f"forgotten: agent agent-{n}" for n in range(3)],
        )
        self.assertEqual([place.exists() for place in self.places], [False] * 3)
        self.assertEqual(self.reset()[0], "there is no state to forget")

    def test_named_file(self) -> None:
        """A file that the settings name is the only one that is looked at."""
        named = self.home / "mine.json"
        self.keep(named, "agent-mine")
        self.keep(self.places[1], "agent-other")
        text, _ = self.reset("--state-file", str(named))
        self.assertIn("agent-mine", text)
        self.assertEqual((named.exists(), self.places[1].exists()), (False, True))

    def test_of_a_newer_agent(self) -> None:
        """What this agent can't understand can be forgotten all the same: its advice says to do so."""
        self.keep(self.places[0], "agent-new")
        content = json.loads(self.places[0].read_text())
        (version,) = (key for key, value in content.items() if isinstance(value, int))
        self.places[0].write_text(json.dumps({**content, version: 999}))
        text, status = self.reset()
        self.assertEqual(status, ExitStatus.OK)
        self.assertIn("forgotten: what could not be read", text)
        self.assertFalse(self.places[0].exists())

    def test_damaged(self) -> None:
        """A damaged one is set aside, and said."""
        self.keep(self.places[0], "agent-one")
        self.places[0].write_text("{")
        text, status = self.reset()
        self.assertEqual(status, ExitStatus.OK)
        self.assertIn("was damaged", text)
        self.assertFalse(self.places[0].exists())

    def test_can_not(self) -> None:
        """One that can't be forgotten is named, the others are forgotten, and the status tells."""
        self.places[0].mkdir(parents=True)
        (self.places[0].parent / "state.json.lock").mkdir()
        self.keep(self.places[1], "agent-one")
        text, status = self.reset()
        self.assertEqual(status, ExitStatus.FAILURE)
        first, second = text.splitlines()
        self.assertIn(f"the file {self.places[0]} was not reset: ", first)
        self.assertIn("forgotten: agent agent-one", second)

    def test_needs_no_token(self) -> None:
        """Nor does anything else of the settings matter, as long as they can be read."""
        self.assertEqual(self.reset()[1], ExitStatus.OK)
        self.assertEqual(self.problems(reset_state, "--reset-state", "--port", "none"), 1)


class CheckConfigTests(ErrandCase):
    def test_report(self) -> None:
        """Every setting, and where it comes from."""
        text, status = self.run_errand(
            check_config, "--check-config", "--port", "1234", environ={"PIPEOPS_TOKEN": "a-token-of-a-test"}
        )
        self.assertEqual(status, ExitStatus.OK)
        self.assertRegex(text, r"\nserver\.port +1234 +option --port\n")
        self.assertNotIn("a-token-of-a-test", text)

    def test_wrong(self) -> None:
        """Settings that can't be used are the caller's affair; a missing token is among them."""
        self.assertEqual(self.problems(check_config, "--check-config", "--port", "none"), 2)


class FilesTests(ErrandCase):
    """Files that the settings name are looked at before anything starts."""

    def file(self, name: str, content: bytes) -> str:
        path = self.home / name
        path.write_bytes(content)
        return str(path)

    def check(self, **variables: str) -> list[str]:
        """What is wrong."""
        environ = {"PIPEOPS_TOKEN": "a-token-of-a-test", **variables}
        if "PIPEOPS_TOKEN_FILE" in environ:
            del environ["PIPEOPS_TOKEN"]
        asked = self.start(check_config, "--check-config", environ=environ)
        error = self.failureResultOf(asked, SettingsError).value
        assert isinstance(error, SettingsError)
        self.assertEqual(error.status, ExitStatus.CONFIG)
        return [str(problem) for problem in error.problems]

    def test_good(self) -> None:
        """Files that can be used pass, and nothing of what is in them is shown."""
        authority = Authority()
        issued = authority.issue("agent")
        text, status = self.run_errand(
            check_config,
            "--check-config",
            environ={
                "PIPEOPS_TOKEN_FILE": self.file("token", b"the-token-in-the-file\n"),
                "PIPEOPS_TLS_CA_FILE": authority.write(self.home / "ca.pem"),
                "PIPEOPS_TLS_CERT_FILE": self.file("cert.pem", issued.certificate_pem),
                "PIPEOPS_TLS_KEY_FILE": self.file("key.pem", issued.key_pem()),
            },
        )
        self.assertEqual(status, ExitStatus.OK)
        self.assertNotIn("the-token-in-the-file", text)
        self.assertNotIn("BEGIN", text)

    def test_missing(self) -> None:
        """Each that is missing is named, with its setting, where that stands, and what to do; all at once."""
        missing = str(self.home / "missing")
        remedy = "mend that, or name another file"
        self.assertEqual(
            self.check(
                PIPEOPS_TOKEN_FILE=missing,
                PIPEOPS_TLS_CA_FILE=missing,
                PIPEOPS_TLS_CERT_FILE=missing,
                PIPEOPS_TLS_KEY_FILE=missing,
            ),
            [
                f"pipeops.token_file: {missing}: No such file or directory; {remedy}"
                " (variable PIPEOPS_TOKEN_FILE)",
                f"pipeops.tls.ca_file: CA file {missing}: No such file or directory; {remedy}"
                " (variable PIPEOPS_TLS_CA_FILE)",
                f"pipeops.tls.cert_file: certificate file {missing}: No such file or directory; {remedy}"
                " (variable PIPEOPS_TLS_CERT_FILE)",
            ],
        )

    def test_unusable(self) -> None:
        """What is there and is not what it should be is refused as well, and never quoted."""
        issued = Authority().issue("agent")
        secret = self.file("secret", b"hunter2 hunter2")
        certificate = self.file("cert.pem", issued.certificate_pem)
        for variables, problem in (
            ({"PIPEOPS_TOKEN_FILE": secret}, f"pipeops.token_file: {secret}: it holds more than a token"),
            ({"PIPEOPS_TOKEN_FILE": str(self.home)}, f"pipeops.token_file: {self.home}: Is a directory"),
            (
                {"PIPEOPS_TLS_CA_FILE": secret},
                f"pipeops.tls.ca_file: CA file {secret}: no certificate in PEM",
            ),
            (
                {"PIPEOPS_TLS_CERT_FILE": certificate, "PIPEOPS_TLS_KEY_FILE": secret},
                f"pipeops.tls.key_file: key file {secret}: no private key in PEM form",
            ),
        ):
            (said,) = self.check(**variables)
            self.assertTrue(said.startswith(problem), said)
            self.assertNotIn("hunter2", said)

    def test_not_together(self) -> None:
        """A key of another certificate is found before a server finds it."""
        authority = Authority()
        certificate = self.file("cert.pem", authority.issue("one").certificate_pem)
        key = self.file("key.pem", authority.issue("two").key_pem())
        (said,) = self.check(PIPEOPS_TLS_CERT_FILE=certificate, PIPEOPS_TLS_KEY_FILE=key)
        self.assertIn(f"the certificate in {certificate} and the key in {key} do not belong together", said)

    def test_not_looked_at(self) -> None:
        """The errands that need none of the files don't fail for them; C{--sandbox} ignores the token's."""
        missing = {"PIPEOPS_TOKEN_FILE": str(self.home / "missing")}
        text, _ = self.run_errand(reset_state, "--reset-state", environ=missing)
        self.assertEqual(text, "there is no state to forget")


class StatusTests(ErrandCase):
    def test_asks_where_the_settings_say(self) -> None:
        """The address of the settings is connected to; no token is needed for that."""
        reactor = MemoryReactorClock()
        options = Options()
        options.parseOptions(["--status", "--port", "1234"])
        around = Surroundings({}, self.home, self.home, os.getuid())
        asking = Deferred.fromCoroutine(show_status(reactor, options, around))
        self.assertEqual([connection[:2] for connection in reactor.tcpClients], [("127.0.0.1", 1234)])
        reactor.advance(60)
        text, status = self.successResultOf(asking)
        self.assertEqual(status, ExitStatus.FAILURE)
        self.assertIn("127.0.0.1:1234 does not answer", text)
