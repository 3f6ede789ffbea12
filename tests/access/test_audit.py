"""Tests for the record of what was done."""

from __future__ import annotations

from datetime import UTC, datetime

from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.access.audit import Audit
from pipeops_agent.access.denied import Denied
from pipeops_agent.caller import Caller
from pipeops_agent.events import Event, EventHub
from pipeops_agent.log import Redactor
from pipeops_agent.secrets import Secret

TOKEN = "tok-5f2c6a1d9e8b7c4f3a"
CALLER = Caller(subject="ci", scopes=frozenset(), origin="tunnel:agent-http", kubernetes_token=Secret(TOKEN))


class AuditTests(SynchronousTestCase):
    """Who, from where, what, on what, how it ended, how long it took, how much it was."""

    def setUp(self) -> None:
        self.clock = Clock()
        hub = EventHub(lambda: datetime(2024, 1, 15, tzinfo=UTC))
        self.published: list[Event] = []
        hub.subscribe(self.published.append)
        redactor = Redactor()
        redactor.learn(Secret(TOKEN))
        self.audit = Audit(self.clock, hub, redactor.clean)
        self.events = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)  # type: ignore[arg-type]  # any case

    def verdicts(self) -> list[tuple[str, str]]:
        return [(event.data["verdict"], event.data["reason"]) for event in self.published]

    def test_record(self) -> None:
        """One record, in the log and on the channel, when it ends."""
        entry = self.audit.begin(CALLER, "scale", "deployments.apps shop/web")
        self.clock.advance(1.5)
        entry.bytes_in += 10
        entry.bytes_out += 2000
        self.assertEqual(self.published, [])
        entry.end("done")
        (event,) = self.published
        self.assertEqual((event.channel, event.event), ("audit", "done"))
        self.assertEqual(
            event.data,
            {
                "subject": "ci",
                "origin": "tunnel:agent-http",
                "action": "scale",
                "target": "deployments.apps shop/web",
                "verdict": "done",
                "reason": "",
                "seconds": 1.5,
                "bytes_in": 10,
                "bytes_out": 2000,
            },
        )
        (record,) = (event for event in self.events if event.get("log_namespace") == "audit")
        self.assertEqual(record["log_level"], LogLevel.info)
        self.assertEqual({name: record[name] for name in event.data}, event.data)

    def test_ends_once(self) -> None:
        """Whatever comes after the first end changes nothing."""
        with self.audit.begin(CALLER, "exec", "pods shop/web") as entry:
            entry.end("refused", "this needs the scope operate")
        entry.end("done")
        self.assertEqual(self.verdicts(), [("refused", "this needs the scope operate")])

    def test_block(self) -> None:
        """A block that ends by itself, by an error, or by being cancelled leaves its record."""
        for error in (None, CancelledError(), KeyError(TOKEN), Denied("forbidden", "not so")):
            try:
                with self.audit.begin(CALLER, "restart", "x"):
                    if error is not None:
                        raise error
            except (CancelledError, KeyError, Denied):
                pass
        self.assertEqual(
            self.verdicts(), [("done", ""), ("cancelled", ""), ("failed", "KeyError"), ("failed", "not so")]
        )

    def test_texts(self) -> None:
        """What a peer has chosen is bounded, on one line, and holds no secret."""
        entry = self.audit.begin(CALLER, f"x\n{'y' * 5000}", f"\x1b[31m {TOKEN}")
        entry.end("failed", f"the server says {TOKEN}\x00")
        (event,) = self.published
        shown = "".join(str(value) for value in event.data.values())
        self.assertTrue(shown.isprintable())
        self.assertLess(len(shown), 1000)
        self.assertNotIn(TOKEN, shown + repr(list(self.events)))
