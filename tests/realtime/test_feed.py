"""Tests for L{pipeops_agent.realtime.feed}."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.realtime import CHUNK, Entry, Feed, Journal, Missed, Reader
from pipeops_agent.realtime.feed import SPACING

BOTH = frozenset({"health", "tunnel"})
HEALTH = frozenset({"health"})


def line(entry: Entry) -> bytes:
    """A form of an entry."""
    return b"%d\n" % entry.seq


class Kept:
    """A sink that keeps what it gets, and pauses its reader after so many pieces."""

    reader: Reader

    def __init__(self, takes: int = 1000) -> None:
        self.takes = takes
        self.pieces: list[bytes] = []
        self.said: list[Missed] = []
        self.order: list[str] = []

    def write(self, data: bytes) -> None:
        self.pieces.append(data)
        self.order.append("data")
        self._taken()

    def missed(self, missed: Missed) -> None:
        self.said.append(missed)
        self.order.append("missed")
        self._taken()

    def _taken(self) -> None:
        self.takes -= 1
        if self.takes <= 0:
            self.reader.pause()

    @property
    def numbers(self) -> list[int]:
        return [int(word) for word in b"".join(self.pieces).split()]


class Broken(Kept):
    """A sink with a defect."""

    def write(self, data: bytes) -> None:
        raise RuntimeError("broken")


class FeedCase(SynchronousTestCase):
    """A feed on a clock, with room for ten entries."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.feed = Feed(self.clock, "abcd", Journal(10, 1000_000))
        self.seq = 0

    def add(
        self, sink: Kept, channels: frozenset[str] = BOTH, *, after: int | None = None, ready: bool = True
    ) -> Kept:
        sink.reader = self.feed.read(sink, channels, line, after=after)
        if ready:
            sink.reader.resume()
        return sink

    def tell(self, count: int = 1, channel: str = "health", size: int = 2, *, turn: bool = True) -> None:
        for _ in range(count):
            self.seq += 1
            self.feed.append(Entry(self.seq, channel, b'""', b"x" * size))
        if turn:
            self.clock.advance(SPACING)


class ReadingTests(FeedCase):
    """Readers that keep up."""

    def test_one_piece(self) -> None:
        """What is told in one turn of the reactor is written in the next, in one piece, in order."""
        sink = self.add(Kept())
        self.tell(3, turn=False)
        self.assertEqual(sink.pieces, [])
        self.clock.advance(SPACING)
        self.assertEqual(sink.pieces, [b"1\n2\n3\n"])

    def test_at_once(self) -> None:
        """After a silence an entry is written in the very next turn; one that follows soon waits a little."""
        sink = self.add(Kept())
        self.tell(turn=False)
        self.clock.advance(0)
        self.assertEqual(sink.numbers, [1])
        self.clock.advance(SPACING / 4)
        self.tell(turn=False)
        self.clock.advance(SPACING / 2)
        self.assertEqual(sink.numbers, [1])
        self.tell(turn=False)
        self.clock.advance(SPACING / 4)
        self.assertEqual(sink.pieces, [b"1\n", b"2\n3\n"])
        self.clock.advance(SPACING)
        self.tell(turn=False)
        self.clock.advance(0)
        self.assertEqual(sink.numbers, [1, 2, 3, 4])

    def test_encoded_once(self) -> None:
        """The same piece goes to all who want the same: it is made once, not copied."""
        first, second, other = self.add(Kept()), self.add(Kept()), self.add(Kept(), HEALTH)
        self.tell(2)
        self.assertIs(first.pieces[0], second.pieces[0])
        self.assertEqual(other.numbers, [1, 2])

    def test_channels(self) -> None:
        """Each gets its channels alone; where there is nothing for it nothing is written."""
        sink = self.add(Kept(), HEALTH)
        self.tell(2, "tunnel")
        self.assertEqual(sink.pieces, [])
        self.tell(1, "health")
        self.assertEqual(sink.numbers, [3])

    def test_new_ones_only(self) -> None:
        """A reader that says nothing of a place gets what is told from now on."""
        self.tell(3)
        sink = self.add(Kept())
        self.tell()
        self.assertEqual((sink.numbers, sink.said), ([4], []))

    def test_long_pieces(self) -> None:
        """Much at once is cut into pieces of little more than the named size."""
        feed = Feed(self.clock, "abcd", Journal(1000, 10_000_000))
        sink = Kept()
        sink.reader = feed.read(sink, HEALTH, lambda entry: entry.text)
        for seq in range(1, 400):
            feed.append(Entry(seq, "health", b"", b"x" * 1000))
        sink.reader.resume()
        self.assertGreater(len(sink.pieces), 5)
        self.assertLess(max(map(len, sink.pieces)), CHUNK + 1000)
        self.assertEqual(sum(map(len, sink.pieces)), 399_000)

    def test_burst(self) -> None:
        """Whoever takes everything loses nothing, however much is told in one turn."""
        sink = self.add(Kept())
        self.tell(1000, turn=False)
        self.clock.advance(SPACING)
        self.assertEqual((sink.numbers, sink.said), (list(range(1, 1001)), []))

    def test_closed(self) -> None:
        """A reader that has left gets nothing, and leaves no timer."""
        sink = self.add(Kept())
        self.tell(turn=False)
        sink.reader.close()
        sink.reader.resume()
        sink.reader.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.tell()
        self.assertEqual((sink.pieces, len(self.feed)), ([], 0))

    def test_closed_by_another(self) -> None:
        """One that is closed while others are served is not served."""
        first, second = self.add(Kept()), Kept()
        self.patch(first, "write", lambda data: second.reader.close())
        self.add(second)
        self.tell()
        self.assertEqual(second.pieces, [])

    def test_broken(self) -> None:
        """One that fails is dropped and logged; the others get theirs."""
        self.add(Broken())
        sink = self.add(Kept())
        self.tell(2)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.tell()
        self.assertEqual((sink.numbers, len(self.feed)), ([1, 2, 3], 1))

    def test_told_while_serving(self) -> None:
        """What is told while readers are served comes in the next turn, to all, in order."""
        first, second = self.add(Kept()), self.add(Kept())
        plain = first.write

        def and_tell(data: bytes) -> None:
            plain(data)
            if self.seq < 30:
                self.tell(15, turn=False)

        self.patch(first, "write", and_tell)
        self.tell()
        self.clock.advance(SPACING)
        self.clock.advance(SPACING)
        for sink in (first, second):
            lost = sum(each.count for each in sink.said)
            self.assertEqual(lost + len(sink.numbers), self.seq)
            self.assertEqual(sink.numbers, sorted(set(sink.numbers)))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class SlowTests(FeedCase):
    """Readers that do not."""

    def test_paused(self) -> None:
        """While it is paused nothing is written; then everything that is still there, in order."""
        sink = self.add(Kept(takes=1))
        self.tell()
        self.tell(4)
        self.assertEqual(sink.numbers, [1])
        sink.takes = 100
        sink.reader.resume()
        self.assertEqual((sink.numbers, sink.said), ([1, 2, 3, 4, 5], []))

    def test_missed(self) -> None:
        """The oldest are lost; that is said first, with how many, from which to which."""
        sink = self.add(Kept(takes=1))
        self.tell()
        self.tell(15)
        sink.takes = 100
        sink.reader.resume()
        self.assertEqual(sink.said, [Missed(5, 2, 6)])
        self.assertEqual(sink.order, ["data", "missed", "data"])
        self.assertEqual(sink.numbers, [1, *range(7, 17)])

    def test_missed_of_its_channels(self) -> None:
        """Only what it wanted counts as lost."""
        sink = self.add(Kept(takes=1), HEALTH)
        self.tell()
        self.tell(2, "tunnel")
        self.tell(1, "health")
        self.tell(11, "tunnel")
        sink.takes = 100
        sink.reader.resume()
        self.assertEqual(sink.said, [Missed(1, 4, 4)])
        self.assertEqual(sink.numbers, [1])

    def test_missed_again(self) -> None:
        """What is lost while the loss could not be said is part of the same loss."""
        sink = self.add(Kept(takes=1))
        self.tell()
        self.tell(15)
        self.tell(1, "tunnel")
        sink.takes = 100
        sink.reader.resume()
        self.assertEqual(sink.said, [Missed(6, 2, 7)])

    def test_paused_by_the_word(self) -> None:
        """Where the connection takes the word of the loss and no more, the rest waits."""
        sink = self.add(Kept(takes=1))
        self.tell()
        self.tell(15)
        sink.takes = 1
        sink.reader.resume()
        self.assertEqual(sink.order, ["data", "missed"])
        sink.takes = 10
        sink.reader.resume()
        self.assertEqual(sink.numbers, [1, *range(7, 17)])

    def test_others(self) -> None:
        """A reader that never reads delays and costs nobody anything; the journal stays as large as it is."""
        stuck, sink = self.add(Kept(), ready=False), self.add(Kept())
        for _ in range(100):
            self.tell(5)
        self.assertEqual(len(sink.numbers), 500)
        self.assertEqual((stuck.pieces, len(self.feed.journal)), ([], 10))
        stuck.reader.resume()
        self.assertEqual(stuck.said, [Missed(490, 1, 490)])

    @settings(deadline=None)
    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("tell"), st.integers(1, 25)),
                st.tuples(st.just("tunnel"), st.integers(1, 25)),
                st.tuples(st.just("takes"), st.integers(1, 3)),
                st.just(("turn", 0)),
            ),
            max_size=40,
        )
    )
    def test_account(self, steps: list[tuple[str, int]]) -> None:
        """Whatever happens: every entry is written once, in order, or counted as missed; never both."""
        self.setUp()
        sink = self.add(Kept(takes=1), HEALTH)
        told: list[int] = []
        for what, number in steps:
            if what == "takes":
                sink.takes = number
                sink.reader.resume()
            elif what == "turn":
                self.clock.advance(SPACING)
            else:
                channel = "tunnel" if what == "tunnel" else "health"
                if channel == "health":
                    told.extend(range(self.seq + 1, self.seq + 1 + number))
                self.tell(number, channel, turn=False)
        sink.takes = 1000
        sink.reader.resume()
        self.clock.advance(SPACING)
        self.assertEqual(sink.numbers, sorted(set(sink.numbers)))
        lost = [seq for seq in told if seq not in sink.numbers]
        self.assertEqual(sum(each.count for each in sink.said), len(lost))
        for seq in lost:
            self.assertTrue(any(each.first <= seq <= each.last for each in sink.said))


class ResumeTests(FeedCase):
    """Readers that come again."""

    def test_all_there(self) -> None:
        """Everything after its place, nothing lost, nothing twice."""
        self.tell(5)
        sink = self.add(Kept(), after=2)
        self.tell()
        self.assertEqual((sink.numbers, sink.said), ([3, 4, 5, 6], []))

    def test_gone(self) -> None:
        """What is no longer there is said; the rest follows."""
        self.tell(15)
        sink = self.add(Kept(), after=2)
        self.assertEqual((sink.said, sink.numbers), ([Missed(3, 3, 5)], list(range(6, 16))))

    def test_nothing_new(self) -> None:
        """Who has everything gets what is new."""
        self.tell(15)
        sink = self.add(Kept(), after=15)
        self.assertEqual((sink.said, sink.numbers), ([], []))
        self.tell()
        self.assertEqual(sink.numbers, [16])

    def test_from_the_future(self) -> None:
        """A number that was never given counts as the last one: nothing is kept back."""
        self.tell(3)
        sink = self.add(Kept(), after=10**18)
        self.tell()
        self.assertEqual((sink.said, sink.numbers), ([], [4]))
