"""Tests for L{pipeops_agent.web.compression}: who gets what compressed."""

from __future__ import annotations

import gzip

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.web.compression import WORTHWHILE, compressed
from pipeops_agent.web.replies import Reply
from tests.web.harness import SiteCase

LARGE = Reply(body=b"0123456789" * WORTHWHILE, headers=(("X-Other", "1"),))


def encoding(*accepted: str, reply: Reply = LARGE) -> str | None:
    return dict(compressed(reply, accepted).headers).get("Content-Encoding")


class CompressedTests(SynchronousTestCase):
    """A reply as it is sent."""

    def test_large(self) -> None:
        """It is the same when unpacked, much shorter, keeps its headers, and says what it depends on."""
        reply = compressed(LARGE, ["gzip"])
        self.assertEqual(gzip.decompress(reply.body), LARGE.body)
        self.assertLess(len(reply.body), len(LARGE.body) // 10)
        self.assertEqual(
            reply.headers, (("X-Other", "1"), ("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding"))
        )

    def test_not_asked_for(self) -> None:
        """Who does not say so gets it as it is; caches learn that others may not."""
        reply = compressed(LARGE, [])
        self.assertEqual((reply.body, reply.headers[-1]), (LARGE.body, ("Vary", "Accept-Encoding")))

    def test_small(self) -> None:
        """A short one is never compressed."""
        small = Reply(body=b"x" * (WORTHWHILE - 1))
        self.assertEqual(compressed(small, ["gzip"]), small)

    def test_compressed_already(self) -> None:
        """What has an encoding is left alone."""
        reply = Reply(body=LARGE.body, headers=(("Content-Encoding", "br"),))
        self.assertEqual(compressed(reply, ["gzip"]), reply)

    def test_accepted(self) -> None:
        """The forms in which clients say that they take gzip."""
        for accepted in (
            ["gzip"],
            ["GZip"],
            ["x-gzip"],
            ["deflate, gzip;q=0.5"],
            ["br", "gzip"],
            ["*"],
            ["gzip; q=1.0"],
            ["identity;q=0, *;q=0.1"],
        ):
            self.assertEqual(encoding(*accepted), "gzip", accepted)

    def test_refused(self) -> None:
        """The forms in which they say that they don't, and what says nothing."""
        for accepted in (
            ["gzip;q=0"],
            ["gzip;q=0, *"],
            ["gzip;q=x"],
            ["br"],
            ["*;q=0"],
            [""],
            ["identity"],
            ["notgzip"],
        ):
            self.assertIsNone(encoding(*accepted), accepted)


class SiteTests(SiteCase):
    """On the wire."""

    def test_metrics(self) -> None:
        """A large page goes compressed to who takes it, its length that of what is sent."""
        plain = self.ask("/metrics")
        answer = self.ask("/metrics", Accept_Encoding="gzip")
        self.assertEqual(answer.headers["Content-Encoding"], "gzip")
        self.assertEqual(int(answer.headers["Content-Length"]), len(answer.body))
        self.assertIn(b"pipeops_agent_status", gzip.decompress(answer.body))
        self.assertNotIn("Content-Encoding", plain.headers)

    def test_head(self) -> None:
        """HEAD says what GET would, without the body."""
        answer = self.ask("/metrics", "HEAD", Accept_Encoding="gzip")
        self.assertEqual((answer.code, answer.body), (200, b""))
        self.assertEqual(answer.headers["Content-Encoding"], "gzip")
