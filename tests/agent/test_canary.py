"""The canary, through a real tunnel: the sandbox is the far side."""

from __future__ import annotations

from pipeops_agent.sandbox import faults
from pipeops_agent.settings.model_tunnel import CanarySettings
from tests.agent.house import House, look_until

CANARY = CanarySettings(enabled=True, interval=0.1, timeout=5.0)


class CanaryTests(House):
    async def flown(self, count: int) -> None:
        """Wait until so many canaries have come home."""

        def well() -> bool:
            canary = self.agent.board.traffic().forwards["agent-http"].canary
            return canary is not None and canary.tried - canary.failed >= count

        await look_until(well, "the canaries")

    async def test_proof(self) -> None:
        """Canaries prove the forward without anybody using it, and are counted as nobody's traffic."""
        self.start_sandbox()
        self.start_agent(self.settings(tunnel={"canary": CANARY}))
        await self.until_connected()
        await self.flown(3)
        board = self.agent.board
        states = {forward.name: forward.state for forward in board.now.tunnel.forwards}
        self.assertEqual((states["agent-http"], states["kubernetes-api"]), ("proven", "listening"))
        traffic = board.traffic().forwards["agent-http"]
        self.assertEqual((traffic.total_channels, traffic.bytes_in, traffic.bytes_out), (0, 0, 0))
        self.assertIsNone(traffic.last_in)
        self.assertIsNotNone(traffic.last_dial)

    async def test_no_activity(self) -> None:
        """An idle tunnel with canaries closes as one without: when no byte has passed for the timeout."""
        self.start_sandbox()
        self.start_agent(self.settings(tunnel={"canary": CANARY, "inactivity_timeout": 2.0}))
        await self.until_connected()
        await self.flown(1)
        connected = self.agent.board.now.tunnel.since
        assert connected is not None
        self.sandbox.faults.add(faults.Tunnel(status="IDLE"))
        status = await self.until(lambda status: status.tunnel.state == "idle", "the rest")
        canary = self.agent.board.traffic().forwards["agent-http"].canary
        assert canary is not None and canary.last_success is not None and status.tunnel.since is not None
        self.assertGreater(canary.tried, 3)
        lasted = (status.tunnel.since - connected).total_seconds()
        quiet = (status.tunnel.since - canary.last_success).total_seconds()
        self.assertLess(quiet, lasted, "canaries flew while the tunnel was idle")
