"""Callers of the running agent: through its tunnel, from this machine, over TLS (real sockets)."""

from __future__ import annotations

import json

from pipeops_agent.caller import Grant
from pipeops_agent.secrets import Secret
from pipeops_agent.settings import Loaded
from pipeops_agent.settings.model_server import ClientLimits, LimitsSettings, ServerToken, TunnelLimits
from tests.agent.house import TOKEN, House, change, look_until

CI = Secret("ci-5f2c6a1d9e8b7c4f3a")


class TunnelTests(House):
    """The tunnel is a caller like any other."""

    async def test_told_apart(self) -> None:
        """A request through the tunnel is one of the forward's, one from this machine is not."""
        self.start_sandbox()
        self.start_agent()
        await self.until_connected()
        port = self.known.ports["agent-http"]
        for where, shown in ((None, "127.0.0.1"), (port, "tunnel:agent-http")):
            code, _ = await self.get("/ready", port=where, token=Secret("a-wrong-token"))
            self.assertEqual(code, 401)
            said = self.records(component="access", msg=f"a wrong token came from {shown}")
            self.assertEqual(len(said), 1, shown)
        code, body = await self.get("/ready", port=port, token=TOKEN)
        self.assertEqual((code, "message" in body), (200, True))

    async def test_limits_of_its_own(self) -> None:
        """What comes through the tunnel is limited by itself; this machine's requests go on."""
        self.start_sandbox()
        limits = LimitsSettings(client=ClientLimits(requests=1000), tunnel=TunnelLimits(requests=1))
        self.start_agent(self.settings(server={"limits": limits}))
        await self.until_connected()
        port = self.known.ports["agent-http"]
        codes = [(await self.get("/version", port=port))[0] for _ in range(8)]
        self.assertEqual(codes[:2], [200, 200])
        self.assertIn(429, codes)
        self.assertEqual((await self.get("/version"))[0], 200)


class ReloadTests(House):
    """Tokens come and go while the agent runs."""

    async def test_tokens(self) -> None:
        """A token of the settings is known from SIGHUP on, the control plane's no more; and back again."""
        self.start_sandbox()
        self.start_agent()
        await look_until(lambda: self.agent.board.now.agent_id, "the id")

        async def messages(token: Secret) -> bool:
            code, body = await self.get("/ready", token=token)
            return code != 401 and any("message" in check for check in json.loads(body)["checks"].values())

        self.assertTrue(await messages(TOKEN))
        self.assertFalse(await messages(CI))
        before = self.agent.settings
        token = ServerToken(name="ci", token=CI, scopes=(Grant("read"),))
        self.next_settings = lambda: Loaded(change(before, server={"tokens": (token,)}), {}, None)
        self.agent.reload()
        self.assertTrue(await messages(CI))
        self.assertFalse(await messages(TOKEN))
        self.next_settings = lambda: Loaded(before, {}, None)
        self.agent.reload()
        self.assertTrue(await messages(TOKEN))
        self.assertFalse(await messages(CI))
        self.assertNotIn(CI.reveal(), self.logged())
