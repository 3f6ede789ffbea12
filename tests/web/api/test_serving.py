"""Tests for L{pipeops_agent.web.api.serving}: who is answered, and by which methods."""

from __future__ import annotations

from tests.web.api.case import ApiCase
from tests.web.harness import TOKEN

PATHS = (
    "/api/health/detailed",
    "/api/status/features",
    "/api/metrics/runtime",
    "/api/metrics/history",
    "/api/settings",
    "/api/cluster/nodes",
)


class ServingTests(ApiCase):
    """What all operations have in common."""

    def test_without_a_token(self) -> None:
        """401, and how to show one; also where a parameter is wrong: strangers learn nothing."""
        for path in PATHS:
            for asked in (path, f"{path}?x=1"):
                answer = self.ask(asked)
                self.assertEqual((answer.code, answer.json["error"]["code"]), (401, "unauthorized"), path)
                self.assertEqual(answer.headers["WWW-Authenticate"], 'Bearer realm="pipeops-agent"')

    def test_wrong_token(self) -> None:
        """401, and that it is the token's fault."""
        for path in PATHS:
            answer = self.ask(path, patience=100.0, Authorization="Bearer wrong")
            self.assertEqual(answer.code, 401, path)
            self.assertIn('error="invalid_token"', answer.headers["WWW-Authenticate"])

    def test_with_a_token(self) -> None:
        """JSON, never kept."""
        for path in PATHS:
            answer = self.get(path)
            self.assertEqual(
                (answer.code, answer.headers["Content-Type"], answer.headers["Cache-Control"]),
                (200, "application/json", "no-store"),
                path,
            )

    def test_head(self) -> None:
        """HEAD is GET without the body, its length included."""
        for path in PATHS:
            body = self.get(path).body
            answer = self.ask(path, "HEAD", Authorization=f"Bearer {TOKEN}")
            self.assertEqual((answer.code, answer.body), (200, b""), path)
            self.assertEqual(int(answer.headers["Content-Length"]), len(body), path)

    def test_options(self) -> None:
        """OPTIONS needs no token and says what can be done."""
        for path in PATHS:
            answer = self.ask(path, "OPTIONS")
            self.assertEqual((answer.code, answer.headers["Allow"]), (204, "GET, HEAD, OPTIONS"), path)

    def test_other_methods(self) -> None:
        """Any other method is refused, with those that are not."""
        for method in ("POST", "PUT", "DELETE", "PATCH", "NONSENSE"):
            answer = self.ask("/api/metrics/runtime", method, Authorization=f"Bearer {TOKEN}")
            self.assertEqual((answer.code, answer.headers["Allow"]), (405, "GET, HEAD, OPTIONS"), method)

    def test_unknown_parameter(self) -> None:
        """An operation without parameters takes none."""
        for path in PATHS[:-1]:
            self.assertEqual(
                self.refused(f"{path}?limit=1"), "unknown parameter 'limit'; known here: none", path
            )

    def test_counted_by_template(self) -> None:
        """In metrics a request has its route's name, never what was asked with it."""
        self.get("/api/metrics/runtime?secret=1")
        self.assertEqual(self.counted(), {("GET", "/api/metrics/runtime", "400"): 1})


class ScopeTests(ApiCase):
    """A token that is known, and may not."""

    def setUp(self) -> None:
        super().setUp()
        self.let_in("operate")

    def test_forbidden(self) -> None:
        """403, which names the scope."""
        for path in PATHS:
            self.assertIn("read", self.refused(path, 403))
