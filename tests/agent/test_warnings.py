"""What a start says of settings that take protection away."""

from __future__ import annotations

from tests.agent.twistd import FAST, TwistdCase


class InsecureTests(TwistdCase):
    """The whole process, as twistd runs it."""

    async def test_said_at_each_start(self) -> None:
        """Each switch is a warning of its own, at every start; what is not switched on is not named."""
        self.configure(FAST)
        sandbox = self.start_sandbox(tls=True)
        trusted = {"PIPEOPS_TLS_CA_FILE": str(sandbox.ca_file)}
        blind = {"PIPEOPS_TLS_INSECURE_SKIP_VERIFY": "true"}
        both = ["pipeops.tls.insecure_skip_verify", "tunnel.allow_insecure"]
        for environ, expected in ((trusted, both[1:]), (blind, both), (blind, both)):
            program = self.start_for(sandbox.api_url, environ=environ)
            await program.says("registered as cluster")
            warned = program.find(level="warn", component="agent")
            self.assertEqual([one["msg"].partition(":")[0] for one in warned], expected)
            program.signal("KILL")
            await program.ended()
