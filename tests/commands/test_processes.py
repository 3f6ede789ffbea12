"""Tests of exec, attach and shell: on the WebSocket, with a process that the test leads."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

from pipeops_agent.cluster.scope import Scope
from pipeops_agent.commands.inputs import MAX_INPUT
from pipeops_agent.commands.processes import MAX_PARTS, SHELL
from tests.commands.case import DeskCase, command_of, output
from tests.web.websocket.harness import Peer


class ProcessCase(DeskCase):
    """A pod, and a client that runs processes in it."""

    def setUp(self) -> None:
        super().setUp()
        self.pod()
        self.client = self.peer()

    def run_process(self, kind: str = "exec", target: str = "pod shop/web", **fields: Any) -> Peer:
        """Let a process begin."""
        if kind == "exec":
            fields.setdefault("command", ["ls"])
        self.say_to(self.client, "command", command_of(kind, target, **fields))
        return self.client

    def ended(self) -> dict[str, Any]:
        """How it has ended; what it has said before is in C{said}."""
        self.flush()
        messages = self.client.take()
        self.assertEqual(messages[-1]["type"], "command_response", messages)
        self.said = messages[:-1]
        data: dict[str, Any] = messages[-1]["data"]
        return data

    def asked(self) -> dict[str, list[str]]:
        """The query with which it was asked for."""
        assert self.process.asked is not None
        query: dict[str, list[str]] = self.process.asked.params
        return query

    def exit(self, code: int = 0) -> dict[str, Any]:
        """The process ends."""
        self.process.exit(code)
        self.process.sendClose(1000)
        return self.ended()


class ExecTests(ProcessCase):
    """C{exec}."""

    def test_output(self) -> None:
        """What is written comes as it is written, by stream; then the exit code."""
        self.run_process(command=["ls", "-l"], container="main")
        self.assertEqual(self.asked()["command"], ["ls", "-l"])
        self.assertEqual(self.asked()["container"], ["main"])
        self.process.send(1, b"one\n")
        self.flush()
        (message,) = self.client.take()
        self.assertEqual(
            (message["type"], message["id"], message["data"]),
            ("command_output", "1", {"output": "one\n", "stream": "stdout"}),
        )
        self.process.send(2, b"trouble\n")
        ended = self.exit()
        self.assertEqual(self.said[0]["data"], {"output": "trouble\n", "stream": "stderr"})
        self.assertEqual(
            (ended["success"], ended["exit_code"], ended["error"], ended["output"]), (True, 0, None, "")
        )
        (record,) = self.audited
        self.assertEqual(
            (record["action"], record["target"], record["verdict"], record["bytes_out"]),
            ("exec", "pod shop/web", "done", 12),
        )

    def test_fails(self) -> None:
        """Another exit code than 0 is no success."""
        self.run_process()
        ended = self.exit(3)
        self.assertEqual((ended["success"], ended["exit_code"], ended["code"]), (False, 3, "failed"))
        self.assertIn("exit code: 3", ended["error"])
        self.assertEqual(self.audited[0]["verdict"], "failed")

    def test_cut(self) -> None:
        """Where the end was not told, that is no success, whatever was written."""
        self.run_process()
        self.process.send(1, b"all is well\n")
        self.flush()
        self.process.sendClose(1000)
        ended = self.ended()
        self.assertEqual((ended["success"], ended["exit_code"], ended["code"]), (False, None, "cut"))
        self.assertIn("not known", ended["error"])

    def test_not_run(self) -> None:
        """A program that is not there is the server's failure to run it."""
        self.run_process()
        self.process.status(status="Failure", reason="InternalError", message="no such file", code=500)
        self.process.sendClose(1000)
        ended = self.ended()
        self.assertEqual((ended["success"], ended["exit_code"]), (False, None))
        self.assertIn("no such file", ended["error"])

    def test_characters(self) -> None:
        """A character that comes in two pieces is one; what is no UTF-8 is replaced."""
        self.run_process()
        euro = "€".encode()
        self.process.send(1, euro[:1])
        self.process.send(2, b"\xff")
        self.flush()
        self.process.send(1, euro[1:] + b"\xe2")
        self.exit()
        self.assertEqual(output(self.said), "\N{REPLACEMENT CHARACTER}€\N{REPLACEMENT CHARACTER}")

    def test_bytes(self) -> None:
        """Any bytes, both ways, where base64 is asked for."""
        data = bytes(range(256))
        self.run_process(stdin=True, encoding="base64")
        self.say_to(self.client, "input", {"data": b64encode(data).decode()})
        self.process.send(1, data)
        self.flush()
        (message,) = self.client.take()
        self.assertEqual(message["data"]["output"], b64encode(data).decode())
        self.assertEqual(self.process.got, [b"\0" + data])
        self.assertEqual(self.refusal(self.client, "input", {"data": "no base64"})[0], "bad_data")
        self.exit()
        self.assertEqual((self.audited[0]["bytes_in"], self.audited[0]["bytes_out"]), (256, 256))

    def test_timeout(self) -> None:
        """One that runs longer than it may is let go; that it may go on is said."""
        self.run_process(timeout=2)
        self.advance(3)
        ended = self.ended()
        self.assertEqual((ended["success"], ended["code"]), (False, "timed_out"))
        self.assertEqual(
            ended["error"], "exec: ended after 2 s, its timeout; what runs in the container may go on"
        )

    def test_cancel(self) -> None:
        """A cancelled one says so, and its connection is closed."""
        self.run_process()
        self.say_to(self.client, "cancel", {"id": "1"}, "2")
        self.assertEqual([(each["type"], each["id"]) for each in self.client.take()], [("cancelled", "1")])
        self.assertIsNotNone(self.process.remoteCloseCode)
        self.assertEqual(self.audited[0]["verdict"], "cancelled")

    def test_gone(self) -> None:
        """So it is where its client goes away."""
        self.run_process()
        self.client.client.transport.end()
        self.flush()
        self.assertIsNotNone(self.process.remoteCloseCode)

    def test_backpressure(self) -> None:
        """Where the client does not read, nor is the process read, and nothing is lost."""
        self.run_process()
        self.client.choke()
        link, total = self.endpoints.links[-1], 0
        while link.client_pipe.reading:
            self.process.send(1, b"x" * 30_000)
            link.pump()
            total += 30_000
            self.assertLess(total, 1_000_000)
        self.assertLess(self.client.wire.waiting_bytes, 1000)
        self.client.read_again()
        self.exit()
        self.assertEqual(len(output(self.said)), total)


class InputTests(ProcessCase):
    """What is written to a process."""

    def test_input(self) -> None:
        """Text in order, then its end."""
        self.run_process(stdin=True)
        self.assertEqual(self.asked()["stdin"], ["true"])
        for text in ("one\n", "zw\N{LATIN SMALL LETTER O WITH DIAERESIS}lf\n"):
            self.say_to(self.client, "input", {"data": text})
        self.say_to(self.client, "input", {"data": "last", "eof": True})
        self.assertEqual(self.process.got, [b"\0one\n", b"\0zw\xc3\xb6lf\n", b"\0last", b"\xff\0"])
        code, message = self.refusal(self.client, "input", {"data": "more"})
        self.assertEqual((code, message), ("not_possible", "the end of the input was sent before"))
        self.exit()

    def test_at_once(self) -> None:
        """All of it in the command, where no more follows."""
        self.run_process(input="the whole")
        self.assertEqual(self.process.got, [b"\0the whole", b"\xff\0"])
        self.exit()

    def test_old_server(self) -> None:
        """A server that can't close stdin alone: that is said, and the process runs on."""
        self.endpoints.speaks = ("v4.channel.k8s.io",)
        self.run_process(input="x")
        (message,) = self.client.take()
        self.assertEqual((message["type"], message["data"]["code"]), ("error", "not_possible"))
        self.exit()

    def test_none_taken(self) -> None:
        """A process that was begun without takes none, nor a terminal's size."""
        self.run_process()
        code, message = self.refusal(self.client, "input", {"data": "x"})
        self.assertEqual((code, message), ("not_possible", "this exec takes no input (args.stdin)"))
        code, message = self.refusal(self.client, "resize", {"cols": 80, "rows": 24})
        self.assertEqual((code, message), ("not_possible", "this exec has no terminal (args.tty)"))
        self.exit()

    def test_limit(self) -> None:
        """Input that is not taken waits, up to a limit; beyond it is refused whole, and room is announced."""
        self.run_process(stdin=True)
        link = self.endpoints.links[-1]
        link.client.pauseProducing()
        piece = "x" * 32_000
        refused = 0
        for _ in range(2 + MAX_INPUT // len(piece)):
            self.client.send("input", {"data": piece}, "1")
            for message in self.client.take():
                self.assertEqual((message["type"], message["data"]["code"]), ("error", "input_full"))
                refused += 1
        self.assertGreaterEqual(refused, 1)
        link.client.resumeProducing()
        self.flush()
        (message,) = self.client.take()
        self.assertEqual((message["type"], message["data"]), ("command_output", {"room": True}))
        taken = b"".join(each[1:] for each in self.process.got)
        self.assertEqual(len(taken), (2 + MAX_INPUT // len(piece) - refused) * len(piece))
        self.exit()


class TerminalTests(ProcessCase):
    """C{shell} and C{attach}."""

    def test_shell(self) -> None:
        """A terminal with a shell of the pod's, of the size that is asked for, and then of another."""
        self.run_process("shell", cols=100, rows=30)
        asked = self.asked()
        self.assertEqual((asked["command"], asked["tty"], asked["stdin"]), ([*SHELL], ["true"], ["true"]))
        self.assertNotIn("stderr", asked)
        self.say_to(self.client, "resize", {"cols": 80, "rows": 24})
        self.say_to(self.client, "input", {"data": "exit\n"})
        sizes = [json.loads(each[1:]) for each in self.process.got if each[0] == 4]
        self.assertEqual(sizes, [{"Width": 100, "Height": 30}, {"Width": 80, "Height": 24}])
        self.assertEqual([each for each in self.process.got if each[0] == 0], [b"\0exit\n"])
        self.assertTrue(self.exit()["success"])
        self.assertEqual(self.audited[0]["action"], "shell")

    def test_early(self) -> None:
        """Who types before the process is there, or makes the window larger, has not done so in vain."""
        self.client.send("command", command_of("shell", "pod shop/web", cols=100, rows=30), "1")
        self.client.send("input", {"data": "exit\n"}, "1")
        self.client.send("resize", {"cols": 120, "rows": 40}, "1")
        self.assertEqual((self.client.take(), self.process.got), ([], []))
        self.flush()
        self.assertEqual(self.process.got, [b'\4{"Width":120,"Height":40}', b"\0exit\n"])
        self.exit()

    def test_other_shell(self) -> None:
        """The one that the command names."""
        self.run_process("shell", command=["zsh"])
        self.assertEqual(self.asked()["command"], ["zsh"])
        self.exit()

    def test_attach(self) -> None:
        """To what runs already; its end is no exit code."""
        self.run_process("attach", stdin=True, tty=True)
        assert self.process.asked is not None
        self.assertIn("/pods/web/attach", self.process.asked.path)
        self.process.send(1, b"$ ")
        ended = self.exit()
        self.assertEqual((output(self.said), ended["success"], ended["exit_code"]), ("$ ", True, None))


class RefusalTests(ProcessCase):
    """What can't be run, and who may not."""

    def refused(self, kind: str, target: str = "pod shop/web", **fields: Any) -> tuple[str, str]:
        ended = self.command(self.client, kind, target, **fields)
        self.assertEqual((ended["success"], ended["exit_code"]), (False, None))
        return ended["code"], ended["error"]

    def test_makes_no_sense(self) -> None:
        """Each with a sentence, and no connection is made."""
        for kind, target, fields, words in (
            ("exec", "pod shop/web", {}, "exec needs a command"),
            ("exec", "deploy shop/web", {"command": ["ls"]}, "exec is for pods, not for 'deploy'"),
            ("exec", "pod /web", {"command": ["ls"]}, "exec needs the pod's namespace"),
            ("exec", "pod shop/", {"command": ["ls"]}, "exec needs the pod's name"),
            ("exec", "pod ../web", {"command": ["ls"]}, "can't be '..'"),
            ("exec", "pod shop/web", {"command": ["ls"], "tty": "yes"}, "tty"),
            ("exec", "pod shop/web", {"command": ["ls"], "x": 1}, "x"),
            ("exec", "pod shop/web", {"command": ["ls"], "stdin": True, "input": ""}, "one of them"),
            ("exec", "pod shop/web", {"command": ["x"] * (MAX_PARTS + 1)}, "at most"),
            ("attach", "pod shop/web", {"command": ["ls"]}, "attach takes no command"),
            ("shell", "pod shop/web", {"cols": 0}, "cols"),
        ):
            code, message = self.refused(kind, target, **fields)
            self.assertEqual(code, "bad_request", message)
            self.assertIn(words, message)
        self.assertEqual(self.endpoints.links, [])

    def test_api_says_no(self) -> None:
        """RBAC's no is a refusal, with the server's words."""
        body = json.dumps({"kind": "Status", "message": "may not exec", "reason": "Forbidden", "code": 403})
        self.endpoints.answers = [
            f"HTTP/1.1 403 Forbidden\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        ]
        code, message = self.refused("exec", command=["ls"])
        self.assertEqual(code, "denied")
        self.assertIn("may not exec", message)
        self.assertEqual(self.audited[0]["verdict"], "refused")

    def test_scopes(self) -> None:
        """Narrowed ones bind: a verb, a namespace; C{exec} allows a shell as well."""
        self.let_in("read", "operate:exec:pods:bank")
        self.client = self.peer()
        code, message = self.refused("exec", command=["ls"])
        self.assertEqual(code, "forbidden")
        self.assertEqual(message, "exec of pods in shop needs a scope for it: operate:exec:pods:shop")
        self.assertEqual(self.refused("shell")[0], "forbidden")
        attach = command_of("attach", "pod bank/web")
        self.assertEqual(self.refusal(self.client, "command", attach)[0], "forbidden")
        self.run_process("shell", "pod bank/web")
        self.exit()

    def test_owner(self) -> None:
        """Who denies C{exec} denies shells; and may deny shells alone."""
        self.cluster.scope = Scope(denied_verbs=frozenset({"exec"}))
        for kind in ("exec", "shell"):
            self.assertEqual(self.refused(kind, command=["ls"])[0], "out_of_reach")
        self.cluster.scope = Scope(denied_verbs=frozenset({"shell"}))
        self.assertEqual(self.refused("shell")[0], "out_of_reach")
        self.run_process()
        self.exit()
