"""A hub on the real site, connections in memory, and clients whose protocol is another's: C{websockets}."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import Logger, LogPublisher
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Close, Frame, Opcode
from websockets.uri import parse_uri

from pipeops_agent.log import AgentLog, LogConfig, Redactor
from pipeops_agent.realtime import EventFeed, LogFeed
from pipeops_agent.realtime.feed import SPACING
from pipeops_agent.web.access import RefusingSight
from pipeops_agent.web.channel import AgentChannel
from pipeops_agent.web.presence import Presences
from pipeops_agent.web.websocket import Call, Registry, WebSocketHub, standard_messages
from pipeops_agent.web.websocket.messages import LogQuery
from tests.realtime.test_agent_logs import ThreadedClock
from tests.web.harness import TOKEN, Client, SiteCase


class Peer:
    """
    A client's side.

    @ivar messages: what has come since the last L{take}.
    """

    def __init__(self, client: Client, deflate: bool) -> None:
        self.client = client
        extensions = [ClientPerMessageDeflateFactory()] if deflate else []
        self.protocol = ClientProtocol(parse_uri("ws://agent/ws"), extensions=extensions, max_size=None)
        self.messages: list[dict[str, Any]] = []
        self.pings: list[bytes] = []
        self.answers_pings = True
        self.raw = b""

    def open(self, **headers: str) -> None:
        request = self.protocol.connect()
        if "Cookie" not in headers:
            request.headers["Authorization"] = f"Bearer {TOKEN}"
        for name, value in headers.items():
            request.headers[name.replace("_", "-")] = value
        self.protocol.send_request(request)
        self.flush()

    def send(self, name: str, data: Any = None, request: str | None = None) -> None:
        """Send a message as the contract has it."""
        message = {"type": name}
        if data is not None:
            message["data"] = data
        if request is not None:
            message["id"] = request
        self.send_text(json.dumps(message).encode())

    def send_text(self, text: bytes) -> None:
        self.protocol.send_text(text)
        self.flush()

    def flush(self) -> None:
        """Send what the protocol has to send, and receive what comes of it."""
        for data in self.protocol.data_to_send():
            if data:
                self.client.send(data)
        self.receive()

    def receive(self) -> None:
        """Receive what has come."""
        data = self.client.transport.value()
        self.client.transport.clear()
        self.raw += data
        if data:
            self.protocol.receive_data(data)
        if self.client.lost:
            self.protocol.receive_eof()
        for frame in self.protocol.events_received():
            if not isinstance(frame, Frame):
                continue
            if frame.opcode is Opcode.TEXT:
                self.messages.append(json.loads(bytes(frame.data)))
            elif frame.opcode is Opcode.PING:
                self.pings.append(bytes(frame.data))
        answers = [data for data in self.protocol.data_to_send() if data]
        if self.answers_pings and answers and not self.client.lost:
            for data in answers:
                self.client.send(data)
            self.receive()

    def take(self, name: str | None = None) -> list[dict[str, Any]]:
        """What has come since the last call; of one type only, where that is named."""
        self.receive()
        taken, self.messages = self.messages, []
        return [each for each in taken if name is None or each["type"] == name]

    def one(self) -> dict[str, Any]:
        """The one message that has come."""
        (message,) = self.take()
        return message

    @property
    def closed(self) -> tuple[int, str] | None:
        """Code and reason of the close frame that came."""
        self.receive()
        close: Close | None = self.protocol.close_rcvd
        return None if close is None else (int(close.code), close.reason)

    @property
    def refused(self) -> int:
        """The status with which the upgrade was refused."""
        error = self.protocol.handshake_exc
        assert isinstance(error, InvalidStatus)
        return int(error.response.status_code)

    def choke(self) -> None:
        """Read no more."""
        self.wire.pauseProducing()

    def read_again(self) -> None:
        self.wire.resumeProducing()
        self.receive()

    @property
    def wire(self) -> Any:
        channel = self.client.channel
        assert isinstance(channel, AgentChannel)
        return channel._upgraded


class HubCase(SiteCase):
    """A hub, with the standard messages, and what a test registers besides."""

    most = 3
    pod_logs: Callable[[Call, LogQuery], Awaitable[None]] | None = None
    origins: tuple[str, ...] = ()

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
        self.registry = Registry()
        self.registry.add(
            *standard_messages(
                status=lambda: {"detailed": True},
                metrics=lambda: {"cpu": 0.5},
                logs=self.logs,
                pod_logs=self.pod_logs,
            )
        )
        self.presences = Presences(self.reactor, self.access, RefusingSight(self.entrance.sight))
        self.presences.start()
        self.hub = WebSocketHub(
            self.reactor,
            self.wall,
            self.events,
            self.registry,
            self.presences,
            state=self.state,
            most=lambda: self.most,
            origins=lambda: self.origins,
        )
        self.build(*self.hub.routes())
        self.hub.start()

    def leaves_nothing(self) -> None:
        for client in self.clients:
            client.transport.end()
        self.assertEqual(len(self.hub), 0)
        self.assertEqual(len(self.presences), 0)
        self.successResultOf(self.hub.stop())
        self.successResultOf(self.presences.stop())
        self.assertEqual(+self.hub.total, {})
        self.events.stop()
        self.logs.stop()
        super().leaves_nothing()

    def state(self) -> Mapping[str, Any]:
        return {"agent_id": "agent-1", "seq": self.events_hub.seq}

    def peer(self, *, deflate: bool = False, **headers: str) -> Peer:
        """A client that has been let in, and has been told the state."""
        peer = self.try_peer(deflate=deflate, **headers)
        self.assertEqual([each["type"] for each in peer.take()], ["status"])
        return peer

    def try_peer(self, *, deflate: bool = False, **headers: str) -> Peer:
        peer = Peer(self.connect(), deflate)
        peer.open(**headers)
        return peer

    def tell(self, channel: str = "health", count: int = 1, **data: Any) -> None:
        for _ in range(count):
            self.events_hub.publish(channel, "told", data)
        self.clock.advance(SPACING)

    def say(self, *words: str) -> None:
        for word in words:
            self.logger.info("{word}", word=word)
        self.reactor.run()
