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
