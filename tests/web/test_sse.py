"""Tests for L{pipeops_agent.web.sse}, on the real site with connections in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec
from twisted.internet.task import Clock
from twisted.logger import Logger, LogPublisher

from pipeops_agent.caller import Caller
from pipeops_agent.log import AgentLog, LogConfig, Redactor
from pipeops_agent.realtime import EventFeed, LogFeed
from pipeops_agent.realtime.feed import SPACING
from pipeops_agent.settings.model_server import ClientLimits, LimitsSettings
from pipeops_agent.web.access import Credential, RefusingSight
from pipeops_agent.web.api.streams import LogsQuery
from pipeops_agent.web.channel import AgentChannel
from pipeops_agent.web.presence import REVIEW, Presences
from pipeops_agent.web.replies import Refusal
from pipeops_agent.web.request import AgentRequest
from pipeops_agent.web.sse import KEEP_ALIVE, STUCK, EventStreams
from tests.realtime.test_agent_logs import ThreadedClock
from tests.web.harness import TOKEN, Client, SiteCase

GET = "GET {path} HTTP/1.1\r\nHost: agent\r\nAuthorization: Bearer " + TOKEN + "\r\n{more}\r\n"


class Message(msgspec.Struct):
    """One event as a client sees it (HTML standard, 9.2.6)."""

    event: str = "message"
    id: str | None = None
    data: Any = None


class Stream:
    """A client's side: an EventSource, written from the standard."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.body = b""
        self.head = b""
        self.ended = False
        self._raw = b""

    def read(self) -> list[Message]:
        """The events that have come since the last call."""
        self._raw += self.client.transport.value()
        self.client.transport.clear()
        if not self.head:
            self.head, _, self._raw = self._raw.partition(b"\r\n\r\n")
        while b"\r\n" in self._raw:
            size, _, rest = self._raw.partition(b"\r\n")
            length = int(size, 16)
            if len(rest) < length + 2:
                break
            self.ended = self.ended or length == 0
            self.body += rest[:length]
            self._raw = rest[length + 2 :]
        *blocks, self.body = self.body.split(b"\n\n")
        return [self._parse(block) for block in blocks if not block.startswith((b":", b"retry:"))]

    def _parse(self, block: bytes) -> Message:
        message = Message()
        for line in block.decode().splitlines():
            name, _, value = line.partition(": ")
            setattr(message, name, json.loads(value) if name == "data" else value)
        return message


class StreamCase(SiteCase):
    """The site with both paths."""

    most = 3

    def make_clock(self) -> Clock:
        return self.reactor

    def setUp(self) -> None:
        self.reactor = ThreadedClock()
        super().setUp()
        publisher = LogPublisher()
        self.log = AgentLog(LogConfig(output=self.mktemp()), self.clock, Redactor())
        self.addCleanup(self.log.close)
        publisher.addObserver(self.log.observer)
        self.logger = Logger(namespace="web", observer=publisher)
        self.events = EventFeed(self.reactor, self.events_hub)
        self.logs = LogFeed(self.reactor, self.events_hub.start, self.log)
        self.logs.begin()
        self.presences = Presences(self.reactor, self.access, RefusingSight(self.entrance.sight))
        self.presences.start()
        self.streams = EventStreams(
            self.reactor,
            self.events,
            self.logs,
            self.presences,
            self.state,
            most=lambda: self.most,
            pod_logs=self.pod_logs,
        )
        self.build(*self.streams.routes())
        self.streams.start()

    def leaves_nothing(self) -> None:
        for client in self.clients:
            client.transport.end()
        self.assertEqual(len(self.streams), 0)
        self.assertEqual(len(self.presences), 0)
        self.successResultOf(self.streams.stop())
        self.successResultOf(self.presences.stop())
        self.events.stop()
        self.logs.stop()
        super().leaves_nothing()

    def pod_logs(
        self, request: AgentRequest, credential: Credential, caller: Caller, query: LogsQuery
    ) -> NoReturn:
        raise Refusal(404, "no_pods", f"{query.namespace}/{query.pod}/{query.container}/{query.tail}")

    def state(self) -> Mapping[str, Any]:
        return {"status": self.board.now.phase, "seq": self.events_hub.seq}

    def follow(self, path: str = "/api/realtime/events", *more: str, last: str = "") -> Stream:
        lines = [*more, f"Last-Event-ID: {last}"] if last else more
        client = self.connect()
        client.send(GET.format(path=path, more="".join(f"{line}\r\n" for line in lines)).encode())
        return Stream(client)

    def tell(self, channel: str = "health", count: int = 1, **data: Any) -> None:
        for _ in range(count):
            self.events_hub.publish(channel, "told", data)
        self.clock.advance(SPACING)


class EventTests(StreamCase):
    """The agent's events."""

    def test_first(self) -> None:
        """First the present state, with the number up to which it holds; then what is new."""
        self.tell()
        stream = self.follow()
        (state,) = stream.read()
        self.assertEqual((state.event, state.data["status"]), ("status", "starting"))
        self.assertEqual(state.id, f"{self.events_hub.start}-1")
        self.tell("tunnel", port=8000)
        (event,) = stream.read()
        self.assertEqual((event.event, event.id), ("tunnel", f"{self.events_hub.start}-2"))
        self.assertEqual(
            event.data,
            {
                "start": self.events_hub.start,
                "seq": 2,
                "time": "2024-01-15T10:30:00.001000Z",
                "channel": "tunnel",
                "event": "told",
                "data": {"port": 8000},
            },
        )

    def test_headers(self) -> None:
        """The header comes at once, and says what proxies must know."""
        stream = self.follow()
        stream.read()
        head = stream.head.decode().lower()
        for line in (
            "http/1.1 200 ok",
            "content-type: text/event-stream",
            "cache-control: no-store",
            "x-accel-buffering: no",
            "transfer-encoding: chunked",
        ):
            self.assertIn(line, head)
        self.assertNotIn("content-length", head)

    def test_retry(self) -> None:
        """How soon to come again stands before everything else."""
        stream = self.follow()
        self.assertIn(b"\r\nretry: 3000\n\n\r\n", stream.client.transport.value())

    def test_head(self) -> None:
        """HEAD gets the header alone, and the connection goes on."""
        client = self.connect()
        request = GET.format(path="/api/realtime/events", more="").replace("GET", "HEAD", 1).encode()
        client.send(request + b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        head, health = client.answers("HEAD", "GET")
        self.assertEqual(
            (head.code, head.headers["Content-Type"], health.code), (200, "text/event-stream", 200)
        )
        self.assertEqual(len(self.streams), 0)

    def test_old_client(self) -> None:
        """HTTP 1.0 gets the same without chunks."""
        client = self.connect()
        request = GET.format(path="/api/realtime/events", more="").replace("HTTP/1.1", "HTTP/1.0").encode()
        client.send(request)
        self.assertIn(b"\r\n\r\nretry: 3000\n\nid: ", client.transport.value())
        self.successResultOf(self.streams.stop())
        self.assertTrue(client.lost)

    def test_channels(self) -> None:
        """Only the channels that were asked for."""
        stream = self.follow("/api/realtime/events?channels=health,cluster")
        stream.read()
        for channel in ("tunnel", "health", "agent", "cluster"):
            self.tell(channel)
        self.assertEqual([each.event for each in stream.read()], ["health", "cluster"])

    def test_default_channels(self) -> None:
        """All that the caller may see: C{audit} is for who may operate."""
        stream = self.follow()
        stream.read()
        self.tell("audit")
        self.tell("metrics")
        self.assertEqual([each.event for each in stream.read()], ["metrics"])

    def test_bad_channels(self) -> None:
        """A channel that does not exist is 400; one that is not for this caller 403."""
        for query, code, name in (
            ("channels=health,nope", 400, "bad_parameter"),
            ("channels=", 400, "bad_parameter"),
            ("channels=%ff", 400, "bad_parameter"),
            ("channels=audit", 403, "forbidden"),
        ):
            answer = self.ask(f"/api/realtime/events?{query}", Authorization=f"Bearer {TOKEN}")
            self.assertEqual((answer.code, answer.json["error"]["code"]), (code, name), query)

    def test_nobody(self) -> None:
        """Without a token, or with a wrong one, 401."""
        for path in ("/api/realtime/events", "/api/realtime/logs"):
            self.assertEqual(self.ask(path).code, 401)
            self.assertEqual(self.ask(path, patience=1, Authorization="Bearer wrong").code, 401)

    def test_keep_alive(self) -> None:
        """A comment every 15 s."""
        stream = self.follow()
        stream.read()
        for _ in range(3):
            self.clock.advance(KEEP_ALIVE)
            self.assertEqual(stream.client.transport.value(), b"3\r\n:\n\n\r\n")
            stream.client.transport.clear()

    def test_outlives_timeouts(self) -> None:
        """No timeout of ours cuts a stream."""
        stream = self.follow()
        for _ in range(300):
            self.clock.advance(KEEP_ALIVE)
        self.tell()
        self.assertEqual([each.event for each in stream.read()], ["status", "health"])

    def test_gone(self) -> None:
        """A client that leaves is forgotten at once."""
        stream = self.follow()
        self.assertEqual(len(self.streams), 1)
        stream.client.transport.end()
        self.assertEqual((len(self.streams), len(self.events)), (0, 0))
        self.tell()

    def test_room(self) -> None:
        """One more than may be gets 503 and when to come again; when one leaves there is room."""
        streams = [self.follow() for _ in range(self.most)]
        answer = self.ask("/api/realtime/events", Authorization=f"Bearer {TOKEN}")
        self.assertEqual((answer.code, answer.json["error"]["code"]), (503, "too_many_connections"))
        self.assertEqual(answer.headers["Retry-After"], "5")
        streams[0].client.transport.end()
        self.assertEqual([each.event for each in self.follow().read()], ["status"])

    def test_stop(self) -> None:
        """At a stop a stream ends, so that the client sees that it is whole; nobody new comes in."""
        stream = self.follow()
        self.successResultOf(self.streams.stop())
        stream.read()
        self.assertTrue(stream.ended)
        answer = self.ask("/api/realtime/events", Authorization=f"Bearer {TOKEN}")
        self.assertEqual((answer.code, answer.json["error"]["code"]), (503, "stopping"))
        closed = self.site.close_connections()
        self.successResultOf(closed)

    def test_client_room(self) -> None:
        """One client has so many and no more, which is 429; a place is free again when its owner has gone."""
        limits = LimitsSettings(client=ClientLimits(subscriptions=1))
        self.server = msgspec.structs.replace(self.server, limits=limits)
        stream = self.follow()
        answer = self.ask("/api/realtime/events", Authorization=f"Bearer {TOKEN}")
        self.assertEqual((answer.code, answer.json["error"]["code"]), (429, "too_many"))
        stream.client.transport.end()
        self.assertEqual(self.follow().read()[0].event, "status")

    def test_head_takes_no_place(self) -> None:
        """HEAD has the header of a stream, and no stream."""
        for _ in range(self.most + 1):
            answer = self.ask("/api/realtime/events", "HEAD", Authorization=f"Bearer {TOKEN}")
            self.assertEqual(answer.code, 200)
        self.assertEqual((len(self.streams), len(self.presences)), (0, 0))

    def test_taken_away(self) -> None:
        """A stream whose caller may less than before ends whole; coming again says why."""
        self.let_in("read", "operate")
        stream = self.follow()
        self.clock.advance(REVIEW)
        stream.read()
        self.assertFalse(stream.ended)
        self.let_in("operate")
        self.clock.advance(REVIEW)
        stream.read()
        self.assertTrue(stream.ended)
        self.assertEqual(self.ask("/api/realtime/events", Authorization=f"Bearer {TOKEN}").code, 403)

    def test_counted(self) -> None:
        """A stream is a request like any other in the metrics, once it is over."""
        self.follow()
        self.successResultOf(self.streams.stop())
        self.assertEqual(self.counted()["GET", "/api/realtime/events", "200"], 1)


class ResumeTests(StreamCase):
    """Clients that come again."""

    def test_resume(self) -> None:
        """Everything after the id, nothing lost, nothing twice, no state in between."""
        stream = self.follow()
        self.tell(count=3)
        last = stream.read()[1].id
        stream.client.transport.end()
        self.tell(count=2)
        stream = self.follow(last=last or "")
        self.tell()
        start = self.events_hub.start
        self.assertEqual([each.id for each in stream.read()], [f"{start}-{seq}" for seq in (2, 3, 4, 5, 6)])

    def test_after_the_state(self) -> None:
        """Who was cut after the state gets what came after it."""
        stream = self.follow()
        (state,) = stream.read()
        stream.client.transport.end()
        self.tell()
        (event,) = self.follow(last=state.id or "").read()
        self.assertEqual(event.data["seq"], 1)

    def test_gap(self) -> None:
        """What is no longer there is said, then the state without an id, then the rest."""
        self.follow()
        self.tell(count=2100)
        gap, state, *rest = self.follow(last=f"{self.events_hub.start}-2").read()
        self.assertEqual((gap.event, gap.id), ("gap", None))
        self.assertEqual(gap.data, {"start": self.events_hub.start, "count": 50, "from": 3, "to": 52})
        self.assertEqual((state.event, state.id), ("status", None))
        self.assertEqual([each.data["seq"] for each in rest], list(range(53, 2101)))

    def test_another_start(self) -> None:
        """The id of another run of the agent: a gap that repeats it, the state, and all of this run."""
        self.follow()
        self.tell(count=2)
        for last in ("beef-17", "nonsense", "x" * 500):
            gap, state, *rest = self.follow(last=last).read()
            self.assertEqual(gap.data, {"start": self.events_hub.start, "after": last[:64], "count": 0})
            self.assertEqual((state.event, state.id), ("status", None))
            self.assertEqual([each.data["seq"] for each in rest], [1, 2])
            self.clients[-1].transport.end()

    def test_another_start_long_ago(self) -> None:
        """And what of this run is gone already."""
        self.tell(count=5)
        gap, _ = self.follow(last="beef-17").read()
        expected = {"start": self.events_hub.start, "after": "beef-17", "count": 5, "from": 1, "to": 5}
        self.assertEqual(gap.data, expected)


class SlowTests(StreamCase):
    """Clients that do not read."""

    def stuck(self) -> Stream:
        stream = self.follow()
        stream.read()
        channel = stream.client.channel
        assert isinstance(channel, AgentChannel)
        channel.pauseProducing()
        return stream

    def test_nothing_is_kept(self) -> None:
        """Nothing is written to it; when it reads, it hears what it lost, the state, and the rest."""
        stream = self.stuck()
        self.tell(count=3000)
        self.assertEqual(stream.client.transport.value(), b"")
        stream.client.channel.resumeProducing()
        gap, state, *rest = stream.read()
        self.assertEqual(gap.data, {"start": self.events_hub.start, "count": 952, "from": 1, "to": 952})
        self.assertEqual((state.event, len(rest)), ("status", 2048))

    def test_cut(self) -> None:
        """After a minute without a byte read it is cut; no comment adds up meanwhile."""
        stream = self.stuck()
        self.clock.advance(KEEP_ALIVE * (STUCK - 1) + 1)
        for _ in range(STUCK):
            self.assertEqual(stream.client.transport.value(), b"")
            self.clock.advance(KEEP_ALIVE)
        self.assertTrue(stream.client.lost)
        self.assertEqual(len(self.streams), 0)

    def test_reads_again(self) -> None:
        """Who reads in time is not cut, and the count begins anew."""
        stream = self.stuck()
        for _ in range(5):
            for _ in range(STUCK - 1):
                self.clock.advance(KEEP_ALIVE)
            stream.client.channel.resumeProducing()
            self.clock.advance(KEEP_ALIVE)
            stream.client.channel.pauseProducing()
        self.assertFalse(stream.client.lost)

    def test_others(self) -> None:
        """The others get everything, at once."""
        self.stuck()
        stream = self.follow()
        for _ in range(100):
            self.tell(count=40)
        self.assertEqual(len(stream.read()), 4001)


class LogTests(StreamCase):
    """The agent's own log records."""

    def say(self, *words: str) -> None:
        for word in words:
            self.logger.info("{word}", word=word)
        self.reactor.run()

    def words(self, stream: Stream) -> list[str]:
        return [each.data["msg"] for each in stream.read()]

    def test_new_ones(self) -> None:
        """Without more, what is logged from now on."""
        self.say("before")
        stream = self.follow("/api/realtime/logs")
        self.say("after")
        (record,) = stream.read()
        self.assertEqual((record.event, record.id), ("log", f"{self.events_hub.start}-2"))
        self.assertEqual(record.data["msg"], "after")

    def test_tail(self) -> None:
        """C{tail} gives the last ones first."""
        self.say("a", "b", "c")
        stream = self.follow("/api/realtime/logs?tail=2")
        self.say("d")
        self.assertEqual(self.words(stream), ["b", "c", "d"])

    def test_no_follow(self) -> None:
        """C{follow=false} ends after the last."""
        self.say("a", "b", "c")
        stream = self.follow("/api/realtime/logs?tail=1000&follow=false")
        self.assertEqual(self.words(stream), ["a", "b", "c"])
        self.assertTrue(stream.ended)
        self.assertEqual(len(self.streams), 0)

    def test_resume(self) -> None:
        """The id counts more than C{tail}."""
        self.say("a", "b", "c")
        stream = self.follow("/api/realtime/logs?tail=1", last=f"{self.events_hub.start}-1")
        self.assertEqual(self.words(stream), ["b", "c"])

    def test_bad_numbers(self) -> None:
        """A number that is none is 400."""
        for tail in ("-1", "x", "1001", "9" * 5000, "%D9%A3", ""):
            answer = self.ask(f"/api/realtime/logs?tail={tail}", Authorization=f"Bearer {TOKEN}")
            self.assertEqual(answer.code, 400, tail[:9])

    def test_of_a_pod(self) -> None:
        """A pod's log is asked for where those are."""
        for query, asked in (("pod=a", "/a//None"), ("namespace=b&container=c&tail=5", "b//c/5")):
            answer = self.ask(f"/api/realtime/logs?{query}", Authorization=f"Bearer {TOKEN}")
            self.assertEqual((answer.code, answer.json["error"]["message"]), (404, asked))
