"""Tests for L{pipeops_agent.log}: the log as a whole, and python's C{logging} through it."""

from __future__ import annotations

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, Logger, LogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from pipeops_agent.log import AgentLog, LogConfig, Redactor
from pipeops_agent.secrets import Secret

TOKEN = "pk_live-9f8E7d6C5b4A3z2Y1x"


class LogCase(SynchronousTestCase):
    """A log into a file, on a clock of the test's own."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.clock = Clock()
        self.redactor = Redactor()
        self.publisher = LogPublisher()

    def config(
        self, level: str = "info", form: Literal["json", "text"] = "json", output: str = "", **levels: str
    ) -> LogConfig:
        return LogConfig(level=level, format=form, output=output or str(self.path), levels=levels)

    def start(self, config: LogConfig | None = None) -> AgentLog:
        log = AgentLog(
            config or self.config(),
            self.clock,
            self.redactor,
            wall=lambda: datetime(2024, 1, 15, 10, 30, tzinfo=UTC),
        )
        self.publisher.addObserver(log.observer)
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(log.close)
        return log

    def logger(self, namespace: str = "web") -> Logger:
        return Logger(namespace=namespace, observer=self.publisher)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def messages(self) -> list[str]:
        return [record["msg"] for record in self.records()]


class AgentLogTests(LogCase):
    """From an event to a line in a file."""

    def test_interface(self) -> None:
        """The observer can be put in the place of twistd's own."""
        verifyObject(ILogObserver, self.start().observer)

    def test_exactly_the_keys(self) -> None:
        """A record has the specification's keys, then the event's fields, and no other."""
        self.start()
        self.logger("pipeops_agent.tunnel").info("connected to {server}", server="wss://x", attempt=3)
        (record,) = self.records()
        self.assertEqual(list(record), ["time", "level", "msg", "component", "server", "attempt"])
        self.assertRegex(record.pop("time"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertEqual(
            record,
            {
                "level": "info",
                "msg": "connected to wss://x",
                "component": "tunnel",
                "server": "wss://x",
                "attempt": 3,
            },
        )

    def test_levels(self) -> None:
        """What is below its component's level is not written."""
        self.start(self.config("warn", tunnel="debug"))
        self.logger("web").info("no")
        self.logger("web").warn("yes")
        self.logger("tunnel.machine").debug("yes too")
        self.assertEqual(self.messages(), ["yes", "yes too"])

    def test_levels_live(self) -> None:
        """Levels change while running; wrong ones are refused and change nothing."""
        log = self.start()
        log.set_levels("error", {"web": "debug"})
        self.logger("web").debug("shown")
        self.logger("agent").warn("not shown")
        self.assertRaises(ValueError, log.set_levels, "loud", {})
        self.logger("web").debug("still shown")
        self.assertEqual(self.messages(), ["shown", "still shown"])

    def test_text(self) -> None:
        """For people, lines are text."""
        self.start(self.config(form="text"))
        self.logger().info("for people")
        self.assertRegex(self.path.read_text(), r"^\S+Z info  web           for people\n$")

    def test_reopen(self) -> None:
        """After a rotation new lines go into a new file."""
        log = self.start()
        self.logger().info("one")
        self.path.rename(self.path.with_suffix(".1"))
        log.reopen()
        self.logger().info("two")
        self.assertEqual(self.messages(), ["two"])

    def test_reopen_fails(self) -> None:
        """A rotation that left no place for a new file is said in the old one, and nothing raises."""
        log = self.start()
        moved = self.path.rename(self.path.with_suffix(".1"))
        self.path.mkdir()
        log.reopen()
        self.logger().info("two")
        said, after = map(json.loads, moved.read_text().splitlines())
        self.assertEqual((said["level"], said["component"]), ("error", "log"))
        self.assertIn("can't be opened again", said["msg"])
        self.assertEqual(after["msg"], "two")

    def test_repeats(self) -> None:
        """A warning that comes again and again is one line, then a count at the end of its window."""
        self.start()
        for attempt in range(1, 19):
            self.logger().warn("attempt {attempt} failed", attempt=attempt)
        self.clock.advance(60)
        self.clock.advance(60)
        self.assertEqual(
            self.messages(), ["attempt 1 failed", "attempt 1 failed (repeated 17 times in 60 s)"]
        )
        self.assertEqual(self.records()[1]["repeated"], 17)

    def test_repeats_of_different_failures(self) -> None:
        """One text with two causes is two lines."""
        self.start()
        log = self.logger()
        for error in (OSError("refused"), ValueError("malformed"), OSError("refused")):
            log.failure("heartbeat failed", Failure(error))
        self.assertEqual(
            [record["error"] for record in self.records()], ["OSError: refused", "ValueError: malformed"]
        )

    def test_counted_by_the_sender(self) -> None:
        """What its sender counts is said each time: a trouble's end is, so its next beginning must be."""
        self.start()
        for _ in range(2):
            self.logger().warn("the tunnel is waiting", log_counted=True)
            self.logger().info("the tunnel is connected")
        self.assertEqual(self.messages(), ["the tunnel is waiting", "the tunnel is connected"] * 2)
        self.assertNotIn("log_counted", self.records()[0])

    def test_no_repeats_at_info(self) -> None:
        """What is not a failure is said each time."""
        self.start()
        self.logger().info("registered")
        self.logger().info("registered")
        self.assertEqual(len(self.records()), 2)

    def test_lines_of_captured_output(self) -> None:
        """A traceback that a library prints comes line by line, in one format: all its lines are shown."""
        self.start()
        for number in range(20):
            self.logger("stderr").error("{log_io}", log_io=f"line {chr(97 + number)}")
        self.assertEqual(len(self.records()), 20)

    def test_from_a_thread(self) -> None:
        """Another thread's records are written, and never touch the clock, which is not theirs."""
        self.start()
        log = self.logger()

        def twice() -> None:
            log.error("from a thread")
            log.error("from a thread")

        thread = threading.Thread(target=twice)
        thread.start()
        thread.join(10)
        self.assertEqual(self.messages(), ["from a thread", "from a thread"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_secrets(self) -> None:
        """A token that was learned is in no line, whatever it was put into."""
        self.start(self.config("debug"))
        self.redactor.learn(Secret(TOKEN))
        log = self.logger()
        log.debug(f"message {TOKEN}")
        log.info("field {value}", value=TOKEN)
        log.info("nested", headers={"Authorization": [f"Bearer {TOKEN}"], "list": [[TOKEN]]})
        log.failure("failed", Failure(ValueError(f"token {TOKEN} refused")))
        log.warn("{unknown}", value=TOKEN)
        self.assertNotIn(TOKEN, self.path.read_text())
        self.assertEqual(len(self.records()), 5)

    def test_unformattable(self) -> None:
        """A record that can't be written down costs one line that says so, without its values."""
        self.start()

        class Hostile(dict[str, Any]):
            def items(self) -> Any:
                raise RuntimeError(f"holding {TOKEN}")

        self.logger().info("{value}", value=Hostile())
        self.assertEqual(self.messages(), ["a record could not be written down: RuntimeError"])

    def test_lost(self) -> None:
        """Lines that could not be written are counted, and the count is told once writing works again."""
        self.path.symlink_to("/dev/full")
        log = self.start()
        self.logger().info("one")
        self.logger().info("two")
        self.path.unlink()
        log.reopen()
        self.logger().info("three")
        self.logger().info("four")
        self.assertEqual(self.messages(), ["2 records could not be written", "three", "four"])
        self.assertEqual(self.records()[0]["lost"], 2)

    def test_closed(self) -> None:
        """After the close counts have been told, no timer is left, and last words are still written."""
        log = self.start()
        self.logger().warn("refused")
        self.logger().warn("refused")
        log.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.logger("twisted.application.app.AppLogger").info("Server Shut Down.")
        self.assertEqual(self.messages(), ["refused", "refused (repeated once in 0 s)", "Server Shut Down."])


class LibraryTests(LogCase):
    """Python's own C{logging} enters by the same door."""

    def setUp(self) -> None:
        super().setUp()
        self.library = logging.getLogger("some.library")
        self.before = (logging.getLogger().handlers[:], logging.getLogger().level)

    def capture(self, config: LogConfig | None = None) -> AgentLog:
        log = self.start(config)
        log.capture_libraries(self.publisher)
        return log

    def test_record(self) -> None:
        """Name, level, text and C{extra} fields arrive."""
        self.capture()
        self.library.warning("slow: %d ms", 12, extra={"peer": "10.0.0.1"})
        (record,) = self.records()
        del record["time"]
        self.assertEqual(
            record, {"level": "warn", "msg": "slow: 12 ms", "component": "some.library", "peer": "10.0.0.1"}
        )

    def test_failure(self) -> None:
        """An exception arrives with its traceback."""
        self.capture()
        try:
            raise ValueError("x")
        except ValueError:
            self.library.exception("failed")
        (record,) = self.records()
        self.assertEqual((record["level"], record["error"]), ("error", "ValueError: x"))
        self.assertIn("test_agentlog.py", record["traceback"])

    def test_secrets(self) -> None:
        """Secrets in texts, arguments and exceptions of libraries are masked."""
        self.capture()
        self.redactor.learn(Secret(TOKEN))
        try:
            raise ValueError(TOKEN)
        except ValueError:
            self.library.exception("sent %s", TOKEN, extra={"body": {"x": TOKEN}})
        self.assertNotIn(TOKEN, self.path.read_text())

    def test_wrong_arguments(self) -> None:
        """A library's mistake in its arguments costs nothing but the arguments."""
        self.capture()
        self.library.warning("%d and %d", "one")
        self.assertEqual(self.messages(), ["%d and %d (its arguments don't fit: TypeError)"])

    def test_levels(self) -> None:
        """Libraries are spared records that nobody would show, also after the levels changed."""
        log = self.capture(self.config("warn"))
        self.assertFalse(self.library.isEnabledFor(logging.INFO))
        log.set_levels("warn", {"some.library": "debug"})
        self.assertTrue(self.library.isEnabledFor(logging.DEBUG))
        self.library.debug("shown")
        logging.getLogger("another").info("not shown")
        self.library.log(5, "finer than debug is debug")
        self.assertEqual(self.messages(), ["shown"])

    def test_released(self) -> None:
        """Closing gives C{logging} back as it was; capturing twice makes no second line."""
        log = self.capture()
        log.capture_libraries(self.publisher)
        self.library.warning("once")
        log.close()
        self.assertEqual((logging.getLogger().handlers, logging.getLogger().level), self.before)
        self.assertEqual(self.messages(), ["once"])

    def test_stdout_is_not_touched(self) -> None:
        """A log into a file leaves the process's streams as they are."""
        before = (sys.stdout, sys.stderr)
        self.capture()
        self.library.error("x")
        self.assertEqual((sys.stdout, sys.stderr), before)
