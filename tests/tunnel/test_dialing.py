"""Dialling where the kernel answers at once, and what is left of a dial."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure

from pipeops_agent.tunnel.ssh.channel import Channel
from pipeops_agent.tunnel.ssh.connection import OpenRefused
from tests.tunnel.forwarding_case import Forwarding, Socket


class AtOnce(Forwarding):
    """Dials that have come to their end before the one who asked for them goes on: the rule on loopback."""

    def setUp(self) -> None:
        super().setUp()
        self.refusing: set[str] = set()
        self.sockets: list[Socket] = []

    def begin(self, host: str, port: int, factory: Any) -> None:
        """Connect, or refuse, before this returns."""
        factory.startedConnecting(self.reactor.connectTCP(host, port, ClientFactory()))
        if host in self.refusing:
            factory.clientConnectionFailed(None, Failure(error.ConnectionRefusedError()))
            return
        relay = factory.buildProtocol(IPv4Address("TCP", host, port))
        self.sockets.append(Socket(relay))
        relay.makeConnection(self.sockets[-1])

    def test_reached(self) -> None:
        """The channel is open in the turn in which it was asked for, without a timer, and is read from."""
        opening, _ = self.open(b"10.0.0.7:10250")
        self.successResultOf(opening)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(self.sockets[0].producerState, "producing")
        self.assertEqual(self.reports, [("kubelet", None)])
        counters = self.traffic.forward("kubelet")
        self.assertEqual((counters.opened, counters.open), (1, 1))

    def test_second_address(self) -> None:
        """A refused first address leaves no trace where the second one answers."""
        self.refusing = {"127.0.0.1"}
        opening, _ = self.open(b"localhost:6443")
        self.successResultOf(opening)
        self.assertEqual([client[0] for client in self.reactor.tcpClients], ["127.0.0.1", "::1"])
        self.assertEqual(self.reports, [("api", None)])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_refused(self) -> None:
        """Where all refuse the channel is refused, once, with the reason."""
        self.refusing = {"127.0.0.1", "::1"}
        opening, _ = self.open(b"localhost:6443")
        self.assertIn("refuses connections", str(self.failureResultOf(opening, OpenRefused).value))
        self.assertEqual(len(self.reports), 1)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_beside_a_stuck_one(self) -> None:
        """Dials that are refused or reached change nothing about one that is stuck, which still counts."""
        self.forwarder._max_connections = 2
        self.names.prompt = False
        stuck, _ = self.open(b"db.internal:5432")
        self.refusing = {"127.0.0.1", "::1"}
        for _ in range(3):
            refused, _ = self.open(b"localhost:6443")
            self.assertIn("refuses", str(self.failureResultOf(refused, OpenRefused).value))
        reached, _ = self.open(b"10.0.0.7:10250")
        self.successResultOf(reached)
        self.assertNoResult(stuck)
        over, _ = self.open(b"10.0.0.7:10250")
        self.assertEqual(self.failureResultOf(over, OpenRefused).value.code, 4)
        self.names.answer()
        self.pair.pump()
        self.successResultOf(stuck)

    def alive(self) -> Counter[str]:
        """How many there are of what a connection is made of."""
        kinds = {"Opening", "Dial", "Relay", "OpenRequest", "Channel", "DelayedCall"}
        return Counter(name for name in (type(each).__name__ for each in gc.get_objects()) if name in kinds)

    def test_nothing_is_left(self) -> None:
        """Neither a refused dial nor a connection that is over is left to the collector of cyclic garbage."""
        self.refusing = {"127.0.0.1", "::1"}
        self.addCleanup(gc.enable)
        for target in (b"localhost:6443", b"10.0.0.7:10250"):
            gc.collect()
            gc.disable()
            before = self.alive()
            for _ in range(100):
                opening, handler = self.open(target)
                opening.addCallbacks(Channel.close, lambda _: None)
                self.pair.pump()
                for socket in self.sockets:
                    socket.gone(ConnectionDone())
                    socket.protocol = None
                self.sockets.clear()
                self.reactor.tcpClients.clear()
                self.reactor.connectors.clear()
            del opening, handler
            self.assertEqual(self.alive(), before)
        self.assertEqual(list(map(len, self.forwarder._forwards.values())), [0, 0, 0, 0])
