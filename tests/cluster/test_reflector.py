"""Tests of L{pipeops_agent.cluster.reflector}, with L{watch} and the stores of L{inventory}."""

from __future__ import annotations

import json
from typing import Any

from pipeops_agent.cluster.inventory import Change, Store
from pipeops_agent.cluster.objects import KINDS, Kind, Pod
from pipeops_agent.cluster.reflector import DENIED_RETRY, PAGE, Reflector
from pipeops_agent.cluster.watch import BOOKMARK_SILENCE, GRACE, MAX_EVENT
from tests.cluster.case import FakeApiCase
from tests.cluster.fakeapi import Asked, Fault

PODS = next(kind for kind in KINDS if kind.name == "pods")


class ReflectorCase(FakeApiCase):
    """A store of pods, and a reflector that keeps it."""

    def setUp(self) -> None:
        super().setUp()
        self.changes: list[tuple[str, str]] = []
        self.mistakes = 0
        self.store: Store[Pod] = Store("pods", self._changed)
        self.reflector = self.make()

    def make(self, namespace: str | None = None, **more: Any) -> Reflector:
        return Reflector(
            self.clock,
            self.api,
            Kind(PODS.resource, PODS.wire, self.read),
            self.store.part(namespace),
            wall=self.wall,
            namespace=namespace,
            random=lambda: 0.5,
            **more,
        )

    def read(self, found: Any) -> Pod:
        """Read a pod, and make as many mistakes in that as asked for."""
        if self.mistakes:
            self.mistakes -= 1
            raise ZeroDivisionError
        pod: Pod = PODS.read(found)
        return pod

    def tearDown(self) -> None:
        self.reflector.stopService()
        super().tearDown()

    def _changed(self, change: Change) -> None:
        self.changes.append(("gone" if change.gone else "put", change.item.key))

    def start(self) -> None:
        self.reflector.startService()
        self.flush()

    @property
    def names(self) -> list[str]:
        return sorted(pod.key for pod in self.store)

    @property
    def state(self) -> str:
        status = self.store.status
        return "none" if status is None else status.state

    def asked(self, verb: str) -> int:
        return sum(seen[0] == verb for seen in self.server.seen)


class FollowTests(ReflectorCase):
    """A server that works."""

    def test_list_then_watch(self) -> None:
        """What is there is listed; what changes after is told by the watch, in order."""
        self.pod("a")
        self.start()
        self.assertEqual((self.names, self.state), (["shop/a"], "live"))
        self.pod("b")
        self.storage.replace("pods", "shop", "a", {"metadata": {}, "status": {"phase": "Failed"}})
        self.storage.delete("pods", "shop", "b")
        self.flush()
        self.assertEqual(self.names, ["shop/a"])
        found = self.store.get("a", "shop")
        assert found is not None
        self.assertEqual(found.status, "Failed")
        self.assertEqual(
            self.changes, [("put", "shop/a"), ("put", "shop/b"), ("put", "shop/a"), ("gone", "shop/b")]
        )

    def test_pages(self) -> None:
        """A long list comes in pages."""
        for number in range(2 * PAGE + 1):
            self.pod(f"pod-{number}")
        self.start()
        self.assertEqual(len(self.store), 2 * PAGE + 1)
        self.assertEqual(self.asked("list"), 3)

    def test_one_namespace(self) -> None:
        """The list of one namespace holds nothing of another, and forgets nothing of another."""
        self.pod("a", "shop")
        self.pod("b", "bank")
        self.reflector = self.make("shop")
        self.start()
        self.assertEqual(self.names, ["shop/a"])
        other = self.make("bank")
        other.startService()
        self.flush()
        self.storage.delete("pods", "shop", "a")
        self.server.end_watches()
        self.storage.compact()
        self.advance(5)
        self.assertEqual(self.names, ["bank/b"])
        other.stopService()

    def test_selector(self) -> None:
        """Labels select, in the list and in the watch."""
        self.pod("a")
        self.reflector = self.make(labels="app=a")
        self.start()
        self.pod("b")
        self.flush()
        self.assertEqual(self.names, ["shop/a"])

    def test_end_of_a_watch(self) -> None:
        """The server ends each watch after a while: it is taken up where it was, without a list."""
        self.pod("a")
        self.start()
        self.server.end_watches()
        self.pod("b")
        self.advance(2)
        self.assertEqual((self.names, self.state), (["shop/a", "shop/b"], "live"))
        self.assertEqual(self.asked("list"), 1)

    def test_watches_that_end_at_once(self) -> None:
        """A server that ends each watch at once is not asked more than once a second."""
        self.start()
        for _ in range(40):
            self.server.end_watches()
            self.advance(0.25)
        self.assertLessEqual(self.asked("watch"), 12)

    def test_bookmark(self) -> None:
        """A bookmark moves the place from which a watch goes on: history before it may be gone."""
        self.start()
        self.storage.create("nodes", "", {"metadata": {"name": "n"}})
        self.server.bookmark()
        self.flush()
        self.storage.compact()
        self.server.end_watches()
        self.advance(2)
        self.assertEqual((self.asked("list"), self.state), (1, "live"))

    def test_same_version_again(self) -> None:
        """What is told twice is one change."""
        self.pod("a")
        self.start()
        found = self.storage.get("pods", "shop", "a")
        self.server.write_to_watches(json.dumps({"type": "MODIFIED", "object": found}).encode() + b"\n")
        self.flush()
        self.assertEqual(self.changes, [("put", "shop/a")])

    def test_resync(self) -> None:
        """After a while the whole list is looked at again, whatever the watch said."""
        self.reflector = self.make(resync=600.0)
        self.pod("a")
        self.start()
        for _ in range(3):
            self.advance(250)
            self.server.end_watches()
            self.advance(2)
        self.assertEqual((self.asked("list"), self.state), (2, "live"))

    def test_stop(self) -> None:
        """Stopped in the middle of a watch, nothing is left: tearDown sees to that. What was known stays."""
        self.pod("a")
        self.start()
        self.reflector.stopService()
        self.flush()
        self.assertEqual(self.names, ["shop/a"])


class TroubleTests(ReflectorCase):
    """A server, or a way to it, that does not work."""

    def test_history_too_short(self) -> None:
        """410 on the watch: listed anew, and what went meanwhile is gone."""
        self.pod("a")
        self.pod("b")
        self.start()
        self.server.faults.append(Fault(verb="watch", times=1, code=410, body=b""))
        self.server.end_watches()
        self.storage.delete("pods", "shop", "a")
        self.advance(4)
        self.assertEqual((self.names, self.state), (["shop/b"], "live"))
        self.assertEqual(self.asked("list"), 2)

    def test_expired_within_the_watch(self) -> None:
        """The same as an ERROR event."""
        self.pod("a")
        self.start()
        self.server.write_to_watches(
            b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}\n'
        )
        self.advance(4)
        self.assertEqual((self.asked("list"), self.state), (2, "live"))

    def test_expired_between_pages(self) -> None:
        """A list whose next page is not there any more is begun anew."""
        for number in range(PAGE + 1):
            self.pod(f"pod-{number}")
        self.server.allowed = self.compact_on_second_page
        self.start()
        self.advance(4)
        self.assertEqual((len(self.store), self.state), (PAGE + 1, "live"))
        self.assertEqual(self.asked("list"), 4)

    def compact_on_second_page(self, asked: Asked) -> bool:
        """Forget the history when the second page is asked for; allow everything."""
        if self.asked("list") == 2 and asked.verb == "list":
            self.storage.version += 1
            self.storage.compact()
        return True

    def test_cut(self) -> None:
        """A watch that is cut goes on where it was, after a wait; meanwhile the list is said to be broken."""
        self.pod("a")
        self.start()
        self.server.faults.append(Fault(verb="watch", times=8, code=0))
        self.server.end_watches(cut=True)
        self.flush()
        self.assertEqual((self.names, self.state), (["shop/a"], "broken"))
        self.pod("b")
        self.advance(60)
        self.assertEqual((self.names, self.state), (["shop/a", "shop/b"], "live"))
        self.assertEqual(self.asked("list"), 1)

    def test_woken(self) -> None:
        """Broken, and told that the server answers again: it looks within a second, whatever the wait."""
        self.pod("a")
        self.start()
        self.server.faults.append(Fault(verb="watch", times=1000, code=0))
        self.server.end_watches(cut=True)
        self.advance(200, step=1)
        self.server.faults.clear()
        while self.server.seen:  # an attempt has just failed: the next is half a minute away at least
            self.server.seen.clear()
            self.advance(1)
        self.assertEqual(self.state, "broken")
        self.reflector.wake()
        self.advance(1)
        self.assertEqual((self.names, self.state), (["shop/a"], "live"))
        self.reflector.wake()  # nothing waits any more
        self.assertEqual(self.asked("watch"), 1)

    def test_denied_is_not_woken(self) -> None:
        """What is denied is no matter of whether the server answers."""
        self.server.allowed = lambda asked: False
        self.start()
        self.reflector.wake()
        self.advance(DENIED_RETRY - 1, step=1)
        self.assertEqual((self.asked("list"), self.state), (1, "denied"))

    def test_silence(self) -> None:
        """A watch that has had bookmarks and falls silent is dead: it is replaced."""
        self.start()
        self.server.bookmark()
        self.flush()
        watch = self.server.watches.pop()
        watch._stop()  # the server has forgotten us, the connection has not noticed
        self.pod("a")
        self.advance(BOOKMARK_SILENCE + 4, step=1)
        self.assertEqual((self.names, self.state), (["shop/a"], "live"))

    def test_server_that_does_not_end_a_watch(self) -> None:
        """Without bookmarks a watch is given up when the server should have ended it, and a bit."""
        self.start()
        watch = self.server.watches.pop()
        watch._stop()
        self.pod("a")
        self.advance(240 + GRACE, step=1)
        self.assertEqual(self.names, [])
        self.advance(240, step=1)
        self.assertEqual(self.names, ["shop/a"])

    def test_denied(self) -> None:
        """Without the right it says so, asks again every few minutes only, and finds a right granted."""
        allowed = False
        self.server.allowed = lambda asked: allowed
        self.pod("a")
        self.start()
        status = self.store.status
        assert status is not None
        self.assertEqual(status.state, "denied")
        self.assertIn("cannot list", status.message)
        self.advance(DENIED_RETRY - 1, step=1)
        self.assertEqual(self.asked("list"), 1)
        allowed = True
        self.advance(2)
        self.assertEqual((self.names, self.state), (["shop/a"], "live"))

    def test_right_lost(self) -> None:
        """A right that is taken away while watching is noticed at the next watch; what was known stays."""
        self.pod("a")
        self.start()
        self.server.allowed = lambda asked: False
        self.server.end_watches()
        self.advance(2)
        self.assertEqual((self.names, self.state), (["shop/a"], "denied"))

    def test_absent(self) -> None:
        """A server without this resource: it is absent, and asked for again later."""
        self.server.faults.append(Fault(times=100, code=404, body=b"404 page not found"))
        self.start()
        self.assertEqual(self.state, "absent")

    def test_no_json(self) -> None:
        """A line of a watch that is no event: broken, named, listed anew."""
        self.pod("a")
        self.start()
        lines = (
            b'{"type":"ADDED","object":\n',
            b'{"type":"ADDED","object":{"metadata":{"name":"\xff"}}}\n',
            b'{"type":"ADDED","object":' + b"[" * 100_000 + b"\n",
            b'{"type":"ADDED","object":{"metadata":[]}}\n',
            b'{"type":"ERROR","object":"what?"}\n',
            b"<html>\n",
        )
        for count, line in enumerate(lines, 2):
            self.server.write_to_watches(line)
            self.flush()
            status = self.store.status
            assert status is not None
            self.assertEqual(status.state, "broken", line[:80])
            self.assertIn("watch pods: a line is no event", status.message)
            self.until(lambda: self.state == "live", 60)
            self.assertEqual(self.asked("list"), count)

    def test_object_of_20_megabytes(self) -> None:
        """In a watch it is too long an event: broken, named, listed anew; a list may hold it."""
        self.start()
        self.pod("big", metadata={"name": "big", "annotations": {"x": "x" * 20_000_000}})
        self.pod("small")
        self.flush()
        status = self.store.status
        assert status is not None
        self.assertEqual(status.state, "broken")
        self.assertIn(f"watch pods: a line is longer than {MAX_EVENT} bytes", status.message)
        self.advance(4)
        self.assertEqual((self.names, self.state), (["shop/big", "shop/small"], "live"))
        self.assertEqual(self.asked("list"), 2)

    def test_flood(self) -> None:
        """5,000 changes at once: each is told, in order."""
        self.start()
        for number in range(1_250):
            self.pod(f"p{number}")
            for phase in ("Failed", "Running"):
                changed = {"metadata": {}, "status": {"phase": phase}}
                self.storage.replace("pods", "shop", f"p{number}", changed)
            if number % 2:
                self.storage.delete("pods", "shop", f"p{number}")
            else:
                self.storage.replace("pods", "shop", f"p{number}", {"metadata": {}})
        self.flush()
        told = [
            (what, f"shop/p{number}")
            for number in range(1_250)
            for what in ("put", "put", "put", "gone" if number % 2 else "put")
        ]
        self.assertEqual(self.changes, told)
        self.assertEqual((self.state, self.asked("list"), len(self.store)), ("live", 1, 625))

    def test_html(self) -> None:
        """A server that answers pages of HTML: broken, tried again with growing waits, then well again."""
        self.server.faults.append(Fault(times=20, code=200, body=b"<html>sign in</html>"))
        self.pod("a")
        self.start()
        self.assertEqual(self.state, "broken")
        self.advance(60, step=1)
        self.assertLess(self.asked("list"), 10)
        self.server.faults.clear()
        self.advance(60, step=1)
        self.assertEqual((self.names, self.state), (["shop/a"], "live"))

    def test_own_mistake(self) -> None:
        """An error of our own does not end it: it is logged, and the list begun anew."""
        self.mistakes = 1
        self.pod("a")
        self.start()
        self.assertEqual(self.state, "broken")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.advance(4)
        self.assertEqual((self.names, self.state), (["shop/a"], "live"))
