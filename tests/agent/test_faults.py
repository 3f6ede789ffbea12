"""What the agent does while the control plane or the chisel server misbehaves, and that it comes back."""

from __future__ import annotations

import json
from typing import Any

from pipeops_agent.backoff import FAST_PACE
from pipeops_agent.controlplane import heartbeat, registration
from pipeops_agent.errors import ExitStatus
from pipeops_agent.sandbox import faults
from pipeops_agent.scheduling import sleep
from pipeops_agent.settings.model_pipeops import ReconnectSettings
from tests.agent.house import REACTOR, TOKEN, House, look_until


class FaultCase(House):
    async def start(self, **sections: Any) -> None:
        """A running agent whose ids are noted."""
        self.start_sandbox()
        self.start_agent(self.settings(**sections))
        await self.until_connected()
        self.ids = (self.known.agent_id, self.known.cluster_id)

    async def failing(self, times: int) -> str:
        """Wait until heartbeats have failed so often in a row; return what the status page says."""
        await self.until(lambda status: status.heartbeat.failures >= times, "failures")
        code, body = await self.get("/ready", token=TOKEN)
        self.assertEqual(code, 503)
        message: str = json.loads(body)["checks"]["heartbeat"]["message"]
        return message

    async def well_again(self) -> None:
        """Switch everything off, and wait until all is as it was."""
        self.sandbox.faults.clear()
        await self.until_connected()
        self.assertEqual((self.known.agent_id, self.known.cluster_id), self.ids)
        self.assertEqual((await self.get("/ready"))[0], 200)


class HeartbeatTests(FaultCase):
    """No answer to a heartbeat costs an id, the tunnel, or the process."""

    async def check(self, fault: faults.Fault, says: str) -> None:
        await self.start()
        connected = self.agent.board.now.tunnel.since
        self.sandbox.faults.add(fault)
        self.assertIn(says, await self.failing(5))
        self.assertEqual(self.fatal, [])
        await self.well_again()
        self.assertEqual(self.known.registrations, 1)
        self.assertEqual(self.agent.board.now.tunnel.since, connected)
        said = [
            record
            for level in ("warn", "error")
            for record in self.records(component="heartbeat", level=level)
        ]
        self.assertEqual(len(said), 1)

    async def test_401(self) -> None:
        """Refused: said so, disconnected, one error record."""
        await self.check(faults.Status(call="heartbeat", status=401), "refuses the token (401 Unauthorized)")
        (error,) = self.records(component="heartbeat", level="error")
        self.assertIn("401", error["msg"])
        self.assertIn("error", error["response"])

    async def test_403(self) -> None:
        """The same."""
        await self.check(faults.Status(call="heartbeat", status=403), "refuses the token (403 Forbidden)")

    async def test_html_404(self) -> None:
        """An ingress's page is no news of the cluster, however often it comes."""
        self.patch(heartbeat, "UNKNOWN_SECONDS", 0.0)
        await self.check(faults.Html(call="heartbeat", status=404), "404 Not Found")

    async def test_301(self) -> None:
        """A redirect is reported with where it leads, and not followed."""
        await self.check(faults.Redirect(call="heartbeat"), "Location: https://elsewhere.invalid/")

    async def test_500(self) -> None:
        """A server's failure."""
        await self.check(faults.Status(call="heartbeat", status=500), "500 Internal Server Error")

    async def test_reset(self) -> None:
        """A connection that is reset each time."""
        await self.check(faults.Drop(call="heartbeat"), "heartbeat: ")

    async def test_forgotten(self) -> None:
        """404 in JSON, three times and long enough: registered again, with the same ids."""
        self.patch(heartbeat, "UNKNOWN_SECONDS", 0.3)
        self.patch(registration, "BETWEEN_REGISTRATIONS", 0.05)
        await self.start()
        self.sandbox.faults.add(faults.Status(call="heartbeat", status=404))
        began = self.agent.board.now.heartbeat.last_success
        assert began is not None
        await self.until(lambda status: status.registration.attempts == 2, "the registration")
        record = self.records(msg="the control plane does not know this cluster any more: registering again")
        self.assertEqual(len(record), 1)
        self.assertGreaterEqual(self.agent.board.now.heartbeat.failures, heartbeat.UNKNOWN_ANSWERS)
        await self.well_again()

    async def test_control_plane_without_memory(self) -> None:
        """A control plane that has lost its database gets the same agent and the same cluster back."""
        self.patch(heartbeat, "UNKNOWN_SECONDS", 0.0)
        self.patch(registration, "BETWEEN_REGISTRATIONS", 0.05)
        await self.start()
        self.sandbox.ledger.forget()
        await self.until(lambda status: status.registration.attempts == 2, "the registration")
        await self.well_again()

    async def test_skewed_clock(self) -> None:
        """A clock that differs is shown, said once, measured, and named first when the token is refused."""
        await self.start()
        self.sandbox.faults.add(faults.Skew(seconds=3600.0))
        await self.until(lambda status: (status.clock_skew or 0) > 3500, "the skew")
        said = [one["msg"] for one in self.records(level="warn") if "clock" in one["msg"]]
        self.assertEqual(len(said), 1)
        self.assertRegex(said[0], r"clock is (3599|3600) s behind the control plane's")
        self.assertRegex((await self.get("/metrics"))[1], r"\n\w*clock_skew\w* 3[56]\d\d")
        self.sandbox.faults.add(faults.Status(call="heartbeat", status=401))
        self.assertRegex(await self.failing(1), r"^this machine's clock is 3[56]\d\d s behind")
        await self.well_again()

    async def test_reconnect_off(self) -> None:
        """With C{pipeops.reconnect.enabled: false} the first lost connection ends the agent with 69."""
        await self.start(pipeops={"reconnect": ReconnectSettings(enabled=False)})
        self.sandbox.faults.add(faults.Status(call="heartbeat", status=502))
        error = await self.fatal_error()
        self.assertEqual(error.status, ExitStatus.UNAVAILABLE)
        self.assertIn("pipeops.reconnect.enabled is false", error.sentence)


class TunnelTests(FaultCase):
    async def test_dropped(self) -> None:
        """A tunnel that is cut comes back, with every forward."""
        await self.start()
        self.sandbox.chisel.drop_sessions("cut by the test")
        await self.until(lambda status: status.tunnel.state != "connected", "the loss")
        await self.well_again()
        user = await self.connect("kubernetes-api")
        user.say(b"again")
        self.assertEqual(await user.heard(5), b"again")

    async def test_asked_to_reconnect(self) -> None:
        """Asked for another connection in each answer: there is another, on the same ports, and no third."""
        await self.start()
        ports = dict(self.known.ports)
        self.sandbox.faults.add(faults.Reconnect(message="we are about to restart"))
        await self.until(lambda _: self.agent.board.traffic().connects == 2, "another session")
        await self.until_connected()
        await self.heartbeats(5)
        self.assertEqual((self.agent.board.traffic().connects, self.known.ports), (2, ports))
        self.assertIn("as the control plane asks: we are about to restart", self.logged())
        await self.well_again()

    async def test_moved(self) -> None:
        """Other ports, and asked to reconnect: the new tunnel is there before the old one, in use, goes."""
        await self.start()
        user = await self.connect("kubernetes-api")
        before = set(self.known.ports.values())
        self.sandbox.ledger.move()
        self.sandbox.faults.add(faults.Reconnect(count=1))
        after = set(self.known.ports.values())
        await self.until(
            lambda status: {forward.remote_port for forward in status.tunnel.forwards} == after, "the move"
        )
        self.assertEqual(before & after, set())
        states = {record["msg"] for record in self.records(component="tunnel") if "closing" in record["msg"]}
        self.assertEqual(states, set())
        user.say(b"still")
        self.assertEqual(await user.heard(5), b"still")
        other = await self.connect("kubernetes-api")
        other.say(b"here")
        self.assertEqual(await other.heard(4), b"here")
        assert user.transport is not None
        user.transport.loseConnection()
        await look_until(lambda: set(self.known.listening) == after, "the end of the old tunnel")

    async def test_watchdog(self) -> None:
        """An attempt that would hang for a minute: the watchdog makes everything anew, and it stands."""
        self.start_sandbox()
        self.sandbox.faults.add(faults.Silent(stage="config", count=1))
        quick = {"watchdog": 2.0, "ping_interval": 0.1, "ping_timeout": 0.1, "connect_timeout": 60.0}
        self.start_agent(self.settings(tunnel=quick))
        status = await self.until_connected()
        self.assertGreaterEqual(status.tunnel.rebuilds, 1)
        said = [record["msg"] for record in self.records(level="warn") if "the watchdog" in record["msg"]]
        self.assertEqual(len(said), 1)
        self.assertIn("in the state connecting; the last contact: none yet", said[0])
        page = (await self.get("/metrics"))[1]
        self.assertIn(f"\npipeops_tunnel_watchdog_rebuilds_total {status.tunnel.rebuilds}.0\n", page)

    async def test_a_tunnel_wakes_the_heartbeat(self) -> None:
        """A tunnel that is connected again proves the network: a heartbeat that waits comes now."""
        slow = ReconnectSettings(interval=600.0, stable_after=0.0)
        await self.start(tunnel={"stable_after": 0.0}, pipeops={"reconnect": slow})
        await sleep(REACTOR, FAST_PACE)  # so long a session must have lasted to be tried again at once
        self.sandbox.faults.add(faults.Drop(call="heartbeat", count=2))
        await self.until(lambda status: status.heartbeat.failures, "a failure")
        self.sandbox.chisel.drop_sessions("cut by the test")
        await self.until(lambda status: status.tunnel.state != "connected", "the loss")
        await self.well_again()

    async def test_bind_refused(self) -> None:
        """One port that can't be had: the others work meanwhile, and it comes when it can."""
        self.start_sandbox()
        self.sandbox.faults.add(faults.BindRefused(forwards=("kubelet",)))
        self.start_agent()

        def states(status: Any) -> list[str]:
            return [forward.state for forward in status.tunnel.forwards]

        await self.until(lambda status: states(status) == ["listening", "refused", "listening"], "the others")
        user = await self.connect("kubernetes-api")
        user.say(b"works")
        self.assertEqual(await user.heard(5), b"works")
        self.sandbox.faults.clear()
        await self.until(lambda status: states(status)[1] == "listening", "the refused one")
        user.say(b"still")
        self.assertEqual(await user.heard(10), b"worksstill")

    async def test_wrong_key(self) -> None:
        """A server with another key gets no credentials; the status says which key."""
        self.start_sandbox()
        self.sandbox.faults.add(faults.WrongKey())
        self.start_agent()
        # The state itself is soon another: the next attempt comes within 50 ms.
        status = await self.until(lambda status: "host key" in status.tunnel.message, "the refusal")
        self.assertEqual([step.name for step in status.tunnel.attempts[0].steps][-1], "ssh")
        self.assertEqual(status.registration.registered, True)

    async def test_wrong_password(self) -> None:
        """A refused login is said, without the password."""
        self.start_sandbox()
        self.sandbox.faults.add(faults.WrongPassword())
        self.start_agent()
        status = await self.until(lambda status: status.tunnel.state == "waiting", "the refusal")
        self.assertEqual([step.name for step in status.tunnel.attempts[0].steps][-1], "login")
        self.assertNotIn(self.known.password.reveal(), self.logged())

    async def test_idle_disabled_required(self) -> None:
        """Disabled closes at once, required opens; idle closes after the timeout without a byte."""
        await self.start(tunnel={"inactivity_timeout": 0.2})
        self.sandbox.faults.add(faults.Tunnel(status="disabled"))
        await self.until(lambda status: status.tunnel.state == "disabled", "the end")
        self.sandbox.faults.clear()
        self.sandbox.faults.add(faults.Tunnel(status="REQUIRED"))
        await self.until_connected()
        self.sandbox.faults.clear()
        self.sandbox.faults.add(faults.Tunnel(status="IDLE"))
        await self.until(lambda status: status.tunnel.state == "idle", "the rest")
        self.assertEqual(self.known.listening, {})
        await self.well_again()

    async def test_unknown_status(self) -> None:
        """A word that nobody knows changes nothing and is said once."""
        await self.start()
        self.sandbox.faults.add(faults.Tunnel(status="perhaps"))
        await self.heartbeats(6)
        self.assertEqual(self.agent.board.now.tunnel.state, "connected")
        self.assertEqual(len(self.records(status="perhaps")), 1)

    async def test_failing_polls(self) -> None:
        """Polls that fail or make no sense leave the tunnel alone."""
        for fault in (
            faults.Status(call="tunnel-status", status=500),
            faults.Html(call="tunnel-status"),
            faults.Broken(call="tunnel-status"),
            faults.Status(call="tunnel-status", status=404),
        ):
            if not hasattr(self, "agent"):
                await self.start()
            since = self.agent.board.now.tunnel.since
            self.sandbox.faults.add(fault)
            await self.heartbeats(5)
            self.assertEqual(self.agent.board.now.tunnel.since, since)
            await self.well_again()

    async def test_swallowed(self) -> None:
        """A tunnel whose packets vanish is found dead by its pings, and made anew."""
        await self.start(tunnel={"ping_interval": 0.1, "ping_timeout": 0.2})
        self.sandbox.faults.add(faults.Swallow(count=1))
        await self.until(lambda status: status.tunnel.state != "connected", "the loss")
        await self.well_again()
