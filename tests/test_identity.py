"""Tests for L{pipeops_agent.identity}."""

from __future__ import annotations

import re
import secrets

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.identity import cluster_agent_id, establish, new_agent_id
from pipeops_agent.secrets import Secret
from pipeops_agent.state import Conflict, MemoryStateStore, State, Stored, Unavailable

UID = "0d7c9a52-3a39-4d3c-9f0b-5a4a1b6e7f10"
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def counting(size: int) -> bytes:
    """Bytes as random as a test can use."""
    return bytes(range(size))


async def made() -> str:
    """Make an id."""
    return "made"


class NewAgentIdTests(SynchronousTestCase):
    """The id on a host of its own."""

    def test_form(self) -> None:
        """The id is made of the host's name and of random digits."""
        self.assertEqual(new_agent_id("web1", counting), "agent-web1-000102030405")

    def test_two_of_one_name(self) -> None:
        """Cloned hosts, which have the same name, get different ids."""
        self.assertNotEqual(
            new_agent_id("localhost", secrets.token_bytes), new_agent_id("localhost", secrets.token_bytes)
        )

    def test_odd_hostnames(self) -> None:
        """What a DNS label can't hold is replaced; nothing left over is named host."""
        for hostname, label in {
            "Web1.Example.COM": "web1-example-com",
            "db_main": "db-main",
            "-x-": "x",
            "a..b": "a-b",
            "bücher": "bucher",
            "数据库": "host",
            "": "host",
            "...": "host",
            "a\nb": "a-b",
        }.items():
            self.assertEqual(new_agent_id(hostname, counting), f"agent-{label}-000102030405")

    def test_long_hostname(self) -> None:
        """The digits survive a name that has to be cut, and the cut leaves no two dashes."""
        self.assertEqual(
            new_agent_id("h" * 43 + "-" + "x" * 200, counting), "agent-" + "h" * 43 + "-000102030405"
        )
        self.assertEqual(len(new_agent_id("h" * 200, counting)), 63)

    @given(st.text())
    def test_always_a_label(self, hostname: str) -> None:
        """Whatever the host is called, the id is a DNS label."""
        self.assertTrue(LABEL.fullmatch(new_agent_id(hostname, counting)))


class ClusterAgentIdTests(SynchronousTestCase):
    """The id in a cluster."""

    def test_form(self) -> None:
        """The digits are those of SHA-256 over UID and namespace; they must never change."""
        self.assertEqual(
            cluster_agent_id("Production Cluster", UID, "pipeops-system"),
            "agent-production-cluster-e9bc49c20fc8",
        )

    def test_lost_secret(self) -> None:
        """The same cluster and namespace give the same id again."""
        self.assertEqual(cluster_agent_id("c", UID, "n"), cluster_agent_id("c", UID, "n"))

    def test_distinct(self) -> None:
        """Another cluster of the same name, or another namespace in it, gives another id."""
        ids = {
            cluster_agent_id("c", UID, "n"),
            cluster_agent_id("c", UID, "m"),
            cluster_agent_id("c", UID[:-1] + "1", "n"),
            cluster_agent_id("d", UID, "n"),
        }
        self.assertEqual(len(ids), 4)

    def test_unknown_cluster(self) -> None:
        """Without a UID or a namespace there is no id: it would be the same everywhere."""
        with self.assertRaises(ValueError):
            cluster_agent_id("c", "", "n")
        with self.assertRaises(ValueError):
            cluster_agent_id("c", UID, "")


class RacingStore(MemoryStateStore):
    """A store in which another replica is faster, C{races} times."""

    def __init__(self, races: int) -> None:
        super().__init__()
        self.races = races

    async def save(self, state: State, version: str) -> Stored:
        if self.races:
            self.races -= 1
            await super().save(State(agent_id=f"theirs-{self.races}"), version)
        return await super().save(state, version)


class EstablishTests(SynchronousTestCase):
    """From the store to an identity."""

    def establish(self, store: MemoryStateStore, configured: str = "") -> Stored:
        stored: Stored = self.successResultOf(establish(store, configured=configured, make=made))
        return stored

    def load(self, store: MemoryStateStore) -> Stored:
        stored: Stored = self.successResultOf(store.load())
        return stored

    def test_first_start(self) -> None:
        """Where nothing is stored an id is made, and stored before it is returned."""
        store = MemoryStateStore()
        stored = self.establish(store)
        self.assertEqual(stored.state, State(agent_id="made"))
        self.assertEqual(self.load(store), stored)

    def test_restart(self) -> None:
        """What is stored is used, all of it."""
        state = State(agent_id="kept", cluster_id="c", cluster_token=Secret("t"))
        store = MemoryStateStore(state)
        self.assertEqual(self.establish(store), self.load(store))
        self.assertEqual(self.establish(store).state, state)

    def test_configured_at_first(self) -> None:
        """The settings' id goes before a made one, and is stored."""
        store = MemoryStateStore()
        self.assertEqual(self.establish(store, "mine").state, State(agent_id="mine"))
        self.assertEqual(self.load(store).state, State(agent_id="mine"))

    def test_configured_later(self) -> None:
        """The settings' id replaces a stored one, with a warning that names both; the cluster is kept."""
        store = MemoryStateStore(State(agent_id="kept", cluster_id="c"))
        with capturedLogs() as records:
            stored = self.establish(store, "mine")
        self.assertEqual(stored.state, State(agent_id="mine", cluster_id="c"))
        self.assertEqual([record["log_level"] for record in records], [LogLevel.warn])
        self.assertEqual((records[0]["agent_id"], records[0]["stored_id"]), ("mine", "kept"))
        with capturedLogs() as records:
            self.establish(store, "mine")
        self.assertEqual(records, [])

    def test_unavailable(self) -> None:
        """A store that can't be read is not an empty one: no id is made."""
        store = MemoryStateStore()
        store.broken = "away"

        async def make() -> str:
            self.fail("an id was made")

        self.failureResultOf(establish(store, configured="", make=make), Unavailable)
        self.failureResultOf(establish(store, configured="mine", make=make), Unavailable)
        store.broken = None
        self.assertIsNone(self.load(store).state)

    def test_another_was_faster(self) -> None:
        """An id that another replica has stored meanwhile is used instead of ours."""
        self.assertEqual(self.establish(RacingStore(1)).state, State(agent_id="theirs-0"))

    def test_race_for_ever(self) -> None:
        """A store that changes under every attempt is an error, not a loop."""
        store = RacingStore(1000)
        self.failureResultOf(establish(store, configured="mine", make=made), Conflict)

    def test_damage_is_passed_on(self) -> None:
        """The note about damage that was set aside is not lost when a new identity is stored."""
        store = MemoryStateStore()
        store.content = b"{"
        with capturedLogs():
            stored = self.establish(store)
        self.assertIn("damaged", stored.note or "")
        self.assertEqual(stored.state, State(agent_id="made"))
