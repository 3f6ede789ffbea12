"""
Where programs run: on loopback, or at the two ends of a long link.

The link is a program of our Go peer (C{gochisel link}): two network namespaces, and between them nothing
but itself, which delays packets, limits their rate and loses some. The namespaces end with it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NEW_NETWORK: Final = 0x40000000
"""C{CLONE_NEWNET} of C{setns(2)}."""


@dataclass(frozen=True)
class Place:
    """
    A machine, as far as its network goes.

    @ivar host: the address at which others reach it.
    @ivar network: the file of its namespace; empty: this process's own.
    """

    host: str = "127.0.0.1"
    network: str = ""


HERE: Final = Place()


@dataclass(frozen=True)
class Distance:
    """
    What lies between two places.

    @ivar round_trip: seconds.
    @ivar loss: the share of packets that are lost in each direction.
    @ivar rate: bytes per second in each direction.
    """

    round_trip: float
    loss: float
    rate: float


def no_link() -> str:
    """Why there can be no link here; empty: there can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces of its own"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun"
    return ""


@contextmanager
def entered(place: Place) -> Iterator[None]:
    """
    Be at C{place}: a socket that is made meanwhile belongs there, and still does afterwards.

    Only for what is done at once: it is the thread that changes its network.

    @raise OSError: there is no such namespace, or no right to enter it.
    """
    if not place.network:
        yield
        return
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        there = os.open(place.network, os.O_RDONLY)
        try:
            _enter(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _enter(home)
    finally:
        os.close(home)


def _enter(namespace: int) -> None:
    """C{os.setns}, which Python has from 3.12 on."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _NEW_NETWORK) != 0:
        raise OSError(ctypes.get_errno(), "setns")
