"""The scripts that CI counts and reads with: if they were wrong, a failure could look like a success."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.quality.ci import load

RULE = "=" * 79
END = "-" * 79


def report(*blocks: str, last: str) -> str:
    """What trial prints after its tree: blocks, then the totals."""
    return "".join(f"{RULE}\n{block}\n" for block in blocks) + f"{END}\nRan 9 tests in 0.1s\n\n{last}\n"


class TrialSummaryTests(SynchronousTestCase):
    """Reading what trial printed."""

    def setUp(self) -> None:
        """Load the script."""
        self.summary = load("trial_summary").summary

    def test_passed(self) -> None:
        """A clean run: the successes, and nothing to remark."""
        self.assertEqual(self.summary(report(last="PASSED (successes=12)"), None), (12, 0, 0, []))

    def test_every_kind_of_failure_counts(self) -> None:
        """Failures, errors and unexpected successes are failed; expected failures passed."""
        last = "FAILED (expectedFailures=1, failures=2, errors=3, unexpectedSuccesses=4, successes=5)"
        self.assertEqual(self.summary(report(last=last), None), (6, 9, 0, []))

    def test_skips_are_shown_with_their_reasons(self) -> None:
        """One reason may stand over several tests, and may have several paragraphs."""
        text = report(
            "[SKIPPED]\nCHISEL is not set\n\ntests.a.A.test_a\ntests.a.A.test_b",
            "[SKIPPED]\nno such program:\n\nsearched on PATH\n\ntests.b.B.test_c",
            last="PASSED (skips=3, successes=1)",
        )
        remarks = [
            "skipped: tests.a.A.test_a: CHISEL is not set",
            "skipped: tests.a.A.test_b: CHISEL is not set",
            "skipped: tests.b.B.test_c: no such program: searched on PATH",
        ]
        self.assertEqual(self.summary(text, None), (1, 0, 3, remarks))

    def test_unfounded_skips_fail(self) -> None:
        """With a word that reasons must hold, any other skip is a failure."""
        text = report(
            "[SKIPPED]\nCHISEL is not set\n\ntests.a.A.test_a",
            "[SKIPPED]\nno Go here\n\ntests.a.A.test_b",
            last="PASSED (skips=2, successes=1)",
        )
        passed, failed, skipped, remarks = self.summary(text, "CHISEL")
        self.assertEqual((passed, failed, skipped), (1, 1, 2))
        self.assertEqual(remarks[-1], "must not be skipped here: tests.a.A.test_b")

    def test_unread_skips_fail(self) -> None:
        """Where trial counts more skips than its report shows, this script no longer reads it rightly."""
        _, failed, _, remarks = self.summary(report(last="PASSED (skips=2, successes=1)"), None)
        self.assertEqual((failed, remarks), (1, ["trial counts 2 skips, its report shows 0"]))

    def test_cut_off(self) -> None:
        """A log without totals is a failure: trial crashed, or never started."""
        self.assertEqual(self.summary("tests.a\n  A\n", None), (0, 1, 0, ["trial's last line is missing"]))

    def test_empty_run(self) -> None:
        """A run without a test shows nothing, so it is a failure."""
        self.assertEqual(self.summary(report(last="PASSED"), None)[1], 1)
        self.assertEqual(self.summary(report(last="PASSED (skips=0)"), None)[1], 1)


class ReadmeCommandTests(SynchronousTestCase):
    """Taking a command from the README."""

    def setUp(self) -> None:
        """Load the script."""
        self.command = load("readme_command").readme_command

    def test_found(self) -> None:
        """The one line of the block after the marker, not that of another."""
        run = "```sh\nother\n```\n<!-- command: run -->\n```sh\na && b\n```\n"
        text = run + "<!-- command: test -->\n```sh\nc\n```\n"
        self.assertEqual(self.command("run", text), "a && b")
        self.assertEqual(self.command("test", text), "c")

    def test_missing_or_twice(self) -> None:
        """No such command, or two of it, is an error."""
        block = "<!-- command: run -->\n```sh\na\n```\n"
        self.assertRaises(ValueError, self.command, "run", "nothing")
        self.assertRaises(ValueError, self.command, "run", block * 2)

    def test_one_line(self) -> None:
        """A command of two lines is an error."""
        self.assertRaises(ValueError, self.command, "run", "<!-- command: run -->\n```sh\na\nb\n```\n")


class TryAgentTests(SynchronousTestCase):
    """Reading the ports from what the agent prints."""

    def test_ports(self) -> None:
        """Wherever a line names a port and a forward, in text or in JSON; others are not taken for it."""
        pattern = load("try_agent").NAMED
        text = "127.0.0.1:4000 -> agent-http of agent-vm-1"
        for line in (f"12:00:00 info {text} port=4000", f'{{"level":"info","msg":"{text}"}}'):
            self.assertEqual(pattern.search(line).groups(), ("4000", "agent-http"))
        self.assertIsNone(pattern.search("agent-http -> 127.0.0.1:4000"))
