"""Tests of L{pipeops_agent.cluster.logs}: what is asked for, refused, merged and given up."""

from __future__ import annotations

from typing import cast

from twisted.internet.defer import CancelledError

from pipeops_agent.caller import Caller, Grant
from pipeops_agent.cluster.errors import ClusterError, StatusError
from pipeops_agent.cluster.log_items import Item, LogLine, LogMarker
from pipeops_agent.cluster.log_source import (
    LogSource,
)
from pipeops_agent.cluster.logs import MAX_STREAMS, BadLogRequest, LogStream
from pipeops_agent.cluster.scope import OutOfReach, Scope
from pipeops_agent.secrets import Secret
from tests.cluster.fakeapi import Asked, Fault
from tests.cluster.fakeapi.logs import stamp
from tests.cluster.log_case import FAILED, NOON, RUNNING, WEB, LogCase


class OneTests(LogCase):
    """The log of one container, as it is asked for."""

    def test_all(self) -> None:
        """Every line, without its time, and then that this is all."""
        self.write(b"one", b"", b"\xff two", at=1)
        stream = self.open()
        items = self.read(stream)
        lines = [LogLine("web", "main", text) for text in (b"one", b"", b"\xff two")]
        self.assertEqual(items[:3], lines)
        self.assertEqual(lines[2].text, "\N{REPLACEMENT CHARACTER} two")
        self.assertEqual([item.what for item in items[3:] if isinstance(item, LogMarker)], [])
        self.marker(stream, "complete")
        self.assertEqual(self.read(stream), [])
        self.assertEqual(self.read(stream), [])

    def test_asked(self) -> None:
        """Each option goes to the server; time stamps are always asked for."""
        self.write(b"one", at=1)
        self.open(tail=5, since_seconds=60, previous=True, follow=True)
        asked = {"container": "main", "timestamps": "true", "previous": "true", "tailLines": "5"}
        self.assertEqual(self.kubelet.asked, [{**asked, "sinceSeconds": "60"}])

    def test_since_time(self) -> None:
        """A time to begin from goes to the server as it is."""
        self.open(since_time="2026-03-04T11:00:00Z")
        self.assertEqual(self.kubelet.asked[0]["sinceTime"], "2026-03-04T11:00:00Z")

    def test_timestamps(self) -> None:
        """Times are told where they are asked for."""
        self.write(b"one", at=1.5)
        (line,) = self.read(self.open(timestamps=True))
        self.assertEqual(line, LogLine("web", "main", b"one", stamp(round((NOON + 1.5) * 1e9))))

    def test_last_line_without_end(self) -> None:
        """Where the log ends without a line end the last line counts all the same."""
        self.write(b"one", at=1)
        stream = self.open(follow=True)
        self.assertEqual(self.texts(stream, 1), [b"one"])
        self.now(FAILED)
        self.kubelet.send(WEB, stamp(round((NOON + 2) * 1e9)).encode() + b" half")
        self.kubelet.end()
        line, ended = self.read(stream)
        self.check(ended, "ended", line, b"half")

    def test_long_line(self) -> None:
        """A line of 1 MiB comes in pieces marked as partial, the last one excepted."""
        text = bytes(range(32, 126)) * 11_155
        self.write(text, b"next", at=1)
        stream, lines = self.open(), list[LogLine]()
        while not lines or lines[-1].data != b"next":
            lines += [item for item in self.read(stream) if isinstance(item, LogLine)]
        self.assertEqual(b"".join(line.data for line in lines[:-1]), text)
        self.assertEqual({line.partial for line in lines[:-2]}, {True})
        self.assertEqual([line.partial for line in lines[-2:]], [False, False])

    def test_own_token(self) -> None:
        """It is read with the caller's own token."""
        self.server.users = {"token": "agent", "theirs": "somebody"}
        seen: list[str] = []

        def allowed(asked: Asked) -> bool:
            seen.append(asked.user)
            return True

        self.server.allowed = allowed
        self.open(caller=Caller(
            subject="x", scopes=frozenset({Grant("read")}), origin="", kubernetes_token=Secret("theirs")
        ))  # fmt: skip
        self.assertEqual(seen, ["somebody", "somebody"])


class RefusalTests(LogCase):
    """Why there is no log."""

    def test_no_pod(self) -> None:
        """404: the sentence names the pod."""
        self.assertIn('pods "nope" not found (404)', self.refusal(StatusError, pod="nope"))

    def test_forbidden(self) -> None:
        """403 on the log alone: the server's words say who may not do what."""
        self.server.allowed = lambda asked: asked.subresource != "log"
        self.assertIn("cannot get resource", self.refusal(StatusError))

    def test_waiting(self) -> None:
        """400: a container that has not started says so."""
        body = b'{"kind":"Status","code":400,"reason":"BadRequest","message":"container \\"main\\" in pod'
        body += b' \\"web\\" is waiting to start: ContainerCreating"}'
        self.server.faults.append(Fault("/api/v1/namespaces/shop/pods/web/log", code=400, body=body))
        self.assertIn("is waiting to start: ContainerCreating", self.refusal(StatusError, follow=True))

    def test_no_container(self) -> None:
        """The containers that there are are named."""
        self.assertIn("no container 'nope', but main", self.refusal(BadLogRequest, containers=("nope",)))

    def test_which(self) -> None:
        """Neither a pod nor a selector, or a selector that selects nothing."""
        self.assertIn("is needed", self.refusal(BadLogRequest, pod=""))
        self.assertIn("no container", self.refusal(BadLogRequest, labels="app=nope"))

    def test_out_of_reach(self) -> None:
        """The owner's rules come before any call."""
        self.scope = Scope(denied_namespaces=frozenset({"shop"}))
        self.refusal(OutOfReach)
        self.scope = Scope(denied_verbs=frozenset({"logs"}))
        self.refusal(OutOfReach)
        self.assertEqual(self.server.seen, [])

    def test_read_only(self) -> None:
        """Reading is allowed where only that is."""
        self.scope = Scope(read_only=True)
        self.open()

    def test_too_many(self) -> None:
        """More containers than are merged are refused, before any log is asked for."""
        self.container("many", *(f"c{number}" for number in range(MAX_STREAMS)))
        self.assertIn(f"more than {MAX_STREAMS}", self.refusal(BadLogRequest, labels="app=shop"))
        self.assertEqual(self.kubelet.asked, [])

    def test_unreachable(self) -> None:
        """An API server that does not answer is an error as well."""
        self.server.faults.append(Fault("/api", times=9, code=503))
        opening = self.opening()
        self.advance(30)
        self.failureResultOf(opening, ClusterError)


class CancelTests(LogCase):
    """Who stops at whatever stage leaves nothing behind; C{tearDown} looks."""

    def test_opening(self) -> None:
        """While it waits for the first byte."""
        opening = self.opening(follow=True)
        self.assertEqual(len(self.kubelet.following), 1)
        opening.cancel()
        self.failureResultOf(opening, CancelledError)

    def test_reading(self) -> None:
        """A cancelled read loses nothing."""
        stream = self.open(follow=True)
        reading = self.begin(stream.read())
        reading.cancel()
        self.failureResultOf(reading, CancelledError)
        self.write(b"one", at=1)
        self.assertEqual(self.texts(stream, 1), [b"one"])

    def test_closed(self) -> None:
        """Closed in each of its states: while waiting for lines, before going on, for the next run."""
        for state in ("lines", "cut", "settling", "run"):
            self.kubelet.lines.clear()
            self.now(RUNNING)
            stream = self.open(follow=True)
            self.write(b"one", at=1)
            self.texts(stream, 1)
            if state == "cut":
                self.kubelet.end(cut=True)
                self.flush()
                self.marker(stream, "cut")
            elif state == "settling":
                self.kubelet.end()
            elif state == "run":
                self.now(FAILED)
                self.kubelet.end()
                self.flush()
                self.marker(stream, "ended")
            reading = self.begin(stream.read())
            self.assertNoResult(reading)
            stream.close()
            stream.close()
            self.flush()
            self.assertEqual(self.successResultOf(reading), [])
            self.assertEqual(self.clock.getDelayedCalls(), [], state)


class MergedTests(LogCase):
    """Several logs in one stream."""

    def setUp(self) -> None:
        super().setUp()
        self.container("api", "main", "side")
        for container in (("api", "main"), ("api", "side"), WEB):
            self.write(b"of " + container[1].encode(), at=1, container=container)

    def everything(self, stream: LogStream) -> list[Item]:
        items: list[Item] = []
        while found := self.read(stream):
            items += found
        return items

    def test_labels(self) -> None:
        """Every container of every pod that is selected; each line names them."""
        items = self.everything(self.open(labels="app=shop"))
        lines = {(item.pod, item.container, item.data) for item in items if isinstance(item, LogLine)}
        expected = {("api", "main", b"of main"), ("api", "side", b"of side"), ("web", "main", b"of main")}
        self.assertEqual(lines, expected)
        self.assertEqual(len([item for item in items if isinstance(item, LogMarker)]), 3)

    def test_containers(self) -> None:
        """Of a pod all containers, or those that are named; of selected pods those that have them."""
        self.everything(self.open(pod="api"))
        self.everything(self.open(labels="app=shop", containers=("side",)))
        self.assertEqual([asked["container"] for asked in self.kubelet.asked], ["main", "side", "side"])

    def test_one_fails(self) -> None:
        """One that can't be read says so; the others go on."""
        self.server.faults.append(Fault("/api/v1/namespaces/shop/pods/web/log", code=403, body=b"no"))
        items = self.everything(self.open(labels="app=shop"))
        failed = [item for item in items if isinstance(item, LogMarker) and item.what == "failed"]
        self.assertEqual([item.pod for item in failed], ["web"])
        self.assertEqual(len([item for item in items if isinstance(item, LogLine)]), 2)

    def test_in_turn(self) -> None:
        """A log that never stops does not keep the others from being read."""
        stream = self.open(labels="app=shop", follow=True)
        seen: set[tuple[str, str]] = set()
        for number in range(3):
            self.write(*[b"busy"] * 50, at=2 + number, container=("api", "main"))
            seen |= {(item.pod, item.container) for item in self.read(stream)}
        self.assertEqual(len(seen), 3)

    def test_read_ahead(self) -> None:
        """Of a log that always has something no more than one portion is taken with each read."""
        taken: list[int] = []

        class Busy:
            async def read(self) -> list[Item]:
                taken.append(1)
                return [LogLine("web", "main", b"busy")]

            def close(self) -> None:
                """Nothing to close."""

        stream = LogStream([cast(LogSource, Busy())])
        for count in range(1, 4):
            self.assertEqual(len(self.read(stream)), 1)
            self.assertEqual(len(taken), count)

    def test_closed(self) -> None:
        """Closing ends all of them."""
        stream = self.open(labels="app=shop", follow=True)
        self.read(stream)
        self.assertEqual(len(self.kubelet.following), 3)
        stream.close()
        self.assertEqual(self.read(stream), [])
