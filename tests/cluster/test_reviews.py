"""Tests of L{pipeops_agent.cluster.reviews}: callers with Kubernetes tokens."""

from __future__ import annotations

import gc

from twisted.internet.defer import Deferred
from twisted.web.server import NOT_DONE_YET, Request

from pipeops_agent.cluster import reviews as module
from pipeops_agent.cluster.errors import StatusError
from pipeops_agent.cluster.reviews import (
    AT_ONCE,
    BURST,
    LIFETIME,
    MAX_TOKEN,
    PAUSE,
    REFUSED_LIFETIME,
    Attributes,
    Identity,
    Reviews,
    TooMany,
    jwt_shaped,
)
from pipeops_agent.secrets import Secret
from tests.cluster.case import FakeApiCase
from tests.cluster.fakeapi import Asked, FakeApi, operating

LIST = Attributes(verb="list", resource="pods", namespace="shop")


def jwt(number: int = 0) -> str:
    """A text that is shaped like a token."""
    return f"eyJhbGciOi.eyJpc3MiOi{number:06}.c2lnbmF0dXJl"


class ReviewsCase(FakeApiCase):
    """With an API server that knows one token."""

    def setUp(self) -> None:
        super().setUp()
        self.answers = operating.Reviews(self.server)
        self.answers.users[jwt()] = {"username": "anna", "uid": "7", "groups": ["g"], "extra": {"k": ["v"]}}
        self.answers.user_rights = {("anna", "list pods")}
        self.reviews = Reviews(self.clock, self.api)

    def who(self, token: str, origin: str = "10.0.0.1") -> Identity | None:
        """Who it is."""
        return self.result(self.reviews.identify(Secret(token), origin))


class TokenTests(ReviewsCase):
    """TokenReview."""

    def test_known(self) -> None:
        """Who it is, and asked again only after a minute."""
        identity = self.who(jwt())
        assert identity is not None
        self.assertEqual((identity.username, identity.groups), ("anna", ("g",)))
        for _ in range(10):
            self.advance(LIFETIME / 11)
            self.who(jwt())
        self.assertEqual(len(self.answers.asked), 1)
        self.advance(LIFETIME / 5)
        del self.answers.users[jwt()]
        self.assertIsNone(self.who(jwt()))
        self.assertEqual(len(self.answers.asked), 2)

    def test_unknown(self) -> None:
        """Nobody; that holds for a shorter time."""
        self.assertIsNone(self.who(jwt(1)))
        self.assertIsNone(self.who(jwt(1)))
        self.assertEqual(len(self.answers.asked), 1)
        self.answers.users[jwt(1)] = {"username": "otto"}
        self.advance(REFUSED_LIFETIME + 0.5)
        identity = self.who(jwt(1))
        assert identity is not None
        self.assertEqual(identity.username, "otto")

    def test_shape(self) -> None:
        """Only what is shaped like a token leaves the agent: an API key shown here by mistake does not."""
        for text in (
            "",
            "secret",
            "a.b.c",
            f"{jwt()}.x",
            f"{jwt()} ",
            jwt().replace(".", ":"),
            "é" * 40,
            "x" * 9 + "." + "y" * 9 + "." + "z" * MAX_TOKEN,
        ):
            self.assertFalse(jwt_shaped(Secret(text)), text[:40])
            self.assertIsNone(self.who(text))
        self.assertEqual(self.answers.asked, [])

    def test_pace(self) -> None:
        """Whoever guesses is slowed down; nobody else is."""
        for number in range(1, BURST + 1):
            self.who(jwt(number), "10.0.0.66")
        error = self.failure(self.reviews.identify(Secret(jwt(99)), "10.0.0.66"), TooMany)
        self.assertAlmostEqual(error.retry_after, PAUSE)
        self.assertEqual(len(self.answers.asked), BURST)
        self.assertIsNotNone(self.who(jwt(), "10.0.0.1"))
        # What is known is not asked, so not counted; and after a pause one more is.
        self.assertIsNotNone(self.who(jwt(), "10.0.0.66"))
        self.advance(PAUSE)
        self.who(jwt(99), "10.0.0.66")
        self.failure(self.reviews.identify(Secret(jwt(98)), "10.0.0.66"), TooMany)

    def test_bounded(self) -> None:
        """Neither verdicts nor origins are kept without an end."""
        self.patch(module, "MAX_VERDICTS", 5)
        self.patch(module, "MAX_ORIGINS", 5)
        self.reviews = Reviews(self.clock, self.api)
        for number in range(20):
            self.who(jwt(number + 1), f"10.0.1.{number}")
        self.assertEqual(len(self.reviews._known._kept), 5)
        self.assertEqual(len(self.reviews._buckets), 5)

    def test_at_once(self) -> None:
        """Only so many are under way at one time; one that is cancelled makes room."""
        waiting: list[Asked] = []
        name = "tokenreviews.authentication.k8s.io"
        handler = self.server.handlers[name]

        def wait(server: FakeApi, asked: Asked, request: Request) -> int:
            waiting.append(asked)
            return NOT_DONE_YET

        self.server.handlers[name] = wait
        running = [
            Deferred.fromCoroutine(self.reviews.identify(Secret(jwt(number + 1)), f"10.0.2.{number}"))
            for number in range(AT_ONCE + 1)
        ]
        self.flush()
        self.assertEqual(len(waiting), AT_ONCE)
        self.server.handlers[name] = handler
        running[0].cancel()
        self.failureResultOf(running[0])
        self.flush()
        self.assertIsNone(self.successResultOf(running[-1]))
        for each in running[1:-1]:
            each.cancel()
            self.failureResultOf(each)

    def test_not_allowed(self) -> None:
        """An agent that may not ask says so, and keeps no verdict."""
        self.server.allowed = lambda asked: False
        for _ in range(2):
            error = self.failure(self.reviews.identify(Secret(jwt()), "10.0.0.1"), StatusError)
            self.assertTrue(error.forbidden)
            self.assertNotIn(jwt(), str(error))

    def test_no_token_is_kept(self) -> None:
        """What is kept does not hold the token."""
        self.who(jwt())
        seen, waiting = set(), [self.reviews._known, self.reviews._allowed, self.reviews._buckets]
        while waiting:
            found = waiting.pop()
            if id(found) in seen or isinstance(found, type):
                continue
            seen.add(id(found))
            self.assertNotEqual(found, jwt())
            self.assertNotEqual(found, Secret(jwt()))
            if isinstance(found, dict | list | tuple) or type(found).__name__ == "_Kept":
                waiting += [each for each in gc.get_referents(found) if each is not self.clock]


class AccessTests(ReviewsCase):
    """SubjectAccessReview."""

    def test_allowed(self) -> None:
        """Each question once a minute, with all that the API server said of who it is."""
        identity = self.who(jwt())
        assert identity is not None
        for _ in range(3):
            self.assertTrue(self.result(self.reviews.allowed(identity, LIST)))
        asked = [spec for kind, spec in self.answers.asked if kind == "SubjectAccessReview"]
        self.assertEqual(
            asked,
            [
                {
                    "user": "anna",
                    "uid": "7",
                    "groups": ["g"],
                    "extra": {"k": ["v"]},
                    "resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "shop"},
                }
            ],
        )
        self.answers.user_rights.clear()
        self.advance(LIFETIME + 1)
        self.assertFalse(self.result(self.reviews.allowed(identity, LIST)))

    def test_apart(self) -> None:
        """Verdicts of other users, groups and questions are others."""
        for identity, verb, expected in (
            (Identity("anna"), "list", True),
            (Identity("anna"), "delete", False),
            (Identity("otto"), "list", False),
            (Identity("anna", groups=("x",)), "list", True),
        ):
            attributes = Attributes(verb=verb, resource="pods")
            self.assertEqual(self.result(self.reviews.allowed(identity, attributes)), expected)
        self.assertEqual(len(self.answers.asked), 4)
