"""Everything that is fuzzed, and how one input is tried: no exception, no hang, no record of a mistake."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from cryptography.utils import CryptographyDeprecationWarning
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from zope.interface import implementer

from tests.fuzz.answers import answers, words
from tests.fuzz.carrier import client_carrier, server_carrier
from tests.fuzz.connection import connection
from tests.fuzz.frames import frames
from tests.fuzz.handshake import client_noise, man_in_the_middle, server_noise
from tests.fuzz.packets import plain_packets, sealed_packets
from tests.fuzz.session import client_session, server_session

MAX_INPUT: Final = 1024
"""The longest input, in bytes; what is long in a protocol is made of short ones (L{tests.fuzz.source})."""

CPU_SECONDS: Final = 5.0
"""What one input may cost: a thousand times what it does, so that only an endless loop gets there."""


class Target(NamedTuple):
    """
    One thing that is fuzzed.

    @ivar share: how many of a run's inputs it gets, beside the others: what is quick, or promises most, more.
    """

    run: Callable[[bytes], None]
    share: int


TARGETS: Final[dict[str, Target]] = {
    "frames": Target(frames, 15),
    "plain-packets": Target(plain_packets, 5),
    "sealed-packets": Target(sealed_packets, 5),
    "client-noise": Target(client_noise, 6),
    "server-noise": Target(server_noise, 4),
    "man-in-the-middle": Target(man_in_the_middle, 12),
    "client-session": Target(client_session, 12),
    "server-session": Target(server_session, 6),
    "connection": Target(connection, 20),
    "client-carrier": Target(client_carrier, 4),
    "server-carrier": Target(server_carrier, 3),
    "answers": Target(answers, 4),
    "words": Target(words, 4),
}
"""By name, from the bottom of the tunnel to the top."""


class Hang(BaseException):
    """An input costs more than L{CPU_SECONDS}; no handler in between must take this for an error."""


class Mistake(Exception):
    """Something was logged that comes of mistakes only, such as a Deferred whose failure nobody took."""


@contextmanager
def watch() -> Iterator[list[LogEvent]]:
    """What is logged meanwhile as a failure, or worse than a warning."""
    found: list[LogEvent] = []

    @implementer(ILogObserver)
    def look(event: LogEvent) -> None:
        if event.get("log_level", LogLevel.info) >= LogLevel.error:
            found.append(event)

    globalLogPublisher.addObserver(look)
    try:
        with warnings.catch_warnings():
            # What a peer may negotiate; it is refused, and not by a warning.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            yield found
    finally:
        globalLogPublisher.removeObserver(look)


def _hang(signum: int, frame: object) -> None:
    raise Hang(f"more than {CPU_SECONDS} s of CPU for one input")


def attempt(target: Target, data: bytes, logged: list[LogEvent]) -> None:
    """
    Try one input, in the main thread.

    @param logged: what L{watch} yields.
    @raise Exception: what the target, or what it tests, raises; L{Mistake}, L{Hang}.
    """
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        target.run(data[:MAX_INPUT])
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    if logged:
        event, logged[:] = logged[0], []
        failure = event.get("log_failure")
        raise Mistake(failure.getTraceback() if failure else str(event.get("log_format")))


@contextmanager
def guarded() -> Iterator[list[LogEvent]]:
    """L{watch}, with the alarm clock that L{attempt} sets."""
    before = signal.signal(signal.SIGVTALRM, _hang)
    try:
        with watch() as logged:
            yield logged
    finally:
        signal.signal(signal.SIGVTALRM, before)
