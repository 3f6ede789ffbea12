"""Windows: as large as the way needs, no larger where the reader is slow, and bounded all together."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.ssh.windows import EASY, EASY_SECONDS, LEAST, STORE, Window, Windows

MIB = 1 << 20
MOST = 16 * MIB
STEP = 0.001


class Way:
    """
    A way with a delay and a rate, a sender that always has something, and a reader.

    Time goes by in steps of a millisecond.

    @param reader: bytes per second that the reader takes.
    @ivar passed: bytes that the reader has taken.
    @ivar queued: bytes that wait for the way to be free.
    """

    def __init__(self, *, rate: float, round_trip: float, reader: float = 1e12, most: int = MOST) -> None:
        self.now = 0.0
        self.windows = Windows(lambda: self.now, most)
        self.windows.note_round_trip(round_trip)
        self.window = self.windows.open()
        self._rate, self._reader = rate, reader
        self._allowed = self.window.size
        steps = max(1, round(round_trip / 2 / STEP))
        self._there = deque([0] * steps)
        self._back = deque([0] * steps)
        self.queued = self.held = self.passed = 0

    def run(self, seconds: float) -> None:
        """Let time go by."""
        for _ in range(round(seconds / STEP)):
            self.now += STEP
            self._allowed += self._back.popleft()
            self.queued += self._allowed
            self._allowed = 0
            leaving = min(self.queued, int(self._rate * STEP))
            self.queued -= leaving
            self._there.append(leaving)
            self._back.append(self._arrive(self._there.popleft()))

    def _arrive(self, count: int) -> int:
        """Take what has come, read what the reader can; return by how much the window is opened."""
        assert self.window.received(count)
        self.held += count
        taken = min(self.held, int(self._reader * STEP))
        self.held -= taken
        self.passed += taken
        return self.window.consumed(taken)

    def pace(self, seconds: float = 5.0) -> float:
        """Run for a while, and return how many bytes per second passed."""
        before = self.passed
        self.run(seconds)
        return (self.passed - before) / seconds


class Growth(SynchronousTestCase):
    """One window, on several ways."""

    def test_fills_a_long_way(self) -> None:
        """What lies on the way decides: the way is full soon, and little waits before it."""
        for rate, round_trip in ((10e6, 0.1), (20e6, 0.2), (50e6, 0.05)):
            way = Way(rate=rate, round_trip=round_trip)
            way.run(40 * round_trip)
            self.assertGreater(way.pace(), 0.97 * rate)
            self.assertLessEqual(way.window.size, 3.3 * rate * round_trip)

    def test_no_larger_than_the_most(self) -> None:
        """The largest window is a limit, whatever the way could hold."""
        way = Way(rate=100e6, round_trip=0.5, most=4 * MIB)
        way.run(30)
        self.assertEqual(way.window.size, 4 * MIB)
        self.assertLess(way.pace(), 4.1 * MIB / 0.5)

    def test_small_on_a_short_way(self) -> None:
        """Where the way is short the window holds what passes in a moment, and is never large."""
        for rate, most in ((1e6, LEAST), (20e6, EASY_SECONDS * 20e6), (500e6, EASY)):
            way = Way(rate=rate, round_trip=0.0001)
            way.run(3)
            self.assertLessEqual(way.window.size, max(most, 6 * LEAST))
            self.assertGreater(way.pace(), 0.97 * rate)

    def test_a_slow_reader(self) -> None:
        """A reader that takes less than comes does not get a window that it would only fill."""
        way = Way(rate=50e6, round_trip=0.2, reader=1e6)
        first = way.window.size
        way.run(30)
        self.assertLessEqual(way.window.size, first)
        self.assertGreater(way.held, 0)

    def test_becomes_slow(self) -> None:
        """A window that had grown shrinks when much less passes, and what it gives back others can have."""
        way = Way(rate=20e6, round_trip=0.1)
        way.run(5)
        grown, store = way.window.size, way.windows.store
        self.assertGreater(grown, 2 * MIB)
        way._rate = 0.5e6  # the sender has less to say
        way.run(60)
        self.assertLess(way.window.size, grown // 2)
        self.assertEqual(way.windows.store - store, grown - way.window.size)

    def test_a_pause_before_a_burst(self) -> None:
        """A channel that was idle keeps its window for the burst that follows."""
        way = Way(rate=20e6, round_trip=0.1)
        way.run(5)
        grown, way._rate = way.window.size, 0.0
        way.run(10)
        way._rate = 20e6
        way.run(0.06)  # the first of it has come
        self.assertEqual(way.window.size, grown)
        self.assertGreater(way.pace(1), 18e6)

    def test_all_at_once_after_a_loss(self) -> None:
        """What was held up behind a lost packet and comes all at once is no faster way."""
        now = [0.0]
        windows = Windows(lambda: now[0], MOST)
        windows.note_round_trip(0.1)
        window = windows.open()

        def passes(seconds: float, count: int) -> None:
            now[0] += seconds
            self.assertTrue(window.received(count))
            window.consumed(count)

        for _ in range(20):
            passes(0.1, min(window.size, MIB))
        grown = window.size
        self.assertEqual(grown, 3 * MIB)
        for _ in range(5):
            passes(0.3, grown // 8)
            passes(0.1, grown * 2 // 3)
        self.assertEqual(window.size, grown)

    def test_the_least_round_trip(self) -> None:
        """The shortest round trip counts: the windows' own queue does not make them larger."""
        windows = Windows(float, MOST)
        for seconds in (0.2, 0.05, 0.3):
            windows.note_round_trip(seconds)
        self.assertEqual(windows.round_trip, 0.05)


class Bounds(SynchronousTestCase):
    """All windows of a connection."""

    def test_store(self) -> None:
        """However many there are, and however fast: all together have the least of each, and the store."""
        now = [0.0]
        windows = Windows(lambda: now[0], MIB)
        opened = [windows.open() for _ in range(50)]
        for _ in range(100):
            now[0] += 0.01
            for window in opened:
                count = window.size // 2
                self.assertTrue(window.received(count))
                window.consumed(count)
        total = sum(window.size for window in opened)
        self.assertLessEqual(total, 50 * LEAST + STORE * MIB)
        self.assertEqual(total + windows.store, 50 * LEAST + STORE * MIB)
        for window in opened:
            window.close()
        self.assertEqual(windows.store, STORE * MIB)

    def test_new_ones_leave_something(self) -> None:
        """Thousands that are idle leave half of the store to those that are busy."""
        windows = Windows(float, MOST)
        sizes = [windows.open().size for _ in range(3000)]
        self.assertGreater(sizes[0], 4 * LEAST)
        self.assertEqual(sizes[-1] // LEAST, 1)
        self.assertGreaterEqual(windows.store, STORE * MOST // 2)

    def test_half_of_what_is_left(self) -> None:
        """One window takes at most half of what is left: there is always something for the next."""
        windows = Windows(float, MIB)
        self.assertEqual(windows.draw(100 * MIB), 2 * MIB)
        self.assertEqual(windows.draw(100 * MIB), MIB)
        self.assertEqual(windows.draw(100), 100)

    def test_fixed(self) -> None:
        """Where they are fixed, they stay as they are."""
        windows = Windows.fixed(MIB)
        window = windows.open()
        for _ in range(100):
            self.assertTrue(window.received(MIB))
            self.assertEqual(window.consumed(MIB), MIB)
        self.assertEqual((window.size, windows.store), (MIB, 0))

    def test_smaller_than_the_least(self) -> None:
        """A largest window below the least one is what everybody gets."""
        windows = Windows(float, 32 * 1024)
        self.assertEqual(windows.open().size, 32 * 1024)

    @given(st.lists(st.tuples(st.integers(0, 400_000), st.integers(0, 400_000), st.floats(0, 1))))
    def test_a_hard_limit(self, steps: list[tuple[int, int, float]]) -> None:
        """What was opened is what is let in, and no byte more."""
        now = [0.0]
        windows = Windows(lambda: now[0], MIB)
        window: Window = windows.open()
        allowed, unread = window.size, 0
        for sent, wanted, seconds in steps:
            now[0] += seconds
            if sent > allowed:
                assert not window.received(sent)
                return
            assert window.received(sent)
            allowed, unread = allowed - sent, unread + sent
            read = min(wanted, unread)
            unread -= read
            opened = window.consumed(read)
            assert opened >= 0
            allowed += opened
            assert allowed + unread <= window.size <= MIB
            assert window.size + windows.store == LEAST + STORE * MIB
