"""C{pods/log} of the fake API server: what a kubelet keeps of its containers, and how it hands it out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from twisted.web.server import NOT_DONE_YET, Request

from tests.cluster.fakeapi.server import FakeApi
from tests.cluster.fakeapi.watches import Asked


class Line(NamedTuple):
    """A line as it was written: C{at} in nanoseconds since 1970."""

    at: int
    text: bytes


class Open(NamedTuple):
    """A log that is being followed."""

    container: tuple[str, str]
    request: Request
    asked: dict[str, str]


class FakeLogs:
    """
    Give it to L{FakeApi.handlers} as C{pods/log}.

    As the real one: the head of an answer waits for the first byte; C{sinceTime} counts whole seconds, and
    each line is looked at for itself, in the order of the file.

    @ivar asked: the query of each request.
    """

    def __init__(self) -> None:
        self.lines: dict[tuple[str, str], list[Line]] = {}
        self.asked: list[dict[str, str]] = []
        self.following: list[Open] = []

    def __call__(self, api: FakeApi, asked: Asked, request: Request) -> Any:
        self.asked.append(asked.query)
        pod = api.storage.get("pods", asked.namespace or "", asked.name or "")
        container = (pod["metadata"]["name"], asked.query["container"])
        since = asked.query.get("sinceTime", "1970-01-01T00:00:00Z")
        first = int(datetime.fromisoformat(since).timestamp()) * 1_000_000_000
        lines = [line for line in self.lines.get(container, []) if line.at >= first]
        if "tailLines" in asked.query:
            lines = lines[len(lines) - min(len(lines), int(asked.query["tailLines"])) :]
        for line in lines:
            request.write(written(line))
        if asked.query.get("follow") != "true":
            request.finish()
            return NOT_DONE_YET
        opened = Open(container, request, asked.query)
        self.following.append(opened)
        request.notifyFinish().addBoth(lambda _: self.following.remove(opened))
        return NOT_DONE_YET

    def write(self, container: tuple[str, str], text: bytes, at: float) -> None:
        """A container writes a line, C{at} seconds since 1970; who follows gets it."""
        line = Line(round(at * 1000) * 1_000_000, text)
        self.lines.setdefault(container, []).append(line)
        self.send(container, written(line))

    def send(self, container: tuple[str, str], data: bytes) -> None:
        """Send just this to those who follow."""
        for opened in self.following:
            if opened.container == container:
                opened.request.write(data)

    def end(self, *, cut: bool = False) -> None:
        """End all answers; or lose their connections."""
        for opened in tuple(self.following):
            if cut:
                opened.request.loseConnection()
            else:
                opened.request.finish()


def written(line: Line) -> bytes:
    """A line as the kubelet sends it."""
    return stamp(line.at).encode() + b" " + line.text + b"\n"


def stamp(at: int) -> str:
    """Nanoseconds since 1970 as the kubelet writes them."""
    seconds, rest = divmod(at, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).strftime(f"%Y-%m-%dT%H:%M:%S.{rest:09d}Z")
