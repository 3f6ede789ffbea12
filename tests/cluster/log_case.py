"""Logs of pods of the fake API server, with what a test reads of them."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from pipeops_agent.caller import Caller, Grant
from pipeops_agent.cluster.log_items import Item, LogLine, LogMarker, LogOptions
from pipeops_agent.cluster.logs import LogRequest, Logs, LogStream
from pipeops_agent.cluster.reach import Reach
from pipeops_agent.cluster.scope import Scope
from tests.cluster.case import FakeApiCase
from tests.cluster.fakeapi.logs import FakeLogs

WEB = ("web", "main")
NOON = 1_772_625_600.0
CALLER = Caller(subject="someone", scopes=frozenset({Grant("read")}), origin="a test")
RUNNING: dict[str, Any] = {"running": {"startedAt": "2026-03-04T12:00:00Z"}}
FAILED: dict[str, Any] = {"terminated": {"exitCode": 3, "reason": "Error"}}


class LogCase(FakeApiCase):
    """A pod C{web} with a container C{main} whose log a test writes."""

    def setUp(self) -> None:
        super().setUp()
        self.kubelet = FakeLogs()
        self.server.handlers["pods/log"] = self.kubelet
        self.scope = Scope()
        self.streams: list[LogStream] = []
        self.container("web", "main")

    def tearDown(self) -> None:
        for stream in self.streams:
            stream.close()
        self.flush()
        self.assertEqual(self.kubelet.following, [])
        super().tearDown()

    def container(self, pod: str, *names: str, policy: str = "Always", phase: str = "Running") -> None:
        """A pod with such containers, all running."""
        status = [{"name": name, "restartCount": 0, "state": RUNNING} for name in names]
        self.pod(
            pod,
            metadata={"name": pod, "labels": {"app": "shop"}},
            spec={"restartPolicy": policy, "containers": [{"name": name} for name in names]},
            status={"phase": phase, "containerStatuses": status},
        )

    def now(self, state: dict[str, Any], restarts: int = 0, last: dict[str, Any] | None = None) -> None:
        """What the pod C{web} says of its container from now on."""
        pod = self.storage.get("pods", "shop", "web")
        status = {"name": "main", "restartCount": restarts, "state": state, "lastState": last or {}}
        self.storage.replace("pods", "shop", "web", {**pod, "status": {"containerStatuses": [status]}})

    def write(self, *texts: bytes, at: float, container: tuple[str, str] = WEB) -> None:
        """Lines, C{at} seconds after noon."""
        for text in texts:
            self.kubelet.write(container, text, NOON + at)
        self.flush()

    def opening(self, *, caller: Caller = CALLER, **request: Any) -> Deferred[LogStream]:
        options = {name: request.pop(name) for name in LogOptions.__struct_fields__ if name in request}
        if "labels" not in request:
            request.setdefault("pod", "web")
        asked = LogRequest(**{"namespace": "shop", **request}, options=LogOptions(**options))
        return self.begin(
            Logs(self.clock, self.api, Reach(scope=self.scope), random=lambda: 0.5).open(caller, asked)
        )

    def open(self, **request: Any) -> LogStream:
        opening = self.opening(**request)
        self.advance(2)
        stream: LogStream = self.successResultOf(opening)
        self.streams.append(stream)
        return stream

    def read(self, stream: LogStream, seconds: float = 0.0) -> list[Item]:
        """What comes with the next read, within so many seconds."""
        return self.result(stream.read(), seconds)

    def texts(self, stream: LogStream, count: int) -> list[bytes]:
        """The next so many lines, and no marker between them."""
        lines: list[bytes] = []
        while len(lines) < count:
            for item in self.read(stream):
                assert isinstance(item, LogLine), item
                lines.append(item.data)
        return lines

    def marker(self, stream: LogStream, what: str, seconds: float = 0.0) -> LogMarker:
        """The next item, which is such a marker."""
        (item,) = self.read(stream, seconds)
        assert isinstance(item, LogMarker), item
        self.assertEqual(item.what, what)
        return item

    def check(self, marker: Item, what: str, line: Item, text: bytes) -> None:
        """A marker of this sort, and a line of C{web} with this text."""
        assert isinstance(marker, LogMarker), marker
        self.assertEqual((marker.what, line), (what, LogLine("web", "main", text)))

    def refusal(self, kind: type[Any], **request: Any) -> str:
        """Why a log can't be opened."""
        opening = self.opening(**request)
        self.advance(3)
        return str(self.failureResultOf(opening, kind).value)
