"""
How much is read at once from local targets: what one has read has to be held where the tunnel is full.

A large piece saves calls where few connections have the tunnel to themselves. Where many share it large ones
would only fill the memory, and the kernel's, which makes its receive buffer as large as what is read from it;
and who reads more than the others would get more of the tunnel. So a connection reads what it can send in one
turn (L{turn_size}), and large pieces after one went through at once, where there are few.
"""

from __future__ import annotations

from typing import Final

from pipeops_agent.tunnel.ssh.turns import turn_size

LARGE: Final = 128 * 1024
"""Bytes of a large piece."""

FEW: Final = 64
"""Where there are more connections than these, nobody reads large pieces: these can hold 8 MiB together."""


class Reading:
    """
    What the connections of one tunnel session read.

    A connection asks for the size of its next piece when one had to wait, or went through. So whoever read
    large pieces while there were few may read one more.

    @ivar readers: how many connections there are.
    """

    def __init__(self) -> None:
        self.readers = 0

    def small(self) -> int:
        """The first piece's size, and the next one's where one had to wait."""
        return turn_size(self.readers)

    def next(self) -> int:
        """The next one's size where one went through at once."""
        return LARGE if self.readers <= FEW else self.small()
