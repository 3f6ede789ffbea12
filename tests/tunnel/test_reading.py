"""What connections read at once: large pieces for few, and a bound for all."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.reading import FEW, LARGE, Reading
from pipeops_agent.tunnel.ssh.turns import LEAST_TURN, TOGETHER, TURN


class ReadingTests(SynchronousTestCase):
    """The sizes of pieces."""

    def test_few(self) -> None:
        """Small ones first, and after one that had to wait; large ones after one that went through."""
        reading = Reading()
        reading.readers = FEW
        self.assertEqual((reading.small(), reading.next()), (TURN, LARGE))

    def test_many(self) -> None:
        """Where there are many nobody reads more than the others, and all together a bounded amount."""
        reading = Reading()
        for readers in range(FEW + 1, 10_000, 100):
            reading.readers = readers
            self.assertEqual(reading.small(), reading.next())
            self.assertLessEqual(readers * reading.small(), max(TOGETHER, readers * LEAST_TURN))
