"""How data flows: per forward, and for the busiest channels."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.figures import FlowStatus
from pipeops_agent.tunnel.flows import BUSIEST, channel_flows
from pipeops_agent.tunnel.traffic import TrafficCounters
from tests.tunnel.test_traffic import Open


class FlowTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.traffic = TrafficCounters()
        self.traffic.know(["api", "web"])

    def enter(self, name: str, channel: Open, now: float = 0.0) -> Open:
        self.traffic.forward(name).enter(channel, now, 0.25)
        return channel

    def look(self, now: float) -> FlowStatus:
        return channel_flows(self.traffic, now)

    def test_nothing(self) -> None:
        """Without channels every forward is there, at rest."""
        flows = self.look(5.0)
        self.assertEqual((list(flows.forwards), flows.busiest), (["api", "web"], ()))

    def test_one_channel(self) -> None:
        """A channel's age, dial, bytes, rates since its opening and since the last look, and window."""
        channel = self.enter("api", Open(), 10.0)
        channel.tally.bytes_in, channel.tally.bytes_out = 100, 1000
        (flow,) = self.look(20.0).busiest
        self.assertEqual((flow.forward, flow.age, flow.dial_seconds), ("api", 10.0, 0.25))
        self.assertEqual((flow.bytes_in, flow.bytes_out), (100, 1000))
        self.assertEqual((flow.rate_in, flow.rate_out, flow.rate_seconds), (10.0, 100.0, 10.0))
        self.assertEqual(flow.send_window, 65536)
        channel.tally.bytes_out += 50
        flows = self.look(25.0)
        self.assertEqual((flows.busiest[0].rate_in, flows.busiest[0].rate_out), (0.0, 10.0))
        self.assertEqual((flows.forwards["api"].rate_in, flows.forwards["api"].rate_out), (0.0, 10.0))
        self.assertEqual(flows.forwards["web"].rate_out, 0.0)

    def test_what_is_over_counts(self) -> None:
        """A forward's rate has what channels carried that came and went between two looks."""
        self.look(0.0)
        self.traffic.forward("api").leave(self.enter("api", Open(300, 0), 1.0))
        self.assertEqual(self.look(3.0).forwards["api"].rate_in, 100.0)

    def test_the_busiest(self) -> None:
        """Ten of a hundred are shown: by their present rates, whatever they carried before."""
        channels = [self.enter("api", Open(10**9, 0)) for _ in range(100)]
        self.look(10.0)
        for number, channel in enumerate(channels):
            channel.tally.bytes_out += number
        busiest = self.look(11.0).busiest
        self.assertEqual([flow.rate_out for flow in busiest], [float(n) for n in range(99, 99 - BUSIEST, -1)])

    def test_waiting(self) -> None:
        """Who waits, for what, for how long: per channel in all, per forward the number and the longest."""
        first, second, third = (self.enter("api", Open()) for _ in range(3))
        first.tally.wait_out.begin(1.0)
        first.tally.wait_out.end(3.0)
        first.tally.wait_out.begin(8.0)
        second.tally.wait_out.begin(4.0)
        third.tally.wait_in.begin(9.5)
        third.tally.bytes_in = 1
        flows = self.look(10.0)
        forward = flows.forwards["api"]
        self.assertEqual((forward.paused_in, forward.longest_pause_in), (1, 0.5))
        self.assertEqual((forward.paused_out, forward.longest_pause_out), (2, 6.0))
        shown = [(flow.paused_in, flow.paused_out, flow.paused_seconds_out) for flow in flows.busiest]
        self.assertEqual(shown, [(True, False, 0.0), (False, True, 4.0), (False, True, 6.0)])

    def test_canary(self) -> None:
        """The agent's canary is no flow."""
        self.enter("api", Open(100, 100, canary=True))
        flows = self.look(10.0)
        self.assertEqual((flows.busiest, flows.forwards["api"].open_channels), ((), 0))
