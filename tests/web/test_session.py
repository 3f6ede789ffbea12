"""Tests for signing in and out (in memory)."""

from __future__ import annotations

from pipeops_agent.access.guesses import MOST
from pipeops_agent.web.access import KEY_HEADER, MAX_SHOWN
from tests.web.harness import Answer
from tests.web.test_access import OPERATOR, READER, TOKENS, AccessCase, bearer

NAME = "pipeops-session-agent-vm-1"


class SessionCase(AccessCase):
    """An agent with an id."""

    def setUp(self) -> None:
        super().setUp()
        self.board.identify("agent-vm-1")

    def sign_in(self, token: str = READER) -> dict[str, str]:
        """The headers of a request of the session."""
        answer = self.request("/api/session", bearer(token), method="POST")
        self.assertEqual(answer.code, 200)
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
        return {"Cookie": cookie, KEY_HEADER: answer.json["key"]}

    def with_session(self, path: str, headers: dict[str, str], method: str = "GET") -> Answer:
        return self.request(path, headers, method=method, patience=MOST)


class SignInTests(SessionCase):
    """C{POST /api/session}."""

    def test_answer(self) -> None:
        """Who signs in learns who he is, what he may, the key, and when it ends."""
        answer = self.request("/api/session", bearer(READER), method="POST")
        self.assertEqual(answer.code, 200)
        self.assertEqual((answer.json["subject"], answer.json["scopes"]), ("reader", ["read"]))
        self.assertEqual(len(answer.json["key"]), 43)
        self.assertEqual(answer.json["expires"], "2024-01-15T22:30:00Z")

    def test_cookie(self) -> None:
        """No script reads the cookie, no other site makes a browser send it, and its name is this agent's."""
        answer = self.request("/api/session", bearer(READER), method="POST")
        value, *attributes = answer.headers["Set-Cookie"].split("; ")
        self.assertRegex(value, rf"^{NAME}=[A-Za-z0-9_-]{{43}}$")
        self.assertEqual(attributes, ["Path=/", "Max-Age=43200", "HttpOnly", "SameSite=Strict"])
        self.assertNotIn(value.partition("=")[2], answer.body.decode())

    def test_refused(self) -> None:
        """Without a token, with a wrong one, or with another session there is none."""
        self.assertEqual(self.ask("/api/session", "POST").code, 401)
        self.assertEqual(
            self.request("/api/session", bearer("wrong"), method="POST", patience=MOST).code, 401
        )
        self.assertEqual(self.with_session("/api/session", self.sign_in(), "POST").code, 401)

    def test_methods(self) -> None:
        """There is nothing else to do at this path."""
        answer = self.ask("/api/session")
        self.assertEqual((answer.code, answer.headers["Allow"]), (405, "DELETE, OPTIONS, POST"))


class StartingTests(AccessCase):
    """Before the agent knows who it is."""

    def test_later(self) -> None:
        """The cookie's name is not known yet: 503, and when to ask again."""
        answer = self.request("/api/session", bearer(READER), method="POST")
        self.assertEqual((answer.code, answer.headers["Retry-After"]), (503, "2"))


class UseTests(SessionCase):
    """Requests of a session."""

    def test_as_its_token(self) -> None:
        """A session may what its token may."""
        reader, operator = self.sign_in(READER), self.sign_in(OPERATOR)
        self.assertEqual(self.with_session("/read", reader).json, {"subject": "reader"})
        self.assertEqual(self.with_session("/operate", reader).code, 403)
        self.assertEqual(self.with_session("/operate", operator).json, {"subject": "operator"})

    def test_cookie_alone(self) -> None:
        """What another site's page could make a browser send is nobody's request."""
        cookie = {"Cookie": self.sign_in()["Cookie"]}
        self.assertEqual(self.with_session("/read", cookie).code, 401)
        self.assertFalse(self.with_session("/who", cookie).json["known"])

    def test_key_alone(self) -> None:
        """Nor is the key by itself, or with another agent's cookie."""
        headers = self.sign_in()
        for cookie in ("", headers["Cookie"].replace("agent-vm-1", "agent-vm-2")):
            answer = self.with_session("/read", {**headers, "Cookie": cookie})
            self.assertEqual((answer.code, answer.json["error"]["code"]), (401, "session_ended"))

    def test_key_elsewhere(self) -> None:
        """The key may come in another way than the header; one that is too long is none."""
        headers = self.sign_in()
        cookie, key = {"Cookie": headers["Cookie"]}, headers[KEY_HEADER].encode()
        for shown, subject in ((key, "reader"), (b"", None), (b"x" * (MAX_SHOWN + 1), None)):
            answer = self.request("/with-key", cookie, method="POST", body=shown)
            self.assertEqual((answer.code, answer.json), (200, {"subject": subject}))
        answer = self.request("/with-key", cookie, method="POST", body=b"?" + key[1:], patience=MOST)
        self.assertEqual(answer.code, 401)

    def test_wrong_key(self) -> None:
        """Another session's key opens nothing, and takes its time."""
        first, second = self.sign_in(), self.sign_in()
        answer = self.with_session("/read", {**first, KEY_HEADER: second[KEY_HEADER]})
        self.assertEqual((answer.code, answer.json["error"]["code"]), (401, "unauthorized"))

    def test_beside_other_cookies(self) -> None:
        """Cookies of others on the same host do not matter."""
        headers = self.sign_in()
        mine = headers["Cookie"]
        headers["Cookie"] = f"a=b; pipeops-session-agent-vm-2=other; {mine}; c=d"
        self.assertEqual(self.with_session("/read", headers).code, 200)

    def test_expired(self) -> None:
        """A session ends when it is old, or not used, and says so."""
        self.change(session_lifetime=100.0, session_idle_timeout=30.0)
        headers = self.sign_in()
        self.clock.advance(29)
        self.assertEqual(self.request("/read", headers).code, 200)
        self.clock.advance(30)
        answer = self.request("/read", headers)
        self.assertEqual((answer.code, answer.json["error"]["code"]), (401, "session_ended"))

    def test_token_taken_away(self) -> None:
        """With its token the session ends, at once."""
        headers = self.sign_in(OPERATOR)
        self.change(tokens=TOKENS[:1])
        answer = self.request("/operate", headers)
        self.assertEqual((answer.code, answer.json["error"]["code"]), (401, "session_ended"))


class SignOutTests(SessionCase):
    """C{DELETE /api/session}."""

    def test_out(self) -> None:
        """The session is over, its cookie taken back; others go on."""
        first, second = self.sign_in(), self.sign_in()
        answer = self.with_session("/api/session", first, "DELETE")
        self.assertEqual((answer.code, answer.body), (204, b""))
        self.assertEqual(
            answer.headers["Set-Cookie"], f"{NAME}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"
        )
        self.assertEqual(self.with_session("/read", first).code, 401)
        self.assertEqual(self.with_session("/read", second).code, 200)

    def test_refused(self) -> None:
        """Nobody is signed out by another site's page, nor by a token."""
        headers = self.sign_in()
        cookie = {"Cookie": headers["Cookie"]}
        self.assertEqual(self.with_session("/api/session", cookie, "DELETE").code, 401)
        self.assertEqual(self.request("/api/session", bearer(READER), method="DELETE").code, 401)
        self.assertEqual(self.with_session("/read", headers).code, 200)
