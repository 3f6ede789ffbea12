"""Tests of L{pipeops_agent.cluster.service_token}: the control plane's token."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from twisted.web.server import Request

from pipeops_agent.cluster.config import ClusterConfig, StaticCredentials
from pipeops_agent.cluster.errors import Misconfigured
from pipeops_agent.cluster.service_token import (
    LIFETIME,
    MIN_PAUSE,
    RENEWAL,
    ServiceAccountToken,
    verification,
)
from pipeops_agent.net import ClientTLS
from pipeops_agent.tokens import TokenSource
from tests.cluster.case import FakeApiCase
from tests.cluster.fakeapi import Asked, FakeApi, Fault
from tests.cluster.fakeapi.operating import answer, body


class TokenCase(FakeApiCase):
    """With an API server that gives tokens."""

    life = float(LIFETIME)

    def setUp(self) -> None:
        super().setUp()
        self.asked: list[tuple[str | None, str | None, Any]] = []
        self.server.handlers["serviceaccounts/token"] = self.give
        self.source = ServiceAccountToken(
            self.clock,
            self.api,
            lambda: "agents",
            "control",
            wall=self.wall,
            told=lambda: self.problems.append(self.source.problem),
            random=lambda: 1.0,
        )
        self.problems: list[str | None] = []
        self.told: list[str] = []
        self.source.on_change(lambda: self.told.append(self.token()))

    def give(self, server: FakeApi, asked: Asked, request: Request) -> bytes:
        """A new token."""
        self.asked.append((asked.namespace, asked.name, body(request)))
        ends = (self.wall() + timedelta(seconds=self.life)).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = {"token": f"token-{len(self.asked)}", "expirationTimestamp": ends}
        return answer(request, {"kind": "TokenRequest", "status": status}, code=201)

    def token(self) -> str:
        """The present one; C{-}: none."""
        found = self.source.current()
        return "-" if found is None else found.reveal()

    def start(self) -> None:
        """Let it run until the test ends."""
        self.source.startService()
        self.flush()

    def tearDown(self) -> None:
        self.source.stopService()
        super().tearDown()


class ServiceAccountTokenTests(TokenCase):
    """TokenRequest."""

    def test_source(self) -> None:
        """It is a token source, and has none before it runs."""
        source: TokenSource = self.source
        self.assertIsNone(source.current())
        self.assertFalse(source.refresh())
        self.assertEqual(self.asked, [])

    def test_request(self) -> None:
        """For the account of that name, for an hour."""
        self.start()
        namespace, name, sent = self.asked[0]
        self.assertEqual((namespace, name), ("agents", "control"))
        self.assertEqual((sent["kind"], sent["spec"]), ("TokenRequest", {"expirationSeconds": LIFETIME}))
        self.assertEqual((self.token(), self.told), ("token-1", ["token-1"]))

    def test_renewed(self) -> None:
        """At 80 % of its life."""
        self.start()
        self.advance(LIFETIME * RENEWAL - 1, step=30)
        self.assertEqual(self.told, ["token-1"])
        self.advance(2)
        self.assertEqual(self.told, ["token-1", "token-2"])

    def test_shorter_life(self) -> None:
        """The server's word counts for how long it lives."""
        self.life = 600.0
        self.start()
        self.advance(481, step=10)
        self.assertEqual(self.token(), "token-2")

    def test_clock_is_wrong(self) -> None:
        """An end that makes no sense: what was asked for counts."""
        for life in (-600.0, 0.0, 1e6):
            self.life = life
            self.asked.clear()
            self.source.startService()
            self.flush()
            self.advance(LIFETIME * RENEWAL - 10, step=30)
            self.assertEqual((self.token(), len(self.asked)), ("token-1", 1))
            self.source.stopService()

    def test_not_renewed(self) -> None:
        """One that can't be renewed is used to its end; then there is none, and all are told."""
        self.start()
        self.server.faults.append(
            Fault(path="/api/v1/namespaces/agents/serviceaccounts", code=403, times=9999)
        )
        self.advance(LIFETIME - 60, step=30)
        self.assertEqual(self.token(), "token-1")
        assert self.source.problem is not None
        self.assertIn("a Role in agents grants it with {apiGroups", self.source.problem)
        self.assertIn('resourceNames: ["control"]', self.source.problem)
        self.assertEqual(self.problems[0], None)
        self.assertEqual(self.problems[-1], self.source.problem)
        self.advance(700, step=30)
        self.assertEqual((self.token(), self.told), ("-", ["token-1", "-"]))
        self.server.faults.clear()
        self.advance(400, step=30)
        self.assertNotEqual(self.token(), "-")
        self.assertIsNone(self.source.problem)

    def test_asked(self) -> None:
        """Who waits for the first one hears when it was asked for, whatever came of it; then nobody waits."""
        self.server.faults.append(Fault(path="/api/v1/namespaces/agents/serviceaccounts", code=403, times=1))
        waiting = self.begin(self.source.asked())
        self.assertNoResult(waiting)
        self.start()
        self.successResultOf(waiting)
        self.advance(60)
        self.result(self.source.asked())

    def test_no_token(self) -> None:
        """An answer without one is a failure."""
        self.server.handlers["serviceaccounts/token"] = lambda *_: b'{"status": {}}'
        self.start()
        self.assertEqual((self.token(), self.told), ("-", []))
        assert self.source.problem is not None
        self.assertIn("no token", self.source.problem)

    def test_pace_of_failures(self) -> None:
        """They slow down, and never stop."""
        self.server.faults.append(
            Fault(path="/api/v1/namespaces/agents/serviceaccounts", code=403, times=9999)
        )
        self.start()
        self.advance(3600, step=10)
        self.assertLess(len(self.observed), 20)
        self.assertGreater(len(self.observed), 10)

    def test_refused(self) -> None:
        """One that was refused is replaced at once, but not again and again."""
        self.start()
        self.advance(MIN_PAUSE)
        for _ in range(20):
            self.source.refresh()
            self.flush()
        self.assertEqual(self.told, ["token-1", "token-2"])


class VerificationTests(FakeApiCase):
    """How the tunnelled API is verified."""

    def config(self, origin: str = "a kubeconfig", **tls: Any) -> ClusterConfig:
        return ClusterConfig(
            origin=origin, host="10.96.0.1", port=443, tls=ClientTLS(**tls), credentials=StaticCredentials()
        )

    def test_names(self) -> None:
        """The kubeconfig's own name, else the host; in a pod the one that every certificate has."""
        self.assertEqual(verification(self.config(ca_data=b"PEM")), ("PEM", "10.96.0.1"))
        self.assertEqual(verification(self.config(server_name="api.example"))[1], "api.example")
        pod = self.config("the pod's service account")
        self.assertEqual(verification(pod)[1], "kubernetes.default.svc")

    def test_files(self) -> None:
        """The CA is read as it is now."""
        path = Path(self.mktemp())
        path.write_text("PEM")
        self.assertEqual(verification(self.config(ca_file=str(path)))[0], "PEM")
        self.failureOf(str(path) + "-none")

    def failureOf(self, path: str) -> None:  # noqa: N802  # beside trial's own
        with self.assertRaises(Misconfigured) as caught:
            verification(self.config(ca_file=path))
        self.assertIn("can't be read", str(caught.exception))

    def test_plain(self) -> None:
        """Where there is no TLS there is nothing to verify."""
        config = ClusterConfig(
            origin="x", host="localhost", port=80, tls=None, credentials=StaticCredentials()
        )
        self.assertEqual(verification(config), ("", ""))
