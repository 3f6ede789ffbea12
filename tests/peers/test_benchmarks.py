"""Every measurement of the benchmarks runs, in its smallest form, with real processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import SkipTest

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import ServerFactory
from twisted.trial.unittest import TestCase

from benchmarks import profile
from benchmarks.clients import available
from benchmarks.lab import Lab
from benchmarks.model import TINY
from benchmarks.place import Distance, entered, no_link
from benchmarks.suite import MEASUREMENTS, run_once
from tests.peers.building import gochisel
from tests.peers.processes import real_reactor


class ProfileTests(TestCase):
    """The profiler sees the agent's layers."""

    timeout = 120

    async def test_profile(self) -> None:
        """A second of a transfer: what carries it is among what was running."""
        gochisel()
        profile.profiler()
        samples = Path.cwd() / self.mktemp()
        workload = replace(profile.WORKLOADS["to-server"], count=32 << 20)
        await profile.watch(real_reactor(), workload, 1, samples)
        with samples.open(encoding="utf-8") as lines:
            seen = profile.shares(lines)
        assert {"frames and masking", "the kernel: send"} & set(seen), seen


class PlaceTests(TestCase):
    """The long link, and what is started at its ends."""

    timeout = 120

    async def test_distance(self) -> None:
        """A round trip through both ends takes as long as was asked for; the ends are not this machine."""
        gochisel()
        if obstacle := no_link():
            raise SkipTest(obstacle)
        lab = Lab(real_reactor())
        self.addCleanup(lambda: Deferred.fromCoroutine(lab.clean()))
        await lab.move_apart(Distance(0.1, 0.0, 50e6))
        services = await lab.services()
        figures = await lab.load("rtt", services["load"], n=3)
        assert 100 <= figures["p50_us"] / 1000 < 1000, figures
        host, _ = services["load"].split(":")
        with entered(lab.near):
            listener = lab.reactor.listenTCP(0, ServerFactory(), interface=host)
        self.addCleanup(listener.stopListening)
        with self.assertRaises(CannotListenError):  # the address is there, not here
            lab.reactor.listenTCP(0, ServerFactory(), interface=host)


class MeasurementTests(TestCase):
    """Each gives its figures, for the agent and for every other client that is here."""

    timeout = 120

    def setUp(self) -> None:
        gochisel()  # without Go there is no load: skipped, with the reason

    async def measure(self, name: str) -> None:
        """Run one measurement once for each client; the agent gives all of its figures."""
        (measurement,) = (each for each in MEASUREMENTS if each.name == name)
        if obstacle := measurement.obstacle():
            raise SkipTest(obstacle)
        for client in available():
            if client.name in measurement.clients:
                values = await run_once(real_reactor(), measurement, client, TINY)
                missing = [figure.key for figure in measurement.figures if figure.key not in values]
                assert client.name != "agent" or not missing, (client.name, values)
                assert len(missing) < len(measurement.figures), (client.name, values)

    async def test_all_are_tested(self) -> None:
        """A measurement that is added gets a test here."""
        tested = {
            name.removeprefix("test_").replace("_", "-") for name in dir(self) if name.startswith("test_")
        }
        assert {each.name for each in MEASUREMENTS} <= tested, tested

    async def test_inventory(self) -> None:
        """A cluster's objects, read and kept, and changed."""
        await self.measure("inventory")

    async def test_cluster(self) -> None:
        """The whole agent with a cluster's objects."""
        await self.measure("cluster")

    async def test_to_server_1(self) -> None:
        """Throughput to the server."""
        await self.measure("to-server-1")

    async def test_to_server_8(self) -> None:
        """Throughput to the server on several connections."""
        await self.measure("to-server-8")

    async def test_from_server_1(self) -> None:
        """Throughput from the server."""
        await self.measure("from-server-1")

    async def test_from_server_8(self) -> None:
        """Throughput from the server on several connections."""
        await self.measure("from-server-8")

    async def test_round_trip(self) -> None:
        """Round trips of small messages."""
        await self.measure("round-trip")

    async def test_to_server_1_tls(self) -> None:
        """Throughput to the server, over TLS."""
        await self.measure("to-server-1-tls")

    async def test_from_server_1_tls(self) -> None:
        """Throughput from the server, over TLS."""
        await self.measure("from-server-1-tls")

    async def test_round_trip_tls(self) -> None:
        """Round trips of small messages, over TLS."""
        await self.measure("round-trip-tls")

    async def test_round_trip_beside_to_server(self) -> None:
        """Round trips while another channel sends all that it can."""
        await self.measure("round-trip-beside-to-server")

    async def test_round_trip_beside_from_server(self) -> None:
        """Round trips while another channel receives all that it can."""
        await self.measure("round-trip-beside-from-server")

    async def test_fairness_to_server(self) -> None:
        """The shares of channels that all send."""
        await self.measure("fairness-to-server")

    async def test_fairness_from_server(self) -> None:
        """The shares of channels that all receive."""
        await self.measure("fairness-from-server")

    async def test_link_100(self) -> None:
        """A link with a round trip of 100 ms."""
        await self.measure("link-100")

    async def test_link_200(self) -> None:
        """A link with a round trip of 200 ms."""
        await self.measure("link-200")

    async def test_link_100_loss_1(self) -> None:
        """A link of 100 ms that loses packets."""
        await self.measure("link-100-loss-1")

    async def test_link_200_loss_1(self) -> None:
        """A link of 200 ms that loses packets."""
        await self.measure("link-200-loss-1")

    async def test_connections_1_tls(self) -> None:
        """New connections, one at a time, over TLS."""
        await self.measure("connections-1-tls")

    async def test_connections_32_tls(self) -> None:
        """New connections, 32 at a time, over TLS."""
        await self.measure("connections-32-tls")

    async def test_memory_used(self) -> None:
        """Memory of channels that have carried something."""
        await self.measure("memory-used")

    async def test_connections_1(self) -> None:
        """New connections, one at a time."""
        await self.measure("connections-1")

    async def test_connections_32(self) -> None:
        """New connections, 32 at a time."""
        await self.measure("connections-32")

    async def test_memory(self) -> None:
        """Memory of open channels."""
        await self.measure("memory")

    async def test_idle(self) -> None:
        """An idle client: memory, processor time, bytes on the wire, with the sandbox and its TLS."""
        await self.measure("idle")

    async def test_start(self) -> None:
        """The time to ready and to the tunnel."""
        await self.measure("start")

    async def test_stop(self) -> None:
        """The time to the end, idle and with channels open."""
        await self.measure("stop")
