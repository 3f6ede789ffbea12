"""
No secret is ever shown: each test plants canaries, runs the agent at debug level, and looks everywhere.

Everywhere: stdout, stderr, log files, the agent's pages, what C{--check-config} and C{--status} print, and
the command line. In any form: as it is, in base64 (alone or as C{user:password}), quoted, in hexadecimal.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeops_agent.log.redact import MAX_LEARNED
from pipeops_agent.sandbox import faults
from pipeops_agent.secrets import Secret
from pipeops_agent.state import MemoryStateStore, Stored
from tests.agent.house import REACTOR, TOKEN, House, dial, get, look_until
from tests.agent.twistd import FAST, Twistd, TwistdCase
from tests.cluster.fakeapi import FakeApi, Fault
from tests.cluster.fakeapi.listening import ListeningApi

CLUSTER = "6f9619ff-8b86-4011-b42d-00c04fc964ff"


def forms(secret: str, user: str = "") -> Iterator[str]:
    """The ways in which a careless program shows a secret."""
    yield secret
    yield quote(secret, safe="")
    yield secret.encode().hex()
    for text in (secret, f"{user}:{secret}", f"Bearer {secret}"):
        # Without the last characters, which depend on what follows.
        yield base64.b64encode(text.encode()).decode().rstrip("=")[:-2]


class Canaries:
    """Secrets of one test, each unlike every other, none with a shape that gives it away."""

    def __init__(self) -> None:
        self.secrets: dict[str, tuple[str, str]] = {}

    def plant(self, name: str) -> str:
        """A new one."""
        secret = f"Kanarienvogel/{name}+{len(self.secrets)}"
        self.know(name, secret)
        return secret

    def know(self, name: str, secret: str, user: str = "") -> None:
        """One that somebody else has made."""
        self.secrets[name] = (secret, user)

    def found_in(self, text: str) -> list[str]:
        """The names of those that C{text} shows."""
        return [
            name
            for name, (secret, user) in self.secrets.items()
            if any(form in text for form in forms(secret, user))
        ]


def kubeconfig(server: str, user: dict[str, Any]) -> dict[str, Any]:
    """One context."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user}],
    }


class ProcessTests(TwistdCase):
    def setUp(self) -> None:
        super().setUp()
        self.canaries = Canaries()

    def check(self, text: str | bytes, where: str) -> None:
        """No canary is in there."""
        text = text.decode() if isinstance(text, bytes) else text
        self.assertTrue(text, f"{where}: nothing to look at")
        self.assertEqual(self.canaries.found_in(text), [], where)

    def file(self, name: str) -> Path:
        """A file with a canary."""
        path = self.directory / name
        path.write_text(self.canaries.plant(name) + "\n")
        path.chmod(0o600)
        return path

    async def pages(self, program: Twistd, token: str) -> None:
        """Look at everything that the agent serves, and at its command line."""
        port = int(program.saying("serving HTTP on ")[0]["address"].rpartition(":")[2])
        for path in ("/health", "/ready", "/version", "/metrics", "/nowhere"):
            for shown in (Secret(token), Secret(self.canaries.plant("asked-with")), None):
                self.check((await get(port, path, shown))[1], path)
        self.check(program.command_line, "the command line")
        status = await self.run_agent("--status", "--port", str(port))
        self.check(status.out, "--status")

    async def end(self, program: Twistd) -> None:
        program.signal("TERM")
        await program.ended()
        self.check_well_behaved(program)
        self.check(program.out, "stdout")

    async def test_life(self) -> None:
        """Registration, refusals, redirects, a failing login, reloads good and bad: none shows anything."""
        token, bodies = self.file("token"), [self.canaries.plant(f"body-{number}") for number in range(4)]
        secret = token.read_text().strip()
        sandbox = self.start_sandbox(token=Secret(secret))
        settings = FAST + "logging: {level: debug}\n"
        pipeops = f"pipeops:\n  token_file: {token}\n  cluster_token_file: {self.file('cluster-token')}\n"
        settings = settings.replace("pipeops:\n", f"{pipeops}  registration: {{retry_for: 30s}}\n")
        self.configure(settings)
        sandbox.faults.add(
            faults.Status(
                call="register", status=503, count=1, body=json.dumps({"error": "no", "token": bodies[0]})
            ),
            faults.WrongPassword(count=1),
        )
        program = self.start("--api-url", sandbox.api_url, "--state-file", str(self.state_file))
        await program.says("registered as cluster")
        (known,) = sandbox.ledger
        self.canaries.know("password", known.password.reveal(), known.cluster_id)
        await program.says("the server refused the credentials")
        for fault in (
            faults.Status(
                call="heartbeat", status=401, body=json.dumps({"error": f"Bearer {secret} is old"})
            ),
            faults.Status(call="heartbeat", status=500, body=f"<h1>Authorization: Bearer {bodies[1]}</h1>"),
            faults.Redirect(
                call="heartbeat", location=f"https://me:{quote(bodies[2], safe='')}@elsewhere.invalid/"
            ),
            faults.Status(
                call="tunnel-status",
                status=200,
                body=json.dumps(
                    {"status": "ready", "credentials": f"u:{bodies[3]}", "tunnel_server_addr": 5}
                ),
            ),
        ):
            sandbox.faults.add(fault)
            await program.says_more(3)
            await self.pages(program, secret)
            sandbox.faults.clear()
        self.configure(settings.replace("agent:", "agent: {}\nagent:").replace(str(token), bodies[0]))
        program.signal("HUP")
        await program.says("the settings can't be used, the old ones stay")
        other = self.canaries.plant("rotated")
        token.write_text(other)
        self.configure(settings)
        program.signal("HUP")
        await program.says("has changed")
        await self.pages(program, other)
        await self.end(program)

    async def test_callers(self) -> None:
        """Tokens of the interface's callers, right or wrong, a session's id and key are shown nowhere."""
        sandbox = self.start_sandbox()
        self.canaries.know("token", sandbox.token.reveal())
        inline, from_file = self.canaries.plant("inline-token"), self.file("caller-token")
        tokens = (
            f"  tokens:\n    - {{name: ci, token: '{inline}', scopes: ['operate:scale@shop', read]}}\n"
            f"    - {{name: grafana, file: {from_file}, scopes: [read]}}\n"
        )
        server = f"server:\n  port: 0\n  tls: {{mode: auto}}\n{tokens}"
        self.configure(FAST.replace("server: {port: 0}\n", server) + "logging: {level: debug}\n")
        program = self.start_for(sandbox.api_url)
        await program.says("registered as cluster")
        port = int(program.saying("serving HTTPS on ")[0]["address"].rpartition(":")[2])
        for token in (inline, from_file.read_text().strip(), self.canaries.plant("wrong-token")):
            for path in ("/ready", "/metrics", f"/ready?token={inline}"):
                self.check((await get(port, path, Secret(token), tls=True))[1], path)
        cookie, key = await self.sign_in(port, inline)
        for shown in (key, self.canaries.plant("wrong-key")):
            user = await dial(port, tls=True)
            head = (
                f"DELETE /api/session HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\nX-Session-Key: {shown}\r\n"
            )
            user.say(f"{head}Connection: close\r\n\r\n".encode())
            await user.gone
            self.check(user.received, "signing out")
        environ = {"PIPEOPS_TOKEN": sandbox.token.reveal()}
        self.check((await self.run_agent("--check-config", environ=environ)).out, "--check-config")
        await self.end(program)

    async def sign_in(self, port: int, token: str) -> tuple[str, str]:
        """The session's cookie and key."""
        user = await dial(port, tls=True)
        head = f"POST /api/session HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n"
        user.say(f"{head}Connection: close\r\n\r\n".encode())
        await user.gone
        headers, _, body = user.received.decode().partition("\r\n\r\n")
        (line,) = (line for line in headers.split("\r\n") if line.lower().startswith("set-cookie:"))
        cookie, key = line.partition(":")[2].partition(";")[0].strip(), json.loads(body)["key"]
        self.canaries.know("session id", cookie.partition("=")[2])
        self.canaries.know("session key", key)
        return cookie, key

    async def test_cluster_token(self) -> None:
        """The token that comes with the registration is stored, and shown nowhere else."""
        inner = self.canaries.plant("cluster.token")
        sandbox = self.start_sandbox()
        body = {"cluster_id": CLUSTER, "cluster": {"token": inner, "name": "shop"}}
        sandbox.faults.add(faults.Status(call="register", status=200, body=json.dumps(body)))
        sandbox.faults.add(faults.Status(call="heartbeat", status=500, body=f"your cluster: {inner}"))
        self.canaries.know("token", sandbox.token.reveal())
        self.configure(FAST + "logging: {level: debug}\n")
        for _ in range(2):  # the second has it from its state
            program = self.start_for(sandbox.api_url)
            await program.says("heartbeat failed")
            await self.pages(program, sandbox.token.reveal())
            await self.end(program)
        self.assertIn(inner, self.state_file.read_text())
        reset = await self.run_agent("--reset-state", "--state-file", str(self.state_file))
        self.check(reset.out, "--reset-state")

    async def test_credentials_of_the_cluster(self) -> None:
        """The kubeconfig's token, and a plugin's: neither where the API server repeats it in its refusal."""
        sandbox = self.start_sandbox()
        self.canaries.know("token", sandbox.token.reveal())
        own, plugins = self.canaries.plant("kubeconfig"), self.canaries.plant("plugin")
        for token, user in ((own, {"token": own}), (plugins, {"exec": self.plugin(plugins)})):
            api = FakeApi()
            api.faults.append(Fault(times=10**6, code=403, body=f"<h1>{token} may not</h1>".encode()))
            listening = ListeningApi(REACTOR, api)
            listening.start()
            self.addCleanup(listening.stop)
            file = self.directory / "kubeconfig"
            file.write_text(json.dumps(kubeconfig(f"http://127.0.0.1:{listening.port}", user)))
            self.configure(FAST + f"kubernetes: {{kubeconfig: {file}}}\nlogging: {{level: debug}}\n")
            program = self.start_for(sandbox.api_url)
            record = await program.says("the cluster can't be reached")
            self.assertIn("may not", json.dumps(record))
            await program.says("registered as cluster")
            await self.pages(program, sandbox.token.reveal())
            await self.end(program)

    def plugin(self, token: str) -> dict[str, str]:
        """A credential plugin that gives this token."""
        version = "client.authentication.k8s.io/v1"
        said = {"apiVersion": version, "kind": "ExecCredential", "status": {"token": token}}
        script = self.directory / "login"
        script.write_text(f"#!/bin/sh\necho '{json.dumps(said)}'\n")
        script.chmod(0o700)
        return {"apiVersion": version, "command": "./login"}

    async def test_refused_at_start(self) -> None:
        """The record of a registration that failed carries the answer, without what is secret in it."""
        secret, inner = self.canaries.plant("token"), self.canaries.plant("inner")
        for body in (
            json.dumps({"message": f"{secret} is unknown", "api_key": inner}),
            f"<p>{secret}</p>",
            json.dumps({"cluster": {"token": inner}}),
        ):
            sandbox = self.start_sandbox()
            sandbox.faults.add(faults.Status(call="register", status=200, body=body))
            program = self.start_for(sandbox.api_url, environ={"PIPEOPS_TOKEN": secret})
            self.assertIn(await program.ended(), (69, 77))
            self.check(program.out, body)

    async def test_check_config(self) -> None:
        """Every setting is printed, wherever it comes from; secrets as length and hash."""
        self.configure(f"pipeops: {{token: '{self.canaries.plant('in-the-file')}'}}\n")
        plain = await self.run_agent("--check-config")
        self.assertEqual(plain.status, 0)
        self.check(plain.out, "from the file")
        variable = await self.run_agent(
            "--check-config", environ={"PIPEOPS_TOKEN": self.canaries.plant("in-the-environment")}
        )
        self.check(variable.out, "from the environment")

    async def test_wrong_settings(self) -> None:
        """Errors repeat what was found, unless it might be a secret; C{twistd} its arguments likewise."""
        url = f"https://u:{self.canaries.plant('url')}@h"
        self.configure(f"pipeops: {{token: ['{self.canaries.plant('list')}'], api_url: '{url}'}}\n")
        program = await self.run_agent()
        self.assertEqual(program.status, 78)
        self.check(program.out, "the problems")
        given = await self.run_agent("--token", self.canaries.plant("given"))
        self.assertIn("there is no option for a token", given.out.decode() + given.err.decode())
        self.check(given.out + given.err, "the usage")


class CrashTests(House):
    async def test_defect(self) -> None:
        """A defect's own words, and the values on its stack, may hold the token: the log has neither."""

        class Careless(MemoryStateStore):
            async def load(self) -> Stored:
                token = TOKEN.reveal()
                raise RuntimeError(f"no luck with Authorization: Bearer {token}, {token.encode()!r}")

        self.start_sandbox()
        self.start_agent(store=Careless())
        error = await self.fatal_error()
        self.flushLoggedErrors(RuntimeError)
        await look_until(lambda: "could not start" in self.logged(), "the record")
        canaries = Canaries()
        canaries.know("token", TOKEN.reveal())
        self.assertIn("no luck with", self.logged())
        self.assertEqual(canaries.found_in(self.logged() + error.sentence), [])

    async def test_many_rotations(self) -> None:
        """Passwords that change all the time don't make the log forget the token."""
        self.start_sandbox()
        self.start_agent(self.settings(tunnel={"poll_interval": 0.01}))
        await self.until_connected()
        for number in range(MAX_LEARNED + 5):
            password = f"password-number-{number}"
            self.known.password = Secret(password)
            await look_until(partial(self.masks, password), "the next poll")
        self.assertTrue(self.masks(TOKEN.reveal()))

    def masks(self, text: str) -> bool:
        return text not in self.log.redactor.clean(text)
