"""Tests of pods' logs: as messages of the WebSocket, and as a command, with the fake API server."""

from __future__ import annotations

from typing import Any

from pipeops_agent.cluster.scope import Scope
from pipeops_agent.commands.asking import MAX_PIECE
from tests.commands.case import NOON, DeskCase, command_of, output


class LogCase(DeskCase):
    """A pod, and a client that reads its log."""

    def setUp(self) -> None:
        super().setUp()
        self.pod()
        self.client = self.peer()

    def write(self, *texts: str, at: float = 0.0, container: tuple[str, str] = ("web", "main")) -> None:
        """Lines, so many seconds after noon."""
        for text in texts:
            self.kubelet.write(container, text.encode("utf-8", "surrogateescape"), NOON + at)
        self.flush()

    def ask_logs(self, seconds: float = 3.0, **query: Any) -> None:
        self.say_to(self.client, "logs", {"namespace": "shop", "pod": "web", **query}, seconds=seconds)

    def lines(self) -> list[str]:
        """The lines that have come since the last call."""
        messages = self.client.take()
        self.assertEqual({each["type"] for each in messages} - {"log"}, set(), messages)
        return [line["line"] for each in messages for line in each["data"].get("lines", ())]


class MessageTests(LogCase):
    """C{logs}."""

    def test_whole(self) -> None:
        """What the log holds, with the time of each line, and how it ended."""
        self.write("one", "two")
        self.ask_logs(follow=False)
        first, mark, end = self.client.take()
        self.assertEqual((first["type"], first["id"]), ("log", "1"))
        self.assertEqual(
            first["data"],
            {
                "namespace": "shop",
                "pod": "web",
                "container": "main",
                "lines": [
                    {"line": "one", "time": "2024-01-15T12:00:00.000000000Z"},
                    {"line": "two", "time": "2024-01-15T12:00:00.000000000Z"},
                ],
                "place": first["data"]["place"],
            },
        )
        self.assertEqual((mark["type"], mark["data"]["marker"]), ("log", "complete"))
        self.assertEqual((end["type"], end["id"]), ("log_end", "1"))
        self.assertEqual(end["data"], {"reason": "complete", "message": "that is all that the log holds"})
        (record,) = self.audited
        self.assertEqual(
            (record["action"], record["target"], record["verdict"], record["bytes_out"]),
            ("logs", "pods shop/web", "done", 6),
        )

    def test_follow(self) -> None:
        """What is written later comes as it is written, until it is cancelled."""
        self.write("one")
        self.ask_logs()
        self.assertEqual(self.lines(), ["one"])
        self.write("two", at=1)
        self.assertEqual(self.lines(), ["two"])
        self.assertEqual(self.entrance.limits.held("log_streams"), 1)
        self.say_to(self.client, "cancel", {"id": "1"}, "2")
        self.assertEqual(self.client.one()["type"], "cancelled")
        self.assertEqual(self.kubelet.following, [])
        self.assertEqual(self.audited[0]["verdict"], "cancelled")

    def test_options(self) -> None:
        """Tail, time, container, the run before: what is asked of the API server."""
        for query, asked in (
            ({"tail": 5}, {"tailLines": "5"}),
            ({"since_seconds": 1.5}, {"sinceSeconds": "2"}),
            ({"since_time": "2024-01-15T11:00:00Z"}, {"sinceTime": "2024-01-15T11:00:00Z"}),
            ({"previous": True}, {"previous": "true"}),
            ({"container": "main"}, {"container": "main"}),
        ):
            self.ask_logs(follow=False, **query)
            self.assertLessEqual(asked.items(), self.kubelet.asked[-1].items())
            self.assertNotIn("follow", self.kubelet.asked[-1])
            self.assertEqual(self.client.take()[-1]["type"], "log_end")

    def test_labels(self) -> None:
        """Of several pods, merged, each line with its pod."""
        self.pod("api", "main", "side")
        for place in (("web", "main"), ("api", "main"), ("api", "side")):
            self.write("from " + "/".join(place), container=place)
        self.say_to(
            self.client, "logs", {"namespace": "shop", "labels": "app=shop", "follow": False}, seconds=3
        )
        *logs, end = self.client.take()
        lines = [
            (each["data"]["pod"], each["data"]["container"], line["line"])
            for each in logs
            for line in each["data"].get("lines", ())
        ]
        self.assertEqual(
            sorted(lines),
            [
                ("api", "main", "from api/main"),
                ("api", "side", "from api/side"),
                ("web", "main", "from web/main"),
            ],
        )
        self.assertEqual(end["data"], {"reason": "end"})

    def test_bytes(self) -> None:
        """What is no UTF-8 is replaced; a long line comes in pieces."""
        self.write("\udcff!", "x" * 100_000)
        self.ask_logs(follow=False)
        found = [line for each in self.client.take("log") for line in each["data"].get("lines", ())]
        self.assertEqual(found[0]["line"], "\N{REPLACEMENT CHARACTER}!")
        self.assertEqual([each.get("partial", False) for each in found], [False, True, False])
        self.assertEqual("".join(each["line"] for each in found[1:]), "x" * 100_000)

    def test_many(self) -> None:
        """Many lines come in messages of a size to be sent."""
        self.write(*["y" * 999] * 1000)
        self.ask_logs(follow=False)
        messages = [each["data"]["lines"] for each in self.client.take("log") if "lines" in each["data"]]
        self.assertEqual(sum(map(len, messages)), 1000)
        self.assertLessEqual(max(map(len, messages)), MAX_PIECE // 999 + 1)

    def test_backpressure(self) -> None:
        """Where the client does not read, the log is not read; nothing is lost, and the client not cut."""
        self.ask_logs()
        self.client.take()
        self.client.choke()
        for number in range(2000):
            self.write(f"{number} " + "z" * 1000)
        self.assertLess(self.client.wire.waiting_bytes, 1000)
        self.client.read_again()
        self.flush()
        lines = self.lines()
        self.assertEqual([line.partition(" ")[0] for line in lines], [str(each) for each in range(2000)])

    def test_markers(self) -> None:
        """What happens to a log is said between its lines."""
        self.write("one")
        self.ask_logs()
        self.client.take()
        self.kubelet.end(cut=True)
        self.write("two", at=2)
        self.advance(10)
        told = [each["data"].get("marker") or each["data"]["lines"][0]["line"] for each in self.client.take()]
        self.assertEqual(told, ["cut", "resumed", "two"])

    def test_gone(self) -> None:
        """A pod that is deleted ends its log."""
        self.ask_logs()
        self.storage.delete("pods", "shop", "web")
        self.kubelet.end()
        self.advance(10)
        self.assertEqual(self.client.take()[-1]["data"]["reason"], "gone")

    def test_refused(self) -> None:
        """What can't be read is an C{error}, with the server's words."""
        code, message = self.refusal(self.client, "logs", {"namespace": "shop", "pod": "nope"})
        self.assertEqual(code, "not_found")
        self.assertIn('pods "nope" not found', message)
        code, message = self.refusal(
            self.client, "logs", {"namespace": "shop", "pod": "web", "container": "x"}
        )
        self.assertEqual((code, "main" in message), ("bad_request", True))
        for query, words in (
            ({"pod": "web"}, "logs needs the pod's namespace"),
            ({"namespace": "shop"}, "logs needs the pod's name"),
            ({"namespace": "shop", "pod": "a", "labels": "b"}, "one of them"),
            ({"namespace": "shop", "pod": "../x"}, "can't be"),
        ):
            code, message = self.refusal(self.client, "logs", query)
            self.assertEqual((code, words in message), ("bad_request", True), message)
        place = {"namespace": "shop", "pod": "web"}
        for more in ({"tail": -1}, {"tail": 10**9}, {"since_seconds": -1}, {"since_time": "x" * 5000}):
            self.assertEqual(self.refusal(self.client, "logs", {**place, **more})[0], "bad_data", more)

    def test_scopes(self) -> None:
        """Narrowed ones bind; the owner's rules do before them."""
        self.let_in("read:logs:pods:bank", "read:get_resources")
        self.client = self.peer()
        code, message = self.refusal(self.client, "logs", {"namespace": "shop", "pod": "web"})
        self.assertEqual(code, "forbidden")
        self.assertIn("read:logs:pods:shop", message)
        self.let_in("read")
        self.client = self.peer()
        self.cluster.scope = Scope(denied_namespaces=frozenset({"shop"}))
        self.assertEqual(
            self.refusal(self.client, "logs", {"namespace": "shop", "pod": "web"})[0], "out_of_reach"
        )
        self.assertEqual([each["verdict"] for each in self.audited], ["refused", "refused"])

    def test_limit(self) -> None:
        """A client follows so many logs at one time."""
        most = self.server.limits.client.log_streams
        other = self.peer()
        for number in range(most):
            self.say_to(
                (self.client, other)[number % 2], "logs", {"namespace": "shop", "pod": "web"}, f"l{number}"
            )
        code, message = self.refusal(self.client, "logs", {"namespace": "shop", "pod": "web"})
        self.assertEqual(code, "too_many_requests")
        self.assertIn(f"no more than {most} log streams", message)


class ResumeTests(LogCase):
    """Who was cut goes on where it was."""

    def place(self) -> str:
        """Of the last lines that have come; the stream is then cancelled."""
        place: str = self.client.take("log")[-1]["data"]["place"]
        self.say_to(self.client, "cancel", {"id": "1"}, "2")
        self.client.take()
        return place

    def told(self) -> list[str]:
        """Lines and markers."""
        told: list[str] = []
        for each in self.client.take("log"):
            data = each["data"]
            told += [f"<{data['marker']}>"] if "marker" in data else [one["line"] for one in data["lines"]]
        return told

    def test_goes_on(self) -> None:
        """Nothing twice and nothing lost, where many lines are of one moment; what C{tail} says is old."""
        self.write("one", "two", "two")
        self.ask_logs()
        place = self.place()
        self.write("two", "three")
        self.write("four", at=1)
        self.ask_logs(after=place, tail=1)
        self.assertEqual(self.told(), ["<resumed>", "two", "three", "four"])
        self.write("five", at=2)
        after = self.client.take("log")[-1]["data"]
        self.assertEqual([each["line"] for each in after["lines"]], ["five"])
        self.say_to(self.client, "cancel", {"id": "1"}, "2")
        self.client.take()
        self.ask_logs(after=after["place"], follow=False)
        self.assertEqual(self.told(), ["<resumed>", "<complete>"])

    def test_within_a_line(self) -> None:
        """Also within a long line."""
        self.write("x" * 100_000, "end")
        self.ask_logs()
        first, *_ = self.client.take("log")
        self.assertTrue(first["data"]["lines"][0]["partial"])
        self.say_to(self.client, "cancel", {"id": "1"}, "2")
        self.client.take()
        self.ask_logs(after=first["data"]["place"])
        marker, *rest, end = self.told()
        whole = first["data"]["lines"][0]["line"] + "".join(rest)
        self.assertEqual((marker, whole, end), ("<resumed>", "x" * 100_000, "end"))

    def test_gap(self) -> None:
        """Where the place is not there any more, that is said."""
        self.write("one")
        self.ask_logs()
        place = self.place()
        self.kubelet.lines.clear()
        self.write("later", at=60)
        self.ask_logs(after=place)
        self.assertEqual(self.told(), ["<gap>", "later"])

    def test_several(self) -> None:
        """Each container has a place of its own."""
        self.pod("api", "main", "side")
        for name in ("main", "side"):
            self.write(f"{name} 1", container=("api", name))
        self.ask_logs(pod="api")
        place = self.place()
        for name in ("main", "side"):
            self.write(f"{name} 2", at=1, container=("api", name))
        self.ask_logs(pod="api", after=place)
        self.assertEqual(sorted(self.told()), ["<resumed>", "<resumed>", "main 2", "side 2"])

    def test_none(self) -> None:
        """What is no place is an error, whatever it is."""
        stamp = "2024-01-15T12:00:00.000000000Z"
        good = f"web/main={stamp}/1/3/0/1/{stamp}"
        for after in (
            "x",
            "=",
            "web/main",
            "web/main=",
            good.replace("/1/3", "/0/3"),
            good.replace("/3/", "/-3/"),
            good.replace("/3/", "/" + "9" * 99 + "/"),
            good.replace("/3/", "/\N{ARABIC-INDIC DIGIT THREE}/"),
            good.replace("2024-01", "2024-13"),
            good.replace("2024", "\N{FULLWIDTH DIGIT TWO}024"),
            good + "/",
            good + ",",
            ",".join(f"web/c{number}={stamp}/1/3/0/1/{stamp}" for number in range(21)),
        ):
            code, message = self.refusal(
                self.client, "logs", {"namespace": "shop", "pod": "web", "after": after}
            )
            self.assertEqual((code, "no place in a log" in message), ("bad_request", True), after)


class CommandTests(LogCase):
    """C{logs} as a command: the lines are its output."""

    def test_output(self) -> None:
        """As text, with its time where that is asked for."""
        self.write("one", "two")
        ended = self.command(self.client, "logs", "pod shop/web", seconds=3)
        self.assertEqual((ended["success"], output(self.said)), (True, "one\ntwo\n"))
        self.command(self.client, "logs", "pod shop/web", seconds=3, timestamps=True, tail=1)
        self.assertEqual(output(self.said), "2024-01-15T12:00:00.000000000Z two\n")

    def test_several(self) -> None:
        """Of several containers, each line says whose it is; a long line says it once."""
        self.pod("api", "main", "side")
        self.write("from main", container=("api", "main"))
        self.write("s" * 100_000, container=("api", "side"))
        self.command(self.client, "logs", "pod shop/api", seconds=3)
        self.assertEqual(
            sorted(output(self.said).splitlines()), ["[api/main] from main", "[api/side] " + "s" * 100_000]
        )

    def test_follow(self) -> None:
        """It follows as long as it may."""
        self.say_to(
            self.client, "command", command_of("logs", "pod shop/web", follow=True, timeout=5), seconds=3
        )
        self.write("one")
        self.assertEqual(output(self.client.take()), "one\n")
        self.advance(3)
        ended = self.client.take()[-1]["data"]
        self.assertEqual((ended["success"], ended["code"]), (False, "timed_out"))
        self.assertEqual(ended["error"], "logs: ended after 5 s, its timeout")

    def test_makes_no_sense(self) -> None:
        """Each with its sentence."""
        for target, fields, words in (
            ("deploy shop/web", {}, "logs is for pods"),
            ("pod shop/", {}, "the pod's name"),
            ("pod shop/web", {"command": ["x"]}, "takes no command"),
            ("pod shop/web", {"tail": "x"}, "tail"),
            ("pod shop/nope", {}, "not found"),
        ):
            ended = self.command(self.client, "logs", target, **fields)
            self.assertFalse(ended["success"])
            self.assertIn(words, ended["error"])
