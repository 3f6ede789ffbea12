"""
One session under load: a reader that never reads, half-closes in the middle of transfers, ever new keys.

On real sockets, against the sandbox's server, the Go peer, and chisel itself where C{CHISEL} names it. In an
ordinary run 64 MiB go through ever new keys; with C{PIPEOPS_ENDURANCE=1} it is 1 GiB.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any, cast

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from pipeops_agent.scheduling import sleep
from tests.peers.client import remote_to
from tests.peers.harness import Peer, free_port
from tests.peers.test_session_contract import MEBIBYTE, Conversation, SandboxPeer, SessionCase

VOLUME = (1024 if os.environ.get("PIPEOPS_ENDURANCE") == "1" else 64) * MEBIBYTE
"""Bytes in all for the test of ever new keys, half of them each way."""

READERS = 50
ROUNDS = 12
"""At most; without noise two are enough."""
MESSAGES = 60
"""Round trips of each reader in a round."""

HALF_CLOSES = 25
SENT = 300_000


class Talker(Conversation):
    """Sends 64 bytes, waits until they are back, and again; keeps how long each took."""

    def __init__(self, clock: Any) -> None:
        super().__init__()
        self._clock = clock
        self._began = 0.0
        self._left = 0
        self._done: Deferred[None] | None = None
        self.took: list[float] = []

    def talk(self, count: int) -> Deferred[None]:
        """Fires after C{count} round trips."""
        self._left, self._done, self.took = count, Deferred(), []
        self._say()
        return self._done

    def _say(self) -> None:
        self.data.clear()
        self._began = self._clock.seconds()
        self.transport.write(b"x" * 64)

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if len(self.data) < 64:
            return
        self.took.append(self._clock.seconds() - self._began)
        self._left -= 1
        if self._left > 0:
            self._say()
        elif self._done is not None:
            done, self._done = self._done, None
            done.callback(None)


@implementer(IHalfCloseableProtocol)
class HalfClosing(Conversation):
    """Hears the end of what the other side sends, and may send on."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: Deferred[bytes] = Deferred()

    def readConnectionLost(self) -> None:
        self.ended.callback(bytes(self.data))

    def writeConnectionLost(self) -> None:
        """It was this side."""


class LoadContract(SessionCase):
    """What a session does under load, with any server."""

    async def connect(self, port: int, talk: Conversation) -> None:
        """Connect C{talk}, for as long as the test lasts."""

        class One(Factory):
            noisy = False

            def buildProtocol(self, addr: Any) -> Any:
                return talk

        await TCP4ClientEndpoint(self.reactor, "127.0.0.1", port).connect(One())
        self.addCleanup(self._hang_up, talk)

    def _hang_up(self, talk: Conversation) -> Deferred[Any] | None:
        if talk.over.called:
            return None
        talk.transport.abortConnection()
        return cast(Deferred[Any], talk.over)

    async def test_reader_that_never_reads(self) -> None:
        """Fifty readers beside one that never reads: their p99 stays within twice of that without it."""
        await self.prepare()
        _, port = await self.forward("load", ping_timeout=10.0)
        readers = [Talker(self.reactor) for _ in range(READERS)]
        for reader in readers:
            await self.connect(port, reader)
            reader.transport.write(b"E\0" + bytes(8))
        alone, beside = [], []
        await self.slowest(readers)
        # What else this machine does only makes rounds slower, so the least of each counts: a reader that
        # holds the others up does so in every round.
        for _ in range(ROUNDS):
            alone.append(await self.slowest(readers))
            greedy = await self.talk(port)
            greedy.transport.pauseProducing()
            greedy.transport.write(b"D\0" + (1 << 30).to_bytes(8, "big"))
            await self.stalled()
            beside.append(await self.slowest(readers))
            greedy.transport.abortConnection()
            await greedy.over
            if len(alone) > 1 and min(beside) <= 2 * min(alone):
                return
        raise AssertionError((alone, beside))

    async def slowest(self, readers: list[Talker]) -> float:
        """The p99 of a round of all C{readers} at once, in seconds."""
        await self.in_time(gatherResults([reader.talk(MESSAGES) for reader in readers]), "a round")
        took = sorted(each for reader in readers for each in reader.took)
        return took[len(took) * 99 // 100]

    async def stalled(self) -> None:
        """Wait until nothing moves any more: who never reads has filled everything that there is for it."""
        counters = self.client.traffic.forward("test")
        before = -1
        while counters.bytes_out != before:
            before = counters.bytes_out
            await sleep(self.reactor, 0.3)
        assert before > MEBIBYTE

    async def test_new_keys_all_the_time(self) -> None:
        """New keys for every MiB, in both directions at once, and every byte arrives as it was sent."""
        await self.prepare()
        session, port = await self.forward("load", rekey_bytes=float(MEBIBYTE), ping_timeout=10.0)
        figures = await self.peers.load("both", f"127.0.0.1:{port}", n=VOLUME // 2, c=2)
        assert figures["ok"], figures
        assert figures["checked"], figures
        # Whoever's count of bytes is full first asks; while keys are exchanged more may be under way.
        exchanges = session._transport.key_exchanges
        assert exchanges >= VOLUME // MEBIBYTE // 6, exchanges


class HalfCloseContract(LoadContract):
    """The same with a server that passes a half-close on, which chisel's does not."""

    async def test_half_close_under_load(self) -> None:
        """Half-closes from either side in the middle of transfers: the other direction goes on to its end."""
        await self.prepare()
        ports = {name: free_port() for name in ("load", "halfclose", "closefirst")}
        remotes = [remote_to(self.services[name], port, name) for name, port in ports.items()]
        session = await self.client.open(self.target, *remotes, ping_timeout=10.0)
        self.addCleanup(session.close, "the test is over")
        load = Deferred.fromCoroutine(
            self.peers.load("both", f"127.0.0.1:{ports['load']}", n=48 * MEBIBYTE, c=3)
        )
        sent = b"y" * SENT
        await gatherResults([self._user_ends(ports["halfclose"], sent) for _ in range(HALF_CLOSES)])
        await gatherResults([self._target_ends(ports["closefirst"], sent) for _ in range(HALF_CLOSES)])
        digest = hashlib.sha256(sent).hexdigest()
        await self.services.program.wait_for(
            "closefirst", count=HALF_CLOSES, bytes=SENT, sha256=digest, ok=True
        )
        figures = await load
        assert figures["ok"], figures
        for name in ports:
            await self.settled(name)

    def _user_ends(self, port: int, sent: bytes) -> Deferred[None]:
        """The user sends, ends its half, and gets the answer that comes only then."""

        async def go() -> None:
            talk = HalfClosing()
            await self.connect(port, talk)
            talk.transport.write(sent)
            talk.transport.loseWriteConnection()
            answer = await self.in_time(talk.ended, "the answer")
            expected = f"{SENT} bytes sha256 {hashlib.sha256(sent).hexdigest()}\n"
            assert answer.decode() == expected, answer

        return Deferred.fromCoroutine(go())

    def _target_ends(self, port: int, sent: bytes) -> Deferred[None]:
        """The target ends its half first, and still gets everything that the user sends."""

        async def go() -> None:
            talk = HalfClosing()
            await self.connect(port, talk)
            assert await self.in_time(talk.ended, "the end") == b"bye\n"
            talk.transport.write(sent)
            talk.transport.loseWriteConnection()  # Twisted looks for no end after this

        return Deferred.fromCoroutine(go())


class SandboxServer(LoadContract, TestCase):
    """The sandbox's chisel server."""

    timeout = 600

    async def make_server(self) -> Peer:
        peer = SandboxPeer(self.reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(peer.stop()))
        return peer


class GoServer(HalfCloseContract, TestCase):
    """A server on Go's own SSH and WebSocket."""

    timeout = 600

    async def make_server(self) -> Peer:
        return await self.peers.gochisel_server(half_close=True, quiet=True)


class ChiselServerItself(LoadContract, TestCase):
    """Chisel, where C{CHISEL} names it."""

    timeout = 600

    async def make_server(self) -> Peer:
        return await self.peers.chisel_server()
