"""Tests for what requests show, and what is answered to those who may not (in memory)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import globalLogPublisher

from pipeops_agent.access.guesses import MOST
from pipeops_agent.caller import OPERATE, READ, Grant
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model_server import (
    ClientLimits,
    LimitsSettings,
    ServerSettings,
    ServerToken,
    TotalLimits,
    TunnelLimits,
)
from pipeops_agent.web import replies
from pipeops_agent.web.replies import Reply
from pipeops_agent.web.request import AgentRequest
from pipeops_agent.web.routes import Handler, Parameters, Route
from pipeops_agent.web.site import AgentSite
from tests.web.harness import TOKEN, Answer, SiteCase

READER = "reader-77aa88bb99cc00dd"
OPERATOR = "operator-5f2c6a1d9e8b7c"
NARROW = "narrow-0123456789abcdef"

TOKENS = (
    ServerToken(name="reader", token=Secret(READER), scopes=(Grant("read"),)),
    ServerToken(name="operator", token=Secret(OPERATOR), scopes=(Grant("operate"),)),
    ServerToken(name="narrow", token=Secret(NARROW), scopes=(Grant.parse("read:*:*:web"),)),
)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class AccessCase(SiteCase):
    """A site with one path for each way of asking for a scope."""

    def setUp(self) -> None:
        super().setUp()
        self.server = ServerSettings(tokens=TOKENS, allow_plaintext_tokens=True)
        self.entrance.reconfigure()

    def build(self, *more: Route) -> AgentSite:
        return super().build(
            Route("GET", "/read", self.needs(READ)),
            Route("GET", "/filtered", self.needs(READ, partly=True)),
            Route("GET", "/operate", self.needs(OPERATE)),
            Route("GET", "/who", self.who),
            Route("POST", "/with-key", self.with_key),
            *more,
        )

    def needs(self, right: str, *, partly: bool = False) -> Handler:
        async def answer(request: AgentRequest, parameters: Parameters) -> Reply:
            caller = await self.entrance.access.require(request, right, partly=partly)
            return replies.json({"subject": caller.subject})

        return answer

    async def who(self, request: AgentRequest, parameters: Parameters) -> Reply:
        caller = await self.entrance.access.caller(request)
        return replies.json(
            {"origin": self.entrance.access.origin(request).name, "known": caller is not None}
        )

    async def with_key(self, request: AgentRequest, parameters: Parameters) -> Reply:
        """The session's key is not in a header: as on a WebSocket, where it is in the first message."""
        access = self.entrance.access
        key = request.content.read().decode("latin-1")  # type: ignore[union-attr]  # it has arrived
        caller = await access.known(access.credential(request).with_key(key))
        return replies.json({"subject": None if caller is None else caller.subject})

    def change(self, **values: object) -> None:
        """Change settings while the site is served."""
        self.server = msgspec.structs.replace(self.server, **values)
        self.entrance.reconfigure()


class ScopeTests(AccessCase):
    """Without a token, with too little, with enough."""

    def codes(self, path: str) -> list[int]:
        """Without a token, with a wrong one, and those of the reader, the operator, the narrow reader."""
        answers = [self.ask(path), self.request(path, bearer("wrong"), patience=MOST)]
        answers += [self.request(path, bearer(token)) for token in (READER, OPERATOR, NARROW)]
        return [answer.code for answer in answers]

    def test_each(self) -> None:
        """401 for nobody, 403 for too little, and never the one for the other."""
        self.assertEqual(self.codes("/read"), [401, 401, 200, 403, 403])
        self.assertEqual(self.codes("/filtered"), [401, 401, 200, 403, 200])
        self.assertEqual(self.codes("/operate"), [401, 401, 403, 200, 403])

    def test_errors(self) -> None:
        """Each refusal says what is wrong in words, in JSON, and in the challenge (RFC 6750, section 3.1)."""
        for answer, name, challenge in (
            (self.ask("/read"), "unauthorized", ""),
            (
                self.request("/read", bearer("wrong"), patience=MOST),
                "unauthorized",
                ', error="invalid_token"',
            ),
            (self.request("/read", bearer(OPERATOR)), "forbidden", ', error="insufficient_scope"'),
        ):
            self.assertEqual(answer.json["error"]["code"], name)
            self.assertEqual(answer.headers["WWW-Authenticate"], f'Bearer realm="pipeops-agent"{challenge}')
            self.assertEqual(answer.headers["Cache-Control"], "no-store")
        self.assertIn("scope read", self.request("/read", bearer(OPERATOR)).json["error"]["message"])

    def test_basic_paths(self) -> None:
        """Probes and the version ask for nothing, whatever is shown; metrics where the owner wants it."""
        for path in ("/health", "/version", "/metrics"):
            self.assertEqual(self.ask(path).code, 200)
            self.assertEqual(self.request(path, bearer("wrong")).code, 200)
        self.change(protect_metrics=True)
        self.assertEqual(self.codes("/metrics"), [401, 401, 200, 403, 403])
        self.assertEqual(self.codes("/health"), [200] * 5)

    def test_control_plane(self) -> None:
        """Without tokens of the settings the control plane's reads; with them it is unknown."""
        self.assertEqual(self.request("/read", bearer(TOKEN), patience=MOST).code, 401)
        self.change(tokens=())
        self.assertEqual(self.request("/read", bearer(TOKEN)).code, 200)
        self.assertEqual(self.request("/operate", bearer(TOKEN)).code, 403)

    def test_url(self) -> None:
        """A token in the URL is none."""
        for query in (f"token={READER}", f"access_token={READER}"):
            self.assertEqual(self.ask(f"/read?{query}").code, 401)


class OriginTests(AccessCase):
    """Where a request comes from."""

    def from_port(self, port: int, path: str = "/who", headers: Mapping[str, str] | None = None) -> Answer:
        """The answer to a request from a port of this machine."""
        return self.request(path, headers or {}, peer=IPv4Address("TCP", "127.0.0.1", port))

    def test_headers_say_nothing(self) -> None:
        """What anybody can write says nothing of where it comes from."""
        for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded"):
            self.assertEqual(self.request("/who", {name: "127.0.0.1"}).json["origin"], "10.0.0.7")

    def test_tunnel(self) -> None:
        """The tunnel's own sockets are told from others of this machine."""
        self.entrance.sockets.opened(("127.0.0.1", 50_000), "agent-http")
        self.assertEqual(self.from_port(50_000).json["origin"], "tunnel:agent-http")
        self.assertEqual(self.from_port(50_001).json["origin"], "127.0.0.1")

    def test_not_heard_of_yet(self) -> None:
        """A socket of the tunnel that is accepted before the tunnel knows it is connected is the tunnel's."""
        client = self.connect(peer=IPv4Address("TCP", "127.0.0.1", 50_000))
        self.entrance.sockets.opened(("127.0.0.1", 50_000), "agent-http")
        client.send(b"GET /who HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertEqual([answer.json["origin"] for answer in client.answers()], ["tunnel:agent-http"])

    def test_loopback_is_no_right(self) -> None:
        """Neither loopback nor the tunnel may anything without a token."""
        self.entrance.sockets.opened(("127.0.0.1", 50_000), "agent-http")
        for port in (50_000, 50_001):
            self.assertEqual(self.from_port(port, "/read").code, 401)

    def test_plaintext(self) -> None:
        """Off loopback and the tunnel, a token without TLS is refused, right or wrong, at once."""
        self.change(allow_plaintext_tokens=False)
        for token in (READER, "wrong"):
            answer = self.request("/read", bearer(token))
            self.assertEqual((answer.code, answer.json["error"]["code"]), (403, "plaintext_token"))
        self.assertEqual(self.ask("/read").code, 401)
        self.entrance.sockets.opened(("127.0.0.1", 50_000), "agent-http")
        for port in (50_000, 50_001):
            answer = self.from_port(port, "/read", bearer(READER))
            self.assertEqual(answer.code, 200, port)


class AnythingTests(AccessCase):
    """Whatever is shown."""

    @settings(deadline=None)
    @given(
        st.sampled_from(["Authorization", "Cookie", "X-Session-Key"]),
        st.sampled_from(["", "Bearer ", "pipeops-session-agent-vm-1="]),
        st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=200),
    )
    def test_refused(self, name: str, before: str, value: str) -> None:
        """Any bytes in any header that is looked at are a refusal, never an error of the agent's."""
        self.change(limits=LimitsSettings(client=ClientLimits(requests=1_000_000)))
        self.board.identify("agent-vm-1")
        answer = self.request("/read", {name: f"{before}{value}"}, patience=MOST)
        self.assertIn(answer.code, (400, 401))
        self.assertIn(answer.json["error"]["code"], ("bad_request", "unauthorized", "session_ended"))


class GuessTests(AccessCase):
    """Wrong tokens."""

    def test_delayed(self) -> None:
        """A wrong token's answer takes its time; a right one from the same address is answered meanwhile."""
        client = self.connect()
        client.send(b"GET /read HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer wrong\r\n\r\n")
        self.assertEqual(client.answers(), [])
        self.assertEqual(self.request("/read", bearer(READER)).code, 200)
        self.clock.advance(0.25)
        self.assertEqual([answer.code for answer in client.answers()], [401])

    def test_gone(self) -> None:
        """Who goes away meanwhile leaves nothing behind."""
        client = self.connect()
        client.send(b"GET /read HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer wrong\r\n\r\n")
        client.transport.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_flood(self) -> None:
        """Many at once are told to come later; a right token is answered all the same."""
        clients = [self.connect() for _ in range(4)]
        for client in clients:
            client.send(b"GET /read HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer wrong\r\n\r\n")
        answer = self.request("/read", bearer("wrong"))
        self.assertEqual((answer.code, answer.json["error"]["code"]), (429, "too_many"))
        self.assertEqual(answer.headers["Retry-After"], "4")
        self.assertEqual(self.request("/read", bearer(READER)).code, 200)


class LimitTests(AccessCase):
    """More than a client may."""

    def limit(self, **client: int) -> None:
        self.change(limits=LimitsSettings(client=ClientLimits(**client), tunnel=TunnelLimits()))

    def test_requests(self) -> None:
        """Too many requests are 429, paths that do not exist counted too; probes are never refused."""
        self.limit(requests=1)
        self.assertEqual([self.ask(path).code for path in ("/version", "/nowhere")], [200, 404])
        for path in ("/version", "/nowhere", "/read"):
            answer = self.ask(path)
            self.assertEqual((answer.code, answer.json["error"]["code"]), (429, "too_many"), path)
            self.assertEqual(answer.headers["Retry-After"], "1")
        self.assertEqual([self.ask(path).code for path in ("/health", "/ready")], [200, 503])
        self.clock.advance(1)
        self.assertEqual(self.ask("/version").code, 200)

    def test_total(self) -> None:
        """Where all together ask too much it is 503."""
        self.change(limits=LimitsSettings(total=TotalLimits(requests=1)))
        codes = [self.ask("/version").code for _ in range(3)]
        self.assertEqual(codes, [200, 200, 503])

    def test_connections(self) -> None:
        """One connection too many of a client is answered with 429 and closed; others' are not."""
        self.limit(connections=2)
        clients = [self.connect() for _ in range(3)]
        for client in clients:
            client.send(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n")
        answers = [client.answers()[0] for client in clients]
        self.assertEqual([answer.code for answer in answers], [200, 200, 429])
        self.assertEqual(answers[2].headers["Retry-After"], "1")
        self.assertEqual([client.lost for client in clients], [False, False, True])
        other = IPv4Address("TCP", "10.0.0.8", 1)
        self.assertEqual(self.request("/version", {}, peer=other).code, 200)
        clients[0].transport.end()
        self.assertEqual(self.ask("/version").code, 200)

    def test_probes_on_one_connection_too_many(self) -> None:
        """A probe is answered however many connections its address has: else opening them ends the agent."""
        self.limit(connections=1, requests=1)
        self.connect().send(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n")
        for path, code in (("/version", 429), ("/health", 200), ("/ready", 503)):
            self.assertEqual(self.ask(path).code, code)

    def test_given_back(self) -> None:
        """What is closed, refused or cut is counted no more."""
        self.limit(connections=2, requests=1000)
        for _ in range(20):
            clients = [self.connect() for _ in range(3)]
            for client in clients:
                client.send(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\nGET /version")
            self.assertEqual(self.entrance.limits.held("connections"), 2)
            for client in clients:
                client.transport.end()
        self.assertEqual(self.entrance.limits.held("connections"), 0)


class PlantedTests(AccessCase):
    """Tokens that were shown are found nowhere."""

    def test_nowhere(self) -> None:
        """Not in the log, the answers or the metrics, however they were shown."""
        events = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)  # type: ignore[arg-type]  # any case
        planted = "planted-7c1e5f8a9b2d"
        answers = [
            self.request("/read", bearer(planted), patience=MOST),
            self.ask("/read", patience=MOST, Authorization=f"Basic {planted}"),
            self.ask("/read", patience=MOST, Authorization=planted),
            self.ask(f"/read?token={planted}"),
            self.ask("/read", Cookie=f"pipeops-session-x={planted}", X_Session_Key=planted),
            self.request("/api/session", bearer(planted), method="POST", patience=MOST),
            self.request("/operate", bearer(READER)),
        ]
        self.assertTrue(all(answer.code in (401, 403, 503) for answer in answers))
        seen = b"".join(answer.body + str(answer.headers).encode() for answer in answers)
        seen += self.ask("/metrics").body + repr(list(events)).encode()
        for token in (planted, READER):
            self.assertNotIn(token.encode(), seen)
