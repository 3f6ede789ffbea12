"""Tests for L{pipeops_agent.web.client}: the real client and the real site, joined in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.error import NoRouteError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.test.iosim import ConnectionCompleter
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.build import describe
from pipeops_agent.clock import WallClock, utc_now
from pipeops_agent.events import EventHub
from pipeops_agent.figures import CanaryResult, ForwardTraffic, TunnelTraffic
from pipeops_agent.health import standard_checks
from pipeops_agent.metrics import Metrics
from pipeops_agent.status import Attempt, ForwardStatus, StatusBoard, Step
from pipeops_agent.web.client import MAX_ANSWER, fetch_status
from pipeops_agent.web.site import build_site
from tests.web.harness import Limits, one_token


class Says(Protocol):
    """Answers whatever comes with the same bytes, and keeps what came."""

    answer = b""
    close = False

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(self.answer)
        if self.close:
            self.transport.loseConnection()


def saying(answer: bytes, *, close: bool = False) -> type[Says]:
    return type("Saying", (Says,), {"answer": answer, "close": close})


class StatusCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.completer = ConnectionCompleter(self.reactor)
        self.board = StatusBoard(EventHub(utc_now), utc_now)

    def serve_agent(self, wall: WallClock = utc_now) -> None:
        build = describe("1.2.3", None)
        site = build_site(
            self.reactor,
            self.board,
            standard_checks(),
            Metrics(self.board, wall, build),
            Limits(),
            wall,
            access=one_token(self.reactor, self.board),
            build=build,
        )
        self.reactor.listenTCP(8080, site)

    def serve(self, protocol: type[Protocol]) -> None:
        self.reactor.listenTCP(8080, Factory.forProtocol(protocol))

    def ask(self, host: str = "127.0.0.1") -> Deferred[tuple[str, bool]]:
        return Deferred.fromCoroutine(fetch_status(self.reactor, host, 8080))

    def complete(self) -> None:
        """Make the connections that are asked for, until no more are."""
        while (pump := self.completer.succeedOnce()) is not None:
            pump.flush()

    def result(self, host: str = "127.0.0.1") -> tuple[str, bool]:
        asked = self.ask(host)
        self.complete()
        self.reactor.advance(0)
        text, well = self.successResultOf(asked)
        return text, well


class AgentTests(StatusCase):
    """A running agent is asked."""

    def test_ready(self) -> None:
        """An agent that is ready: its version, its checks, and success."""
        self.board.enter("running")
        self.board.set_registration(registered=True)
        self.board.set_heartbeat(state="ok")
        self.serve_agent()
        text, well = self.result()
        self.assertTrue(well)
        lines = text.splitlines()
        self.assertRegex(lines[0], r"^pipeops-agent 1\.2\.3 Python .* Twisted ")
        self.assertEqual(
            lines[1:],
            [
                "127.0.0.1:8080: healthy, ready",
                "  registration  ok",
                "  heartbeat     ok",
                "  kubernetes    ok",
                "tunnel: disabled",
            ],
        )

    def test_tunnel(self) -> None:
        """The tunnel: each forward's state and proof, denied dials, the last failed attempt's steps."""
        now = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)
        self.board.set_tunnel(
            state="connected",
            forwards=(
                ForwardStatus(name="api", local_addr="h:1", state="proven", remote_port=8000),
                ForwardStatus(name="kubelet", local_addr="h:2", state="stale", remote_port=8001),
                ForwardStatus(name="web", local_addr="h:3"),
            ),
            attempts=(
                Attempt(
                    began=now - timedelta(minutes=5),
                    steps=(
                        Step(name="dns", seconds=0.0123),
                        Step(name="tcp", seconds=3.0, error="no answer"),
                    ),
                    outcome="failed",
                ),
            ),
        )
        proven = ForwardTraffic(
            open_channels=2,
            confirmed=now - timedelta(seconds=3),
            last_dial=now - timedelta(hours=1),
            canary=CanaryResult(last_success=now - timedelta(seconds=30), tried=9, failed=1),
        )
        stale = ForwardTraffic(problems={"refused": 11, "timeout": 1})
        self.board.read_traffic_from(
            lambda: TunnelTraffic(
                forwards={"api": proven, "kubelet": stale, "web": ForwardTraffic()}, denied_channels=7
            )
        )
        self.serve_agent(lambda: now)
        text, _ = self.result()
        tunnel = text.partition("tunnel: ")[2]
        self.assertEqual(
            tunnel.splitlines()[:-1],
            [
                "connected",
                "  api      proven: port 8000, server heard 3s ago, target reached 1h ago, 2 open,"
                " canary back 30s ago, 1 lost",
                "  kubelet  stale: port 8001, target never reached, 0 open,"
                " failed dials: refused 11 timeout 1",
                "  web      configured: no port, target never reached, 0 open",
                "denied dials to what is no forward: 7",
                "last failed attempt to connect, 5m ago: dns 0.012 s, tcp 3.000 s FAILED",
            ],
        )
        self.assertNotIn("no answer", text)  # sentences are for who shows a token

    def test_not_ready(self) -> None:
        """An agent that is not: which check fails, where to look, and no success."""
        self.serve_agent()
        text, well = self.result()
        self.assertFalse(well)
        self.assertIn("127.0.0.1:8080: healthy, not ready", text)
        self.assertIn("  heartbeat     FAILED", text)
        self.assertTrue(text.endswith("the agent's log says why"))

    def test_standby(self) -> None:
        """A standby is well."""
        self.board.enter("standby")
        self.serve_agent()
        text, well = self.result()
        self.assertTrue(well)
        self.assertIn("healthy, standby", text)

    def test_wildcards(self) -> None:
        """An agent that listens on all addresses is asked on loopback; IPv6 is bracketed."""
        for bind, shown in (("0.0.0.0", "127.0.0.1:8080"), ("::", "[::1]:8080"), ("", "127.0.0.1:8080")):
            self.setUp()
            self.serve_agent()
            self.assertIn(f"{shown}: healthy", self.result(bind)[0])

    def test_leaves_nothing(self) -> None:
        """After the answer no connection is open and no timer of the client's left."""
        self.serve_agent()
        self.result()
        self.assertEqual([call for call in self.reactor.getDelayedCalls() if call.getTime() <= 5], [])

    def test_sends_no_token(self) -> None:
        """The questions carry no credentials: who knows who has taken the port."""
        heard: list[bytes] = []

        class Listens(Protocol):
            def dataReceived(self, data: bytes) -> None:
                heard.append(data)

        self.serve(Listens)
        self.ask()
        self.complete()
        self.assertIn(b"GET /health", b"".join(heard))
        self.assertNotIn(b"authorization", b"".join(heard).lower())


class TroubleTests(StatusCase):
    """What listens there is no agent, or nothing does."""

    def failing(self, error: Exception) -> tuple[str, bool]:
        asked = self.ask()
        factory = self.reactor.tcpClients[0][2]
        factory.clientConnectionFailed(self.reactor.connectors[0], Failure(error))
        self.reactor.advance(0.5)  # the endpoint looks for another address to try
        return self.successResultOf(asked)

    def test_refused(self) -> None:
        """Nothing listens: what to do about it."""
        text, well = self.failing(Refused())
        self.assertFalse(well)
        self.assertIn(
            "nothing listens on 127.0.0.1:8080: start the agent (twistd -n --pidfile= pipeops-agent)", text
        )

    def test_unreachable(self) -> None:
        """The address can't be reached: why."""
        text, well = self.failing(NoRouteError())
        self.assertFalse(well)
        self.assertIn("127.0.0.1:8080 can't be reached: No route to host", text)

    def test_never_connects(self) -> None:
        """A connection that is not made is given up after five seconds, and cancelled."""
        asked = self.ask()
        self.assertNoResult(asked)
        self.reactor.advance(5)
        text, well = self.successResultOf(asked)
        self.assertFalse(well)
        self.assertIn("does not answer within 5 s", text)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_never_answers(self) -> None:
        """One that says nothing, or stops in the middle, is given up as well."""
        for answer in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"):
            self.setUp()
            self.serve(saying(answer))
            asked = self.ask()
            self.complete()
            self.assertNoResult(asked)
            self.reactor.advance(5)
            self.complete()
            text, well = self.successResultOf(asked)
            self.assertFalse(well)
            self.assertIn("does not answer", text)
            self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_another_program(self) -> None:
        """What answers with something else is named as no agent, never with a traceback."""
        for answer, close, expected in (
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK",
                False,
                "/health answers 200 with something else",
            ),
            (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}", False, "/health answers 404"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", True, "/health is not answered in HTTP"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", True, "/health is not answered in HTTP"),
            (b"", True, "/health is not answered in HTTP"),
            (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_ANSWER + 1), False, "its answer is longer than"),
        ):
            self.setUp()
            self.serve(saying(answer, close=close))
            text, well = self.result()
            self.assertFalse(well)
            self.assertIn("what listens on 127.0.0.1:8080 is no pipeops-agent", text)
            self.assertIn(expected, text)

    def test_control_characters(self) -> None:
        """What another program answers can't steer the terminal."""
        body = (
            b'{"status": "a\\u001b[2Jb", "version": "1", "timestamp": "2024-01-15T10:30:00Z",'
            b' "full_version": "c\\nd\\u202e"}'
        )
        self.serve(saying(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)))
        text, _ = self.result()
        self.assertIn("a\\x1b[2Jb", text)
        self.assertIn("c\\nd\\u202e", text)
        self.assertNotIn("\x1b", text)
