"""Tests for L{pipeops_agent.web.resources}: what each page answers."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families as parse_text

from pipeops_agent.access.guesses import MOST
from pipeops_agent.health import CheckResult, HealthCheck
from pipeops_agent.metrics import TEXT_FORMAT
from pipeops_agent.secrets import Secret
from pipeops_agent.status import AgentStatus
from tests.web.harness import TOKEN, SiteCase


def breaks(status: AgentStatus) -> CheckResult:
    raise ZeroDivisionError("the check is broken")


class PageCase(SiteCase):
    def well(self) -> None:
        """The agent is registered and its heartbeats get through."""
        self.board.enter("running")
        self.board.set_registration(registered=True, message="registered as cluster c-1")
        self.board.set_heartbeat(state="ok", message="the last got through")


class SimplePageTests(PageCase):
    """Pages that say the same to everybody."""

    def test_root(self) -> None:
        """The root leads to the dashboard."""
        answer = self.ask("/")
        self.assertEqual((answer.code, answer.headers["Location"], answer.body), (303, "/dashboard", b""))

    def test_dashboard(self) -> None:
        """Where the root leads there is a page: it says what this is, and links what there is to see."""
        answer = self.ask(self.ask("/").headers["Location"])
        self.assertEqual((answer.code, answer.headers["Content-Type"]), (200, "text/html; charset=utf-8"))
        self.assertEqual(answer.headers["Cache-Control"], "no-store")
        page = answer.body.decode()
        self.assertIn("1.2.3", page)
        self.assertIn("no dashboard yet", page)
        links = re.findall(r'href="([^"]+)"', page)
        self.assertEqual(links, ["/health", "/ready", "/version", "/metrics"])
        for link in links:
            self.assertNotEqual(self.ask(link).code, 404)

    def test_health(self) -> None:
        """Status, time and version; also before registration and while stopping."""
        self.clock.advance(5.7)
        for phase in ("starting", "running", "stopping"):
            self.board.enter(phase)
            answer = self.ask("/health")
            self.assertEqual(answer.code, 200)
            self.assertEqual(
                answer.json, {"status": "healthy", "timestamp": "2024-01-15T10:30:05Z", "version": "1.2.3"}
            )

    def test_health_depends_on_nothing(self) -> None:
        """Neither a failing check nor a wrong token makes the probe fail: a restart would not help."""
        self.checks.add(HealthCheck(name="broken", check=breaks))
        self.assertEqual(self.ask("/health", Authorization="Bearer wrong").code, 200)

    def test_version(self) -> None:
        """Exactly the fields of the interface's description."""
        answer = self.ask("/version")
        self.assertEqual(
            set(answer.json),
            {"version", "git_commit", "build_date", "python_version", "twisted_version", "full_version"},
        )
        self.assertEqual(answer.json["version"], "1.2.3")

    def test_metrics(self) -> None:
        """Prometheus text, with what was asked before."""
        self.ask("/health")
        answer = self.ask("/metrics")
        self.assertEqual(answer.headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8")
        names = {family.name for family in parse_text(answer.body.decode())}
        self.assertIn("pipeops_agent_status", names)
        self.assertIn(
            'pipeops_http_requests_total{code="200",endpoint="/health",method="GET"} 1.0',
            answer.body.decode(),
        )

    def test_openmetrics(self) -> None:
        """OpenMetrics for those who accept it."""
        answer = self.ask("/metrics", Accept="application/openmetrics-text; version=1.0.0")
        self.assertIn("openmetrics", answer.headers["Content-Type"])
        self.assertTrue(answer.body.endswith(b"# EOF\n"))

    def test_headers(self) -> None:
        """Every answer names the server without a version, and forbids guessing and keeping."""
        for path in ("/", "/health", "/ready", "/version", "/metrics", "/nowhere"):
            answer = self.ask(path)
            self.assertEqual(answer.headers["Server"], "pipeops-agent", path)
            self.assertEqual(answer.headers["X-Content-Type-Options"], "nosniff", path)
            self.assertEqual(answer.headers["Cache-Control"], "no-store", path)
            self.assertIn("GMT", answer.headers["Date"], path)
            if path not in ("/", "/metrics"):
                self.assertEqual(answer.headers["Content-Type"], "application/json", path)


class ReadyTests(PageCase):
    """Whether the agent does its work."""

    def test_ready(self) -> None:
        """Registered, and heartbeats get through: ready. The tunnel is no matter of readiness."""
        self.well()
        self.board.set_tunnel(state="connecting")
        answer = self.ask("/ready")
        self.assertEqual(answer.code, 200)
        self.assertEqual(
            answer.json,
            {
                "status": "ready",
                "checks": {
                    "registration": {"ok": True},
                    "heartbeat": {"ok": True},
                    "kubernetes": {"ok": True},
                },
            },
        )

    def test_not_ready(self) -> None:
        """Each of the conditions alone makes it not ready, and is named."""
        for name, spoil in (
            ("registration", lambda: self.board.set_registration(registered=False)),
            ("heartbeat", lambda: self.board.set_heartbeat(state="failing")),
            ("heartbeat", lambda: self.board.set_heartbeat(state="disconnected")),
            ("heartbeat", lambda: self.board.set_heartbeat(state="pending")),
            ("kubernetes", lambda: self.board.set_cluster(configured=True, reachable=False)),
        ):
            self.well()
            self.board.set_cluster(configured=False)
            spoil()
            answer = self.ask("/ready")
            self.assertEqual((answer.code, answer.json["status"]), (503, "not ready"), name)
            failing = [check for check, result in answer.json["checks"].items() if not result["ok"]]
            self.assertEqual(failing, [name])

    def test_cluster(self) -> None:
        """A cluster that is configured and answers is well."""
        self.well()
        self.board.set_cluster(configured=True, reachable=True)
        self.assertEqual(self.ask("/ready").code, 200)

    def test_standby(self) -> None:
        """A standby is well: it waits, and should not be restarted or reported."""
        self.board.enter("standby")
        answer = self.ask("/ready")
        self.assertEqual((answer.code, answer.json), (200, {"status": "standby"}))

    def test_stopping(self) -> None:
        """An agent that stops is not ready, however well everything still is."""
        self.well()
        self.board.enter("stopping")
        answer = self.ask("/ready")
        self.assertEqual((answer.code, answer.json["checks"]["shutdown"]), (503, {"ok": False}))

    def test_before_registration(self) -> None:
        """From the start on there is an answer: not yet."""
        self.assertEqual(self.ask("/ready").code, 503)

    def test_check_that_fails_itself(self) -> None:
        """A check that raises counts as failed, is logged, and keeps nothing from the others."""
        self.well()
        self.checks.add(HealthCheck(name="broken", check=breaks))
        answer = self.ask("/ready")
        self.assertEqual(answer.code, 503)
        self.assertEqual(answer.json["checks"]["broken"], {"ok": False})
        self.assertEqual(answer.json["checks"]["heartbeat"], {"ok": True})
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_checks_of_others(self) -> None:
        """A check that is registered later counts as well."""
        self.well()

        def disk(status: AgentStatus) -> CheckResult:
            return CheckResult(False, "no space left")

        self.checks.add(HealthCheck(name="disk", check=disk))
        self.assertEqual(self.ask("/ready").json["checks"]["disk"], {"ok": False})


class AnyAcceptTests(PageCase):
    """What clients may write."""

    def test_not_utf8(self) -> None:
        """Bytes that are no text in C{Accept} ask for nothing in particular."""
        answer = self.ask("/metrics", Accept="\xff\x80 text/\xe9")
        self.assertEqual((answer.code, answer.headers["Content-Type"]), (200, TEXT_FORMAT))


class MessageTests(PageCase):
    """Why something is not well is for those who may read."""

    def messages(self, authorization: str) -> set[bool]:
        answer = self.ask("/ready", Authorization=authorization)
        return {"message" in check for check in answer.json["checks"].values()}

    def test_with_the_token(self) -> None:
        """The agent's own token shows the messages; the scheme's name has no case."""
        self.assertEqual(self.messages(f"Bearer {TOKEN}"), {True})
        self.assertEqual(self.messages(f"bearer   {TOKEN} "), {True})
        answer = self.ask("/ready", Authorization=f"Bearer {TOKEN}")
        self.assertEqual(answer.json["checks"]["registration"], {"ok": False, "message": "not yet asked"})

    def test_wrong_token(self) -> None:
        """A wrong token, or something that is none, is 401 with the way to do it right."""
        for wrong in (
            "Bearer wrong",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            "Bearer ",
            "Bearer",
            f"Basic {TOKEN}",
            TOKEN,
            "",
            "Bearer \xff\xfe",
        ):
            answer = self.ask("/ready", patience=MOST, Authorization=wrong)
            self.assertEqual((answer.code, answer.json["error"]["code"]), (401, "unauthorized"), wrong)
            self.assertEqual(
                answer.headers["WWW-Authenticate"], 'Bearer realm="pipeops-agent", error="invalid_token"'
            )
            self.assertNotIn(b"checks", answer.body)

    def test_two_tokens(self) -> None:
        """Two Authorization headers are none, even if one of them is right."""
        client = self.connect()
        header = f"Authorization: Bearer {TOKEN}\r\n"
        client.send(f"GET /ready HTTP/1.1\r\nHost: a\r\n{header}{header}\r\n".encode())
        self.assertEqual([answer.code for answer in client.answers()], [401])

    def test_rotated(self) -> None:
        """The token is asked for at each request: the old one stops working at once."""
        self.tokens.replace(Secret("another-token"))
        self.assertEqual(self.ask("/ready", patience=MOST, Authorization=f"Bearer {TOKEN}").code, 401)
        self.assertEqual(self.messages("Bearer another-token"), {True})

    def test_no_token_known(self) -> None:
        """While the agent has no token nobody can show it, not even an empty one."""
        for nothing in (None, Secret("")):
            self.tokens.replace(nothing)
            self.assertEqual(self.ask("/ready", Authorization="Bearer ").code, 401)
            self.assertEqual(self.ask("/ready", patience=MOST, Authorization="Bearer None").code, 401)
        self.assertEqual(self.ask("/ready").code, 503)

    def test_never_in_the_url(self) -> None:
        """A token in the query shows nothing."""
        answer = self.ask(f"/ready?token={TOKEN}&access_token={TOKEN}")
        self.assertEqual({"message" in check for check in answer.json["checks"].values()}, {False})
