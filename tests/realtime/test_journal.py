"""Tests for L{pipeops_agent.realtime.journal}."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.realtime import Entry, Journal


def entry(seq: int, text: bytes = b"{}", channel: str = "health") -> Entry:
    return Entry(seq, channel, b'"2024-01-15T10:30:00Z"', text)


class JournalTests(SynchronousTestCase):
    """A bounded ring."""

    def kept(self, journal: Journal, after: int = 0) -> list[int]:
        return [each.seq for each in journal.after(after)]

    def test_empty(self) -> None:
        """What holds nothing has nothing after any number."""
        journal = Journal(3, 100, last=7)
        self.assertEqual((len(journal), journal.first, journal.last), (0, 8, 7))
        self.assertEqual(self.kept(journal), [])
        self.assertEqual(self.kept(journal, 9), [])

    def test_most(self) -> None:
        """One more than may be kept takes the place of the oldest, which is returned."""
        journal = Journal(3, 1000)
        self.assertEqual([journal.append(entry(seq)) for seq in (1, 2, 3)], [[], [], []])
        self.assertEqual(journal.append(entry(4)), [entry(1)])
        self.assertEqual(self.kept(journal), [2, 3, 4])
        self.assertEqual(self.kept(journal, 3), [4])
        self.assertEqual(self.kept(journal, 4), [])

    def test_most_bytes(self) -> None:
        """As many give way as are needed to stay within the bytes."""
        journal = Journal(100, 10)
        for seq in (1, 2, 3):
            journal.append(entry(seq, b"123"))
        self.assertEqual([each.seq for each in journal.append(entry(4, b"12345678"))], [1, 2, 3])
        self.assertEqual((self.kept(journal), journal.size), ([4], 8))

    def test_larger_than_everything(self) -> None:
        """An entry over the limit is kept alone, and gives way to the next."""
        journal = Journal(100, 10)
        journal.append(entry(1, b"x"))
        self.assertEqual(len(journal.append(entry(2, b"x" * 50))), 1)
        self.assertEqual(self.kept(journal), [2])
        self.assertEqual([each.seq for each in journal.append(entry(3, b"x"))], [2])
        self.assertEqual((self.kept(journal), journal.size), ([3], 1))

    def test_numbers(self) -> None:
        """A number that does not follow is refused: places in the journal would mean nothing."""
        journal = Journal(3, 100, last=4)
        for seq in (4, 6):
            self.assertRaises(ValueError, journal.append, entry(seq))
        journal.append(entry(5))

    def test_restart(self) -> None:
        """After a restart nothing is left, and the next number follows the one given."""
        journal = Journal(3, 100)
        journal.append(entry(1))
        journal.restart(9)
        self.assertEqual((len(journal), journal.size, journal.first), (0, 0, 10))
        journal.append(entry(10))
        self.assertEqual(self.kept(journal), [10])

    @settings(deadline=None)
    @given(
        st.integers(1, 8),
        st.integers(1, 60),
        st.lists(st.binary(max_size=30), max_size=40),
    )
    def test_model(self, most: int, most_bytes: int, texts: list[bytes]) -> None:
        """It holds what a list holds from whose beginning is cut off what is too much."""
        journal = Journal(most, most_bytes)
        model: list[Entry] = []
        for seq, text in enumerate(texts, 1):
            model.append(entry(seq, text))
            cut = 0
            while len(model) - cut > 1 and (
                len(model) - cut > most or sum(len(each.text) for each in model[cut:]) > most_bytes
            ):
                cut += 1
            self.assertEqual(journal.append(entry(seq, text)), model[:cut])
            del model[:cut]
            self.assertEqual(list(journal.after(0)), model)
            self.assertEqual(journal.size, sum(len(each.text) for each in model))
