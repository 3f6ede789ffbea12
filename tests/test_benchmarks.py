"""What the benchmarks make of their values. That each measurement runs is shown in tests/peers."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import profile
from benchmarks.clients import Launched
from benchmarks.lab import Lab
from benchmarks.model import Figure, Measurement, Results, Scale, Values
from benchmarks.place import no_link
from benchmarks.relay import Snapshot, frames
from benchmarks.report import raw, table
from benchmarks.suite import MEASUREMENTS
from tests.peers.harness import Peer


class _Named:
    """A client that nobody starts."""

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self.title = title

    def launch(self, lab: Lab, server: Peer, target: str) -> Launched:
        raise AssertionError("these tests start nothing")


async def _never(lab: Lab, client: object, scale: Scale) -> Values:
    raise AssertionError("these tests run nothing")


AGENT, GO = _Named("agent", "agent"), _Named("go", "Go chisel")
RATE = Figure("rate", "throughput", "MB/s", 0, more_is_better=True)
CPU = Figure("cpu", "CPU", "s/GB", 2)
COPY = Measurement("copy", (RATE, CPU), _never)


def copied(**rates: list[float]) -> Results:
    """Results of C{COPY} with these rates, by client."""
    results = Results()
    for client in (AGENT, GO):
        for rate in rates.get(client.name, []):
            results.add(COPY, client, {"rate": rate, "noted": 1.0})
    return results


class ResultsTests(SynchronousTestCase):
    """From values to what is shown."""

    def test_ratio_is_taken_run_by_run(self) -> None:
        """A minute in which the machine was slow for both does not change how they compare."""
        results = copied(agent=[100.0, 10.0, 90.0], go=[200.0, 20.0, 180.0])
        self.assertEqual(results.ratio(COPY, RATE, "agent", "go"), 0.5)

    def test_who_took_no_part(self) -> None:
        """A client that was not measured has no column."""
        shown = table(copied(agent=[100.0]), [COPY], [AGENT, GO])
        self.assertNotIn("Go chisel", shown)
        self.assertIn("Go chisel", table(copied(agent=[100.0], go=[50.0]), [COPY], [AGENT, GO]))

    def test_no_ratio_to_nothing(self) -> None:
        """A client that was not measured, or used no time at all, has nothing to be compared with."""
        self.assertIsNone(copied(agent=[1.0]).ratio(COPY, RATE, "agent", "go"))
        self.assertIsNone(copied(agent=[1.0], go=[0.0]).ratio(COPY, RATE, "agent", "go"))

    def test_table(self) -> None:
        """Median, least and greatest, the ratio; a figure that nobody has gets no row."""
        shown = table(copied(agent=[1000.0, 3000.0, 2000.0], go=[500.0, 1000.0, 2000.0]), [COPY], [AGENT, GO])
        self.assertEqual(
            shown.splitlines(),
            [
                "|  | unit | agent | Go chisel | agent / Go chisel |",
                "| --- | --- | ---: | ---: | ---: |",
                "| throughput | MB/s | 2,000 (1,000-3,000) | 1,000 (500-2,000) | 2.00 |",
            ],
        )

    def test_table_of_one_client(self) -> None:
        """Without Go's client the agent stands alone; one run has no range."""
        shown = table(copied(agent=[7.0]), [COPY], [AGENT])
        self.assertEqual(shown.splitlines()[2:], ["| throughput | MB/s | 7 |"])

    def test_raw_values(self) -> None:
        """The file has every value, also those that are no figure, and what they were measured on."""
        document = json.loads(raw(copied(agent=[1.0, 2.0]), 2))
        runs = document["values"]["copy"]["agent"]
        self.assertEqual(runs, [{"rate": 1.0, "noted": 1.0}, {"rate": 2.0, "noted": 1.0}])
        self.assertEqual(document["runs"], 2)
        self.assertIn("Twisted", document["machine"])

    def test_names(self) -> None:
        """No two measurements share a name, no two figures of one a key: results are kept by them."""
        names = [measurement.name for measurement in MEASUREMENTS]
        self.assertEqual(len(names), len(set(names)))
        for measurement in MEASUREMENTS:
            keys = [figure.key for figure in measurement.figures]
            self.assertEqual(len(keys), len(set(keys)), measurement.name)


class ProfileTests(SynchronousTestCase):
    """What is made of a profiler's samples."""

    def test_layers(self) -> None:
        """A running function is told by its file, or by the name under which Twisted calls the kernel."""
        for function, layer in (
            ("untilConcludes (twisted/python/util.py:760)", "the kernel: send"),
            ("Connection.doRead (twisted/internet/tcp.py:278)", "the kernel: receive"),
            ("doRead (twisted/internet/tcp.py:278)", "the kernel: receive"),
            (
                "EPollReactor.doPoll (twisted/internet/epollreactor.py:227)",
                "the kernel: epoll, and waiting in it",
            ),
            (
                "Connection._dataReceived (twisted/internet/tcp.py:290)",
                "Twisted's reactor, transports, sockets",
            ),
            ("_native.<locals>.mask (pipeops_agent/tunnel/masking.py:20)", "frames and masking"),
            (
                "GCMSealer.seal (pipeops_agent/tunnel/ssh/packets.py:143)",
                "SSH packets: AES-GCM and what surrounds it",
            ),
            (
                "Channel.flush (pipeops_agent/tunnel/ssh/channel.py:1)",
                "SSH transport and channels, relay, carrier",
            ),
            ("TLSMemoryBIOProtocol.write (twisted/protocols/tls.py:1)", "TLS"),
            ("JSONDecoder.raw_decode (json/decoder.py:353)", "what else the agent does"),
        ):
            self.assertEqual(profile.layer_of(function), layer, function)

    def test_the_running_function_counts(self) -> None:
        """Not those that called it, even where a name holds a blank."""
        called = "main (twisted/a.py:1);send data (pipeops_agent/tunnel/frames.py:2) 3"
        self.assertEqual(profile.shares([called]), {"frames and masking": 3})

    def test_table(self) -> None:
        """A share for each layer that was seen, and how many samples they are of."""
        seen = profile.shares(["a (pipeops_agent/tunnel/frames.py:2) 3", "b (twisted/b.py:1) 1"])
        self.assertEqual(
            profile.table({"to the server": seen}).splitlines(),
            [
                "|  | to the server |",
                "| --- | ---: |",
                "| frames and masking | 75 % |",
                "| Twisted's reactor, transports, sockets | 25 % |",
                "| samples | 4 |",
            ],
        )


class ObstacleTests(SynchronousTestCase):
    """What can't be measured everywhere."""

    def test_links_need_root(self) -> None:
        """The others need nothing; those over a link say what is missing, or nothing where they run."""
        for measurement in MEASUREMENTS:
            expected = no_link() if measurement.name.startswith("link-") else ""
            self.assertEqual(measurement.obstacle(), expected, measurement.name)


class CountingTests(SynchronousTestCase):
    """What the relay makes of bytes."""

    def test_frames_of_one_write(self) -> None:
        """Several frames in one piece are told apart, masked or not."""
        ping, pong, data = b"\x89\x80mask", b"\x8a\x00", b"\x82\x03abc"
        self.assertEqual(list(frames(ping + data + pong)), [("ping", 6), ("data", 5), ("pong", 2)])

    def test_long_frames(self) -> None:
        """A length in two or eight further bytes counts with its header."""
        for length, header in (
            (126, b"\x82\x7e\x00\x7e"),
            (70_000, b"\x82\x7f" + (70_000).to_bytes(8, "big")),
        ):
            self.assertEqual(list(frames(header + bytes(length))), [("data", len(header) + length)])

    def test_frame_cut_off(self) -> None:
        """No more is counted than there is."""
        self.assertEqual(list(frames(b"\x82\x7d" + bytes(10))), [("data", 12)])

    def test_handshake(self) -> None:
        """The upgrade and its answer are no frames."""
        for text in (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"):
            self.assertEqual(list(frames(text)), [("handshake", len(text))])

    def test_between_two_moments(self) -> None:
        """What passed in between is the difference, also of what was not there at first."""
        before = Snapshot({"http": 10}, 4, {"GET status out": (10, 1)})
        after = Snapshot(
            {"http": 25, "carrier": 5}, 9, {"GET status out": (25, 2), "carrier ping out": (5, 1)}
        )
        passed = after.since(before)
        self.assertEqual(passed.payload, {"http": 15, "carrier": 5})
        self.assertEqual(passed.segments, 5)
        self.assertEqual(passed.messages, {"GET status out": (15, 1), "carrier ping out": (5, 1)})
