"""That somebody may not."""

from __future__ import annotations

from typing import Literal

Reason = Literal["unauthorized", "session_ended", "plaintext_token", "forbidden", "too_many", "unavailable"]
"""
C{unauthorized}: no token was shown, or one that is not known. C{session_ended}: sign in again.
C{plaintext_token}: a token came through a network without TLS. C{forbidden}: known, and not allowed.
C{too_many}: too often. C{unavailable}: it can't be found out now.
"""


class Denied(Exception):
    """
    The answer is no.

    @ivar reason: for programs.
    @ivar sentence: for people; it holds nothing of what was shown.
    @ivar retry_after: the seconds after which it may be another answer; None: not by waiting.
    @ivar shown: whether a credential was shown at all.
    """

    def __init__(
        self, reason: Reason, sentence: str, *, retry_after: float | None = None, shown: bool = True
    ) -> None:
        super().__init__(sentence)
        self.reason: Reason = reason
        self.sentence = sentence
        self.retry_after = retry_after
        self.shown = shown
