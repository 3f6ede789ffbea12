"""Tests for L{pipeops_agent.log.record} and L{pipeops_agent.log.render}: an event becomes one line."""

from __future__ import annotations

import enum
import io
import json
import string
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import (
    ILogObserver,
    LegacyLogObserverWrapper,
    LogBeginner,
    LogEvent,
    Logger,
    LogLevel,
    LogPublisher,
    globalLogPublisher,
)
from twisted.python import log as legacy
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from pipeops_agent.log.record import MAX_DEPTH, Record, build_record, is_empty
from pipeops_agent.log.redact import MASK, Redactor
from pipeops_agent.log.render import MAX_RECORD, printable, render_json, render_text
from pipeops_agent.secrets import Secret

NOW = datetime(2024, 1, 15, 10, 30, 0, 123999, UTC)
TOKEN = "pk_live-9f8E7d6C5b4A3z2Y1x"


def event(form: str | None = "hello", **fields: Any) -> LogEvent:
    made: LogEvent = {"log_namespace": "web", "log_level": LogLevel.info, "log_time": NOW.timestamp()}
    if form is not None:
        made["log_format"] = form
    return made | fields


def knowing(secret: str) -> Redactor:
    redactor = Redactor()
    redactor.learn(Secret(secret))
    return redactor


def record(form: str | None = "hello", *, learn: str = "", **fields: Any) -> Record:
    return build_record(event(form, **fields), knowing(learn), NOW)


def raised(error: BaseException) -> Failure:
    try:
        raise error
    except BaseException:
        return Failure()


@implementer(ILogObserver)
class Collector:
    """Keeps the events that it is handed."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        self.events.append(event)


@implementer(legacy.ILogObserver)
class OldStyle:
    """An old-style observer: what its wrapper does to the event is all that matters."""

    def __call__(self, event: Any) -> None:
        pass


class Colour(enum.Enum):
    RED = "red"


class Pair(msgspec.Struct):
    left: int
    token: str


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class RecordTests(SynchronousTestCase):
    """What a record holds."""

    def test_exactly_the_keys(self) -> None:
        """The four fixed keys, then the event's own fields; nothing of the log system's."""
        collector = Collector()
        Logger(namespace="pipeops_agent.web", source=self, observer=collector).warn(
            "connection {connection_id} from {client_ip}",
            connection_id="ws-1",
            client_ip="10.0.1.15",
            protocol="direct",
        )
        (seen,) = collector.events
        made = build_record(seen | {"log_time": NOW.timestamp()}, Redactor(), NOW)
        self.assertEqual(
            list(made.items()),
            [
                ("time", "2024-01-15T10:30:00.123Z"),
                ("level", "warn"),
                ("msg", "connection ws-1 from 10.0.1.15"),
                ("component", "web"),
                ("connection_id", "ws-1"),
                ("client_ip", "10.0.1.15"),
                ("protocol", "direct"),
            ],
        )

    def test_time(self) -> None:
        """Milliseconds always have three digits; an event without a usable time gets the present."""
        whole = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)
        self.assertEqual(record(log_time=whole.timestamp())["time"], "2024-01-15T10:30:00.000Z")
        for useless in (None, float("nan"), 1e30, "noon"):
            self.assertEqual(record(log_time=useless)["time"], "2024-01-15T10:30:00.123Z")

    def test_field_named_like_a_fixed_key(self) -> None:
        """A field can't replace what every record has."""
        made = record("at {level}", level=9, component="x", msg="y")
        self.assertEqual(
            (made["level"], made["level_"], made["component_"], made["msg_"]), ("info", 9, "x", "y")
        )

    def test_values(self) -> None:
        """Each kind of value becomes what JSON has for it."""
        plus2 = timezone(timedelta(hours=2))
        for value, plain in (
            (None, None),
            (True, True),
            (7, 7),
            (2**64, "0x10000000000000000"),
            (0.5, 0.5),
            (float("inf"), "inf"),
            (Colour.RED, "red"),
            (b"\xffok", "\\xffok"),
            (datetime(2024, 1, 15, 12, 30, tzinfo=plus2), "2024-01-15T10:30:00.000Z"),
            (ValueError("bad"), "ValueError: bad"),
            (raised(ValueError("bad")), "ValueError: bad"),
            (("a", 1), ["a", 1]),
            ({1: {"b": b"c"}}, {"1": {"b": "c"}}),
            (Pair(1, "t0ken"), {"left": 1, "token": MASK}),
            (Secret(TOKEN), repr(Secret(TOKEN))),
        ):
            self.assertEqual(record(field=value)["field"], plain, repr(value))

    def test_huge_integer(self) -> None:
        """Python refuses to print integers of many digits; a record with one is written all the same."""
        self.assertTrue(json.loads(render_json(record(field=10**5000)))["field"].startswith("0x"))

    def test_value_without_text(self) -> None:
        """An object whose text can't be had costs neither the record nor the other fields."""
        made = record("got {thing}", thing=Unprintable(), other=1)
        self.assertEqual(made["other"], 1)
        self.assertIn("RuntimeError", json.dumps(made))

    def test_bad_format(self) -> None:
        """A format that names a field which is not there still gives a record that says so."""
        self.assertIn("Unable to format", record("{missing}")["msg"])

    def test_nesting_is_bounded(self) -> None:
        """A value that holds itself, or very many, is shown in part."""
        endless: list[Any] = []
        endless.append(endless)
        shown = json.dumps(record(field=endless)["field"])
        self.assertLessEqual(shown.count("["), MAX_DEPTH + 10)
        self.assertEqual(len(record(field=list(range(1000)))["field"]), 101)
        self.assertEqual(record(field=dict.fromkeys(range(1000)))["field"]["…"], "900 more")

    def test_failure(self) -> None:
        """A failure is the fields C{error}, one line, and C{traceback}."""
        made = record("it failed", log_failure=raised(OSError(5, "broken")))
        self.assertEqual(made["error"], "OSError: [Errno 5] broken")
        self.assertIn("test_record.py", made["traceback"])

    def test_failure_with_own_error(self) -> None:
        """An event's own C{error}, a sentence for the operator, is kept."""
        made = record("it failed", error="a sentence", log_failure=raised(ValueError("x")))
        self.assertEqual(made["error"], "a sentence")

    def test_failure_without_text(self) -> None:
        """Twisted logs some failures without any text: the failure is the message."""
        self.assertEqual(record("", log_failure=raised(ValueError("x")))["msg"], "ValueError: x")
        self.assertEqual(record(None, log_failure=raised(KeyError()))["msg"], "KeyError")

    def test_callables_are_left_out(self) -> None:
        """A function in an event is a way to a value, not a value."""
        made = record("at {now()}", now=lambda: "noon")
        self.assertEqual((made["msg"], "now" in made), ("at noon", False))

    def test_old_style(self) -> None:
        """An old-style record is its text, its level, and nothing of the old system's keys."""
        for write, level, message in (
            (lambda: legacy.msg("old", "style", system="HTTP"), "info", "old style"),
            (lambda: legacy.err(ValueError("x"), "why"), "error", "why"),
        ):
            collector = Collector()
            globalLogPublisher.addObserver(collector)
            write()
            globalLogPublisher.removeObserver(collector)
            self.flushLoggedErrors(ValueError)
            made = build_record(collector.events[0], Redactor(), NOW)
            self.assertIn(message, made["msg"])
            self.assertEqual((made["level"], made["component"]), (level, "twisted"))
            self.assertLessEqual(set(made), {"time", "level", "msg", "component", "error", "traceback"})

    def test_seen_by_an_old_style_observer(self) -> None:
        """An old-style observer adds keys to the event; they are told from fields of these names."""
        mine = event("it failed", system="mine", log_failure=raised(ValueError("x")))
        LegacyLogObserverWrapper(OldStyle())(mine)
        made = build_record(mine, Redactor(), NOW)
        self.assertEqual(set(made), {"time", "level", "msg", "component", "error", "traceback"})
        mine = event("{message}", message="hello", time=5, failure="f", format="text")
        made = build_record(mine, Redactor(), NOW)
        self.assertEqual(
            (made["message"], made["time_"], made["failure"], made["format"]), ("hello", 5, "f", "text")
        )

    def test_captured_output(self) -> None:
        """What a library prints is a record with the stream for a component; a blank line is none."""
        collector = Collector()

        class Streams:
            stdout = io.StringIO()
            stderr = io.StringIO()

        class Warnings:
            showwarning = staticmethod(lambda *_: None)

        beginner = LogBeginner(LogPublisher(), io.StringIO(), Streams, Warnings)
        beginner.beginLoggingTo([collector])
        print("printed\n", file=Streams.stdout)
        text, blank = collector.events
        self.assertEqual(
            {name: value for name, value in build_record(text, Redactor(), NOW).items() if name != "time"},
            {"level": "info", "msg": "printed", "component": "stdout"},
        )
        self.assertEqual((is_empty(text), is_empty(blank)), (False, True))

    def test_empty(self) -> None:
        """An event with a field, a text or a failure has something to say."""
        self.assertTrue(is_empty(event(None)))
        self.assertFalse(is_empty(event(None, field=1)))
        self.assertFalse(is_empty(event("text")))
        self.assertFalse(is_empty(event("", log_failure=raised(ValueError()))))


class SecretTests(SynchronousTestCase):
    """No secret, wherever it was put."""

    def everywhere(self, secret: str) -> dict[str, Record]:
        """Records with C{secret} in each place where it could be."""
        chained = ValueError(f"outer {secret}")
        chained.__cause__ = KeyError(secret)
        return {
            "message": record(f"saw {secret} here", learn=secret),
            "field": record("saw {what}", learn=secret, what=secret),
            "bytes": record("saw {what}", learn=secret, what=secret.encode()),
            "nested": record(learn=secret, headers={"list": [{"deep": (f"x {secret} y",)}]}),
            "key": record(learn=secret, headers={secret: 1}),
            "object": record(learn=secret, what=raised(ValueError(secret))),
            "exception": record("failed", learn=secret, log_failure=raised(ValueError(f"bad {secret}"))),
            "chained": record("failed", learn=secret, log_failure=raised(chained)),
            "namespace": record(learn=secret, log_namespace=f"lib.{secret}"),
            "bad format": record("{missing}", learn=secret, field=secret),
            "field name": build_record(event() | {secret: 1}, knowing(secret), NOW),
        }

    def test_planted(self) -> None:
        """Message, fields at any depth, keys, exceptions, tracebacks, namespaces: both formats are clean."""
        for place, made in self.everywhere(TOKEN).items():
            for line in (render_json(made), render_text(made)):
                self.assertNotIn(TOKEN, line.decode(), place)
                self.assertIn(MASK, line.decode(), place)

    def test_numbers(self) -> None:
        """A secret of digits is one as a number too; other numbers stay numbers."""
        made = record("{pin}", learn="20240115", pin=20240115, longer=[9202401159], other=7, wide=2**70)
        self.assertEqual((made["pin"], made["longer"], made["msg"]), (MASK, [f"9{MASK}9"], MASK))
        self.assertEqual((made["other"], made["wide"]), (7, hex(2**70)))

    def test_by_name(self) -> None:
        """A field whose name says so is masked, and so is the message that quotes it."""
        made = record("{token} for {headers}", token="tiny", headers={"Cookie": [b"c00kie"], "n": 1})
        self.assertEqual((made["token"], made["headers"]), (MASK, {"Cookie": [MASK], "n": 1}))
        self.assertNotIn("tiny", made["msg"])
        self.assertNotIn("c00kie", made["msg"])

    def test_by_name_without_a_secret(self) -> None:
        """That there is none, or its length and hash, may be told."""
        made = record(token=None, password=False, credentials=Secret(TOKEN))
        self.assertEqual((made["token"], made["password"]), (None, False))
        self.assertEqual(made["credentials"], repr(Secret(TOKEN)))

    @settings(max_examples=150, deadline=None)
    @given(
        secret=st.text(string.ascii_letters + string.digits + "_-+/=.", min_size=12, max_size=64),
        noise=st.text(max_size=50),
        data=st.data(),
    )
    def test_property(self, secret: str, noise: str, data: st.DataObject) -> None:
        """For any secret and any surroundings: one line, JSON, the four keys, and no secret in it."""
        leaf = st.one_of(
            st.none(),
            st.integers(),
            st.floats(),
            st.binary(max_size=20),
            st.text(max_size=20),
            st.just(f"{noise}{secret}{noise}"),
            st.just(f"{noise}{secret}".encode("utf-8", "surrogatepass")),
        )
        names = st.one_of(st.text(max_size=8), st.just(secret))
        tree = st.recursive(leaf, lambda inner: st.lists(inner) | st.dictionaries(names, inner), max_leaves=8)
        made = record(
            "{field} {{}} x", learn=secret, field=data.draw(tree), log_failure=raised(OSError(secret))
        )
        line = render_json(made).decode("ascii")
        self.assertEqual(len(line.splitlines()), 1)
        self.assertTrue(line.endswith("\n"))
        self.assertEqual(list(json.loads(line))[:4], ["time", "level", "msg", "component"])
        self.assertNotIn(secret, line)
        self.assertNotIn(secret, render_text(made).decode())


class RenderTests(SynchronousTestCase):
    """What a line looks like."""

    def test_json_is_one_ascii_line(self) -> None:
        """No character of a value can end the line or steer a terminal."""
        nasty = "a\nb\r\x0b\x0c\x1b[2J\x85\u2028\u2029\u202e\x00\x7f"
        line = render_json(record("{x}", x=nasty))
        self.assertEqual(len(line.decode().splitlines()), 1)
        self.assertEqual(json.loads(line)["x"], nasty)

    def test_lone_surrogates(self) -> None:
        """Texts that are not Unicode can be written in both formats."""
        made = record("{x}", x="bad \udcff")
        self.assertEqual(json.loads(render_json(made))["x"], "bad \udcff")
        self.assertIn(b"bad \\udcff", render_text(made))

    def test_text(self) -> None:
        """Columns first, then the fields; values with blanks are quoted."""
        made = record("connected", server="wss://a/b", why="it is", count=3, nested={"a": [1]}, empty="")
        self.assertEqual(
            render_text(made).decode(),
            "2024-01-15T10:30:00.123Z info  web           connected "
            'server=wss://a/b why="it is" count=3 nested={"a": [1]} empty=""\n',
        )

    def test_text_says_nothing_twice(self) -> None:
        """A field that stands in the message is left out for people; a number or a letter is not."""
        made = record("connected to {server}", server="wss://a/b", hops=1, who="a", note="to be seen")
        self.assertTrue(
            render_text(made).decode().endswith('connected to wss://a/b hops=1 who=a note="to be seen"\n')
        )

    def test_text_forging(self) -> None:
        """A newline in a value or message can't make another record; a bidi override can't hide one."""
        forged = "x\n2024-01-15T10:30:00.123Z info  web   all is well\u202e\x1b[2K"
        lines = render_text(record("{x}", x=forged, y=forged)).decode().splitlines()
        self.assertEqual(len(lines), 1)
        self.assertNotIn("\u202e", lines[0])
        self.assertNotIn("\x1b", lines[0])

    def test_text_traceback(self) -> None:
        """A traceback has lines of its own, each marked so that none can pass for a record."""
        failure = raised(ValueError("x\n2024-01-15T10:30:00.123Z info web fine"))
        lines = render_text(record("failed", log_failure=failure)).decode().splitlines()
        self.assertGreater(len(lines), 3)
        self.assertTrue(all(line.startswith("    | ") for line in lines[1:]))

    def test_printable(self) -> None:
        """What people may see of a peer's text: letters of all scripts, but no control characters."""
        self.assertEqual(printable("größer 日本"), "größer 日本")
        self.assertEqual(printable("a\tb\x1bc"), "a\\tb\\x1bc")

    def test_long_message(self) -> None:
        """A record that is too long is cut, stays valid, and says how long it was."""
        for text in ("x" * 100_000, "日" * 100_000, "\x00" * 100_000):
            line = render_json(record("{x}", x=text))
            self.assertLessEqual(len(line), MAX_RECORD)
            shown = json.loads(line)
            self.assertGreater(shown["cut_from_bytes"], MAX_RECORD)
            self.assertTrue(shown["x"].endswith("…"))
            self.assertLessEqual(len(render_text(record("{x}", x=text))), MAX_RECORD)

    def test_long_nested_fields(self) -> None:
        """Texts deep in a field are cut as well, what is no text stays."""
        shown = json.loads(render_json(record("hello", body={"list": ["x" * 50_000, 7], "k" * 5000: None})))
        self.assertEqual(shown["msg"], "hello")
        self.assertEqual(shown["body"]["list"][1], 7)
        self.assertTrue(shown["body"]["list"][0].endswith("…"))

    def test_many_long_fields(self) -> None:
        """A record of too many fields keeps what every record has."""
        fields = {f"field_{number}": "x" * 100 for number in range(2000)}
        shown = json.loads(render_json(record("hello", **fields)))
        self.assertEqual(set(shown), {"time", "level", "msg", "component", "cut_from_bytes"})
        self.assertEqual(shown["msg"], "hello")

    def test_just_fits(self) -> None:
        """A record of exactly the limit is not touched."""
        empty = len(render_json(record("hello", x="")))
        fits = record("hello", x="y" * (MAX_RECORD - empty))
        self.assertEqual(len(render_json(fits)), MAX_RECORD)
        self.assertNotIn("cut_from_bytes", json.loads(render_json(fits)))
        longer = record("hello", x="y" * (MAX_RECORD - empty + 1))
        self.assertIn("cut_from_bytes", json.loads(render_json(longer)))
