"""The whole process, as twistd runs it: what it writes, what it hears, how it ends."""

from __future__ import annotations

import json
import os
import re
import signal

from twisted.internet.defer import Deferred, gatherResults

from pipeops_agent.sandbox import faults
from pipeops_agent.sandbox.service import SandboxService
from tests.agent.house import REACTOR, free_port, get, look_until
from tests.agent.twistd import CHECKOUT, FAST, TOKEN, Record, Twistd, TwistdCase

STOP_LIMIT = 5.0


class SandboxTests(TwistdCase):
    """C{--sandbox}: the first command of the README."""

    def forwards(self, program: Twistd) -> dict[str, int]:
        """The ports that it has named."""
        opened = [one for one in program.find(component="sandbox") if "target" in one]
        return {one["forward"]: one["port"] for one in opened}

    async def test_end_to_end(self) -> None:
        """No settings at all: three forwards that answer; SIGTERM ends it in time, by the signal."""
        program = self.start("--sandbox", "--log-format", "json")
        await program.until(lambda: len(self.forwards(program)) == 3, "three forwards")
        await program.says("the tunnel is connected")
        ports = self.forwards(program)
        code, body = await get(ports["agent-http"], "/health")
        self.assertEqual((code, json.loads(body)["status"]), (200, "healthy"))
        for name in ("kubernetes-api", "kubelet"):
            self.assertEqual((await get(ports[name], "/", tls=True))[0], 200)
        began = REACTOR.seconds()
        program.signal("TERM")
        self.assertEqual(await program.ended(), -signal.SIGTERM)
        self.assertLess(REACTOR.seconds() - began, STOP_LIMIT)
        self.check_well_behaved(program)
        self.assertEqual(
            [one["msg"] for one in program.records[-2:]], ["Main loop terminated.", "Server Shut Down."]
        )
        self.assertEqual(os.listdir(self.directory), [])

    async def test_pays_no_attention(self) -> None:
        """What could lead to anything real is ignored, and it says so; C{SIGINT} ends it too."""
        kept = self.directory / "kept.json"
        program = self.start(
            *("--sandbox", "--api-url", "https://real.example", "--kubeconfig", "/nowhere"),
            *("--state-file", str(kept), "--bind", "0.0.0.0", "--log-format", "json"),
            environ={"PIPEOPS_TOKEN": "the-real-token"},
        )
        await program.says("the tunnel is connected")
        ignored = {one["setting"] for one in program.saying("pays no attention")}
        expected = {
            "pipeops.api_url",
            "pipeops.token",
            "kubernetes.kubeconfig",
            "agent.state_file",
            "server.bind",
        }
        self.assertEqual(ignored, expected)
        self.assertFalse(kept.exists())
        program.signal("INT")
        self.assertEqual(await program.ended(), -signal.SIGINT)
        self.assertNotIn(b"the-real-token", program.out)

    async def test_own_forwards(self) -> None:
        """Forwards that somebody has configured are kept; SIGHUP leaves the sandbox's settings in place."""
        sandbox = self.start_sandbox()  # some HTTP server
        target = "{}:{}".format(*sandbox.address)
        self.configure(f"tunnel: {{forwards: [{{name: kubernetes-api, local_addr: '{target}'}}]}}\n")
        program = self.start("--sandbox", "--log-format", "json")
        await program.says("the tunnel is connected")
        (port,) = self.forwards(program).values()
        self.assertEqual((await get(port, "/health"))[1], "OK\n")
        program.signal("HUP")
        await program.says("nothing changed that can change while running")
        self.assertEqual(program.saying("takes effect at the next start"), [])

    async def test_for_people(self) -> None:
        """Without being asked for anything else it writes text, not JSON."""
        program = self.start("--sandbox")
        await program.until(lambda: b"the tunnel is connected" in program.out, "the tunnel")
        self.assertRegex(program.out.decode().splitlines()[-1], r"^\d{4}-\d\d-\d\dT\S+Z info +\w")
        self.assertEqual(program.err, b"")

    async def test_not_in_a_pod(self) -> None:
        """In a Kubernetes pod it refuses to run."""
        program = await self.run_agent("--sandbox", environ={"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
        self.assertEqual(program.status, 78)
        self.assertIn(b"refuses to run in a Kubernetes pod", program.err)


class ExitTests(TwistdCase):
    """Why there is no agent: one error record, and the status that tells a supervisor what to do."""

    async def check(self, program: Twistd, status: int, error: str) -> Record:
        """It ends with C{status} and one error record, whose C{error} begins so."""
        self.assertEqual(await program.ended(), status, program.out)
        self.check_well_behaved(program)
        (record,) = program.find(level="error")
        self.assertTrue(record["error"].startswith(error), record)
        self.assertEqual(record["msg"], record["error"])
        self.assertNotIn(TOKEN.reveal(), program.out.decode())
        return record

    async def refused_with(self, fault: faults.Fault, status: int, error: str) -> Record:
        """How an agent ends whose registration meets C{fault}."""
        sandbox = self.start_sandbox()
        sandbox.faults.add(fault)
        # Several at once, so each has a state of its own.
        state = str(self.directory / f"{sandbox.address[1]}.json")
        return await self.check(self.start_for(sandbox.api_url, "--state-file", state), status, error)

    async def test_refused(self) -> None:
        """401, 403 and other 4xx: 77, with what the control plane says."""
        answers = {
            401: "refuses the token",
            403: "refuses the token",
            400: "refuses the call",
            404: "refuses the call",
        }
        records = await gatherResults(
            [
                Deferred.fromCoroutine(
                    self.refused_with(
                        faults.Status(call="register", status=status, body='{"error": "we know you not"}'),
                        77,
                        f"registration: the control plane {says} ({status} ",
                    )
                )
                for status, says in answers.items()
            ]
        )
        for record in records:
            self.assertIn("we know you not", record["error"])
            self.assertEqual(record["response"], '{"error": "we know you not"}')

    async def test_unusable(self) -> None:
        """5xx, HTML, no UUID, broken JSON, a redirect: 69, in the specification's words, with the answer."""
        not_json = "failed to parse registration response (invalid JSON from control plane)"
        cases: list[tuple[faults.Fault, str, str]] = [
            (
                faults.Status(call="register", status=503),
                "registration: the control plane answers 503 ",
                "error",
            ),
            (faults.Html(call="register"), not_json, "<html>"),
            (
                faults.Status(call="register", status=200, body='{"incomplete json...'),
                not_json,
                '{"incomplete json...',
            ),
            (faults.Broken(call="register"), not_json, "{"),
            (
                faults.Status(call="register", status=200, body='{"success": true}'),
                "no cluster UUID found in registration response",
                '{"success": true}',
            ),
            (faults.Redirect(call="register"), "registration: the control plane answers 301 ", ""),
        ]
        records = await gatherResults(
            [Deferred.fromCoroutine(self.refused_with(fault, 69, error)) for fault, error, _ in cases]
        )
        for record, (_, _, response) in zip(records, cases, strict=True):
            self.assertIn(response, record["response"])

    async def test_unreachable(self) -> None:
        """A refused connection, and TLS that can't be trusted: 69, and there was no answer to show."""
        refused = self.start_for(f"http://127.0.0.1:{free_port()}")
        record = await self.check(refused, 69, "registration: 127.0.0.1:")
        self.assertIn("refuses connections", record["error"])
        self.assertNotIn("response", record)
        untrusted = self.start_for(self.start_sandbox(tls=True).api_url)
        record = await self.check(untrusted, 69, "registration: ")
        self.assertIn("certificate", record["error"])

    async def test_tls(self) -> None:
        """With the CA's file the same server is trusted, for the calls and for the tunnel."""
        sandbox = self.start_sandbox(tls=True)
        self.configure(FAST)
        program = self.start_for(sandbox.api_url, "--ca-file", str(sandbox.ca_file))
        await program.says("the tunnel is connected")

    async def test_patience(self) -> None:
        """With C{registration.retry_for} a control plane that is away is waited for; a refusal is not."""
        self.configure(FAST + "logging: {level: debug}\n")
        sandbox = self.start_sandbox()
        sandbox.faults.add(faults.Status(call="register", status=503, count=2))
        patience = {"PIPEOPS_REGISTRATION_RETRY_FOR": "30s"}
        program = self.start_for(sandbox.api_url, environ=patience)
        await program.says("registered as cluster")
        self.assertEqual(sandbox.faults.shown(), [])
        self.assertEqual(len(program.saying("registration failed, trying again in")), 1)  # more are counted
        sandbox.faults.add(faults.Status(call="register", status=403))
        refused = self.start_for(sandbox.api_url, environ=patience)
        await self.check(refused, 77, "registration: the control plane refuses the token")

    async def test_settings(self) -> None:
        """78: everything that is wrong, in one record, each with its place."""
        self.configure("agent: {poll_interval: often}\npipeops: {tokens: x}\n")
        program = self.start("--port", "99999")
        record = await self.check(program, 78, "")
        self.assertEqual(len(record["problems"]), 4)
        places = "\n".join(record["problems"])
        for place in ("option --port", "config.yaml line 1", "config.yaml line 2", "pipeops.token: required"):
            self.assertIn(place, places)
        people = await self.run_agent("--port", "99999", "--log-format", "text")
        self.assertEqual((people.status, people.out), (78, b""))
        self.assertEqual(sorted(people.err.decode().splitlines()), sorted(record["problems"]))

    async def test_files(self) -> None:
        """78 at once, where a file that the settings name can't be used: not at the first call."""
        sandbox = self.start_sandbox()
        program = self.start_for(sandbox.api_url, "--ca-file", "/nowhere/ca.pem")
        record = await self.check(program, 78, "pipeops.tls.ca_file: CA file /nowhere/ca.pem: No such file")
        self.assertEqual(len(record["problems"]), 1)

    async def test_log_that_can_not_be_written(self) -> None:
        """78, where the log's file can't be had."""
        program = self.start_for("http://127.0.0.1:9", "--log-output", "/nowhere/log")
        await self.check(program, 78, "can't write the log to /nowhere/log: No such file or directory")

    async def test_port_taken(self) -> None:
        """1, and it names the port."""
        sandbox = self.start_sandbox()
        port = sandbox.address[1]
        program = self.start_for(sandbox.api_url, "--port", str(port))
        await self.check(program, 1, f"can't serve HTTP on 127.0.0.1:{port}: Address already in use")
        self.assertEqual(list(sandbox.ledger), [])


class RunningTests(TwistdCase):
    def setUp(self) -> None:
        super().setUp()
        self.configure(FAST)

    async def running(self, *arguments: str, **environ: str) -> tuple[Twistd, SandboxService]:
        """An agent whose tunnel stands, and its sandbox."""
        sandbox = self.start_sandbox()
        program = self.start_for(sandbox.api_url, *arguments, environ=environ)
        await program.says("the tunnel is connected")
        return program, sandbox

    def port_of(self, program: Twistd) -> int:
        return int(program.saying("serving HTTP on ")[0]["address"].rpartition(":")[2])

    async def test_last_word(self) -> None:
        """SIGTERM: the control plane is told, the signal is the end, and every line is a record."""
        program, sandbox = await self.running("--log-level", "debug")
        program.signal("TERM")
        self.assertEqual(await program.ended(), -signal.SIGTERM)
        (known,) = sandbox.ledger
        self.assertEqual((known.status, known.listening), ("stopping", {}))
        self.check_well_behaved(program)
        self.assertEqual(program.records[0]["component"], "twisted")

    async def test_everything_hangs(self) -> None:
        """Neither control plane nor chisel server answers any more: SIGTERM ends it in time all the same."""
        program, sandbox = await self.running()
        sandbox.faults.add(faults.Swallow(), faults.HalfOpen())
        began = REACTOR.seconds()
        program.signal("TERM")
        self.assertEqual(await program.ended(), -signal.SIGTERM)
        self.assertLess(REACTOR.seconds() - began, STOP_LIMIT)
        self.check_well_behaved(program)

    async def test_start_again(self) -> None:
        """A restarted agent is the same agent, though it was killed; it registers again."""
        program, sandbox = await self.running()
        (known,) = sandbox.ledger
        program.signal("KILL")
        await program.ended()
        program = self.start_for(sandbox.api_url)
        await program.says("registered as cluster")
        (again,) = sandbox.ledger
        self.assertEqual(
            (again.agent_id, again.cluster_id, again.registrations), (known.agent_id, known.cluster_id, 2)
        )
        self.assertEqual(oct(self.state_file.stat().st_mode & 0o777), "0o600")

    async def test_hangup(self) -> None:
        """SIGHUP: forwards and levels change, what can't is named; what can't be used changes nothing."""
        program, sandbox = await self.running()
        target = f"127.0.0.1:{self.port_of(program)}"
        forward = f"{{name: agent-http, local_addr: '{target}'}}"
        text = FAST.replace("cluster_name: shop", "cluster_name: other").replace(
            "poll_interval: 200ms}\nserver", f"poll_interval: 200ms, forwards: [{forward}]}}\nserver"
        )
        self.configure(text + "logging: {levels: {web: debug}}\n")
        program.signal("HUP")
        record = await program.says("settings read again, changed")
        self.assertEqual(record["settings"], "tunnel.forwards, logging.levels")
        self.assertEqual(program.saying("takes effect at the next start")[0]["setting"], "agent.cluster_name")
        await program.says("the tunnel is connected", 2)
        (known,) = sandbox.ledger
        await look_until(lambda: len(known.listening) == 1, "one forward")
        self.assertEqual((await get(known.ports["agent-http"], "/health"))[0], 200)
        await program.until(lambda: program.find(component="web", level="debug"), "the level")
        self.configure("agent: [")
        program.signal("HUP")
        await program.says("the settings can't be used, the old ones stay")
        self.configure(text.replace("pipeops:\n", "pipeops:\n  tls: {ca_file: /nowhere}\n"))
        program.signal("HUP")
        await program.says("the old ones stay: pipeops.tls.ca_file: CA file /nowhere: No such file")
        self.assertEqual((await get(known.ports["agent-http"], "/health"))[0], 200)

    async def test_rotated_token_file(self) -> None:
        """A token file that was replaced is read when the old token is refused; nobody restarts anything."""
        file = self.directory / "token"
        file.write_text(TOKEN.reveal())
        sandbox = self.start_sandbox()
        program = self.start(
            *("--api-url", sandbox.api_url, "--state-file", str(self.state_file), "--log-level", "debug"),
            environ={"PIPEOPS_TOKEN_FILE": str(file)},
        )
        await program.says("the tunnel is connected")
        port = sandbox.address[1]
        await sandbox.stopService()
        other = type(TOKEN)("quite-another-token")
        self.start_sandbox(port=port, token=other)
        await program.says("refuses the token")
        file.write_text(other.reveal())
        await program.says("has changed")
        await program.until(lambda: "404" in program.out.decode(), "an answer to the new token")
        self.assertNotIn(other.reveal().encode(), program.out)

    async def test_rotated_log(self) -> None:
        """SIGUSR1: a log file that was moved away is opened anew; not a line is lost, none is on stdout."""
        log, old = self.directory / "agent.log", self.directory / "agent.log.1"
        sandbox = self.start_sandbox()
        program = self.start_for(sandbox.api_url, "--log-output", str(log), "--log-level", "debug")
        await look_until(lambda: log.exists() and "the tunnel is connected" in log.read_text(), "the tunnel")
        log.rename(old)
        program.signal("USR1")
        await look_until(log.exists, "the new file")
        program.signal("TERM")
        await program.ended()
        self.assertEqual((program.out, program.err), (b"", b""))
        self.assertIn("Server Shut Down.", log.read_text())
        for line in (*old.read_text().splitlines(), *log.read_text().splitlines()):
            self.assertEqual(list(json.loads(line))[:4], ["time", "level", "msg", "component"])
        self.assertEqual(oct(log.stat().st_mode & 0o777), "0o600")

    async def test_status(self) -> None:
        """C{--status}: 0 and what is well, of a running agent; 1 where there is none."""
        program, _ = await self.running()
        port = str(self.port_of(program))
        asked = await self.run_agent("--status", "--port", port)
        self.assertEqual((asked.status, asked.err), (0, b""))
        self.assertIn(f"127.0.0.1:{port}: healthy, ready", asked.out.decode())
        nobody = await self.run_agent("--status", "--port", str(free_port()))
        self.assertEqual(nobody.status, 1)
        self.assertIn("nothing listens on", nobody.out.decode())

    async def test_state_that_can_not_be_read(self) -> None:
        """A state file that is a directory: the agent waits, is not ready, and says why; no id is made."""
        self.state_file.mkdir()
        sandbox = self.start_sandbox()
        program = self.start_for(sandbox.api_url)
        record = await program.says("waiting for the agent's state")
        self.assertIn(str(self.state_file), record["msg"])
        code, body = await get(self.port_of(program), "/ready", TOKEN)
        self.assertEqual(code, 503)
        self.assertEqual(json.loads(body)["checks"]["registration"]["message"], record["msg"])
        asked = await self.run_agent("--status", "--port", str(self.port_of(program)))
        self.assertEqual(asked.status, 1)
        self.assertEqual(list(sandbox.ledger), [])
        program.signal("TERM")
        self.assertEqual(await program.ended(), -signal.SIGTERM)
        self.check_well_behaved(program)


class SandboxAloneTests(TwistdCase):
    """C{twistd pipeops-sandbox}."""

    async def test_agent_as_documented(self) -> None:
        """What docs/sandbox.md sets for an agent of a sandbox on its own is enough for a tunnel."""
        page = (CHECKOUT / "docs/sandbox.md").read_text()
        (command,) = [line for line in page.splitlines() if line.startswith("PIPEOPS_TOKEN=")]
        given = dict(re.findall(r"(PIPEOPS_\w+)=(\w+) ", command))
        program = self.start_for(self.start_sandbox().api_url, environ=given)
        await program.says("the tunnel is connected")

    async def test_port_taken(self) -> None:
        """A port that is taken: a line that says so, no traceback, and 1."""
        port = str(self.start_sandbox().address[1])
        program = self.start("--port", port, service="pipeops-sandbox")
        self.assertEqual(await program.ended(), 1)
        self.assertIn(f"the sandbox can't start: Couldn't listen on 127.0.0.1:{port}", program.out.decode())
        self.assertNotIn(b"Traceback", program.out)
        self.assertEqual(program.err, b"")

    async def test_log(self) -> None:
        """Every line of the process is in the log's format, and what happens is said once; no token is."""
        port = str(free_port())
        options = ("--port", port, "--log-format", "json")
        token = {"PIPEOPS_SANDBOX_TOKEN": TOKEN.reveal()}
        sandbox = self.start(*options, environ=token, service="pipeops-sandbox")
        ready = await sandbox.says("the sandbox is ready at")
        self.assertEqual(ready["api_url"], f"http://127.0.0.1:{port}")
        self.configure(FAST)
        await self.start_for(ready["api_url"]).says("the tunnel is connected")
        sandbox.signal("TERM")
        self.assertEqual(await sandbox.ended(), -signal.SIGTERM)
        self.check_well_behaved(sandbox)
        for text in ("registered as cluster", "-> agent-http of", "Server Shut Down."):
            self.assertEqual(len(sandbox.saying(text)), 1, text)
        self.assertNotIn(TOKEN.reveal().encode(), sandbox.out)

    async def test_log_for_people(self) -> None:
        """By default the lines are text, and name the file with the token."""
        program = self.start("--port", "0", service="pipeops-sandbox")
        await program.until(lambda: b"the sandbox is ready at" in program.out, "the sandbox")
        (line,) = [line for line in program.out.decode().splitlines() if "the sandbox is ready" in line]
        self.assertRegex(
            line,
            r"^\S+Z info  sandbox +the sandbox is ready at http://127\.0\.0\.1:\d+ .*token_file=\S+/token",
        )
        self.assertEqual(program.err, b"")


class ErrandTests(TwistdCase):
    """What ends by itself."""

    async def test_check_config(self) -> None:
        """Every value with its origin, secrets as length and hash; 78 where they can't be used."""
        self.configure("agent: {cluster_name: shop}\n")
        good = await self.run_agent(
            "--check-config", "--port", "1234", environ={"PIPEOPS_TOKEN": TOKEN.reveal()}
        )
        self.assertEqual((good.status, good.err), (0, b""))
        text = good.out.decode()
        self.assertRegex(text, r"\nagent\.cluster_name +shop +config\.yaml line 1\n")
        self.assertRegex(text, r"\nserver\.port +1234 +option --port\n")
        self.assertRegex(text, rf"\npipeops\.token +.*{len(TOKEN.reveal())}.* +variable PIPEOPS_TOKEN\n")
        self.assertNotIn(TOKEN.reveal(), text)
        bad = await self.run_agent("--check-config", "--port", "none")
        self.assertEqual((bad.status, bad.out), (78, b""))
        self.assertIn(b"option --port", bad.err)

    async def test_reset_state(self) -> None:
        """The ids are forgotten, a copy is kept; the next start is another agent."""
        sandbox = self.start_sandbox()
        for _ in range(2):
            program = self.start_for(sandbox.api_url)
            await program.says("registered as cluster")
            program.signal("TERM")
            await program.ended()
            reset = await self.run_agent("--reset-state", "--state-file", str(self.state_file))
            self.assertEqual((reset.status, reset.err), (0, b""))
            self.assertIn(b"forgotten: agent agent-", reset.out)
            self.assertFalse(self.state_file.exists())
        self.assertEqual(len(list(sandbox.ledger)), 2)

    async def test_reset_while_running(self) -> None:
        """
        A running agent's state is not reset, and a second agent that uses it says so, until the first is
        gone; one that was killed stands in nobody's way.
        """
        self.configure(FAST)
        sandbox = self.start_sandbox()
        first = self.start_for(sandbox.api_url)
        await first.says("registered as cluster")
        before = self.state_file.read_bytes()
        reset = await self.run_agent("--reset-state", "--state-file", str(self.state_file))
        self.assertEqual(reset.status, 1)
        self.assertIn(
            f"the file {self.state_file} was not reset: an agent is running with it", reset.out.decode()
        )
        self.assertEqual(self.state_file.read_bytes(), before)
        second = self.start_for(sandbox.api_url)
        warning = await second.says("another agent of this machine runs with")
        self.assertEqual(warning["level"], "warn")
        await second.says("registered as cluster")
        first.signal("KILL")
        await second.says("no other agent runs with")
        self.assertEqual(len(second.saying("another agent of this machine")), 1)
        third = await self.run_agent("--reset-state", "--state-file", str(self.state_file))
        self.assertEqual(third.status, 1)

    async def test_help(self) -> None:
        """C{--help} names every option and no token."""
        asked = await self.run_agent("--help")
        self.assertEqual((asked.status, asked.err), (0, b""))
        self.assertIn(b"--check-config", asked.out)
        self.assertNotRegex(asked.out.decode(), r"--token\b")
