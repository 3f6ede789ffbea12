"""What is said of an error from the network."""

from __future__ import annotations

import msgspec


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """
    What happened, and what may help.

    @ivar sentence: what happened.
    @ivar remedy: where to look; empty where there is nothing to add.
    @ivar retryable: whether the same attempt can succeed later without anybody changing anything.
    @ivar timed_out: whether time ran out.
    @ivar lost: whether there was a connection, which ended.
    """

    sentence: str
    remedy: str = ""
    retryable: bool = False
    timed_out: bool = False
    lost: bool = False
