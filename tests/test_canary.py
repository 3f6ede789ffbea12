"""Tests for L{pipeops_agent.canary}: what comes of a canary, whoever answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone, ResponseNeverReceived
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse
from zope.interface import implementer

from pipeops_agent.canary import MAX_HEADS, PATH, RETRY, Canaries, CanaryService
from pipeops_agent.events import EventHub
from pipeops_agent.figures import CanaryResult
from pipeops_agent.settings.model_tunnel import CanarySettings
from pipeops_agent.status import ForwardState, ForwardStatus, StatusBoard
from pipeops_agent.tunnel.traffic import ForwardCounters


class Response:
    """An answer that is there at once."""

    phrase = b""

    def __init__(self, code: int, body: bytes) -> None:
        self.code, self._body = code, body

    def deliverBody(self, protocol: Any) -> None:  # noqa: N802  # IResponse's
        protocol.dataReceived(self._body)
        protocol.connectionLost(Failure(ResponseDone()))


@implementer(IAgent)
class Way:
    """The way to the far side, where the test answers."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.headers: list[Headers] = []
        self.answers: list[Deferred[IResponse]] = []

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: object = None,  # noqa: N803  # IAgent's name
    ) -> Deferred[IResponse]:
        assert method == b"GET" and headers is not None
        self.urls.append(uri.decode())
        self.headers.append(headers)
        self.answers.append(Deferred())
        return self.answers[-1]

    def answer(self, code: int, body: bytes) -> None:
        response: Any = Response(code, body)
        self.answers[-1].callback(response)


class CanaryCase(SynchronousTestCase):
    url = "http://{host}:{port}"

    def setUp(self) -> None:
        self.clock = Clock()
        self.board = StatusBoard(EventHub(self.wall), self.wall)
        self.counters = ForwardCounters()
        self.canaries = Canaries()
        self.way = Way()
        self.service = CanaryService(
            self.clock,
            self.way,
            CanarySettings(enabled=True, url=self.url, interval=60.0, timeout=10.0),
            canaries=self.canaries,
            board=self.board,
            wall=self.wall,
            counters=self.counters,
            version="1.2.3",
        )
        self.addCleanup(self.stop)

    def wall(self) -> datetime:
        return datetime.fromtimestamp(1_700_000_000 + self.clock.seconds(), UTC)

    def stop(self) -> None:
        self.successResultOf(self.service.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.canaries._out, {})

    def carried(self, state: ForwardState = "listening", port: int | None = 8002) -> None:
        """The forward is in this state."""
        forward = ForwardStatus(name="agent-http", local_addr="localhost:8080", state=state, remote_port=port)
        self.board.set_tunnel(server="wss://tunnel.example:443/", forwards=(forward,))

    def start(self) -> None:
        self.carried()
        self.service.startService()

    @property
    def nonce(self) -> str:
        return self.way.urls[-1].rpartition("/")[2]

    def come_home(self) -> None:
        """The canary reaches the agent's own site, whose answer goes back."""
        answer = self.canaries.answer(self.nonce)
        assert answer is not None
        self.way.answer(200, answer.encode())

    @property
    def result(self) -> CanaryResult:
        assert self.counters.canary is not None
        return self.counters.canary

    @property
    def error(self) -> str:
        return self.result.error or ""


class ServiceTests(CanaryCase):
    """When canaries are sent, and what is made of the answers."""

    def test_home(self) -> None:
        """The own answer, through the whole way: success, with time and round trip; then the next."""
        self.start()
        self.assertEqual(self.way.urls[0], f"http://tunnel.example:8002/canary/{self.nonce}")
        self.assertEqual(self.way.headers[0].getRawHeaders("Host"), ["tunnel.example:8002"])
        self.assertEqual(self.way.headers[0].getRawHeaders("Connection"), ["close"])
        self.clock.advance(0.25)
        self.come_home()
        self.assertEqual((self.result.rtt, self.result.error), (0.25, None))
        self.assertEqual(
            (self.result.last_success, self.result.tried, self.result.failed), (self.wall(), 1, 0)
        )
        first = self.nonce
        self.clock.advance(60)
        self.assertEqual(len(self.way.urls), 2)
        self.assertNotEqual(self.nonce, first)
        self.assertGreaterEqual(len(first), 32)

    def test_not_carried(self) -> None:
        """While no session carries the forward none is sent; soon after one does, it is."""
        self.service.startService()
        for state, port in (("configured", None), ("allocated", 8002), ("refused", 8002)):
            self.carried(state, port)  # type: ignore[arg-type]  # they are states
            self.clock.advance(RETRY)
        self.assertEqual((self.way.urls, self.counters.canary), ([], None))
        self.carried("stale")
        self.clock.advance(RETRY)
        self.assertEqual(len(self.way.urls), 1)

    def test_somebody_else(self) -> None:
        """Whoever answers without having heard from this agent is not it, with whatever status."""
        self.start()
        self.way.answer(200, b"welcome")
        self.assertEqual(self.error, "tunnel.example:8002 answers with 200, and does not lead to this agent")
        self.assertEqual((self.result.tried, self.result.failed, self.result.last_success), (1, 1, None))

    def test_a_wrong_answer(self) -> None:
        """An answer that is not this agent's, to a request that reached it, is told apart."""
        for code, body in ((502, b"bad gateway"), (200, b"a cache's")):
            self.start()
            self.assertIsNotNone(self.canaries.answer(self.nonce))
            self.way.answer(code, body)
            self.assertIn("the request reached this agent, but tunnel.example:8002", self.error)
            self.assertTrue(self.error.endswith(f"answers with something else: {code}"))
            self.stop()

    def test_no_answer(self) -> None:
        """No answer in time; whether the request arrived is said."""
        self.start()
        self.clock.advance(10)
        self.assertEqual(self.error, "no answer came back from tunnel.example:8002 within 10 s")
        self.clock.advance(60)
        self.canaries.answer(self.nonce)
        self.clock.advance(10)
        self.assertTrue(self.error.startswith("the request reached this agent, but no answer"))

    def test_no_connection(self) -> None:
        """A connection that can't be had is explained as everywhere; what succeeded before is kept."""
        self.start()
        self.come_home()
        well = self.result.last_success
        self.clock.advance(60)
        self.way.answers[-1].errback(ResponseNeverReceived([Failure(Refused())]))
        self.assertEqual(self.error, "tunnel.example:8002 refuses connections")
        self.assertEqual((self.result.last_success, self.result.failed), (well, 1))

    def test_tunnel_lost_meanwhile(self) -> None:
        """A failure tells nothing once the tunnel is gone, or the port is another."""
        for state, port in (("allocated", 8002), ("listening", 9000)):
            self.start()
            self.carried(state, port)  # type: ignore[arg-type]  # they are states
            self.way.answers[-1].errback(Refused())
            self.assertIsNone(self.counters.canary)
            self.stop()

    def test_a_nonce_counts_once(self) -> None:
        """A nonce is known while its canary is out, and nobody guesses one."""
        self.start()
        nonce = self.nonce
        self.come_home()
        for guess in (nonce, "", "x" * 32):
            self.assertIsNone(self.canaries.answer(guess))

    def test_heads(self) -> None:
        """The forward's channels know the last few by their requests' beginnings."""
        self.start()
        self.assertEqual(self.counters.canary_heads, (f"GET {PATH}{self.nonce} ".encode(),))
        for _ in range(MAX_HEADS + 5):
            self.come_home()
            self.clock.advance(60)
        self.assertEqual(len(self.counters.canary_heads), MAX_HEADS)

    def test_stop(self) -> None:
        """Stopping ends the one under way; nothing is noted."""
        self.start()
        self.successResultOf(self.service.stopService())
        self.assertIsNone(self.counters.canary)


class PathTests(CanaryCase):
    """An address with a path."""

    url = "https://{port}.ports.example/t"

    def test_path(self) -> None:
        """It is asked with its path, and known with and without, as a gateway may take it away."""
        self.start()
        self.assertEqual(self.way.urls[0], f"https://8002.ports.example/t/canary/{self.nonce}")
        heads = {f"GET /t/canary/{self.nonce} ".encode(), f"GET /canary/{self.nonce} ".encode()}
        self.assertEqual(set(self.counters.canary_heads), heads)
