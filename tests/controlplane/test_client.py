"""The calls of the contract, against a control plane in memory."""

from __future__ import annotations

import json

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.controlplane import (
    ApiError,
    Heartbeat,
    HeartbeatAnswer,
    Registered,
    Registration,
    TunnelAnswer,
    client_tls,
)
from pipeops_agent.net import ClientTLS
from pipeops_agent.orders import TunnelOrder
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model_pipeops import TLSSettings
from pipeops_agent.settings.model_tunnel import TunnelSettings
from tests.controlplane.fakes import Reply, World

UUID = "550e8400-e29b-41d4-a716-446655440000"
NOT_JSON = "failed to parse registration response (invalid JSON from control plane)"
NO_CLUSTER = "no cluster UUID found in registration response"
BEAT = Heartbeat(
    cluster_id=UUID,
    agent_id="agent-1",
    status="active",
    tunnel_status="connected",
    timestamp="2025-10-15T08:00:00Z",
    metadata={},
)


def registered(**fields: object) -> bytes:
    return json.dumps({"cluster_id": UUID, **fields}).encode()


class RegisterTests(SynchronousTestCase):
    """L{ControlPlaneClient.register}."""

    def register(self, world: World) -> Deferred[Registered]:
        registration = Registration(contract_version=1, agent_id="agent-1", name="prod")
        return Deferred.fromCoroutine(world.client.register(registration))

    def error(self, reply: Reply) -> ApiError:
        error = self.failureResultOf(self.register(World(reply)), ApiError).value
        assert isinstance(error, ApiError)
        return error

    def test_success(self) -> None:
        """200 and 201 are success; the body that went out is the contract's."""
        for status in (200, 201):
            world = World(Reply(status, registered(cluster={"token": "cluster-token"})))
            answer = self.successResultOf(self.register(world))
            self.assertEqual(
                answer, Registered(cluster_id=UUID, cluster_token=Secret("cluster-token"), known=False)
            )
            (seen,) = world.server.seen
            self.assertEqual((seen.method, seen.uri), ("POST", "/base/api/v1/clusters/agent/register"))
            self.assertEqual(
                json.loads(seen.body), {"contract_version": 1, "agent_id": "agent-1", "name": "prod"}
            )

    def test_known(self) -> None:
        """409 with a cluster's UUID is success."""
        answer = self.successResultOf(self.register(World(Reply(409, registered(message="exists")))))
        self.assertEqual((answer.cluster_id, answer.known), (UUID, True))

    def test_conflict(self) -> None:
        """409 without one is a refusal, whatever its body."""
        for body in (b'{"message": "taken"}', b"<html>taken", b""):
            error = self.error(Reply(409, body))
            self.assertEqual((error.status, error.retryable), (409, False))
            self.assertIn("409 Conflict", error.sentence)
            self.assertIn(NO_CLUSTER, error.sentence)

    def test_not_json(self) -> None:
        """What can't be parsed is said in the specification's words, with the body."""
        for body in (b"{incomplete json...", b"", b"<html>hello</html>", b"[]"):
            error = self.error(Reply(200, body))
            self.assertEqual(error.sentence, NOT_JSON)
            self.assertEqual(error.response, body.decode())
            self.assertFalse(error.retryable)

    def test_wrong_field(self) -> None:
        """A field of a wrong type is named after the specification's words."""
        error = self.error(Reply(200, registered(cluster={"token": 5})))
        self.assertEqual(error.sentence, f"{NOT_JSON}: cluster.token: expected a string, got a number")

    def test_no_cluster(self) -> None:
        """An answer without a UUID is said in the specification's words; its token is not shown."""
        error = self.error(Reply(200, b'{"cluster": {"token": "cluster-token"}}'))
        self.assertEqual(error.sentence, NO_CLUSTER)
        self.assertNotIn("cluster-token", str(error.response))
        named = self.error(Reply(200, b'{"cluster_id": 5}'))
        self.assertEqual(named.sentence, f"{NO_CLUSTER}: cluster_id: expected a string, got a number")

    def test_other_statuses(self) -> None:
        """Any other status is an error, also when its body has a UUID."""
        for status in (202, 204, 301, 400, 404, 500):
            error = self.error(Reply(status, b"" if status == 204 else registered()))
            self.assertEqual(error.status, status)
            self.assertIs(error.retryable, status == 500)


class HeartbeatTests(SynchronousTestCase):
    """L{ControlPlaneClient.heartbeat}."""

    def test_success(self) -> None:
        """200 and 204 are success, whatever the body says."""
        for reply in (Reply(204, b""), Reply(200, b"<html>"), Reply(200, b'{"cluster_id": "another"}')):
            world = World(reply)
            self.successResultOf(Deferred.fromCoroutine(world.client.heartbeat(BEAT)))
            self.assertNotIn("token", json.loads(world.server.seen[0].body))

    def test_advice(self) -> None:
        """What the answer advises is handed on."""
        body = b'{"success": true, "reconnect": true, "message": "moving"}'
        answer = self.successResultOf(Deferred.fromCoroutine(World(Reply(200, body)).client.heartbeat(BEAT)))
        self.assertEqual(answer, HeartbeatAnswer(reconnect=True, message="moving"))

    def test_failure(self) -> None:
        """Any other status is an error, 201 and redirects included."""
        for status in (201, 302, 404, 500):
            failed = self.failureResultOf(
                Deferred.fromCoroutine(World(Reply(status)).client.heartbeat(BEAT)), ApiError
            )
            self.assertEqual(failed.value.status, status)


class TunnelStatusTests(SynchronousTestCase):
    """L{ControlPlaneClient.tunnel_status}."""

    def ask(self, reply: Reply, **settings: object) -> Deferred[TunnelAnswer | None]:
        tunnel = TunnelSettings(**settings)  # type: ignore[arg-type]  # the tests' own keywords
        asking = World(reply).client.tunnel_status(cluster_id=UUID, agent_id="agent-1", tunnel=tunnel)
        return Deferred.fromCoroutine(asking)

    def test_no_tunnels(self) -> None:
        """404 of any kind, and an empty body, mean that there are no tunnels."""
        for reply in (
            Reply(404, b"<html>"),
            Reply(404),
            Reply(200, b""),
            Reply(200, b" \n"),
            Reply(204, b""),
        ):
            self.assertIsNone(self.successResultOf(self.ask(reply)))

    def test_order(self) -> None:
        """An answer becomes an order."""
        answer = self.successResultOf(self.ask(Reply(200, b'{"status": "idle"}')))
        self.assertEqual(answer, TunnelAnswer(order=TunnelOrder(state="idle")))

    def test_settings_count(self) -> None:
        """What the settings forbid of a server is refused here."""
        body = b'{"status": "ready", "tunnel_url": "wss://t.test", "forwards": []}'
        self.successResultOf(self.ask(Reply(200, body)))
        refused = self.failureResultOf(self.ask(Reply(200, body), allowed_servers=("x.test",)), ApiError)
        self.assertIn("tunnel.allowed_servers", refused.value.sentence)

    def test_failures(self) -> None:
        """Other statuses and unusable bodies are errors; nothing is shown of credentials."""
        for status in (201, 301, 401, 500):
            self.assertEqual(self.failureResultOf(self.ask(Reply(status)), ApiError).value.status, status)
        body = b'{"status": "ready", "credentials": "user:hidden", "forwards": 5, "tunnel_url": "t"}'
        error = self.failureResultOf(self.ask(Reply(200, body)), ApiError).value
        self.assertEqual(
            error.sentence, "tunnel status: unusable answer: forwards: expected an array, got a number"
        )
        self.assertNotIn("hidden", str(error.response))


class ReachTests(SynchronousTestCase):
    """L{ControlPlaneClient.reach}."""

    def test_reached(self) -> None:
        """Any answer will do that is neither a refusal nor a failure: it need not know the path."""
        for status in (200, 204, 301, 404):
            world = World(Reply(status, b"<html>"))
            self.successResultOf(Deferred.fromCoroutine(world.client.reach()))
            (seen,) = world.server.seen
            self.assertEqual((seen.method, seen.uri), ("GET", "/base/api/v1/health"))

    def test_of_no_use(self) -> None:
        """Where the token is refused, or the server fails, nothing else will work either."""
        for status in (401, 403, 429, 500, 503):
            reaching = Deferred.fromCoroutine(World(Reply(status)).client.reach())
            self.assertEqual(self.failureResultOf(reaching, ApiError).value.status, status)


class SettingsTests(SynchronousTestCase):
    """L{client_tls}."""

    def test_taken_over(self) -> None:
        """Each setting of C{pipeops.tls} arrives."""
        settings = TLSSettings(
            insecure_skip_verify=True, cert_file="c", key_file="k", ca_file="a", min_version="1.2"
        )
        self.assertEqual(
            client_tls(settings),
            ClientTLS(min_version="1.2", ca_file="a", cert_file="c", key_file="k", verify=False),
        )
        self.assertEqual(client_tls(TLSSettings()), ClientTLS())

    def test_disabled_loosens_nothing(self) -> None:
        """C{enabled: false} does not switch off verification."""
        self.assertTrue(client_tls(TLSSettings(enabled=False)).verify)
