"""Stopping: in order, under five seconds whatever hangs, and with nothing left."""

from __future__ import annotations

from twisted.internet.defer import Deferred, gatherResults

from pipeops_agent.sandbox import faults
from pipeops_agent.scheduling import Tasks, bounded, sleep
from tests.agent.house import REACTOR, TOKEN, House, User, descriptors, dial, get, look_until

LIMIT = 5.0
"""Seconds that a stop may take, whatever happens."""


class StopTests(House):
    def setUp(self) -> None:
        super().setUp()
        self.start_sandbox()

    async def stop(self) -> float:
        """Stop the agent; return how long it took."""
        began = REACTOR.seconds()
        await self.agent.stopService()
        taken: float = REACTOR.seconds() - began
        self.assertLess(taken, LIMIT)
        return taken

    async def test_order(self) -> None:
        """Readiness off, the tunnel down, then the heartbeat C{stopping}, and the port is closed last."""
        self.start_agent()
        await self.until_connected()
        await look_until(lambda: self.known.status == "active", "a heartbeat that knows of the tunnel")
        seen: list[str] = []
        port = self.agent.settings.server.port
        asked = Tasks()

        async def ask() -> None:
            seen.append(f"ready {(await get(port, '/ready', TOKEN))[0]}")

        def look(event: object) -> None:
            now, known = self.agent.board.now, self.known
            open_ports = bool(known.listening)
            word = f"{now.phase}, tunnel {now.tunnel.state}, heard {known.status}, listening {open_ports}"
            if word not in seen:
                seen.append(word)
                if now.phase == "stopping":
                    asked.spawn(ask(), "asking whether it is ready")

        self.addCleanup(asked.stop)
        unsubscribe = self.agent.hub.subscribe(look)
        await self.stop()
        unsubscribe()
        order = [
            "stopping, tunnel connected, heard active, listening True",
            "stopping, tunnel closing, heard active, listening True",
            # Seen only where something is told between the end of the tunnel and its last state.
            "stopping, tunnel closing, heard active, listening False",
            "stopping, tunnel disabled, heard active, listening False",
        ]
        told = [word for word in seen if not word.startswith("ready")]
        self.assertEqual(told, [word for word in order if word in told])
        self.assertEqual((told[:2], told[-1]), (order[:2], order[-1]))
        self.assertIn("ready 503", seen)
        self.assertEqual((self.known.status, self.known.tunnel_status), ("stopping", "disconnected"))
        self.assertEqual(self.sandbox.chisel.sessions, 0)

    async def test_nothing_left(self) -> None:
        """After a stop there are as many timers and descriptors as before the start."""
        await sleep(REACTOR, 0)  # trial's own are there only when its reactor runs
        timers, files = len(REACTOR.getDelayedCalls()), descriptors()
        settings = self.settings()
        listening = descriptors() - files
        self.start_agent(settings)
        await self.until_connected()
        user = await self.connect("kubernetes-api")
        user.say(b"hello")
        await user.heard(5)
        await self.stop()
        await user.gone
        await look_until(lambda: descriptors() == files + listening, "the descriptors")
        await look_until(
            lambda: len(REACTOR.getDelayedCalls()) <= timers + 1, "the timers"
        )  # + the look's own

    async def test_while_registering(self) -> None:
        """A registration under way is given up at once; no last word from an agent that nobody knows."""
        self.sandbox.faults.add(faults.HalfOpen(call="register"))
        self.start_agent()
        await self.until(lambda status: status.registration.attempts == 1, "the registration")
        self.assertLess(await self.stop(), 1.0)
        self.assertEqual(list(self.sandbox.ledger), [])
        self.assertEqual(self.fatal, [])

    async def test_hung_control_plane(self) -> None:
        """A control plane that does not answer is told in vain, for a second."""
        self.start_agent()
        await self.until_connected()
        self.sandbox.faults.add(faults.HalfOpen(call="heartbeat", count=1), faults.HalfOpen())
        await look_until(lambda: len(self.sandbox.faults.shown()) == 1, "a heartbeat")
        taken = await self.stop()
        self.assertGreater(taken, 0.9)
        self.assertNotEqual(self.known.status, "stopping")

    async def test_hung_chisel_server(self) -> None:
        """A chisel server that swallows everything is left without a goodbye."""
        self.start_agent()
        await self.until_connected()
        self.sandbox.faults.add(faults.Swallow())
        await self.stop()
        self.assertEqual(self.known.status, "stopping")

    async def test_while_the_tunnel_connects(self) -> None:
        """An attempt that hangs at any stage is given up."""
        for stage in ("upgrade", "version", "kex", "auth", "config"):
            self.sandbox.faults.clear()
            self.sandbox.faults.add(faults.Silent(stage=stage))
            self.start_agent()
            await self.until(lambda status: status.tunnel.state == "connecting", "the attempt")
            await self.heartbeats(1)
            self.assertLess(await self.stop(), 2.0)

    async def test_500_channels_and_everything_hung(self) -> None:
        """500 open channels, a server that swallows, a control plane that is silent: still in time."""
        await sleep(REACTOR, 0)
        files = descriptors()
        self.start_agent()
        await self.until_connected()
        users = [await dial(self.known.ports["kubernetes-api"]) for _ in range(500)]
        for user in users:
            user.say(b"x")
        await gatherResults([Deferred.fromCoroutine(user.heard(1)) for user in users])
        self.assertEqual(self.agent.board.traffic().forwards["kubernetes-api"].open_channels, 500)
        self.sandbox.faults.add(faults.Swallow(), faults.HalfOpen())
        await self.stop()
        await self.hang_up(users)
        await self.sandbox.stopService()
        await look_until(lambda: descriptors() <= files + 1, "the descriptors")  # + the forwards' target

    async def hang_up(self, users: list[User]) -> None:
        for user in users:
            if user.transport is not None and not user.gone.called:
                user.transport.loseConnection()
        await bounded(REACTOR, LIMIT, gatherResults([user.gone for user in users]), "the users' end")
