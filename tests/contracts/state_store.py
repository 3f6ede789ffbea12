"""
What every L{StateStore} must do, whatever it keeps the state in.

A store's tests mix L{StateStoreContract} into a C{TestCase} and say in the hooks how to get one, how a second
process sees the same, and how to break it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import TestCase

from pipeops_agent.secrets import Secret
from pipeops_agent.state import Conflict, State, StateStore, Unavailable, encode_state

TOKEN = "cluster-token-that-nobody-may-see"
STATE = State(
    agent_id="agent-web1-5f0c9b3a77de",
    cluster_id="550e8400-e29b-41d4-a716-446655440000",
    previous_cluster_id="00000000-0000-4000-8000-000000000001",
    cluster_token=Secret(TOKEN),
)
OTHER = State(agent_id="agent-web1-5f0c9b3a77de", cluster_id="7d444840-9dc0-11d1-b245-5ffdce74fad2")

# The contract is itself no test case, so that importing it adds no tests; the type checker sees one.
if TYPE_CHECKING:
    _Base = TestCase
else:
    _Base = object


class StateStoreContract(_Base):
    """The contract. Tests are coroutines, so that a store may take its time."""

    def make_store(self) -> StateStore:
        """A new object on the same storage each time: what another process, or the next start, would use."""
        raise NotImplementedError

    def put_raw(self, content: bytes) -> None:
        """Let the storage hold just C{content}, past the store."""
        raise NotImplementedError

    def raw(self) -> bytes | None:
        """What the storage holds; None: nothing."""
        raise NotImplementedError

    def kept_aside(self) -> list[bytes]:
        """The contents that were set aside."""
        raise NotImplementedError

    def break_storage(self) -> None:
        """Let the storage be unreadable and unwritable from now on."""
        raise NotImplementedError

    def mend_storage(self) -> None:
        """Take back L{break_storage}."""
        raise NotImplementedError

    async def test_new_is_empty(self) -> None:
        """Before the first save there is no state, and no note about any damage."""
        stored = await self.make_store().load()
        self.assertIsNone(stored.state)
        self.assertIsNone(stored.note)

    async def test_round_trip(self) -> None:
        """The next start finds all that was saved, the token included."""
        store = self.make_store()
        await store.save(STATE, (await store.load()).version)
        found = await self.make_store().load()
        self.assertEqual(found.state, STATE)
        assert found.state is not None
        assert found.state.cluster_token is not None
        self.assertEqual(found.state.cluster_token.reveal(), TOKEN)

    async def test_unset_fields(self) -> None:
        """What is not known before the registration is not known after a restart either."""
        state = State(agent_id="agent-ü-1")
        store = self.make_store()
        await store.save(state, (await store.load()).version)
        self.assertEqual((await self.make_store().load()).state, state)

    async def test_version_after_save(self) -> None:
        """Saving returns the version that the next loading returns, and that the next saving needs."""
        store = self.make_store()
        first = await store.save(STATE, (await store.load()).version)
        self.assertEqual(first, await store.load())
        second = await store.save(OTHER, first.version)
        self.assertNotEqual(first.version, second.version)
        self.assertEqual((await store.load()).state, OTHER)

    async def test_conflict(self) -> None:
        """Of two that have read the same, the second to write learns that it was not the first."""
        mine, theirs = self.make_store(), self.make_store()
        version = (await mine.load()).version
        await theirs.save(OTHER, (await theirs.load()).version)
        with self.assertRaises(Conflict):
            await mine.save(STATE, version)
        self.assertEqual((await mine.load()).state, OTHER)

    async def test_conflict_on_later_change(self) -> None:
        """A version that was replaced meanwhile is refused as well as that of emptiness."""
        mine, theirs = self.make_store(), self.make_store()
        old = await mine.save(STATE, (await mine.load()).version)
        await theirs.save(OTHER, old.version)
        with self.assertRaises(Conflict):
            await mine.save(STATE, old.version)

    async def test_after_conflict(self) -> None:
        """Loading again settles a conflict."""
        mine, theirs = self.make_store(), self.make_store()
        version = (await mine.load()).version
        await theirs.save(OTHER, version)
        with self.assertRaises(Conflict):
            await mine.save(STATE, version)
        await mine.save(STATE, (await mine.load()).version)
        self.assertEqual((await theirs.load()).state, STATE)

    async def test_reset(self) -> None:
        """After a reset there is no state; the old one is kept aside, and a new one can be saved."""
        store = self.make_store()
        saved = await store.save(STATE, (await store.load()).version)
        await store.reset()
        empty = await store.load()
        self.assertIsNone(empty.state)
        self.assertEqual(self.kept_aside(), [encode_state(STATE)])
        with self.assertRaises(Conflict):
            await store.save(OTHER, saved.version)
        await store.save(OTHER, empty.version)
        self.assertEqual((await self.make_store().load()).state, OTHER)

    async def test_reset_of_nothing(self) -> None:
        """A reset where nothing is stored does nothing, however often."""
        store = self.make_store()
        await store.reset()
        await store.reset()
        self.assertIsNone((await store.load()).state)
        self.assertEqual(self.kept_aside(), [])

    async def test_unavailable_is_not_empty(self) -> None:
        """What can't be read is not taken for empty; as soon as it can, the state is there as before."""
        store = self.make_store()
        saved = await store.save(STATE, (await store.load()).version)
        self.break_storage()
        for attempt in (
            store.load(),
            self.make_store().load(),
            store.save(OTHER, saved.version),
            store.reset(),
        ):
            with self.assertRaises(Unavailable) as caught:
                await attempt
            self.assertNotEqual(str(caught.exception), "")
        self.mend_storage()
        self.assertEqual(await store.load(), saved)
        self.assertEqual(self.kept_aside(), [])

    async def test_damage(self) -> None:
        """
        Damaged content is set aside as it is and reported, in the log and in the note; neither quotes it.
        The store is empty from then on, and can be used.
        """
        damages = [
            b"",
            b"\0" * 100,
            encode_state(STATE)[:-20],
            b"[]",
            b'{"format": 1}',
            b'{"format": 1, "agent_id": ""}',
            b'{"format": 1, "agent_id": "a\\nb"}',
            b'{"format": 1, "agent_id": "a", "cluster_id": 7}',
            b'{"format": 0, "agent_id": "a"}',
            b'{"agent_id": "a"}',
            b'{"format": 1, "agent_id": "\xff' + TOKEN.encode() + b'"}',
            b'"' + TOKEN.encode() * 4096 + b'"',
            b"[" * 60_000,
        ]
        for number, damage in enumerate(damages, 1):
            self.put_raw(damage)
            with capturedLogs() as records:
                stored = await self.make_store().load()
            self.assertIsNone(stored.state, damage[:40])
            assert stored.note is not None
            self.assertNotIn(TOKEN, stored.note)
            # Below a warning is what Twisted says of connections.
            levels = [level for record in records if (level := record["log_level"]) >= LogLevel.warn]
            self.assertEqual(levels, [LogLevel.error])
            self.assertNotIn(TOKEN, repr(records))
            self.assertIn(damage, self.kept_aside())
            self.assertEqual(len(self.kept_aside()), number)
            self.assertIsNone((await self.make_store().load()).note, "reported once only")
        store = self.make_store()
        await store.save(STATE, (await store.load()).version)
        self.assertEqual((await self.make_store().load()).state, STATE)
        self.assertEqual(len(self.kept_aside()), len(damages))

    async def test_damage_is_never_overwritten(self) -> None:
        """Content that became damaged after it was read is not overwritten by a save."""
        store = self.make_store()
        saved = await store.save(STATE, (await store.load()).version)
        damage = encode_state(STATE)[:30]
        self.put_raw(damage)
        with self.assertRaises(Conflict):
            await store.save(OTHER, saved.version)
        self.assertEqual(self.raw(), damage)

    async def test_newer_format(self) -> None:
        """What a newer agent wrote is neither taken for damaged nor touched: the upgrade needs it."""
        content = b'{"format": 2, "who": "agent-web1-5f0c9b3a77de"}'
        self.put_raw(content)
        store = self.make_store()
        with self.assertRaises(Unavailable):
            await store.load()
        self.assertEqual(self.raw(), content)
        self.assertEqual(self.kept_aside(), [])

    async def test_unknown_members(self) -> None:
        """Members that a later agent has added do not keep this one from its state."""
        self.put_raw(b'{"format": 1, "agent_id": "agent-a-1", "favourite_colour": "blue"}')
        self.assertEqual((await self.make_store().load()).state, State(agent_id="agent-a-1"))

    async def test_unstorable(self) -> None:
        """A state that could not be read back is refused before anything is written, without being quoted."""
        store = self.make_store()
        version = (await store.load()).version
        unstorable = [
            State(agent_id=""),
            State(agent_id="agent-1\n"),
            State(agent_id="a", cluster_id="x" * 513),
            State(agent_id="a", cluster_token=Secret("\udc80" + TOKEN)),
            State(agent_id="a", cluster_token=Secret(TOKEN * 4096)),
        ]
        for state in unstorable:
            with self.assertRaises(ValueError) as caught:
                await store.save(state, version)
            self.assertNotIn(TOKEN, repr(caught.exception))
            self.assertIsNone(caught.exception.__cause__)
        self.assertIsNone(self.raw())

    async def test_secrecy(self) -> None:
        """Neither the store's description nor what it returns shows the token; neither is empty."""
        store = self.make_store()
        stored = await store.save(STATE, (await store.load()).version)
        for shown in (store.describe(), repr(stored), str(stored), repr(store)):
            self.assertNotEqual(shown, "")
            self.assertNotIn(TOKEN, shown)
