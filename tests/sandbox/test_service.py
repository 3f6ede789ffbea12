"""The whole sandbox on real sockets of loopback: started, used, and stopped with nothing left."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from twisted.internet import (
    defer,
    endpoints,
    error,
    protocol,
    reactor,  # noqa: TID251 - real sockets need the real one
    ssl,
    task,
)
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, ResponseFailed, readBody
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from pipeops_agent.clock import utc_now
from pipeops_agent.sandbox.service import SandboxService, SandboxSettings
from pipeops_agent.sandbox.serving import IServerReactor
from pipeops_agent.tunnel.remotes import Remote
from tests.sandbox.memory import TOKEN, ChiselClient
from tests.sandbox.test_api import HEADERS, REGISTER
from tests.sandbox.test_contract import REGISTRATION, encoded

REACTOR = cast(Any, reactor)


@implementer(IBodyProducer)
class Body:
    """A request's body in one piece."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    def startProducing(self, consumer: Any) -> defer.Deferred[None]:
        consumer.write(self._data)
        return defer.succeed(None)

    def stopProducing(self) -> None:
        """There is nothing to stop."""

    def pauseProducing(self) -> None:
        """There is nothing to pause."""

    def resumeProducing(self) -> None:
        """There is nothing to resume."""


class User(protocol.Protocol):
    """Somebody who connects to a port, and hears what comes back."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self.received = b""
        self.heard: defer.Deferred[bytes] = defer.Deferred()
        self.gone: defer.Deferred[None] = defer.Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if len(self.received) >= self._expected and not self.heard.called:
            self.heard.callback(self.received)

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        self.gone.callback(None)


class ServiceTests(TestCase):
    timeout = 30

    def start(self, **settings: Any) -> SandboxService:
        self.records: list[LogEvent] = []
        note = cast(ILogObserver, self.records.append)
        globalLogPublisher.addObserver(note)
        self.addCleanup(globalLogPublisher.removeObserver, note)
        wanted = SandboxSettings(token=TOKEN, **settings)
        sandbox = SandboxService(cast(IServerReactor, reactor), wanted, utc_now)
        sandbox.startService()
        self.addCleanup(lambda: sandbox.stopService() if sandbox.running else None)
        return sandbox

    def said(self) -> list[str]:
        """What was logged so far."""
        return [formatEvent(one) for one in self.records]

    async def call(
        self,
        sandbox: SandboxService,
        method: str,
        url: str,
        body: bytes = b"",
        headers: Mapping[str, str] = HEADERS,
    ) -> tuple[int, bytes]:
        """One request; TLS is verified against the sandbox's CA."""
        policy = None
        if sandbox.ca_file is not None:
            root = ssl.trustRootFromCertificates([ssl.Certificate.loadPEM(sandbox.ca_file.read_bytes())])
            policy = BrowserLikePolicyForHTTPS(root)
        agent = Agent(REACTOR, contextFactory=policy) if policy is not None else Agent(REACTOR)
        sent = Headers({name: [value] for name, value in headers.items()})
        producer = Body(body) if body else None
        response = await agent.request(method.encode(), url.encode(), sent, producer)
        return response.code, await readBody(response)

    async def tunnel(self, sandbox: SandboxService) -> tuple[ChiselClient, dict[str, int]]:
        """Register, poll, and connect a client for every forward."""
        status, _ = await self.call(sandbox, "POST", sandbox.api_url + REGISTER, encoded(REGISTRATION))
        self.assertEqual(status, 201)
        path = f"/api/v1/tunnel/status?agent_id={REGISTRATION['agent_id']}"
        _, body = await self.call(sandbox, "GET", sandbox.api_url + path)
        order = json.loads(body)
        ports = {one["name"]: one["remote_port"] for one in order["forwards"]}
        agent = next(iter(sandbox.ledger))
        client = ChiselClient(
            REACTOR,
            remotes=tuple(Remote(name, port, "localhost", 1) for name, port in ports.items()),
            user=agent.cluster_id,
            password=agent.password.reveal(),
            fingerprint=order["server_fingerprint"],
        )
        endpoint: Any = endpoints.TCP4ClientEndpoint(REACTOR, *sandbox.address)
        if sandbox.ca_file is not None:
            trusted = ssl.Certificate.loadPEM(sandbox.ca_file.read_bytes())
            options = ssl.optionsForClientTLS("localhost", trusted)
            endpoint = endpoints.wrapClientTLS(options, endpoint)
        await endpoint.connect(client.factory)
        for _ in range(200):
            if "config" in client.steps or client.lost is not None:
                break
            await task.deferLater(REACTOR, 0.01, lambda: None)
        self.assertEqual(client.steps, ["upgrade", "ssh", "login", "config"], client.problem)
        return client, ports

    async def connect(self, port: int, expected: int) -> User:
        user = User(expected)
        endpoint = endpoints.TCP4ClientEndpoint(REACTOR, "127.0.0.1", port)
        await endpoints.connectProtocol(endpoint, user)
        return user

    async def go_through(self, sandbox: SandboxService) -> None:
        """A megabyte through each forward and back; then the stop, with connections open."""
        client, ports = await self.tunnel(sandbox)
        data = bytes(range(256)) * 4096
        users = [await self.connect(port, len(data)) for port in ports.values()]
        for user in users:
            assert user.transport is not None
            user.transport.write(data)
            self.assertEqual(await user.heard, data)
        self.assertEqual([target for _, target, _ in client.channels], [b"localhost:1"] * 3)
        _, listing = await self.call(sandbox, "GET", sandbox.api_url + "/", headers={})
        for name, port in ports.items():
            self.assertIn(f"127.0.0.1:{port} -> {name} (open)", listing.decode())
            said = f"127.0.0.1:{port} -> {name} of {REGISTRATION['agent_id']}"
            self.assertEqual(self.said().count(said), 1)
        await sandbox.stopService()
        for user in users:
            await user.gone
        self.assertIsNotNone(client.lost)
        for port in ports.values():
            with self.assertRaises(error.ConnectionRefusedError):
                await self.connect(port, 1)

    async def test_plain(self) -> None:
        """Everything over plain TCP."""
        await self.go_through(self.start())

    async def test_tls(self) -> None:
        """Everything over TLS, with the CA from the file that was announced."""
        sandbox = self.start(tls=True)
        self.assertEqual([one["ca_file"] for one in self.records if "ca_file" in one], [str(sandbox.ca_file)])
        await self.go_through(sandbox)

    async def test_stop_with_requests_waiting(self) -> None:
        """A request that is never answered does not hold up the stop; its connection is reset."""
        sandbox = self.start()
        fault = b'{"kind": "half-open", "call": "health"}'
        status, _ = await self.call(sandbox, "POST", sandbox.api_url + "/faults", fault, {})
        self.assertEqual(status, 201)
        waiting = defer.ensureDeferred(self.call(sandbox, "GET", sandbox.api_url + "/api/v1/health"))
        await task.deferLater(REACTOR, 0.05, lambda: None)
        self.assertNoResult(waiting)
        await sandbox.stopService()
        with self.assertRaises(ResponseFailed) as caught:
            await waiting
        self.assertTrue(caught.exception.reasons[0].check(error.ConnectionLost), caught.exception.reasons)

    async def test_stand_ins(self) -> None:
        """The stand-ins answer over TLS, vouched for by the sandbox's CA, and say what they are."""
        sandbox = self.start(stand_ins=True)
        assert sandbox.stand_ins is not None
        for (_, port), name in (
            (sandbox.stand_ins.kubernetes_api, "the Kubernetes API"),
            (sandbox.stand_ins.kubelet, "the kubelet"),
        ):
            status, body = await self.call(sandbox, "GET", f"https://localhost:{port}/any/path")
            self.assertEqual(status, 200)
            self.assertEqual(json.loads(body)["message"], f"pipeops sandbox stand-in for {name}")

    async def test_files(self) -> None:
        """The CA and, for this user alone, the token are written; a temporary directory goes again."""
        sandbox = self.start(tls=True, write_token=True)
        ca_file, token_file = sandbox.ca_file, sandbox.token_file
        assert ca_file is not None and token_file is not None
        self.assertEqual(token_file.read_text(), TOKEN.reveal())
        self.assertEqual(stat.S_IMODE(token_file.stat().st_mode), 0o600)
        self.assertNotIn(TOKEN.reveal(), "\n".join(map(str, self.records)))
        await sandbox.stopService()
        self.assertFalse(ca_file.parent.exists())

    async def test_a_directory_of_ones_own(self) -> None:
        """A directory that was named stays, with the CA and without the token."""
        directory = Path(self.mktemp())
        sandbox = self.start(tls=True, write_token=True, directory=str(directory))
        self.assertEqual(sandbox.ca_file, directory / "ca.pem")
        await sandbox.stopService()
        self.assertEqual(os.listdir(directory), ["ca.pem"])

    async def test_port_taken(self) -> None:
        """A port that cannot be had is an error of the start, and nothing is left of it."""
        sandbox = self.start()
        with self.assertRaises(error.CannotListenError):
            self.start(port=sandbox.address[1])

    async def test_drop_and_forget(self) -> None:
        """What is done at once reaches the sessions and the ledger."""
        sandbox = self.start()
        client, _ = await self.tunnel(sandbox)
        acts = b'[{"kind": "drop-tunnels"}, {"kind": "forget"}]'
        await self.call(sandbox, "POST", sandbox.api_url + "/faults", acts, {})
        self.assertEqual(list(sandbox.ledger), [])
        for _ in range(100):
            if client.lost is not None:
                break
            await task.deferLater(REACTOR, 0.01, lambda: None)
        self.assertIsNotNone(client.lost)
