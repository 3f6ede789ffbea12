"""The SSH transport after the key exchange: a peer that holds the keys, and says and does what it likes."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred

from pipeops_agent.tunnel.ssh.channel import Channel
from pipeops_agent.tunnel.ssh.cipher import MAX_PACKET
from pipeops_agent.tunnel.ssh.common import RekeyPolicy
from pipeops_agent.tunnel.ssh.connection import OpenRequest
from pipeops_agent.tunnel.ssh.messages import MSG_DISCONNECT, MSG_KEXINIT, MSG_NEWKEYS
from tests.fuzz.source import Source, held
from tests.tunnel.ssh.pair import NEVER, Handler, Pair, Wire

WINDOW: Final = 64 * 1024
MAX_CHANNELS: Final = 20

SLACK: Final = 64 * 1024
"""Bytes that a transport holds for itself: key exchange payloads, names of algorithms, keys."""

_MESSAGES: Final = (
    1,
    2,
    3,
    4,
    5,
    6,
    20,
    21,
    30,
    31,
    32,
    33,
    34,
    50,
    51,
    52,
    53,
    60,
    *range(80, 83),
    *range(90, 101),
)

_MAX_STEPS: Final = 100
_STEPS_TO_A_CHECK: Final = 16
"""To count what is held costs more than most steps."""

_MISTAKES: Final = ("AttributeError", "TypeError", "AssertionError", "AlreadyCalledError", "RuntimeError")
"""Exceptions that Conch's parsers don't raise on what a peer says, but on what we have made of it."""


class OpenWire(Wire):
    """The peer's wire: it goes on whatever its own transport thinks of what has come."""

    def loseConnection(self) -> None:  # ITransport's
        """Not this one."""


class Duel:
    """
    One side under attack from the other, which has logged in, or is about to.

    @param server: the chisel server's side is under attack, else the agent's.
    @param volume: after how many bytes the side under attack renews its keys.
    """

    def __init__(self, *, server: bool, logged_in: bool, volume: float) -> None:
        rekey = RekeyPolicy(volume, 3600.0)
        self.pair = pair = Pair(
            window=WINDOW,
            max_channels=MAX_CHANNELS,
            client_rekey=NEVER if server else rekey,
            server_rekey=rekey if server else NEVER,
        )
        wire = OpenWire()
        if server:
            pair.client_wire = wire
        else:
            pair.server_wire = wire
        pair.log_in() if logged_in else pair.connect()
        self.victim: Any = pair.server if server else pair.client
        self.attacker: Any = pair.client if server else pair.server
        self.layer = pair.server_layer if server else pair.client_layer
        self.wire = pair.server_wire if server else pair.client_wire
        self.attackers_wire = wire
        self.owner = pair.server_owner if server else pair.client_owner
        self.requests = pair.server_requests if server else pair.client_requests
        self.requests.on_channel = self._requested
        self.logged_in = logged_in
        self.waiting: list[Deferred[Any]] = [] if server or not logged_in else [pair.login.done]
        self.handlers: list[Handler] = []
        self.channels: list[Channel] = []
        self.abandoned: list[OpenRequest] = []
        self.written = 0
        self.fed = 0

    def _requested(self, request: OpenRequest) -> None:
        """The peer asks for a channel: it is answered later, or never."""
        self.requests.opens.append(request)
        request.abandoned = lambda: self.abandoned.append(request)

    def attack(self, message: int, payload: bytes) -> None:
        """The peer sends a message, whatever its own state says of that."""
        self.attacker._write(message, payload)

    def arrive(self, count: int) -> None:
        """What the peer has written arrives, C{count} bytes of it."""
        data = bytes(self.attackers_wire.written[:count])
        del self.attackers_wire.written[:count]
        self.fed += len(data)
        if data and not self.owner.ended:
            over = self.wire.closed
            before = len(self.wire.written)
            self.victim.dataReceived(data)
            assert not over or len(self.wire.written) == before, "something was sent after the end"

    def answer(self) -> None:
        """What the side under attack has written reaches the peer, which acts as its code has it."""
        data = bytes(self.wire.written)
        self.wire.written.clear()
        if data:
            self.attacker.dataReceived(data)

    def act(self, kind: int, source: Source) -> None:
        """Something that the side under attack does by itself."""
        if kind == 0 and self.logged_in:
            self.waiting.append(self.layer.request(b"ping", source.take(8)))
        elif kind == 1 and self.logged_in:
            handler = Handler()
            waiting = self.layer.open_channel(b"chisel", b"", handler)
            waiting.addCallback(self._opened, handler)
            self.waiting.append(waiting)
        elif kind == 2 and self.requests.opens and not self.owner.ended:
            request = self.requests.opens.pop()
            handler = Handler(consume=source.below(4) != 0)
            self._opened(request.accept(handler), handler)
        elif kind == 3 and self.requests.opens and not self.owner.ended:
            self.requests.opens.pop().refuse(1, "no")
        elif kind == 4 and self.channels:
            count = source.amount()
            self.written += count
            self.channels[source.byte() % len(self.channels)].write(bytes(count))
        elif kind == 5 and self.channels:
            channel = self.channels[source.byte() % len(self.channels)]
            (channel.write_eof, channel.close, channel.abort)[source.below(3)]()
        elif kind == 6:
            self.victim.pauseProducing()
        elif kind == 7:
            self.victim.resumeProducing()
        elif kind == 8 and not self.victim.exchanging_keys and not self.owner.ended:
            self.victim.sendKexInit()
        elif kind == 9:
            self.pair.clock.advance(source.number())

    def _opened(self, channel: Channel, handler: Handler) -> None:
        handler.channel = channel
        self.handlers.append(handler)
        self.channels.append(channel)

    def check(self) -> None:
        """No more is held than one packet, what was written, and what every message of the peer may leave."""
        if self.owner.ended:
            return
        limit = MAX_PACKET + SLACK + 2 * (self.written + self.fed)
        assert held(self.victim, beside=[self.pair, self.attacker]) <= limit
        assert len(self.layer) <= MAX_CHANNELS + len(self.waiting)

    def finish(self) -> None:
        """The connection ends: it is said once, with a reason, to everybody who waits."""
        asked = list(self.requests.opens)
        self.pair.lose()
        [error] = self.owner.ended
        assert str(error)
        # Of an empty DEBUG Conch asks for the first character: that is not our mistake.
        assert not any(mistake in str(error) for mistake in _MISTAKES) or "message 4 " in str(error), error
        assert self.owner.secure == 1
        for waiting in self.waiting:
            assert waiting.called, "somebody waits for ever"
            waiting.addErrback(lambda _: None)
        assert self.abandoned == asked, "a request waits for ever"
        for handler in self.handlers:
            assert sum(event in {"lost", "closed"} for event in handler.events) == 1, handler.events
        assert len(self.layer) == 0
        assert not self.pair.clock.getDelayedCalls()
        if not self.pair.login.done.called:
            self.pair.login.done.addErrback(lambda _: None)


def client_session(data: bytes) -> None:
    """The agent's side, and a server that has its trust."""
    _session(data, server=False)


def server_session(data: bytes) -> None:
    """The sandbox's side, and a client that has logged in, or has not yet."""
    _session(data, server=True)


def _session(data: bytes, *, server: bool) -> None:
    source = Source(data)
    choice = source.byte()
    duel = Duel(server=server, logged_in=choice % 8 != 0, volume=2000.0 if choice & 0x80 else float("inf"))
    steps = 0
    while source and not duel.owner.ended and steps < _MAX_STEPS:
        _step(duel, source)
        steps += 1
        if steps % _STEPS_TO_A_CHECK == 0:
            duel.check()
    duel.arrive(1 << 30)
    duel.check()
    duel.finish()


def _step(duel: Duel, source: Source) -> None:
    choice = source.byte()
    kind, detail = choice % 16, choice // 16
    if kind < 5:
        duel.attack(_MESSAGES[source.below(len(_MESSAGES))], source.fields())
    elif kind == 5:
        duel.attack(source.byte(), source.take(source.below(64)))
    elif kind == 6:
        _exchange(duel, detail)
    elif kind == 7:
        duel.attackers_wire.written += source.take(detail)
    elif kind == 8:
        if duel.attackers_wire.written:
            duel.attackers_wire.written[source.amount() % len(duel.attackers_wire.written)] ^= 1 << detail % 8
    elif kind == 9:
        duel.arrive(1 + source.amount())
    elif kind == 10:
        duel.arrive(1 << 30)
    elif kind == 11:
        duel.answer()
    else:
        duel.act(source.below(10), source)


def _exchange(duel: Duel, detail: int) -> None:
    """Messages of a key exchange, out of place or not."""
    if detail < 8 and not duel.attacker.exchanging_keys and not duel.attackers_wire.closed:
        duel.attacker.sendKexInit()
    elif detail < 12:
        duel.attack(MSG_KEXINIT, duel.victim.ourKexInitPayload[1:] if duel.victim.ourKexInitPayload else b"")
    else:
        duel.attack(MSG_NEWKEYS if detail < 15 else MSG_DISCONNECT, b"")
