"""Tests of operations as commands: on the WebSocket, with the fake API server."""

from __future__ import annotations

from typing import Any

from pipeops_agent.cluster.scope import Scope
from pipeops_agent.commands import desk
from pipeops_agent.web.websocket.messages import MAX_ID
from tests.commands.case import DeskCase, command_of, output

MANIFEST = """
apiVersion: v1
kind: Service
metadata: {name: one}
---
apiVersion: v1
kind: Service
metadata: {name: two}
"""


class OperationTests(DeskCase):
    """What is done, and how it is told."""

    def test_read(self) -> None:
        """Objects are found; the answer has them, and the books say who has looked."""
        self.pod("a")
        self.pod("b")
        peer = self.peer()
        ended = self.command(peer, "get_resources", "pods shop/")
        self.assertEqual([each["metadata"]["name"] for each in ended["result"]["items"]], ["a", "b"])
        self.assertEqual(ended["result"]["continue"], "")
        self.assertEqual((ended["success"], ended["error"], ended["code"]), (True, None, ""))
        self.assertEqual((ended["exit_code"], ended["output"]), (None, ""))
        self.assertEqual(output(self.said), "2 objects read\n")
        (record,) = self.audited
        self.assertEqual(
            (record["subject"], record["origin"], record["action"], record["target"], record["verdict"]),
            ("tester", "10.0.0.7", "get_resources", "pods shop", "done"),
        )
        self.assertGreater(record["bytes_out"], 100)

    def test_change(self) -> None:
        """An object is changed; progress comes first, then the end, with what it is now."""
        self.deployment()
        peer = self.peer()
        ended = self.command(peer, "scale", "deploy shop/web", replicas=3)
        self.assertEqual(ended["result"], {"replicas": 3, "running": 0})
        (progress,) = self.said
        self.assertEqual(progress["data"]["output"], "deployments.apps shop/web: scaled to 3, 0 pods now\n")
        self.assertEqual(progress["data"]["progress"]["operation"], "scale")
        self.assertEqual(self.storage.get("deployments.apps", "shop", "web")["spec"]["replicas"], 3)
        self.assertEqual(self.audited[0]["target"], "deploy shop/web")

    def test_takes_time(self) -> None:
        """One that waits says how far it is meanwhile, and then how long it took."""
        self.deployment(status={"observedGeneration": 0})
        peer = self.peer()
        self.say_to(peer, "command", command_of("rollout", "deploy shop/web"), seconds=3)
        self.assertEqual({each["type"] for each in peer.take()}, {"command_output"})
        self.assertEqual(self.audited, [])
        counts = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}
        found = self.storage.get("deployments.apps", "shop", "web")
        generation = found["metadata"].get("generation", 0)
        self.storage.replace(
            "deployments.apps",
            "shop",
            "web",
            {**found, "status": {**counts, "observedGeneration": generation}},
        )
        self.advance(3)
        messages = peer.take()
        self.assertEqual(messages[-1]["data"]["result"]["state"], "done", messages)
        self.assertEqual(messages[-1]["data"]["duration"], 4.0)
        self.assertEqual(self.audited[0]["seconds"], 4.0)

    def test_apply(self) -> None:
        """C{deploy} is C{apply}; the books name the objects, and count what was sent."""
        peer = self.peer()
        ended = self.command(peer, "deploy", " shop/", manifest=MANIFEST)
        self.assertTrue(ended["success"], ended)
        self.assertEqual([each["action"] for each in ended["result"]["objects"]], ["created", "created"])
        (record,) = self.audited
        self.assertEqual(record["action"], "deploy")
        self.assertIn("one", record["target"])
        self.assertIn("two", record["target"])
        self.assertGreater(record["bytes_in"], len(MANIFEST))

    def test_fails(self) -> None:
        """What the API server refuses: a sentence, a code for programs, and a record."""
        peer = self.peer()
        ended = self.command(peer, "scale", "deploy shop/web", replicas=3)
        self.assertEqual((ended["success"], ended["code"]), (False, "not_found"))
        self.assertIn('"web" not found', ended["error"])
        self.assertEqual((self.audited[0]["verdict"], self.audited[0]["reason"]), ("failed", ended["error"]))

    def test_partly(self) -> None:
        """Where some of it was not done, that is no success, and the result says what was."""
        self.storage.create("services", "shop", {"metadata": {"name": "two"}})
        peer = self.peer()
        ended = self.command(peer, "create", " shop/", manifest=MANIFEST, on_error="continue")
        self.assertEqual((ended["success"], ended["code"]), (False, "failed"))
        self.assertIn("1 of 2 objects failed", ended["error"])
        self.assertEqual([each["action"] for each in ended["result"]["objects"]], ["created", "failed"])
        self.assertEqual(self.audited[0]["verdict"], "failed")

    def test_timeout(self) -> None:
        """One that takes longer than it may says what it was waiting for."""
        self.deployment(status={"observedGeneration": 0})
        peer = self.peer()
        ended = self.command(peer, "rollout", "deploy shop/web", timeout=3, seconds=4)
        self.assertFalse(ended["success"])
        self.assertEqual(ended["result"]["reason"], "TimedOut")

    def test_too_long(self) -> None:
        """A result that no message should hold is not sent; the error says what to ask for instead."""
        self.patch(desk, "MAX_RESULT", 1000)
        for name in "abcdefgh":
            self.pod(name)
        ended = self.command(self.peer(), "get_resources", "pods shop/")
        self.assertFalse(ended["success"])
        self.assertIn("args.limit", ended["error"])

    def test_several(self) -> None:
        """Several run at one time, each told by its id."""
        self.pod("a")
        peer = self.peer()
        peer.send("command", command_of("get_resources", "pods shop/"), "x")
        peer.send("command", command_of("get_resources", "pods shop/a"), "y" * MAX_ID)
        self.flush()
        ends = [each["id"] for each in peer.take("command_response")]
        self.assertEqual(sorted(ends), ["x", "y" * MAX_ID])

    def test_cancel(self) -> None:
        """A cancelled one says so, stops, and the books do too."""
        self.deployment(status={"observedGeneration": 0})
        peer = self.peer()
        self.say_to(peer, "command", command_of("rollout", "deploy shop/web"), seconds=3)
        peer.take()
        self.say_to(peer, "cancel", {"id": "1"}, "2")
        message = peer.one()
        self.assertEqual((message["type"], message["id"]), ("cancelled", "1"))
        self.assertEqual(self.audited[0]["verdict"], "cancelled")

    def test_gone(self) -> None:
        """Who goes away has cancelled."""
        self.deployment(status={"observedGeneration": 0})
        peer = self.peer()
        self.say_to(peer, "command", command_of("rollout", "deploy shop/web"), seconds=3)
        peer.client.transport.end()
        self.assertEqual(self.audited[0]["verdict"], "cancelled")
        self.assertEqual(self.entrance.limits.held("commands"), 0)


class BadCommandTests(DeskCase):
    """What is no command, or none that makes sense."""

    def test_not_begun(self) -> None:
        """What can't be understood is an C{error}, and leaves no record."""
        peer = self.peer()
        cases: list[tuple[Any, str, str]] = [
            ({}, "bad_data", "type"),
            ({"type": "fly"}, "unknown_command", "there is no command 'fly'"),
            ({"type": 5}, "bad_data", "str"),
            ({"type": "scale", "target": []}, "bad_data", "target"),
            ({"type": "scale", "target": {"tpye": "x"}}, "bad_data", "tpye"),
            ({"type": "scale", "timeout": 0}, "bad_data", "timeout"),
            ({"type": "scale", "timeout": 1e9}, "bad_data", "timeout"),
            ({"type": "scale", "command": "ls"}, "bad_data", "command"),
            ({"type": "scale", "arguments": {}}, "bad_data", "arguments"),
        ]
        for data, code, words in cases:
            found, message = self.refusal(peer, "command", data)
            self.assertEqual(found, code, data)
            self.assertIn(words, message)
        self.assertEqual(self.audited, [])

    def test_makes_no_sense(self) -> None:
        """What was understood, and can't be done, ends with a response that says why."""
        peer = self.peer()
        for kind, target, fields, words in (
            ("scale", "deploy shop/web", {}, "replicas"),
            ("scale", "deploy shop/web", {"replicas": -1}, "replicas"),
            ("scale", "deploy shop/web", {"replicas": 1, "x": 2}, "x"),
            ("scale", "deploy shop/", {"replicas": 1}, "no name"),
            ("scale", "deploy /web", {"replicas": 1}, "no namespace"),
            ("scale", "", {"replicas": 1}, "no type"),
            ("scale", "unicorns shop/web", {"replicas": 1}, "unicorns"),
            ("scale", "deploy ../../web", {"replicas": 1}, "can't be"),
            ("scale", "deploy shop/web", {"replicas": 1, "command": ["ls"]}, "takes no command"),
            ("apply", " shop/", {"manifest": "a: [b"}, "line"),
            ("patch", "deploy shop/web", {"patch": []}, "an object"),
        ):
            ended = self.command(peer, kind, target, **fields)
            self.assertEqual(
                (ended["success"], ended["code"]), (False, "bad_request"), (kind, target, fields)
            )
            self.assertIn(words, ended["error"])
        self.assertEqual({each["verdict"] for each in self.audited}, {"failed"})


class WhoMayTests(DeskCase):
    """Scopes, the owner's rules, and limits."""

    def verdicts(self) -> list[tuple[str, str]]:
        return [(each["action"], each["verdict"]) for each in self.audited]

    def test_no_scope(self) -> None:
        """Who may only read is refused before anything begins; the books say that it was tried."""
        self.let_in("read")
        peer = self.peer()
        code, message = self.refusal(peer, "command", command_of("scale", "deploy shop/web", replicas=2))
        self.assertEqual(
            (code, message), ("forbidden", "scale needs a scope for it: operate, or operate:scale")
        )
        self.assertEqual(self.verdicts(), [("scale", "refused")])
        self.assertEqual(self.kube.seen, [])

    def test_narrow(self) -> None:
        """A scope for a verb, a kind and a namespace is one for that, and for nothing else."""
        self.deployment()
        self.deployment(namespace="bank")
        self.storage.create(
            "statefulsets.apps", "shop", {"metadata": {"name": "db"}, "spec": {"replicas": 1}}
        )
        self.let_in("read", "operate:scale:deployments:shop")
        peer = self.peer()
        self.assertTrue(self.command(peer, "scale", "deploy shop/web", replicas=2)["success"])
        for target in ("deploy bank/web", "statefulsets shop/db"):
            ended = self.command(peer, "scale", target, replicas=2)
            self.assertEqual((ended["success"], ended["code"]), (False, "forbidden"), ended)
        self.assertIn("operate:scale:statefulsets.apps:shop", ended["error"])
        code, _ = self.refusal(peer, "command", command_of("restart", "deploy shop/web"))
        self.assertEqual(code, "forbidden")
        self.assertEqual(
            self.verdicts(), [("scale", "done"), *[("scale", "refused")] * 2, ("restart", "refused")]
        )
        changed = [each for each in self.kube.seen if each[0] == "patch"]
        self.assertEqual(len(changed), 1)

    def test_narrow_read(self) -> None:
        """A scope to read in a namespace shows that one, and no list of everything."""
        self.pod("a")
        self.let_in("read:*:*:shop")
        peer = self.peer()
        self.assertTrue(self.command(peer, "get_resources", "pods shop/")["success"])
        self.assertEqual(self.command(peer, "get_resources", "namespaces /shop")["code"], "not_found")
        for target in ("pods bank/", "pods", "nodes", "namespaces"):
            ended = self.command(peer, "get_resources", target)
            self.assertEqual(ended["code"], "forbidden", target)

    def test_manifest(self) -> None:
        """Of a manifest only what is allowed is sent."""
        self.let_in("read", "operate:apply:services:shop")
        ended = self.command(
            self.peer(),
            "apply",
            manifest=MANIFEST.replace("{name: one}", "{name: one, namespace: bank}").replace(
                "{name: two}", "{name: two, namespace: shop}"
            ),
            on_error="continue",
        )
        self.assertEqual([each["action"] for each in ended["result"]["objects"]], ["failed", "created"])

    def test_two_names(self) -> None:
        """C{deploy} is C{apply} for scopes too."""
        self.let_in("read", "operate:apply")
        self.assertTrue(self.command(self.peer(), "deploy", " shop/", manifest=MANIFEST)["success"])

    def test_drain(self) -> None:
        """Who may drain nodes needs no scope for the pods on them."""
        self.storage.create("nodes", "", {"metadata": {"name": "n"}})
        self.let_in("read", "operate:drain:nodes")
        self.storage.create(
            "pods",
            "shop",
            {"metadata": {"name": "a"}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}},
        )
        ended = self.command(self.peer(), "drain", "nodes /n")
        self.assertIn("pods that nothing would make anew", ended["error"])

    def test_owner(self) -> None:
        """The owner's rules hold for everybody, and whatever the scope."""
        self.deployment()
        self.cluster.scope = Scope(read_only=True)
        ended = self.command(self.peer(), "scale", "deploy shop/web", replicas=2)
        self.assertEqual((ended["success"], ended["code"]), (False, "out_of_reach"))
        self.assertIn("access.read_only", ended["error"])
        self.assertEqual(self.verdicts(), [("scale", "refused")])

    def test_rbac(self) -> None:
        """What RBAC forbids is refused, not failed."""
        self.deployment()
        self.kube.allowed = lambda asked: asked.verb != "patch"
        ended = self.command(self.peer(), "scale", "deploy shop/web", replicas=2)
        self.assertEqual(ended["code"], "denied")
        self.assertEqual(self.verdicts(), [("scale", "refused")])

    def test_too_many(self) -> None:
        """A client has so many commands at one time; places are given back."""
        self.deployment(status={"observedGeneration": 0})
        most = self.server.limits.client.commands
        peer = self.peer()
        for number in range(most):
            peer.send("command", command_of("rollout", "deploy shop/web"), f"r{number}")
        self.flush()
        peer.take()
        code, message = self.refusal(peer, "command", command_of("rollout", "deploy shop/web"))
        self.assertEqual(
            (code, message), ("too_many_requests", f"no more than {most} commands of one client at one time")
        )
        peer.send("cancel", {"id": "r0"})
        peer.take()
        self.assertTrue(self.command(peer, "get_resources", "deploy shop/web")["success"])
