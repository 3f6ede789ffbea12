"""Tests for L{pipeops_agent.web.api.connectivity}: probes on request, bounded, never twice at once."""

from __future__ import annotations

from typing import Any

from pipeops_agent.web.api.connectivity import AT_ONCE, FRESH, LIMIT, PATIENCE, Trials
from tests.web.api.case import ApiCase
from tests.web.harness import TOKEN, Client

PATH = "/api/status/connectivity"
REQUEST = f"GET {PATH} HTTP/1.1\r\nHost: agent\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()


class ConnectivityTests(ApiCase):
    """What is asked, and what is answered."""

    def begin(self) -> Client:
        """Ask, and wait."""
        client = self.connect()
        client.send(REQUEST)
        return client

    def answered(self, client: Client) -> Any:
        """What was answered by now."""
        (answer,) = client.answers()
        self.assertEqual(answer.code, 200)
        return answer.json

    def test_all_reached(self) -> None:
        """Each with its target and how long it took; what is not needed is null."""
        self.trials = Trials(
            control_plane=self.trial("https://api.example", 0.25),
            kubernetes_api=self.trial("the API server", 0.5),
            forwards={"web": self.trial("localhost:80", 0.125)},
        )
        client = self.begin()
        for _ in range(4):
            self.clock.advance(0.125)
        self.assertEqual(
            self.answered(client),
            {
                "overall_status": "healthy",
                "checked_at": "2024-01-15T10:30:00Z",
                "duration_ms": 500.0,
                "control_plane": {
                    "ok": True,
                    "target": "https://api.example",
                    "latency_ms": 250.0,
                    "error": None,
                },
                "dns": None,
                "chisel_server": None,
                "kubernetes_api": {
                    "ok": True,
                    "target": "the API server",
                    "latency_ms": 500.0,
                    "error": None,
                },
                "forwards": {
                    "web": {"ok": True, "target": "localhost:80", "latency_ms": 125.0, "error": None}
                },
            },
        )

    def test_degraded(self) -> None:
        """Something is not reached: which, and why. The others are told all the same."""
        refused = ConnectionRefusedError("nobody listens")
        for trials in (
            Trials(control_plane=self.trial("a"), dns=self.trial("d", error=refused)),
            Trials(control_plane=self.trial("a"), chisel_server=self.trial("d", error=refused)),
            Trials(control_plane=self.trial("a"), kubernetes_api=self.trial("d", error=refused)),
            Trials(control_plane=self.trial("a"), forwards={"x": self.trial("d", error=refused)}),
        ):
            self.trials = trials
            client = self.begin()
            self.clock.advance(0)
            answer = self.answered(client)
            self.assertEqual(answer["overall_status"], "degraded")
            failed = {"ok": False, "target": "d", "latency_ms": None, "error": "d: nobody listens"}
            self.assertIn(failed, [*answer.values(), *answer["forwards"].values()])
            self.clock.advance(FRESH)

    def test_unhealthy(self) -> None:
        """Without the control plane nothing else makes up for it."""
        self.trials = Trials(control_plane=self.trial("a", error=OSError("gone")), dns=self.trial("d"))
        client = self.begin()
        self.clock.advance(0)
        self.assertEqual(self.answered(client)["overall_status"], "unhealthy")

    def test_never_answered(self) -> None:
        """What says nothing is given up after its time; the answer waits for nobody longer."""
        self.trials = Trials(control_plane=self.trial("a"), chisel_server=self.trial("c", 1000))
        client = self.begin()
        self.clock.advance(PATIENCE)
        server = self.answered(client)["chisel_server"]
        self.assertEqual((server["ok"], server["latency_ms"]), (False, None))
        self.assertIn("took longer than 5 s", server["error"])

    def test_many_forwards(self) -> None:
        """So many at once, and those whose turn does not come in time are not tried: all is bounded."""
        self.trials = Trials(
            control_plane=self.trial("a"),
            forwards={f"f{number}": self.trial(f"f{number}", 1000) for number in range(3 * AT_ONCE)},
        )
        client = self.begin()
        self.assertEqual(len(self.attempted), AT_ONCE + 1)  # the first was reached at once
        for _ in range(2):
            self.clock.advance(PATIENCE)
        answer = self.answered(client)
        self.assertEqual(len(self.attempted), 2 * AT_ONCE + 1)
        errors = [probe["error"] for probe in answer["forwards"].values()]
        self.assertEqual(sum("not tried" in error for error in errors), AT_ONCE)
        self.assertEqual(answer["duration_ms"], 1000 * LIMIT)

    def test_never_twice_at_once(self) -> None:
        """Who asks while a run is under way gets its answer."""
        self.trials = Trials(control_plane=self.trial("a", 1.0))
        first = self.begin()
        self.clock.advance(0.5)
        second = self.begin()
        self.clock.advance(0.5)
        self.assertEqual(self.answered(first), self.answered(second))
        self.assertEqual(self.attempted, ["a"])

    def test_again_soon(self) -> None:
        """Right after a run its answer is given again; a little later there is a new one."""
        client = self.begin()
        self.clock.advance(0)
        first = self.answered(client)
        self.clock.advance(FRESH - 0.5)
        self.assertEqual(self.answered(self.begin()), first)
        self.clock.advance(0.5)
        client = self.begin()
        self.clock.advance(0)
        self.assertNotEqual(self.answered(client)["checked_at"], first["checked_at"])
        self.assertEqual(len(self.attempted), 2)

    def test_one_goes_away(self) -> None:
        """A client that goes away ends nothing for the others, nor for itself when it comes again."""
        self.trials = Trials(control_plane=self.trial("a", 1.0))
        first, second = self.begin(), self.begin()
        first.transport.end()
        self.clock.advance(1.0)
        self.assertEqual(self.answered(second)["overall_status"], "healthy")

    def test_stop(self) -> None:
        """A stop ends the probes, and who waits for them is told."""
        self.trials = Trials(
            control_plane=self.trial("a", 1.0),
            forwards={f"f{number}": self.trial("f", 1000) for number in range(AT_ONCE)},
        )
        client = self.begin()
        self.successResultOf(self.connectivity.stopService())
        (answer,) = client.answers()
        self.assertEqual((answer.code, answer.json["error"]["code"]), (503, "stopping"))
        client.transport.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_defect(self) -> None:
        """A defect in what says what is to be reached is an error of ours, and no end of all probes."""

        def breaks() -> Trials:
            raise ZeroDivisionError("it is broken")

        trials, self.connectivity._trials = self.connectivity._trials, breaks
        client = self.begin()
        (answer,) = client.answers()
        self.assertEqual(answer.code, 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.connectivity._trials = trials
        client = self.begin()
        self.clock.advance(0)
        self.assertEqual(self.answered(client)["overall_status"], "healthy")
