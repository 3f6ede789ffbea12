"""Tests for who somebody is by what they show."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.access.denied import Denied
from pipeops_agent.access.gate import Gate, Shown
from pipeops_agent.access.guesses import MOST, WAITING, Guesses
from pipeops_agent.access.origins import Origin
from pipeops_agent.access.sessions import Lifetime, Sessions
from pipeops_agent.access.tokens import Known, StaticTokens
from pipeops_agent.caller import OPERATE, READ, Caller, Grant
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model_server import ServerToken
from pipeops_agent.tokens import SettingsToken

OWN = "own-9f8E7d6C5b4A3z2Y1x"
CI = "ci-5f2c6a1d9e8b7c4f3a"
READER = "reader-77aa88bb99cc00dd"
THEIRS = "eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl"

FAR = Origin(name="10.0.0.7", client="10.0.0.7")
NEAR = Origin(name="127.0.0.1", client="127.0.0.1", near=True)
TUNNEL = Origin(name="tunnel:agent-http", client="tunnel:agent-http", tunnel=True, near=True)

T = TypeVar("T")


class Cluster:
    """The cluster's tokens: one that is known; what was asked for is kept."""

    def __init__(self) -> None:
        self.asked: list[Secret] = []

    async def find(self, token: Secret, origin: Origin) -> Known | None:
        self.asked.append(token)
        if token.reveal() != THEIRS:
            return None
        return Known(subject="user jo", scopes=frozenset({Grant("read")}), kubernetes_token=token)


class GateCase(SynchronousTestCase):
    """A gate with two tokens of its own, and a cluster with one."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.plaintext = False
        self.cluster_id = ""
        self.cluster = Cluster()
        self.static = StaticTokens(SettingsToken(Secret(OWN)), lambda _: None)
        self.configure("read", "operate:scale@shop")
        self.sessions = Sessions(self.clock, lambda: Lifetime(1000, 100))
        self.gate = Gate(
            self.static,
            self.cluster,
            self.sessions,
            Guesses(self.clock),
            plaintext=lambda: self.plaintext,
            cluster_id=lambda: self.cluster_id,
        )

    def configure(self, *scopes: str) -> None:
        grants = tuple(map(Grant.parse, scopes))
        self.static.configure(
            [
                ServerToken(name="ci", token=Secret(CI), scopes=grants),
                ServerToken(name="reader", token=Secret(READER), scopes=(Grant("read"),)),
            ]
        )

    def run_now(self, waiting: Awaitable[T]) -> T:
        """What C{waiting} comes to without any time going by."""
        return self.successResultOf(Deferred.fromCoroutine(waiting))  # type: ignore[arg-type]  # they all are

    def denied(self, waiting: Awaitable[object], *, after: float = 0.0) -> Denied:
        """The refusal that C{waiting} ends in, after so many seconds."""
        deferred: Deferred[object] = Deferred.fromCoroutine(waiting)  # type: ignore[arg-type]  # they all are
        if after:
            self.clock.advance(after - 0.01)
            self.assertNoResult(deferred)
            self.clock.advance(0.01)
        error = self.failureResultOf(deferred, Denied).value
        assert isinstance(error, Denied)
        return error

    def caller(self, token: str, origin: Origin = NEAR) -> Caller:
        caller = self.run_now(self.gate.caller(Shown(bearer=Secret(token)), origin))
        assert caller is not None
        return caller


class BearerTests(GateCase):
    """Tokens."""

    def test_nothing(self) -> None:
        """Who shows nothing is nobody; that is no refusal yet."""
        self.assertIsNone(self.run_now(self.gate.caller(Shown(), FAR)))

    def test_static(self) -> None:
        """A configured token's caller has its name, its scopes and the origin."""
        caller = self.caller(READER, TUNNEL)
        self.assertEqual(
            caller, Caller(subject="reader", scopes=frozenset({Grant("read")}), origin="tunnel:agent-http")
        )

    def test_unknown(self) -> None:
        """A wrong token is refused, later each time; a right one is never made to wait by that."""
        for after in (0.25, 0.5, 1.0):
            error = self.denied(self.gate.caller(Shown(bearer=Secret("wrong-one")), NEAR), after=after)
            self.assertEqual(error.reason, "unauthorized")
            self.caller(CI)
        waiting = [
            Deferred.fromCoroutine(self.gate.caller(Shown(bearer=Secret("w")), NEAR)) for _ in range(WAITING)
        ]
        error = self.denied(self.gate.caller(Shown(bearer=Secret("w")), NEAR))
        self.assertEqual((error.reason, error.retry_after), ("too_many", MOST))
        self.caller(CI)
        self.clock.advance(MOST)
        for one in waiting:
            self.failureResultOf(one, Denied)

    def test_control_plane(self) -> None:
        """The agent's own token is not known beside others, and is never shown to the cluster."""
        self.denied(self.gate.caller(Shown(bearer=Secret(OWN)), NEAR), after=0.25)
        self.assertEqual(self.cluster.asked, [])

    def test_cluster(self) -> None:
        """What is none of the agent's own is asked about in the cluster; its owner acts with it."""
        caller = self.caller(THEIRS)
        self.assertEqual((caller.subject, caller.kubernetes_token), ("user jo", Secret(THEIRS)))
        self.caller(CI)
        self.assertEqual(self.cluster.asked, [Secret(THEIRS)])

    def test_narrowed_to_a_cluster(self) -> None:
        """Scopes for another cluster are no scopes here; nor for any, while it is not known which this is."""
        for here, scopes in (("", {"read"}), ("other", {"read"}), ("shop", {"read", "operate:scale"})):
            self.cluster_id = here
            self.assertEqual({grant.text for grant in self.caller(CI).scopes}, scopes, here)
        self.assertTrue(self.caller(CI).allows("scale"))

    def test_log(self) -> None:
        """A wrong token is told in the log by where it came from, and not what it was."""
        events = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)  # type: ignore[arg-type]  # any case
        self.denied(self.gate.caller(Shown(bearer=Secret("planted-wrong-token")), TUNNEL), after=0.25)
        (event,) = (event for event in events if event.get("log_namespace") == "access")
        self.assertEqual(event["origin"], "tunnel:agent-http")
        self.assertNotIn("planted", str(event))


class WayTests(GateCase):
    """Tokens in the clear."""

    def test_refused(self) -> None:
        """Without TLS on the way a right token is refused like a wrong one, and neither is looked at."""
        for token in (CI, "wrong", THEIRS):
            error = self.denied(self.gate.caller(Shown(bearer=Secret(token)), FAR))
            self.assertEqual(error.reason, "plaintext_token")
            error = self.denied(self.gate.sign_in(Shown(bearer=Secret(token)), FAR))
            self.assertEqual(error.reason, "plaintext_token")
        self.assertEqual(self.cluster.asked, [])

    def test_session(self) -> None:
        """A session's key is no better."""
        _, opened = self.run_now(self.gate.sign_in(Shown(bearer=Secret(CI)), NEAR))
        shown = Shown(session=opened.identifier, key=opened.key)
        self.assertEqual(self.denied(self.gate.caller(shown, FAR)).reason, "plaintext_token")

    def test_ways(self) -> None:
        """TLS, loopback, the tunnel, and the owner's word are ways for a token."""
        self.caller(CI, NEAR)
        self.caller(CI, TUNNEL)
        encrypted = Shown(bearer=Secret(CI), encrypted=True)
        self.assertIsNotNone(self.run_now(self.gate.caller(encrypted, FAR)))
        self.plaintext = True
        self.caller(CI, FAR)


class SessionTests(GateCase):
    """Signing in and out."""

    def sign_in(self, token: str = CI) -> Shown:
        _, opened = self.run_now(self.gate.sign_in(Shown(bearer=Secret(token)), NEAR))
        return Shown(session=opened.identifier, key=opened.key)

    def test_session(self) -> None:
        """A session is its token's owner."""
        shown = self.sign_in()
        caller = self.run_now(self.gate.caller(shown, NEAR))
        self.assertEqual(caller, self.caller(CI))

    def test_cookie_alone(self) -> None:
        """The id without the key is nobody: a browser sends it whoever asks it to."""
        shown = self.sign_in()
        self.assertIsNone(self.run_now(self.gate.caller(Shown(session=shown.session), NEAR)))

    def test_wrong_key(self) -> None:
        """A wrong key, or another session's, is a wrong token."""
        first, second = self.sign_in(), self.sign_in()
        mixed = Shown(session=first.session, key=second.key)
        self.assertEqual(self.denied(self.gate.caller(mixed, NEAR), after=0.25).reason, "unauthorized")

    def test_ended(self) -> None:
        """A session that has ended, or was before a restart, asks to sign in again, at once."""
        shown = self.sign_in()
        for gone in (Shown(session=Secret("x" * 43), key=shown.key), Shown(key=shown.key)):
            self.assertEqual(self.denied(self.gate.caller(gone, NEAR)).reason, "session_ended")
        self.clock.advance(100)
        self.assertEqual(self.denied(self.gate.caller(shown, NEAR)).reason, "session_ended")

    def test_used(self) -> None:
        """Being used keeps a session from ending."""
        shown = self.sign_in()
        for _ in range(5):
            self.clock.advance(60)
            self.assertIsNotNone(self.run_now(self.gate.caller(shown, NEAR)))

    def test_token_taken_away(self) -> None:
        """With its token a session loses everything; with fewer scopes it has fewer."""
        shown = self.sign_in()
        self.configure("operate:scale")
        caller = self.run_now(self.gate.caller(shown, NEAR))
        assert caller is not None
        self.assertEqual(caller.scopes, {Grant("operate", frozenset({"scale"}))})
        self.static.configure([])
        self.assertEqual(self.denied(self.gate.caller(shown, NEAR)).reason, "session_ended")
        self.assertEqual(len(self.sessions), 0)

    def test_bearer_before_session(self) -> None:
        """Where both are shown the token counts."""
        shown = self.sign_in()
        both = Shown(bearer=Secret(READER), session=shown.session, key=shown.key)
        caller = self.run_now(self.gate.caller(both, NEAR))
        assert caller is not None
        self.assertEqual(caller.subject, "reader")

    def test_sign_in_needs_a_token(self) -> None:
        """Nothing, a wrong token or another session opens no session."""
        shown = self.sign_in()
        for nothing in (Shown(), shown):
            error = self.denied(self.gate.sign_in(nothing, NEAR))
            self.assertEqual((error.reason, error.shown), ("unauthorized", False))
        self.denied(self.gate.sign_in(Shown(bearer=Secret("wrong")), NEAR), after=0.25)
        self.assertEqual(len(self.sessions), 1)

    def test_sign_out(self) -> None:
        """Signing out needs the key as well, and ends this session alone."""
        first, second = self.sign_in(), self.sign_in()
        for wrong in (Shown(), Shown(session=first.session), Shown(bearer=Secret(CI))):
            self.assertEqual(self.denied(self.gate.sign_out(wrong, NEAR)).reason, "unauthorized")
        self.run_now(self.gate.sign_out(first, NEAR))
        self.assertEqual(self.denied(self.gate.caller(first, NEAR)).reason, "session_ended")
        self.assertIsNotNone(self.run_now(self.gate.caller(second, NEAR)))


class RequireTests(GateCase):
    """Whether that is enough."""

    def with_scopes(self, *scopes: str) -> Caller:
        return Caller(subject="x", scopes=frozenset(map(Grant.parse, scopes)), origin="o")

    def test_enough(self) -> None:
        """The scope itself; a narrowed one where each thing is asked for."""
        for scopes, right, partly in (
            (["read"], READ, False),
            (["operate", "read"], OPERATE, False),
            (["read:*:*:web"], READ, True),
            (["operate:scale"], OPERATE, True),
        ):
            caller = self.with_scopes(*scopes)
            self.assertIs(self.gate.require(caller, right, partly=partly), caller)

    def test_too_little(self) -> None:
        """What is missing is named; nobody at all is another answer than too little."""
        error = self.assertRaises(Denied, self.gate.require, None, READ)
        self.assertEqual((error.reason, error.shown), ("unauthorized", False))
        for scopes, right, partly, words in (
            (["operate"], READ, False, "the scope read"),
            (["operate"], READ, True, "the scope read"),
            (["read"], OPERATE, False, "the scope operate"),
            ([], READ, True, "the scope read"),
            (["read:*:*:web"], READ, False, "narrowed"),
        ):
            caller = self.with_scopes(*scopes)
            error = self.assertRaises(Denied, self.gate.require, caller, right, partly=partly)
            self.assertEqual(error.reason, "forbidden")
            self.assertIn(words, error.sentence)
