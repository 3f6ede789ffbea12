"""
The fuzzer's targets as tests: the kept inputs, inputs by hypothesis, and a sign that mistakes are seen.

C{PIPEOPS_FUZZ_EXAMPLES} sets how many inputs are made for each target, 100 by default. A run that
looks for something new is C{python -m tests.fuzz}.
"""

from __future__ import annotations

import os
import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import fail
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel import frames as frames_module
from pipeops_agent.tunnel.frames import FrameReader
from pipeops_agent.tunnel.ssh.channel import Channel
from pipeops_agent.tunnel.ssh.client import ChiselClientTransport
from pipeops_agent.tunnel.ssh.connection import ConnectionLayer
from pipeops_agent.tunnel.ssh.packets import PacketReader
from tests.fuzz import connection as connection_module
from tests.fuzz import targets as targets_module
from tests.fuzz.corpus import ROOM, SEED, kept
from tests.fuzz.engine import mutate
from tests.fuzz.seeds import inputs_by_hand
from tests.fuzz.source import held
from tests.fuzz.targets import TARGETS, Hang, Mistake, Target, attempt, guarded

EXAMPLES = int(os.environ.get("PIPEOPS_FUZZ_EXAMPLES", "100"))


class CorpusTests(SynchronousTestCase):
    """The inputs that are kept."""

    def test_replay(self) -> None:
        """Every kept input is tried with its target."""
        with guarded() as logged:
            for name, target in TARGETS.items():
                for data in kept(name).values():
                    attempt(target, data, logged)

    def test_neighbours(self) -> None:
        """So are a few that differ from them a little, always the same ones."""
        randomness = random.Random(1)
        with guarded() as logged:
            for name, target in TARGETS.items():
                pool = list(kept(name).values())
                for _ in range(EXAMPLES):
                    attempt(target, mutate(pool, randomness), logged)

    def test_every_target_has_seeds(self) -> None:
        """Each target has its file, and the seeds in it are those that C{--seeds} writes."""
        self.assertEqual({path.stem for path in ROOM.iterdir()}, set(TARGETS))
        for name, seeds in inputs_by_hand().items():
            in_file = [data for key, data in kept(name).items() if key.startswith(SEED)]
            self.assertEqual(in_file, seeds, name)


class HypothesisTests(SynchronousTestCase):
    """Inputs by hypothesis, which makes a short one of one that fails."""

    @settings(
        max_examples=EXAMPLES * 3, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(st.sampled_from(sorted(TARGETS)), st.binary(max_size=300))
    def test_any_input(self, name: str, data: bytes) -> None:
        """Whatever the input, a target has nothing to object to."""
        with guarded() as logged:
            attempt(TARGETS[name], data, logged)


class SharpnessTests(SynchronousTestCase):
    """A fuzzer that can't fail finds nothing: the kept inputs, or their neighbours, show a mistake put in."""

    def assert_found(self, name: str) -> None:
        """The target objects, soon."""
        randomness = random.Random(2)
        pool = list(kept(name).values())

        def look() -> None:
            with guarded() as logged:
                for data in [*pool, *(mutate(pool, randomness) for _ in range(3000))]:
                    attempt(TARGETS[name], data, logged)

        self.assertRaises(Exception, look)  # noqa: B017  # any, of whoever notices

    def test_exception_that_is_no_protocol_error(self) -> None:
        """An exception of another kind is a finding."""
        self.patch(frames_module, "FrameError", ValueError)
        self.assert_found("frames")

    def test_frames_out_of_order(self) -> None:
        """So is a message that the decoder does not have."""
        original: Any = FrameReader.feed
        self.patch(FrameReader, "feed", lambda reader, data: reversed(list(original(reader, data))))
        self.assert_found("frames")

    def test_packets_twice(self) -> None:
        """So is a packet that comes twice."""
        original: Any = PacketReader.feed
        self.patch(
            PacketReader,
            "feed",
            lambda reader, data: (p for each in original(reader, data) for p in (each, each)),
        )
        self.assert_found("sealed-packets")

    def test_window_that_is_no_limit(self) -> None:
        """So is a peer that sends more than the window and is not cut off."""

        def take(channel: Channel, data: bytes) -> None:
            channel._handler.data_received(data)

        self.patch(Channel, "data_received", take)
        self.assert_found("connection")

    def test_waiter_that_is_forgotten(self) -> None:
        """So is somebody who waits for ever."""
        original: Any = ConnectionLayer.serviceStopped

        def stop(layer: Any) -> None:
            layer._replies.clear()
            original(layer)

        self.patch(ConnectionLayer, "serviceStopped", stop)
        self.assert_found("connection")

    def test_strict_key_exchange_that_is_not(self) -> None:
        """So is a message that somebody in between has added to a key exchange."""
        self.patch(ChiselClientTransport, "_strict_ours", b"nobody knows this name")
        self.patch(ChiselClientTransport, "_strict_theirs", b"nor this one")
        self.assert_found("man-in-the-middle")

    def test_hang(self) -> None:
        """So is an input that takes for ever, whatever handler is around it."""
        self.patch(targets_module, "CPU_SECONDS", 0.05)

        def endless(data: bytes) -> None:
            while True:
                try:
                    sum(range(1000))
                except Exception:  # noqa: S112  # what must not stop the alarm
                    continue

        with guarded() as logged:
            self.assertRaises(Hang, attempt, Target(endless, 1), b"", logged)

    def test_failure_that_nobody_took(self) -> None:
        """So is a Deferred whose failure nobody took."""

        def careless(data: bytes) -> None:
            fail(ValueError("nobody hears me"))

        with guarded() as logged:
            self.assertRaises(Mistake, attempt, Target(careless, 1), b"", logged)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_held(self) -> None:
        """What an object holds is counted wherever it lies, and once."""
        bench = connection_module.Bench()
        before = held(bench.layer, beside=[bench])
        shared = bytes(1000)
        bench.layer.some_list = [shared, {1: shared}, (bytearray(500),)]  # type: ignore[attr-defined]  # made up
        self.assertEqual(held(bench.layer, beside=[bench]) - before, 1500)
