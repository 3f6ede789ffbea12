"""Tests of L{pipeops_agent.cluster.secret_store}: the stores' contract, and what is peculiar to a Secret."""

from __future__ import annotations

import base64
from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from pipeops_agent.cluster.secret_store import KEY, MAX_DATA, SecretStateStore
from pipeops_agent.state import Conflict, StateStore, Stored, Unavailable
from tests.cluster.case import FakeApiCase
from tests.cluster.fakeapi import Fault
from tests.contracts.state_store import OTHER, STATE, StateStoreContract

PLACE = ("secrets", "pipeops-system", "pipeops-agent-state")


class SecretCase(FakeApiCase):
    """An empty Secret, and a store in it."""

    def setUp(self) -> None:
        super().setUp()
        labels = {"metadata": {"name": PLACE[2], "labels": {"app": "agent"}}, "type": "Opaque"}
        self.storage.create(PLACE[0], PLACE[1], labels)
        self.store = self.make()

    def make(self) -> SecretStateStore:
        return SecretStateStore(self.api, PLACE[1], PLACE[2], wall=self.wall)

    @property
    def data(self) -> dict[str, bytes]:
        found = self.storage.get(*PLACE).get("data") or {}
        return {key: base64.b64decode(value) for key, value in found.items()}

    def put(self, data: dict[str, bytes]) -> None:
        secret = dict(self.storage.get(*PLACE))
        secret["data"] = {key: base64.b64encode(value).decode() for key, value in data.items()}
        self.storage.replace(*PLACE, secret)


class _Moving:
    """A store whose every call is helped along: nothing moves by itself in memory."""

    def __init__(self, case: SecretCase) -> None:
        self._case = case
        self._store = case.make()

    def describe(self) -> str:
        return self._store.describe()

    async def load(self) -> Stored:
        stored: Stored = await self._moved(self._store.load())
        return stored

    async def save(self, state: Any, version: str) -> Stored:
        stored: Stored = await self._moved(self._store.save(state, version))
        return stored

    async def reset(self) -> None:
        await self._moved(self._store.reset())

    async def _moved(self, call: Coroutine[Any, Any, Any]) -> Any:
        running: Deferred[Any] = Deferred.fromCoroutine(call)
        self._case.advance(20, step=1)
        return await running


class ContractTests(StateStoreContract, TestCase):
    """What every store must do."""

    def setUp(self) -> None:
        self.case = SecretCase()
        self.case.setUp()
        self.addCleanup(self.case.tearDown)

    def make_store(self) -> StateStore:
        return _Moving(self.case)

    def put_raw(self, content: bytes) -> None:
        self.case.put({**self.case.data, KEY: content})

    def raw(self) -> bytes | None:
        return self.case.data.get(KEY)

    def kept_aside(self) -> list[bytes]:
        return [content for key, content in self.case.data.items() if key != KEY]

    def break_storage(self) -> None:
        self.case.server.faults.append(Fault(times=1000, code=503))

    def mend_storage(self) -> None:
        self.case.server.faults.clear()


class SecretTests(SecretCase):
    """What is peculiar to a Secret."""

    def saved(self) -> Stored:
        loaded: Stored = self.result(self.store.load())
        return self.result(self.store.save(STATE, loaded.version))

    def test_one_write(self) -> None:
        """Saving is one write of one object."""
        loaded: Stored = self.result(self.store.load())
        self.server.seen.clear()
        self.result(self.store.save(STATE, loaded.version))
        self.assertEqual([seen[0] for seen in self.server.seen], ["get", "update"])

    def test_others_data(self) -> None:
        """Labels and data that people have put there stay as they are."""
        self.put({"note": b"mine"})
        self.saved()
        self.assertEqual(self.data["note"], b"mine")
        self.assertEqual(self.storage.get(*PLACE)["metadata"]["labels"], {"app": "agent"})

    def test_written_between_reading_and_writing(self) -> None:
        """Somebody who writes after we have looked: the API server notices, and that is a conflict."""
        saved = self.saved()
        self.server.faults.append(
            Fault(verb="update", code=409, body=b'{"kind":"Status","code":409,"reason":"Conflict"}')
        )
        self.failure(self.store.save(OTHER, saved.version), Conflict)

    def test_missing(self) -> None:
        """A Secret that is not there is not an empty one; the sentence says how to make it."""
        self.storage.delete(*PLACE)
        error = self.failure(self.store.load(), Unavailable)
        self.assertIn("kubectl create secret generic pipeops-agent-state -n pipeops-system", str(error))

    def test_no_right(self) -> None:
        """Without the right to write, that is said with what the Role needs."""
        loaded: Stored = self.result(self.store.load())
        self.server.allowed = lambda asked: asked.verb == "get"
        error = self.failure(self.store.save(STATE, loaded.version), Unavailable)
        self.assertIn("get and update on secrets/pipeops-agent-state", str(error))

    def test_full(self) -> None:
        """What is damaged stays where it is when there is no room to set it aside."""
        self.put({KEY: b"damaged", "more": bytes(MAX_DATA)})
        error = self.failure(self.store.load(), Unavailable)
        self.assertIn("delete what is not needed", str(error))
        self.assertEqual(self.data[KEY], b"damaged")

    def test_two_set_aside_at_once(self) -> None:
        """Two contents that are set aside in the same second get two names."""
        for content in (b"one", b"two"):
            self.put({**self.data, KEY: content})
            self.result(self.store.load())
        kept = {key: content for key, content in self.data.items() if key != KEY}
        self.assertEqual(sorted(kept.values()), [b"one", b"two"])
