"""What the sandbox demands of an agent's messages."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.sandbox.contract import ContractError, parse_heartbeat, parse_registration

REGISTRATION: dict[str, Any] = {
    "contract_version": 1,
    "capabilities": ["tunnel"],
    "agent_id": "agent-host-1",
    "name": "default-cluster",
    "agent_version": "1.0",
    "hostname": "host",
    "labels": {"hostname": "host", "agent.pipeops.io/version": "1.0"},
    "tunnel_port_config": {"kubernetes_api": 6443, "kubelet": 10250, "agent_http": 8080},
    "server_specs": {"cpu_cores": 2, "memory_gb": 3.9, "disk_gb": 40, "os": "linux"},
    "metadata": {"agent_mode": "vm-agent", "registration_timestamp": "2026-03-01T12:00:00Z"},
}

HEARTBEAT: dict[str, Any] = {
    "cluster_id": "550e8400-e29b-41d4-a716-446655440000",
    "agent_id": "agent-host-1",
    "status": "active",
    "tunnel_status": "connected",
    "timestamp": "2026-03-01T12:00:00Z",
    "metadata": {"uptime": "3600s", "version": "dev", "k8s_nodes": 3},
}


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


class RegistrationTests(SynchronousTestCase):
    def test_whole(self) -> None:
        """What the contract shows is taken."""
        self.assertEqual(parse_registration(encoded(REGISTRATION)).agent_id, "agent-host-1")

    def test_repr_holds_no_token(self) -> None:
        """A registration may carry a cluster's token; its repr does not."""
        value = parse_registration(encoded(REGISTRATION | {"k8s_service_token": "secret-thing"}))
        self.assertNotIn("secret-thing", repr(value))

    def test_each_slip_names_its_field(self) -> None:
        """A missing, unknown, empty, mistyped or impossible field is named."""
        metadata = REGISTRATION["metadata"]
        for change, place in (
            ({"agent_id": None}, "agent_id: expected"),
            ({"agent_id": ""}, "agent_id: expected"),
            ({"contract_version": "1"}, "contract_version: expected"),
            ({"contract_version": 0}, "contract_version: expected"),
            ({"k8s_version": ""}, "k8s_version: expected"),
            ({"colour": "red"}, "colour: unknown field"),
            ({"tunnel_port_config": {"kubelet": 0}}, "tunnel_port_config[...]: expected"),
            ({"server_specs": {"ram": 1}}, "server_specs.ram: unknown field"),
            ({"labels": {"hostname": "host"}}, "labels.agent.pipeops.io/version: missing"),
            ({"metadata": {}}, "metadata.agent_mode"),
            (
                {"metadata": metadata | {"registration_timestamp": "yesterday"}},
                "metadata.registration_timestamp",
            ),
            (
                {"metadata": metadata | {"registration_timestamp": "2026-03-01T12:00:00"}},
                "registration_timestamp",
            ),
            ({"k8s_ca": "-----BEGIN"}, "k8s_ca: comes only with k8s_service_token"),
        ):
            with self.subTest(change=change):
                error = self.assertRaises(ContractError, parse_registration, encoded(REGISTRATION | change))
                self.assertIn(place, str(error))

    def test_missing(self) -> None:
        """A field that must be there is named when it is not."""
        for name in ("contract_version", "agent_id", "name", "agent_version", "labels", "metadata"):
            with self.subTest(name=name):
                body = encoded({key: value for key, value in REGISTRATION.items() if key != name})
                error = self.assertRaises(ContractError, parse_registration, body)
                self.assertEqual(str(error), f"{name}: missing")

    def test_not_an_object(self) -> None:
        """What is not JSON, not an object, says a name twice or holds NaN is refused."""
        for body in (
            b"",
            b"[]",
            b"{",
            b"\xff",
            b'{"agent_id": "a", "agent_id": "b"}',
            b'{"x": NaN}',
            b"[" * 99999,
        ):
            with self.subTest(body=body[:40]):
                self.assertRaises(ContractError, parse_registration, body)

    @given(st.recursive(st.none() | st.booleans() | st.text() | st.integers(), st.lists, max_leaves=5))
    def test_any_value_in_a_field(self, value: Any) -> None:
        """Whatever stands in a field: either it is taken, or a L{ContractError} names the field."""
        try:
            parse_registration(encoded(REGISTRATION | {"name": value}))
        except ContractError as error:
            self.assertTrue(str(error).startswith("name"), str(error))


class HeartbeatTests(SynchronousTestCase):
    def test_whole(self) -> None:
        """What the contract shows is taken."""
        self.assertEqual(parse_heartbeat(encoded(HEARTBEAT)).status, "active")

    def test_each_slip_names_its_field(self) -> None:
        """A token field, a word that is not in the contract, a time without a zone: each is named."""
        for change, place in (
            ({"token": "x"}, "token: unknown field"),
            ({"status": "fine"}, "status: "),
            ({"tunnel_status": "up"}, "tunnel_status: "),
            ({"timestamp": "2026-03-01T12:00:00"}, "timestamp: "),
            ({"metadata": {"uptime": 3600, "version": "dev"}}, "metadata.uptime: expected str"),
            ({"metadata": {"uptime": "1s"}}, "metadata.version: expected str"),
        ):
            with self.subTest(change=change):
                error = self.assertRaises(ContractError, parse_heartbeat, encoded(HEARTBEAT | change))
                self.assertIn(place, str(error))
