"""Bodies of calls, and the answer to a registration."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.controlplane.errors import AnswerError
from pipeops_agent.controlplane.messages import (
    Heartbeat,
    HeartbeatAnswer,
    NoClusterID,
    Registration,
    encode,
    parse_heartbeat_answer,
    parse_registered,
)
from pipeops_agent.secrets import Secret

UUID = "550e8400-e29b-41d4-a716-446655440000"


class EncodeTests(SynchronousTestCase):
    """L{encode}."""

    def test_empty_fields_are_left_out(self) -> None:
        """A registration without facts holds what identifies the agent, and nothing empty."""
        body = json.loads(encode(Registration(contract_version=1, agent_id="agent-1")))
        self.assertEqual(body, {"contract_version": 1, "agent_id": "agent-1"})

    def test_secret_on_the_wire(self) -> None:
        """The token for the tunnelled API goes out in clear, and is in no text before that."""
        registration = Registration(contract_version=1, agent_id="a", k8s_service_token=Secret("sa-token"))
        self.assertNotIn("sa-token", repr(registration))
        self.assertEqual(json.loads(encode(registration))["k8s_service_token"], "sa-token")

    def test_heartbeat(self) -> None:
        """The fields are those of the contract; there is no token among them."""
        body = json.loads(
            encode(
                Heartbeat(
                    cluster_id=UUID,
                    agent_id="agent-1",
                    status="active",
                    tunnel_status="connected",
                    timestamp="2025-10-15T08:00:00Z",
                    metadata={"uptime": "3600s", "version": "dev"},
                )
            )
        )
        self.assertEqual(
            sorted(body),
            ["agent_id", "cluster_id", "metadata", "status", "timestamp", "tunnel_status"],
        )


class ParseRegisteredTests(SynchronousTestCase):
    """L{parse_registered}."""

    def error(self, body: object) -> AnswerError:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        error = self.assertRaises(AnswerError, parse_registered, raw)
        assert isinstance(error, AnswerError)
        return error

    def test_places_in_order(self) -> None:
        """The cluster's UUID is taken from the first place that has one, in the contract's order."""
        answer: dict[str, object] = {
            "cluster_id": "1",
            "cluster_uuid": "2",
            "cluster": {"uuid": "3", "id": "4"},
            "data": {"cluster_id": "5"},
        }
        for expected in ("1", "2", "3", "4", "5"):
            self.assertEqual(parse_registered(json.dumps(answer).encode()).cluster_id, expected)
            if expected in ("1", "2"):
                del answer["cluster_id" if expected == "1" else "cluster_uuid"]
            elif expected != "5":
                cluster = answer["cluster"]
                assert isinstance(cluster, dict)
                del cluster["uuid" if expected == "3" else "id"]

    def test_passed_over(self) -> None:
        """Empty, blank and null places, and those of another type, are passed over."""
        cases: tuple[Any, ...] = ("", "  ", None, 7, True, [], {})
        for nothing in cases:
            body = json.dumps({"cluster_id": nothing, "cluster_uuid": UUID}).encode()
            self.assertEqual(parse_registered(body).cluster_id, UUID)

    def test_none(self) -> None:
        """Without any there is none; what was of another type is named, never shown."""
        self.assertIsInstance(self.error({"agent_id": "agent-1", "id": UUID}), NoClusterID)
        error = self.error({"cluster_id": 7, "cluster": {"uuid": ["x"]}})
        self.assertIsInstance(error, NoClusterID)
        self.assertEqual(
            str(error),
            "cluster_id: expected a string, got a number; cluster.uuid: expected a string, got an array",
        )

    def test_token(self) -> None:
        """The cluster's token comes out as a secret; blank and null are none."""
        body = json.dumps({"cluster": {"id": UUID, "token": "cluster-token"}}).encode()
        self.assertEqual(parse_registered(body).cluster_token, Secret("cluster-token"))
        for nothing in ("", None):
            body = json.dumps({"cluster": {"id": UUID, "token": nothing}}).encode()
            self.assertIsNone(parse_registered(body).cluster_token)

    def test_wrong_types(self) -> None:
        """A field of a wrong type is an error that names it, without the value."""
        self.assertEqual(
            str(self.error({"cluster_id": UUID, "cluster": {"token": 12345}})),
            "cluster.token: expected a string, got a number",
        )
        self.assertIn("cluster: expected an object, got an array", str(self.error({"cluster": []})))
        self.assertIn("data: expected an object, got a string", str(self.error({"data": "x"})))
        self.assertIn("longer than", str(self.error({"cluster": {"id": UUID, "token": "x" * 40_000}})))

    def test_ids_are_short_and_printable(self) -> None:
        """An id that would break a path or a record is refused."""
        for bad in ("a b", "a\nb", "x" * 513, "..", "\ud800"):
            self.assertIn("cluster_id", str(self.error({"cluster_id": bad})))

    def test_not_an_object(self) -> None:
        """What is no JSON object is a syntax error, whatever else it is."""
        for body in (
            b"",
            b"<html>",
            b"{",
            b"[]",
            b"null",
            b'"x"',
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"a": NaN}',
        ):
            self.assertTrue(self.error(body).syntax, body)
        self.assertTrue(self.error(b'{"a": ' + b"9" * 5000 + b"}").syntax)

    def test_duplicates(self) -> None:
        """Two members of one name have no certain meaning: refused, and named."""
        error = self.error(b'{"cluster_id": "a", "cluster_id": "b"}')
        self.assertEqual(str(error), "'cluster_id' appears twice in one object")

    def test_unknown_fields(self) -> None:
        """Fields of a later control plane are ignored."""
        body = json.dumps({"cluster_id": UUID, "success": True, "new": [1], "name": "x"}).encode()
        self.assertEqual(parse_registered(body, known=True).cluster_id, UUID)

    def test_contract_version(self) -> None:
        """A lower version may be named, a higher one is not spoken, another type is an error."""
        newer = json.dumps({"cluster_id": UUID, "contract_version": 9}).encode()
        self.assertEqual(parse_registered(newer).contract_version, 1)
        for bad in (0, True, "1"):
            self.assertIn("contract_version", str(self.error({"cluster_id": UUID, "contract_version": bad})))


class ParseHeartbeatAnswerTests(SynchronousTestCase):
    """L{parse_heartbeat_answer}."""

    def test_nothing(self) -> None:
        """Most answers say nothing: an empty body, a page, an object with other fields."""
        for body in (
            b"",
            b"ok",
            b"<html>",
            b"[]",
            b"{",
            b"[" * 100_000,
            b'{"success": true}',
            b'{"reconnect": false}',
        ):
            self.assertEqual(parse_heartbeat_answer(body), HeartbeatAnswer(), body)

    def test_reconnect(self) -> None:
        """C{reconnect} with what the control plane says of it: its first line, printable and bounded."""
        body = json.dumps({"reconnect": True, "message": "moving\x1b[2J\nsecond" + "x" * 5000}).encode()
        answer = parse_heartbeat_answer(body)
        self.assertTrue(answer.reconnect)
        self.assertTrue(answer.message.startswith("moving"))
        self.assertTrue(answer.message.isprintable())
        long = parse_heartbeat_answer(json.dumps({"message": "x" * 5000}).encode())
        self.assertLess(len(long.message), 1000)

    def test_server(self) -> None:
        """The server, in either field, as text; a long one is cut: it is compared, and never connected to."""
        for field in ("tunnel_server_addr", "tunnel_url"):
            body = json.dumps({field: " wss://b.example "}).encode()
            self.assertEqual(parse_heartbeat_answer(body).server, "wss://b.example")
        long = parse_heartbeat_answer(json.dumps({"tunnel_url": "x" * 5000}).encode())
        self.assertEqual(len(long.server or ""), 512)

    def test_wrong_types(self) -> None:
        """A field of a wrong type, or one that comes twice, is named; nothing of the answer counts then."""
        for body, problem in (
            (b'{"reconnect": "yes"}', "reconnect: expected true or false, got a string"),
            (b'{"reconnect": 1}', "reconnect: expected true or false, got a number"),
            (b'{"reconnect": true, "tunnel_url": 7}', "tunnel_url: expected a string, got a number"),
            (b'{"reconnect": true, "reconnect": false}', "'reconnect' appears twice in one object"),
        ):
            self.assertEqual(parse_heartbeat_answer(body), HeartbeatAnswer(problem=problem))
