"""Tests of L{pipeops_agent.cluster.log_source}: logs that are followed through cuts and restarts."""

from __future__ import annotations

from typing import Any

from pipeops_agent.cluster.log_items import LogLine, LogMarker
from pipeops_agent.cluster.log_source import (
    CAUGHT_UP,
    NEXT_RUN,
    RENEW,
    SETTLE,
    SETTLES,
)
from pipeops_agent.cluster.logs import LogStream
from tests.cluster.fakeapi import Fault
from tests.cluster.fakeapi.logs import stamp
from tests.cluster.log_case import FAILED, NOON, RUNNING, WEB, LogCase


class FollowTests(LogCase):
    """What happens while a log is followed."""

    def follow(self, **options: Any) -> LogStream:
        """Follow the log of C{web}, whose one line has been read."""
        self.write(b"one", at=1)
        stream = self.open(follow=True, **options)
        self.assertEqual(self.texts(stream, 1), [b"one"])
        return stream

    def test_lines_as_they_come(self) -> None:
        """A read waits for the next line."""
        stream = self.follow()
        reading = self.begin(stream.read())
        self.assertNoResult(reading)
        self.write(b"two", at=2)
        self.assertEqual(self.successResultOf(reading), [LogLine("web", "main", b"two")])

    def test_idle(self) -> None:
        """Nothing for a while is told, again and again, and the stream goes on."""
        stream = self.follow(idle=10.0)
        for _ in range(3):
            self.marker(stream, "idle", 10.5)
        self.write(b"two", at=2)
        self.assertEqual(self.texts(stream, 1), [b"two"])
        self.assertEqual(len(self.kubelet.asked), 1)

    def test_empty_log(self) -> None:
        """A container that has said nothing yet is idle, though the server has not even answered."""
        stream = self.open(follow=True, idle=10.0)
        self.marker(stream, "idle", 10.5)
        self.marker(stream, "idle", 10.5)
        self.write(b"one", at=1)
        self.assertEqual(self.texts(stream, 1), [b"one"])

    def test_renewed(self) -> None:
        """After a long silence the log is asked for again: its connection may be dead. Nothing is doubled."""
        stream = self.follow(idle=RENEW)
        self.marker(stream, "idle", RENEW + 1)
        reading = self.begin(stream.read())
        self.advance(1)
        self.assertEqual(len(self.kubelet.asked), 2)
        self.write(b"two", at=2)
        self.assertEqual(self.successResultOf(reading), [LogLine("web", "main", b"two")])

    def test_cut(self) -> None:
        """A lost connection is told, then that it goes on; no line is lost or doubled."""
        stream = self.follow()
        self.kubelet.end(cut=True)
        self.flush()
        self.assertIn("lost", self.marker(stream, "cut").sentence)
        self.write(b"two", at=1.2)
        resumed, line = self.read(stream, 1)
        self.check(resumed, "resumed", line, b"two")
        self.assertEqual(self.kubelet.asked[-1]["sinceTime"], "2026-03-04T12:00:00Z")
        self.assertNotIn("tailLines", self.kubelet.asked[-1])

    def test_cut_within_a_line(self) -> None:
        """The half line is not handed out; it comes again, whole."""
        stream = self.follow()
        half = stamp(round((NOON + 2) * 1e9)).encode() + b" tw"
        self.kubelet.send(WEB, half)
        self.flush()
        reading = self.begin(stream.read())
        self.assertNoResult(reading)
        self.kubelet.end(cut=True)
        self.flush()
        (cut,) = self.successResultOf(reading)
        self.assertEqual(getattr(cut, "what", ""), "cut")
        self.write(b"two", at=2)
        self.assertEqual(self.read(stream, 1)[-1], LogLine("web", "main", b"two"))

    def test_cut_before_the_first_line(self) -> None:
        """With nothing read yet the log is asked for as before; lines written meanwhile are in it."""
        for tail, expected in ((3, {"tailLines": "3"}), (0, {"sinceSeconds": "4"})):
            self.kubelet.asked.clear()
            self.kubelet.lines.clear()
            stream = self.open(follow=True, tail=tail)
            self.kubelet.send(WEB, b" ")  # the head, at least
            self.flush()
            self.kubelet.end(cut=True)
            self.flush()
            self.marker(stream, "cut")
            self.advance(0.5)
            self.write(b"one", at=3)
            resumed, line = self.read(stream, 1)
            self.check(resumed, "resumed", line, b"one")
            again = self.kubelet.asked[-1]
            self.assertEqual({name: again[name] for name in expected}, expected)

    def test_rotated_meanwhile(self) -> None:
        """Where the log has been rotated since, the gap says from when to when lines may be missing."""
        stream = self.follow()
        self.kubelet.end(cut=True)
        self.flush()
        self.marker(stream, "cut")
        self.kubelet.lines.clear()
        self.write(b"nine", at=9)
        gap, line = self.read(stream, 1)
        assert isinstance(gap, LogMarker)
        times = [stamp(round((NOON + at) * 1e9)) for at in (1, 9)]
        self.assertEqual((gap.what, gap.since, gap.until), ("gap", *times))
        self.assertEqual(line, LogLine("web", "main", b"nine"))

    def test_emptied_meanwhile(self) -> None:
        """The last line is not there any more, nor anything new: the gap is told when all has come."""
        stream = self.follow()
        self.kubelet.end(cut=True)
        self.flush()
        self.marker(stream, "cut")
        self.kubelet.lines[WEB] = []
        self.write(b"zero", at=0.5)
        self.marker(stream, "gap", CAUGHT_UP * 2 + 1)
        self.write(b"two", at=2)
        self.assertEqual(self.texts(stream, 1), [b"two"])

    def test_api_server_is_away(self) -> None:
        """While the API server can't be had that is told, and tried again for ever, ever more slowly."""
        stream = self.follow()
        self.server.faults.append(Fault("/api", times=40, code=503))
        self.kubelet.end(cut=True)
        self.flush()
        for _ in range(4):
            self.marker(stream, "cut", 60)
        self.server.faults.clear()
        self.write(b"two", at=2)
        found = self.read(stream, 60)
        self.assertEqual(found[-1], LogLine("web", "main", b"two"))

    def test_ended_by_the_server(self) -> None:
        """A clean end while the container runs on is a cut: between API server and node."""
        stream = self.follow()
        self.kubelet.end()
        self.flush()
        self.assertIn("runs on", self.marker(stream, "cut", SETTLE * SETTLES + 1).sentence)
        self.write(b"two", at=2)
        self.assertEqual(self.read(stream, 2)[-1], LogLine("web", "main", b"two"))

    def test_container_ended(self) -> None:
        """Its exit code and reason are told, and where it is not started again nothing follows."""
        self.container("job", "main", policy="Never")
        self.write(b"one", at=1, container=("job", "main"))
        stream = self.open(pod="job", follow=True)
        self.assertEqual(self.texts(stream, 1), [b"one"])
        self.kubelet.end()
        self.advance(SETTLE)  # the pod says it a little later
        pod = self.storage.get("pods", "shop", "job")
        status = [
            {
                "name": "main",
                "restartCount": 0,
                "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
            }
        ]
        self.storage.replace("pods", "shop", "job", {**pod, "status": {"containerStatuses": status}})
        ended = self.marker(stream, "ended", SETTLE * SETTLES)
        self.assertEqual((ended.exit_code, ended.reason), (137, "OOMKilled"))
        self.assertIn("exit code 137: OOMKilled", ended.sentence)
        self.assertEqual(self.read(stream), [])

    def test_restarted(self) -> None:
        """A container that is started again is followed into its next run, from its first line."""
        stream = self.follow()
        self.now(FAILED)
        self.kubelet.end()
        self.flush()
        self.assertEqual(self.marker(stream, "ended").exit_code, 3)
        self.kubelet.lines.clear()
        self.now(RUNNING, 1, FAILED)
        self.write(b"again", at=1.1)
        self.assertIn("run 2", self.marker(stream, "restarted", NEXT_RUN).sentence)
        self.assertEqual(self.texts(stream, 1), [b"again"])

    def test_crash_loop(self) -> None:
        """Runs that came and went between two looks are counted as missing; the wait is told."""
        stream = self.follow(idle=5.0)
        self.now({"waiting": {"reason": "CrashLoopBackOff"}}, 0, FAILED)
        self.kubelet.end()
        self.flush()
        self.marker(stream, "ended")
        self.marker(stream, "idle", 7)
        self.kubelet.lines.clear()
        self.now({"waiting": {"reason": "CrashLoopBackOff"}}, 3, FAILED)
        self.write(b"third", at=9)
        restarted, gap = self.read(stream, NEXT_RUN)
        assert isinstance(restarted, LogMarker)
        assert isinstance(gap, LogMarker)
        self.assertEqual((restarted.what, gap.what), ("restarted", "gap"))
        self.assertIn("2 runs", gap.sentence)
        self.assertEqual(self.texts(stream, 1), [b"third"])
        self.kubelet.end()
        self.flush()
        self.marker(stream, "ended")

    def test_never_started_again(self) -> None:
        """A pod that is over does not start its container again, whatever its policy."""
        stream = self.follow()
        self.now(FAILED)
        self.kubelet.end()
        self.flush()
        self.marker(stream, "ended")
        pod = self.storage.get("pods", "shop", "web")
        self.storage.replace("pods", "shop", "web", {**pod, "status": {**pod["status"], "phase": "Failed"}})
        self.marker(stream, "complete", NEXT_RUN)
        self.assertEqual(self.read(stream), [])

    def test_deleted(self) -> None:
        """A pod that is gone ends the stream, and says so."""
        stream = self.follow()
        self.storage.delete("pods", "shop", "web")
        self.kubelet.end()
        self.flush()
        self.marker(stream, "gone")
        self.assertEqual(self.read(stream), [])

    def test_replaced(self) -> None:
        """Another pod of the same name is another pod."""
        stream = self.follow()
        self.kubelet.end(cut=True)
        self.flush()
        self.marker(stream, "cut")
        self.storage.delete("pods", "shop", "web")
        self.container("web", "main")
        self.marker(stream, "gone", 1)

    def test_restarted_during_a_cut(self) -> None:
        """What the earlier run said after the cut can't be had: a gap."""
        stream = self.follow()
        self.kubelet.end(cut=True)
        self.flush()
        self.marker(stream, "cut")
        self.kubelet.lines.clear()
        self.now(RUNNING, 1, FAILED)
        self.write(b"again", at=5)
        self.marker(stream, "restarted", 1)
        gap, line = self.read(stream)
        self.check(gap, "gap", line, b"again")

    def test_rights_taken_away(self) -> None:
        """403 when it is asked for again: that is the end, with its sentence."""
        stream = self.follow()
        self.server.allowed = lambda asked: False
        self.kubelet.end(cut=True)
        self.flush()
        self.marker(stream, "cut")
        self.assertIn("cannot get", self.marker(stream, "failed", 1).sentence)
        self.assertEqual(self.read(stream), [])

    def test_cut_again_and_again(self) -> None:
        """Whatever is cut at whatever line: every line comes once, in order."""
        expected = [b"one"] + [f"line {number}".encode() for number in range(60)]
        stream = self.open(follow=True)
        self.write(b"one", at=0)
        found: list[bytes] = []
        reading = self.begin(stream.read())
        for number in range(60):
            self.write(f"line {number}".encode(), at=number * 0.05)
            if number % 7 == 3:
                self.kubelet.end(cut=True)
            self.advance(1)
            while reading.called:
                found += [item.data for item in self.successResultOf(reading) if isinstance(item, LogLine)]
                reading = self.begin(stream.read())
        self.advance(40)
        while reading.called:
            found += [item.data for item in self.successResultOf(reading) if isinstance(item, LogLine)]
            reading = self.begin(stream.read())
        self.assertEqual(found, expected)
        stream.close()
        self.assertEqual(self.successResultOf(reading), [])
