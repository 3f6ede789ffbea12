"""Tests for handlers: registered, run, cancelled, bounded, and what becomes of them at the end."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.scheduling import sleep
from pipeops_agent.web.websocket import Call, MessageError, MessageType, Registry
from pipeops_agent.web.websocket.messages import Nothing
from pipeops_agent.web.websocket.running import MAX_RUNNING
from tests.web.websocket.harness import HubCase, Peer


class Greeting(msgspec.Struct, frozen=True):
    """Data of a message of the tests' own."""

    name: str


class HandlerCase(HubCase):
    """
    A hub with three messages more: C{greet} is answered at once, C{work} runs until the test ends it, and
    C{pour} sends as much as it is allowed to.
    """

    def setUp(self) -> None:
        super().setUp()
        self.calls: list[Call] = []
        self.ends: list[Deferred[None]] = []
        self.seen: list[str] = []
        self.poured = 0
        self.registry.add(
            MessageType(name="greet", data=Greeting, handler=self.greet),
            MessageType(name="work", data=Nothing, handler=self.work, runs=True, most=MAX_RUNNING + 4),
            MessageType(name="pour", data=Nothing, handler=self.pour, runs=True),
        )

    def greet(self, call: Call, data: Greeting) -> None:
        if data.name == "nobody":
            raise MessageError("nobody", "there is nobody to greet")
        if data.name == "trouble":
            raise RuntimeError("a secret of ours")
        call.reply("greeting", {"text": f"hello, {data.name}"})

    async def work(self, call: Call, data: Nothing) -> None:
        self.calls.append(call)
        call.receiver = lambda message: self.seen.append(f"{call.id} {message!r}")
        end: Deferred[None] = Deferred()
        self.ends.append(end)
        try:
            await end
        except CancelledError:
            self.seen.append(f"cleanup {call.id}")
            raise
        call.reply("worked", {})

    async def pour(self, call: Call, data: Nothing) -> None:
        while True:
            call.reply("drop", {"text": "x" * 10_000})
            self.poured += 10_000
            await call.ready()
            await sleep(self.clock, 0.001)

    def start(self, peer: Peer, *requests: str, name: str = "work") -> None:
        for request in requests:
            peer.send(name, {}, request)
        self.assertEqual(peer.take("error"), [])


class HandlerTests(HandlerCase):
    """One handler."""

    def test_at_once(self) -> None:
        """Its data come as its type; its answer carries the id."""
        peer = self.peer()
        peer.send("greet", {"name": "world"}, "1")
        message = peer.one()
        self.assertEqual((message["type"], message["id"]), ("greeting", "1"))
        self.assertEqual(message["data"], {"text": "hello, world"})
        peer.send("greet", {"nom": "world"}, "1")
        self.assertEqual(peer.one()["data"]["code"], "bad_data")

    def test_error(self) -> None:
        """What it raises as an error of the interface is told to the client."""
        peer = self.peer()
        peer.send("greet", {"name": "nobody"}, "1")
        message = peer.one()
        self.assertEqual((message["type"], message["id"]), ("error", "1"))
        self.assertEqual(message["data"], {"code": "nobody", "message": "there is nobody to greet"})

    def test_defect(self) -> None:
        """Anything else is logged and not told; the session goes on."""
        peer = self.peer()
        peer.send("greet", {"name": "trouble"}, "1")
        message = peer.one()
        self.assertEqual(message["data"]["code"], "internal")
        self.assertNotIn("secret", str(message))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        peer.send("ping")
        self.assertEqual(peer.one()["type"], "pong")

    def test_runs(self) -> None:
        """One that runs keeps no other message waiting."""
        peer = self.peer()
        self.start(peer, "1")
        peer.send("ping")
        self.assertEqual(peer.one()["type"], "pong")
        self.ends[0].callback(None)
        message = peer.one()
        self.assertEqual((message["type"], message["id"]), ("worked", "1"))
        self.assertEqual(+self.hub.total, {})

    def test_fails_later(self) -> None:
        """One that fails after a while tells it with its id."""
        peer = self.peer()
        self.start(peer, "1", "2")
        self.ends[0].errback(MessageError("tired", "no more"))
        self.ends[1].errback(RuntimeError("a secret of ours"))
        codes = [(each["id"], each["data"]["code"]) for each in peer.take("error")]
        self.assertEqual(codes, [("1", "tired"), ("2", "internal")])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(+self.hub.total, {})

    def test_input(self) -> None:
        """Later messages with its id reach it; where nothing runs, or takes none, that is an error."""
        peer = self.peer()
        self.start(peer, "1", "2")
        peer.send("input", {"data": "ls\n"}, "1")
        peer.send("resize", {"cols": 80, "rows": 24}, "2")
        peer.send("input", {"eof": True}, "2")
        self.assertEqual(
            self.seen,
            [
                "1 Input(data='ls\\n', eof=False)",
                "2 Resize(cols=80, rows=24)",
                "2 Input(data='', eof=True)",
            ],
        )
        self.calls[0].receiver = None
        peer.send("input", {"data": "x"}, "1")
        peer.send("input", {"data": "x"}, "3")
        peer.send("input", {"data": "x"})
        codes = [each["data"]["code"] for each in peer.take()]
        self.assertEqual(codes, ["not_possible", "unknown_id", "unknown_id"])

    def test_backpressure(self) -> None:
        """One that sends much waits for a client that does not read, and goes on when it does."""
        peer = self.peer()
        self.start(peer, "1", name="pour")
        peer.choke()
        for _ in range(1000):
            self.clock.advance(0.001)
        self.assertLessEqual(self.poured, 30_000)
        self.assertIsNone(peer.closed)
        before = self.poured
        peer.read_again()
        for _ in range(10):
            self.clock.advance(0.001)
        self.assertGreater(self.poured, before)
        read = sum(len(each["data"]["text"]) for each in peer.take("drop"))
        self.assertEqual(read, self.poured - 10_000)  # the first was taken at the start

    def test_one_after_the_other(self) -> None:
        """Of several that wait for the client each goes on when the one before it has left room."""
        seen: list[str | None] = []

        async def wait(call: Call, data: Nothing) -> None:
            await call.ready()
            seen.append(call.id)
            peer.choke()  # what it has sent fills the connection

        self.registry.add(MessageType(name="wait", data=Nothing, handler=wait, runs=True))
        peer = self.peer()
        peer.choke()
        self.start(peer, "1", "2", "3", name="wait")
        for number in (1, 2, 3):
            peer.read_again()
            self.assertEqual(seen, ["1", "2", "3"][:number])


class CancelTests(HandlerCase):
    """Their end before their time."""

    def test_cancel(self) -> None:
        """What is cancelled cleans up, and says C{cancelled} with its id; others run on."""
        peer = self.peer()
        self.start(peer, "1", "2")
        peer.send("cancel", {"id": "1"}, "3")
        message = peer.one()
        self.assertEqual((message["type"], message["id"]), ("cancelled", "1"))
        self.assertEqual((self.seen, len(self.ends)), (["cleanup 1"], 2))
        self.assertEqual(self.hub.total["work"], 1)

    def test_cancel_nothing(self) -> None:
        """An id by which nothing runs is an error with the id of the question."""
        peer = self.peer()
        peer.send("cancel", {"id": "1"}, "3")
        message = peer.one()
        self.assertEqual((message["id"], message["data"]["code"]), ("3", "unknown_id"))

    def test_cancel_by_the_same_id(self) -> None:
        """The question may have the same id as what it ends."""
        peer = self.peer()
        self.start(peer, "1")
        peer.send("cancel", {"id": "1"}, "1")
        self.assertEqual(peer.one()["type"], "cancelled")

    def test_of_another_session(self) -> None:
        """Nobody ends what is another's."""
        peer, other = self.peer(), self.peer()
        self.start(peer, "1")
        other.send("cancel", {"id": "1"})
        self.assertEqual(other.one()["data"]["code"], "unknown_id")
        self.assertEqual(self.seen, [])

    def test_slow_cleanup(self) -> None:
        """One that takes its time to end is cancelled once, and says so when it has ended."""
        cleaned: Deferred[None] = Deferred()

        async def slowly(call: Call, data: Nothing) -> None:
            try:
                await Deferred()
            finally:
                self.seen.append("begun")
                await cleaned

        self.registry.add(MessageType(name="slow", data=Nothing, handler=slowly, runs=True))
        peer = self.peer()
        self.start(peer, "1", name="slow")
        for _ in range(3):
            peer.send("cancel", {"id": "1"})
        self.assertEqual((peer.take(), self.seen), ([], ["begun"]))
        cleaned.callback(None)
        self.assertEqual([each["type"] for each in peer.take()], ["cancelled"])

    def test_gone(self) -> None:
        """What runs for a client that is gone is cancelled."""
        peer = self.peer()
        self.start(peer, "1", "2")
        peer.client.transport.end()
        self.assertEqual(self.seen, ["cleanup 1", "cleanup 2"])
        self.assertEqual(+self.hub.total, {})

    def test_gone_while_full(self) -> None:
        """One that waits for its client to read ends with it."""
        peer = self.peer()
        self.start(peer, "1", name="pour")
        peer.choke()
        for _ in range(100):
            self.clock.advance(0.001)
        peer.client.transport.end()
        self.assertEqual(+self.hub.total, {})

    def test_stop(self) -> None:
        """At a stop what runs says C{cancelled}, then the connection is closed with 1001."""
        peer = self.peer()
        self.start(peer, "1", "2")
        stopped = self.hub.stop()
        self.assertEqual(
            [(each["type"], each["id"]) for each in peer.take()], [("cancelled", "1"), ("cancelled", "2")]
        )
        self.assertEqual(peer.closed, (1001, "the agent stops"))
        self.successResultOf(stopped)


class LimitTests(HandlerCase):
    """How many may run."""

    def test_of_a_session(self) -> None:
        """One more than may run for a client is refused; what is answered at once is not counted."""
        peer = self.peer()
        self.start(peer, *map(str, range(MAX_RUNNING)))
        peer.send("work", {}, "more")
        message = peer.one()
        self.assertEqual((message["id"], message["data"]["code"]), ("more", "too_many_requests"))
        peer.send("greet", {"name": "world"})
        self.assertEqual(peer.one()["type"], "greeting")
        peer.send("cancel", {"id": "0"})
        peer.take()
        self.start(peer, "more")

    def test_of_all(self) -> None:
        """One more than may run for all clients together is refused."""
        peer, other = self.peer(), self.peer()
        self.start(peer, *map(str, range(MAX_RUNNING)))
        self.start(other, *map(str, range(4)))
        other.send("work", {}, "more")
        self.assertEqual(other.one()["data"]["code"], "too_many_requests")
        peer.client.transport.end()
        self.start(other, "more")

    def test_same_id(self) -> None:
        """An id by which something runs is taken; without an id many run."""
        peer = self.peer()
        self.start(peer, "1")
        peer.send("work", {}, "1")
        self.assertEqual(peer.one()["data"]["code"], "duplicate_id")
        for _ in range(3):
            peer.send("work", {})
        self.assertEqual((peer.take(), len(self.calls)), ([], 4))
        self.ends[0].callback(None)
        peer.take()
        self.start(peer, "1")


class LogTests(HandlerCase):
    """The agent's own log."""

    def records(self, peer: Peer) -> list[str]:
        return [each["data"]["msg"] for each in peer.take("log")]

    def test_new_ones(self) -> None:
        """Each record is a message with the id, until it is cancelled."""
        peer = self.peer()
        peer.send("logs", {}, "7")
        self.say("hello")
        (message,) = [each for each in peer.take("log") if each["data"]["msg"] == "hello"]
        self.assertEqual((message["id"], message["data"]["level"]), ("7", "info"))
        self.assertEqual(message["timestamp"], message["data"]["time"])
        peer.send("cancel", {"id": "7"})
        self.assertEqual(peer.one()["type"], "cancelled")
        self.say("unheard")
        self.assertEqual((peer.take(), len(self.logs)), ([], 0))

    def test_tail(self) -> None:
        """The last ones first; without C{follow} that is all, and C{log_end} says so."""
        self.say("a", "b", "c")
        peer = self.peer()
        peer.send("logs", {"tail": 2, "follow": False}, "7")
        messages = peer.take()
        self.assertEqual([each["type"] for each in messages], ["log", "log", "log_end"])
        self.assertEqual((messages[-1]["id"], messages[-1]["data"]), ("7", {"reason": "end"}))
        self.assertEqual(+self.hub.total, {})

    def test_nothing(self) -> None:
        """Where there is nothing to be sent the end comes at once."""
        peer = self.peer()
        peer.send("logs", {"follow": False})
        self.assertEqual(peer.one()["type"], "log_end")

    def test_dropped(self) -> None:
        """A client that does not read loses records, and is told how many, with the id."""
        peer = self.peer()
        peer.send("logs", {}, "7")
        peer.take()
        peer.choke()
        for number in range(1100):
            self.say(str(number))
        peer.read_again()
        dropped, *records = peer.take()
        self.assertEqual((dropped["type"], dropped["id"], dropped["data"]["count"]), ("dropped", "7", 100))
        self.assertEqual(len(records), 1000)

    def test_end_while_full(self) -> None:
        """One that ends waits for its client to read everything."""
        self.say("a", "b", "c")
        peer = self.peer()
        peer.choke()
        peer.send("logs", {"tail": 3, "follow": False})
        self.assertEqual(self.hub.total["logs"], 1)
        peer.read_again()
        self.assertEqual([each["type"] for each in peer.take()], ["log", "log", "log", "log_end"])

    def test_gone(self) -> None:
        """A client that goes leaves no reader."""
        peer = self.peer()
        peer.send("logs", {})
        peer.client.transport.end()
        self.assertEqual((len(self.logs), +self.hub.total), (0, {}))

    def test_of_a_pod(self) -> None:
        """A pod's logs are not the agent's."""
        peer = self.peer()
        peer.send("logs", {"namespace": "shop", "pod": "web-1"}, "7")
        self.assertEqual(peer.one()["data"]["code"], "not_available")


class RegistryTests(SynchronousTestCase):
    """The table of messages."""

    def test_twice(self) -> None:
        """A name can be had once."""

        def handle(call: Call, data: Any) -> None:
            """Do nothing."""

        registry = Registry()
        kind = MessageType(name="x", data=Nothing, handler=handle)
        registry.add(kind)
        self.assertRaises(ValueError, registry.add, kind)
        self.assertEqual((list(registry), registry.find("x"), registry.find("y")), ([kind], kind, None))
