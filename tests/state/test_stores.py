"""Tests for L{pipeops_agent.state}: the state, its stored form, and the stores against their contract."""

from __future__ import annotations

import errno
import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase, TestCase

from pipeops_agent.secrets import Secret
from pipeops_agent.state import (
    Damaged,
    FileStateStore,
    MemoryStateStore,
    NewerFormat,
    State,
    decode_state,
    encode_state,
)
from tests.contracts import state_store
from tests.contracts.state_store import STATE, TOKEN
from tests.state.support import BrokenDisk, wall


class StateTests(SynchronousTestCase):
    """What an answer to the registration makes of a state."""

    def test_first_registration(self) -> None:
        """The first answer fills in the cluster."""
        state = State(agent_id="a").registered_as("c1", Secret("t1"))
        self.assertEqual(state, State(agent_id="a", cluster_id="c1", cluster_token=Secret("t1")))

    def test_same_cluster(self) -> None:
        """The same cluster again changes nothing, or the token where one came."""
        state = State(agent_id="a", cluster_id="c1", previous_cluster_id="c0", cluster_token=Secret("t1"))
        self.assertEqual(state.registered_as("c1", None), state)
        renewed = state.registered_as("c1", Secret("t2"))
        self.assertEqual(renewed.cluster_token, Secret("t2"))
        self.assertEqual(renewed.previous_cluster_id, "c0")

    def test_other_cluster(self) -> None:
        """Another cluster replaces the one before, which is kept beside it; the old token is not."""
        state = State(agent_id="a", cluster_id="c1", previous_cluster_id="c0", cluster_token=Secret("t1"))
        self.assertEqual(
            state.registered_as("c2", None),
            State(agent_id="a", cluster_id="c2", previous_cluster_id="c1"),
        )

    def test_cluster_after_a_reset(self) -> None:
        """A previous cluster is not forgotten because the present one was not known."""
        state = State(agent_id="a", previous_cluster_id="c0")
        self.assertEqual(state.registered_as("c1", None).previous_cluster_id, "c0")


names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=512)
states = st.builds(
    State,
    agent_id=names,
    cluster_id=st.none() | names,
    previous_cluster_id=st.none() | names,
    cluster_token=st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(Secret),
)


class CodecTests(SynchronousTestCase):
    """The stored form."""

    @given(states)
    def test_round_trip(self, state: State) -> None:
        """What was stored is read back the same."""
        self.assertEqual(decode_state(encode_state(state)), state)

    @given(
        st.binary(max_size=200)
        | states.map(encode_state).flatmap(
            lambda whole: st.integers(0, len(whole) - 3).map(lambda n: whole[:n])
        )
    )
    def test_anything(self, content: bytes) -> None:
        """Any other bytes, a torn state among them, are damaged: no other error comes out."""
        try:
            decode_state(content)
        except (Damaged, NewerFormat):
            return
        self.assertIn("agent_id", json.loads(content))

    def test_stored_form(self) -> None:
        """The form on disk is fixed: the next version must read it."""
        self.assertEqual(
            json.loads(encode_state(STATE)),
            {
                "format": 1,
                "agent_id": "agent-web1-5f0c9b3a77de",
                "cluster_id": "550e8400-e29b-41d4-a716-446655440000",
                "previous_cluster_id": "00000000-0000-4000-8000-000000000001",
                "cluster_token": TOKEN,
            },
        )


class MemoryStateStoreTests(state_store.StateStoreContract, TestCase):
    """The store in memory keeps the contract."""

    def setUp(self) -> None:
        self.store = MemoryStateStore()

    def make_store(self) -> MemoryStateStore:
        return self.store

    def put_raw(self, content: bytes) -> None:
        self.store.content = content

    def raw(self) -> bytes | None:
        return self.store.content

    def kept_aside(self) -> list[bytes]:
        return self.store.set_aside

    def break_storage(self) -> None:
        self.store.broken = "no"

    def mend_storage(self) -> None:
        self.store.broken = None

    def test_initial(self) -> None:
        """A test may begin with a state."""
        self.assertEqual(self.successResultOf(MemoryStateStore(STATE).load()).state, STATE)


class FileStateStoreContractTests(state_store.StateStoreContract, TestCase):
    """The store in a file keeps the contract."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()) / "pipeops" / "state.json"
        self.disk = BrokenDisk()

    def make_store(self) -> FileStateStore:
        return FileStateStore(self.path, wall=wall, disk=self.disk)

    def put_raw(self, content: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(content)
        self.path.chmod(0o600)

    def raw(self) -> bytes | None:
        return self.path.read_bytes() if self.path.exists() else None

    def kept_aside(self) -> list[bytes]:
        kept = [*self.path.parent.glob("state.json.damaged-*"), *self.path.parent.glob("state.json.reset-*")]
        return [path.read_bytes() for path in kept]

    def break_storage(self) -> None:
        self.disk.error = errno.EIO

    def mend_storage(self) -> None:
        self.disk.error = None
