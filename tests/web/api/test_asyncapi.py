"""Tests for L{pipeops_agent.web.api.asyncapi}: the messages of C{/ws}, described by their types."""

from __future__ import annotations

from typing import Any, get_args

import jsonschema_rs
import msgspec
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.events import CHANNELS, EventHub
from pipeops_agent.web.api.asyncapi import asyncapi
from pipeops_agent.web.api.messages import OUTGOING, REQUESTS, Channel, Dropped, PresentState
from tests.web.api.test_openapi import walk
from tests.web.harness import START


class Greeting(msgspec.Struct):
    """What an extension takes."""

    name: str


class Nothing(msgspec.Struct):
    """Nothing."""


class MessageType(msgspec.Struct):
    """A message to the agent, and the type of its data."""

    name: str
    data: type[Any]


class AsyncApiTests(SynchronousTestCase):
    """The document."""

    def setUp(self) -> None:
        types = [MessageType("ping", Nothing), MessageType("greet", Greeting)]
        document = asyncapi(types, "1.2.3")
        self.document = msgspec.json.decode(msgspec.json.encode(document))

    def payload(self, name: str) -> Any:
        payload = self.document["components"]["messages"][name]["payload"]
        return jsonschema_rs.validator_for({**payload, "components": self.document["components"]})

    def test_references(self) -> None:
        """Whatever is referred to is there."""
        for each in walk(self.document):
            if isinstance(each, dict) and "$ref" in each:
                found = self.document
                for name in each["$ref"].removeprefix("#/").split("/"):
                    found = found[name]
                self.assertTrue(found, each)

    def test_messages(self) -> None:
        """All that is taken, and all that is said."""
        expected = {"ping", "greet", *(message.name for message in OUTGOING)}
        self.assertEqual(set(self.document["components"]["messages"]), expected)
        self.assertEqual(set(self.document["channels"]["ws"]["messages"]), expected)

    def test_replies(self) -> None:
        """What answers a message stands with it, and C{error} with each; what nobody asks for is sent."""
        operations = self.document["operations"]
        taken = operations["take_ping"]
        self.assertEqual(taken["action"], "receive")
        names = [each["$ref"].rpartition("/")[2] for each in taken["reply"]["messages"]]
        self.assertEqual(names, ["pong", "error"])
        self.assertEqual(operations["send_status"]["action"], "send")
        self.assertNotIn("send_pong", operations)

    def test_incoming(self) -> None:
        """Data are asked for where a field of theirs must be there."""
        self.assertTrue(self.payload("ping").is_valid({"type": "ping"}))
        greet = self.payload("greet")
        self.assertTrue(greet.is_valid({"type": "greet", "id": "1", "data": {"name": "x"}}))
        for bad in (
            {"type": "greet"},
            {"type": "ping", "data": {"name": "x"}},
            {"type": "greet", "data": {}},
        ):
            self.assertFalse(greet.is_valid(bad), bad)

    def test_outgoing(self) -> None:
        """What is sent is as described."""
        hub = EventHub(lambda: START)
        event = hub.publish("agent", "phase", {"phase": "running"})
        for name, data in (
            ("event", event),
            ("dropped", Dropped(start="ab", count=2, first=1, last=2)),
            (
                "status",
                PresentState(
                    agent_id=None, cluster_id=None, status="starting", features={}, start="ab", seq=1
                ),
            ),
        ):
            message = msgspec.json.encode({"type": name, "timestamp": START, "data": data})
            self.payload(name).validate(msgspec.json.decode(message))
        self.assertFalse(self.payload("dropped").is_valid({"type": "dropped", "timestamp": "x", "data": {}}))

    def test_extension(self) -> None:
        """A message that the table knows nothing of is described by its type."""
        self.assertEqual(self.document["operations"]["take_greet"]["summary"], "What an extension takes.")

    def test_tables_agree(self) -> None:
        """What is named as a reply is a message; the channels are those of the hub."""
        names = {message.name for message in OUTGOING}
        for request in REQUESTS.values():
            self.assertLessEqual(set(request.replies), names)
        self.assertEqual(get_args(Channel), CHANNELS)
