"""Faults: how they are asked for, and how often they strike."""

from __future__ import annotations

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.sandbox import faults
from pipeops_agent.sandbox.faults import FaultBox, parse_faults


class ParseTests(SynchronousTestCase):
    def test_one_or_a_list(self) -> None:
        """A body is one fault or a list of them, told apart by C{kind}."""
        self.assertEqual(parse_faults(b'{"kind": "wrong-key"}'), [faults.WrongKey()])
        both = parse_faults(b' [{"kind": "skew", "seconds": -90}, {"kind": "forget"}]')
        self.assertEqual(both, [faults.Skew(seconds=-90), faults.Forget()])

    def test_what_does_not_fit(self) -> None:
        """An unknown kind or field, a value that does not fit: an error that says where."""
        for body, word in (
            (b'{"kind": "quake"}', "kind"),
            (b'{"call": "any"}', "kind"),
            (b'{"kind": "drop", "cal": "any"}', "cal"),
            (b'{"kind": "drop", "call": "all"}', "call"),
            (b'{"kind": "status", "status": 99}', "status"),
            (b'{"kind": "delay", "seconds": -1}', "seconds"),
            (b'{"kind": "drop", "count": 0}', "count"),
            (b'{"kind": "forget", "count": 1}', "count"),
            (b"[1]", "0"),
            (b"", "truncated"),
        ):
            with self.subTest(body=body):
                error = self.assertRaises(msgspec.MsgspecError, parse_faults, body)
                self.assertIn(word, str(error))


class BoxTests(SynchronousTestCase):
    def test_without_a_count(self) -> None:
        """A fault strikes until it is cleared."""
        box = FaultBox()
        box.add(faults.WrongKey())
        self.assertEqual([box.take(faults.WrongKey) for _ in range(3)], [faults.WrongKey()] * 3)
        box.clear()
        self.assertIsNone(box.take(faults.WrongKey))

    def test_with_a_count(self) -> None:
        """A counted fault strikes that often, and shows how often it will yet."""
        box = FaultBox()
        box.add(faults.WrongKey(count=2))
        self.assertEqual(box.shown(), [{"kind": "wrong-key", "count": 2}])
        self.assertIsNotNone(box.take(faults.WrongKey))
        self.assertEqual(box.shown(), [{"kind": "wrong-key", "count": 1}])
        self.assertIsNotNone(box.take(faults.WrongKey))
        self.assertIsNone(box.take(faults.WrongKey))
        self.assertEqual(box.shown(), [])

    def test_first_that_strikes(self) -> None:
        """Of several the first that strikes is taken; one that does not keeps its count."""
        box = FaultBox()
        register, anything = faults.Drop(call="register", count=1), faults.HalfOpen(count=1)
        box.add(register, anything)
        self.assertEqual(box.take(faults.CallFault, lambda f: f.strikes("heartbeat")), anything)
        self.assertEqual(box.take(faults.CallFault, lambda f: f.strikes("register")), register)

    def test_bounded_and_all_or_nothing(self) -> None:
        """The box holds so many; a list that does not fit is not taken in part."""
        box = FaultBox()
        box.add(*[faults.WrongKey()] * (faults.MAX_FAULTS - 1))
        self.assertRaises(faults.TooManyFaults, box.add, faults.WrongKey(), faults.WrongKey())
        self.assertEqual(len(box.shown()), faults.MAX_FAULTS - 1)

    def test_watchers(self) -> None:
        """Who watches hears of each addition, with the fault already in the box."""
        box = FaultBox()
        taken: list[object] = []
        box.watch(lambda: taken.append(box.take(faults.Swallow)))
        box.add(faults.Swallow(count=1))
        self.assertEqual(taken, [faults.Swallow(count=1)])
