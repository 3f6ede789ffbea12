"""
Go's clients against the sandbox's chisel server: what a user's own chisel finds when it is pointed there.

The contract is that of the Go servers (L{tests.peers.test_harness}); real processes and sockets on 127.0.0.1.
"""

from __future__ import annotations

from copy import copy

from twisted.internet.defer import Deferred

from pipeops_agent.secrets import Secret
from tests.peers.harness import CREDENTIALS, Peer, free_port
from tests.peers.processes import Program, real_reactor
from tests.peers.test_harness import GoClientContract, PeersTestCase
from tests.peers.test_session_contract import SandboxPeer


class SandboxTestCase(PeersTestCase):
    """A test with the sandbox's chisel server, in this process."""

    def sandbox(self) -> SandboxPeer:
        server = SandboxPeer(real_reactor())
        self.addCleanup(lambda: Deferred.fromCoroutine(server.stop()))
        return server

    async def make_server(self) -> Peer:
        return self.sandbox()


class GochiselAgainstTheSandbox(SandboxTestCase, GoClientContract):
    """Our Go client."""

    async def make_client(self, peer: Peer, *remotes: str) -> Program:
        return await self.peers.gochisel_client(peer, *remotes)

    async def refused(self, believed: Peer) -> str:
        """What a client hears that believes this of the server."""
        client = await self.make_client(believed, f"R:{free_port()}:127.0.0.1:9")
        return str((await client.wait_for("closed"))["error"])

    async def test_another_key(self) -> None:
        """A client that expects another host key goes away before it logs in."""
        believed = copy(self.sandbox())
        believed.fingerprint = "A" * 43 + "="
        self.assertIn("fingerprint", await self.refused(believed))

    async def test_another_password(self) -> None:
        """A client with another password is not let in."""
        believed = copy(self.sandbox())
        believed.credentials = (CREDENTIALS[0], Secret("another password"))
        self.assertIn("unable to authenticate", await self.refused(believed))


class ChiselAgainstTheSandbox(SandboxTestCase, GoClientContract):
    """chisel's own client."""

    async def make_client(self, peer: Peer, *remotes: str) -> Program:
        return await self.peers.chisel_client(peer, *remotes)
