"""The errors that end the process, and the statuses it ends with (sysexits.h)."""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """What the process says when it ends by itself."""

    OK = 0
    FAILURE = 1
    UNAVAILABLE = 69
    """The control plane can't be reached, or its answer can't be used."""
    NOPERM = 77
    """The control plane refused this agent."""
    CONFIG = 78
    """The settings can't be used."""


class FatalError(Exception):
    """
    The agent can't go on.

    @ivar sentence: what happened, fit for an operator, free of secrets.
    @ivar status: the status that the process ends with.
    @ivar response: the first 2 KiB of the answer that caused it, where there was one, redacted.
    """

    def __init__(self, sentence: str, status: ExitStatus, response: str | None = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.status = status
        self.response = response
