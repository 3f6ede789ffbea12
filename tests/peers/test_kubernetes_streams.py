"""Logs, exec, attach and port-forward against real pods of a real Kubernetes."""

from __future__ import annotations

import os
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred

from pipeops_agent.caller import Caller
from pipeops_agent.cluster.errors import StatusError, Unreachable
from pipeops_agent.cluster.kubeconfig import load_kubeconfig
from pipeops_agent.cluster.log_items import LogLine, LogMarker, LogOptions
from pipeops_agent.cluster.logs import LogRequest, Logs, LogStream
from pipeops_agent.cluster.pod_state import PodState
from pipeops_agent.cluster.reach import Reach
from pipeops_agent.cluster.resources import PODS
from pipeops_agent.cluster.sessions import Chunk, ExecSession, PortForward, StreamCut
from pipeops_agent.cluster.streaming import Streams, Terminal
from pipeops_agent.net import Connector
from pipeops_agent.scheduling import sleep
from tests.cluster.case import EVERYTHING
from tests.peers.kubernetes.busybox import IMAGE, cluster_with_busybox
from tests.peers.kubernetes.case import PATIENCE, KubernetesCase
from tests.peers.kubernetes.client import no_plugin

S = TypeVar("S", ExecSession, PortForward)

CALLER = Caller(subject="a test", scopes=EVERYTHING, origin="a test")


class PodsCase(KubernetesCase):
    """With pods that run shell scripts."""

    start = staticmethod(cluster_with_busybox)

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        await super().setUp()
        config = load_kubeconfig(self.kube.kubeconfig, "", no_plugin)
        connector = Connector(cast(Any, self.reactor), connect_timeout=10.0)
        self.logs = Logs(self.reactor, self.api, Reach())
        self.streams = Streams(self.reactor, connector, config, Reach(), version="0", observe=lambda *_: None)

    async def pod(self, name: str, script: str, *, running: bool = True, policy: str = "Always") -> None:
        """Let there be a pod whose container C{main} runs C{script}; wait until it does."""
        container = {
            "name": "main",
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "command": ["sh", "-c", script],
            "stdin": True,
        }
        body = {
            "metadata": {"name": name, "labels": {"test": "streams"}},
            "spec": {
                "containers": [container],
                "restartPolicy": policy,
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": False,
            },
        }
        await self.api.create(dict, PODS, body, namespace=self.namespace)
        end = self.reactor.seconds() + PATIENCE
        while running:
            status = (await self.api.get(PodState, PODS, name, namespace=self.namespace)).container("main")
            if status.state.running is not None or status.state.terminated is not None:
                break
            self.assertLess(self.reactor.seconds(), end, f"pod {name} does not start")
            await sleep(self.reactor, 0.2)

    async def open(self, pod: str = "", labels: str = "", **options: Any) -> LogStream:
        """Begin to read logs."""
        request = LogRequest(namespace=self.namespace, pod=pod, labels=labels, options=LogOptions(**options))
        stream = await self.in_time(self.logs.open(CALLER, request))
        self.addCleanup(stream.close)
        return stream

    async def exec(self, pod: str, *command: str, **terminal: Any) -> ExecSession:
        """Run a command in a pod."""
        place = Terminal(namespace=self.namespace, pod=pod, **terminal)
        return self.kept(await self.in_time(self.streams.exec(CALLER, place, command)))

    def kept(self, session: S) -> S:
        """Close it after the test, and wait until its connection is gone."""
        self.addCleanup(lambda: Deferred.fromCoroutine(self.until(lambda: session._socket._end is not None)))
        self.addCleanup(session.close)
        return session

    async def output(self, session: ExecSession) -> tuple[bytes, bytes]:
        """All that a command writes: stdout and stderr."""
        found = {"stdout": b"", "stderr": b""}
        while chunks := await self.in_time(session.read()):
            for chunk in chunks:
                found[chunk.stream] += chunk.data
        return found["stdout"], found["stderr"]


class LogTests(PodsCase):
    """
    Logs of real containers.

    @ivar markers: what was told beside the lines that L{read} has returned.
    """

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        await super().setUp()
        self.markers: list[str] = []

    async def read(self, stream: LogStream, lines: int) -> list[bytes]:
        """So many lines; markers are passed over."""
        found: list[bytes] = []
        while len(found) < lines:
            for item in await self.in_time(stream.read()):
                if isinstance(item, LogLine):
                    found.append(item.data)
                else:
                    self.markers.append(item.what)
        return found

    async def test_whole(self) -> None:
        """Any bytes, a long line in pieces, tail, and time stamps."""
        long = r"head -c 200000 /dev/zero | tr '\0' x"
        await self.pod("say", rf"printf 'one\n\377two\n'; {long}; echo; echo end; sleep 3600")
        stream = await self.open("say", follow=True)
        found, line = list[bytes](), b""
        while not found or found[-1] != b"end":
            for item in await self.in_time(stream.read()):
                assert isinstance(item, LogLine), item
                line += item.data
                if not item.partial:
                    found.append(line)
                    line = b""
        self.assertEqual(found, [b"one", b"\xfftwo", b"x" * 200000, b"end"])
        last, complete = await self.all(await self.open("say", tail=1, timestamps=True))
        assert isinstance(last, LogLine)
        self.assertEqual((last.data, len(last.time)), (b"end", 30))
        self.assertEqual(getattr(complete, "what", ""), "complete")

    async def all(self, stream: LogStream) -> list[LogLine | LogMarker]:
        found: list[LogLine | LogMarker] = []
        while items := await self.in_time(stream.read()):
            found += items
        return found

    async def test_silent(self) -> None:
        """A container that says nothing: the stream is there at once, idle, and has its first line later."""
        await self.pod("quiet", "read line; echo got $line; sleep 3600")
        stream = await self.open("quiet", follow=True, idle=1.0)
        (idle,) = await self.in_time(stream.read())
        self.assertEqual(getattr(idle, "what", ""), "idle")
        place = Terminal(namespace=self.namespace, pod="quiet", stdin=True)
        session = self.kept(await self.in_time(self.streams.attach(CALLER, place)))
        await session.write(b"it\n")
        self.assertEqual(await self.in_time(session.read()), [Chunk("stdout", b"got it\n")])
        session.close()
        self.assertEqual(await self.read(stream, 1), [b"got it"])

    async def test_cut_again_and_again(self) -> None:
        """Connections lost in the middle, and lines written meanwhile: each comes once, in order."""
        await self.pod(
            "count",
            "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i;"
            " [ $((i % 20)) = 0 ] && usleep 20000; done; sleep 3600",
        )
        stream = await self.open("count", follow=True)
        found: list[bytes] = []
        for cut in (200, 900, 901, 2000, 2990):
            found += await self.read(stream, max(1, cut - len(found)))
            (source,) = stream._idle
            connection: Any = source._connection
            if connection is not None and connection._stream is not None:
                connection._stream.transport.loseConnection()
        found += await self.read(stream, 3000 - len(found))
        self.assertEqual(found, [b"line %d" % number for number in range(1, 3001)])
        self.assertGreaterEqual(self.markers.count("cut"), 3)  # a cut of what is not there yet is none
        self.assertEqual(set(self.markers) - {"idle"}, {"cut", "resumed"})

    async def test_ended_and_restarted(self) -> None:
        """A container that fails: its exit code and reason; then its next run is followed."""
        await self.pod("crash", "echo begin; printf 'no line end'; sleep 1; exit 3")
        stream = await self.open("crash", follow=True)
        seen: list[Any] = []
        while len([item for item in seen if item == b"begin"]) < 2:
            for item in await self.in_time(stream.read()):
                seen.append(item.data if isinstance(item, LogLine) else item.what)
                if isinstance(item, LogMarker) and item.what == "ended":
                    self.assertEqual((item.exit_code, item.reason), (3, "Error"))
        told = [item for item in seen if item != "idle"]
        self.assertEqual(told[:5], [b"begin", b"no line end", "ended", "restarted", b"begin"])

    async def test_over(self) -> None:
        """One that has succeeded and is not started again ends the stream."""
        await self.pod("once", "echo one", policy="Never")
        items = await self.all(await self.open("once", follow=True))
        told = [item.data if isinstance(item, LogLine) else item.what for item in items]
        self.assertEqual(told, [b"one", "ended"])

    async def test_labels(self) -> None:
        """Several pods, merged."""
        for name in ("a", "b"):
            await self.pod(name, f"echo from {name}; sleep 3600")
        stream = await self.open(labels="test=streams", follow=True)
        self.assertEqual(sorted(await self.read(stream, 2)), [b"from a", b"from b"])

    async def test_refusals(self) -> None:
        """No such pod; a container that waits; one that had no run before: each with its sentence."""
        error = await self.assertFailure(Deferred.fromCoroutine(self.open("nope")), StatusError)
        self.assertIn('pods "nope" not found (404)', str(error))
        await self.pod("say", "echo one; sleep 3600")
        error = await self.assertFailure(Deferred.fromCoroutine(self.open("say", previous=True)), StatusError)
        self.assertIn("previous terminated container", str(error))


class StreamTests(PodsCase):
    """Exec, attach and port-forward into real containers."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        await super().setUp()
        await self.pod("box", "httpd -f -p 8080 -h /tmp & cat")

    async def test_exit_codes(self) -> None:
        """What a command writes, and how it ends."""
        for code in (0, 3):
            session = await self.exec("box", "sh", "-c", f"echo out; echo err >&2; exit {code}")
            self.assertEqual(await self.output(session), (b"out\n", b"err\n"))
            self.assertEqual(getattr(session.exit, "code", None), code)

    async def test_stdin(self) -> None:
        """A megabyte in, half-closed, and out again."""
        session, data = await self.exec("box", "cat", stdin=True), os.urandom(1 << 20)

        async def feed() -> None:
            await session.write(data)
            await session.close_stdin()

        feeding = Deferred.fromCoroutine(feed())
        self.assertEqual(await self.output(session), (data, b""))
        await feeding
        self.assertEqual(getattr(session.exit, "code", None), 0)

    async def test_terminal(self) -> None:
        """A terminal has the size that it is told."""
        session = await self.exec("box", "sh", "-c", "read line; stty size", stdin=True, tty=True)
        await session.resize(132, 43)
        await sleep(self.reactor, 0.5)
        await session.write(b"\n")
        self.assertIn(b"43 132", (await self.output(session))[0])

    async def test_slow_reader(self) -> None:
        """Twenty megabytes to a reader that rests: all of it."""
        session, size = await self.exec("box", "head", "-c", "20000000", "/dev/zero"), 0
        await sleep(self.reactor, 1.0)
        while chunks := await self.in_time(session.read()):
            size += sum(len(chunk.data) for chunk in chunks)
        self.assertEqual((size, getattr(session.exit, "code", None)), (20_000_000, 0))

    async def test_cut(self) -> None:
        """Cut in the middle it is never success."""
        session = await self.exec("box", "sh", "-c", "echo begin; sleep 3600")
        self.assertEqual(await self.in_time(session.read()), [Chunk("stdout", b"begin\n")])
        session._socket.transport.abortConnection()
        await self.assertFailure(Deferred.fromCoroutine(session.read()), StreamCut)
        self.assertIsNone(session.exit)

    async def test_refusals(self) -> None:
        """No such program, pod or container: each with the server's sentence."""
        session = await self.exec("box", "nope")
        error = await self.assertFailure(Deferred.fromCoroutine(session.read()), StatusError)
        self.assertIn("nope", str(error))
        for pod, container, code in (("gone", "", 404), ("box", "nope", 400)):
            running = Deferred.fromCoroutine(self.exec(pod, "true", container=container))
            refusal = await self.assertFailure(running, StatusError)
            self.assertEqual(getattr(refusal, "code", None), code)

    async def test_port_forward(self) -> None:
        """A request to a port of the pod and its answer; a port on which nobody listens."""
        forward = self.kept(
            await self.in_time(self.streams.port_forward(CALLER, self.namespace, "box", 8080))
        )
        await forward.write(b"GET /nothing HTTP/1.0\r\n\r\n")
        answer = b""
        while data := await self.in_time(forward.read()):
            answer += data
        self.assertTrue(answer.startswith(b"HTTP/1.1 404 Not Found"), answer)
        forward = self.kept(await self.in_time(self.streams.port_forward(CALLER, self.namespace, "box", 9)))
        await self.assertFailure(Deferred.fromCoroutine(self.in_time(forward.read())), Unreachable)
