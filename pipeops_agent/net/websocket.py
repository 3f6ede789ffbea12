"""How this project runs Autobahn: with limits, without timers or records of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class SilentLog:
    """Takes Autobahn's own records: what matters in them is said by whoever uses it, once."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return _nothing


def _nothing(*args: object, **kwargs: object) -> None:
    """Say nothing."""


def protocol_options(max_message: int) -> dict[str, Any]:
    """
    What C{setProtocolOptions} is given in both roles: limits, and no timer that is not ours.

    @param max_message: the longest message accepted, in bytes.
    """
    return {
        "maxFramePayloadSize": max_message,
        "maxMessagePayloadSize": max_message,
        "openHandshakeTimeout": 0,
        "closeHandshakeTimeout": 0,
        "autoPingInterval": 0,
        "autoPingTimeout": 0,
        "failByDrop": True,
        "tcpNoDelay": True,
    }
