"""
Two network namespaces joined by a cable that can be cut: for what loopback can't show.

Needs root, iproute2, nftables and util-linux; a test is skipped without, unless C{CI} is set. Programs are
put into a namespace with C{nsenter}: C{ip netns exec} would mount C{/sys} anew.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from typing import Final
from unittest import SkipTest

from tests.peers.harness import Owner

HERE: Final = "198.18.0.1"
"""The agent's end of the cable (RFC 2544: addresses for tests)."""
THERE: Final = "198.18.0.2"
"""The server's end."""

_TOOLS: Final = ("ip", "nft", "nsenter")
_CUT: Final = "table inet cut { chain arriving { type filter hook input priority 0; iifname cable drop; }; }"
_numbers = itertools.count(1)


def require_namespaces() -> None:
    """@raise SkipTest: there can be none here; with C{CI} set that is an error instead."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    reason = ""
    if os.geteuid() != 0:
        reason = "network namespaces need root"
    elif missing:
        reason = f"not installed: {', '.join(missing)}"
    if reason and os.environ.get("CI"):
        raise RuntimeError(reason)
    if reason:
        raise SkipTest(reason)


def _run(*arguments: str, text: str = "") -> None:
    done = subprocess.run(
        [shutil.which(arguments[0]) or arguments[0], *arguments[1:]],
        input=text,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()}")


class Cable:
    """
    A namespace here, at L{HERE}, one there, at L{THERE}, and the cable between them; gone with the test.

    @param other: join this namespace, which is there already and stays, instead of a new one.
    @param to: an address of it that is reached from here over the cable.
    @ivar here: what a command line begins with that is to run here; C{there} likewise.
    """

    def __init__(self, owner: Owner, other: str = "", *, to: str = "") -> None:
        require_namespaces()
        name = f"pipeops-{os.getpid()}-{next(_numbers)}"
        self._made = (f"{name}-a",) if other else (f"{name}-a", f"{name}-b")
        here, there = self._made[0], other or f"{name}-b"
        self.here, self.there = self._enter(here), self._enter(there)
        self._is_cut = False
        owner.addCleanup(self._remove)
        for end in self._made:
            _run("ip", "netns", "add", end)
            _run("ip", "-n", end, "link", "set", "lo", "up")
        _run(
            *("ip", "link", "add", "cable", "netns", here, "type", "veth"),
            *("peer", "name", "cable", "netns", there),
        )
        for end, address in ((here, HERE), (there, THERE)):
            _run("ip", "-n", end, "address", "add", f"{address}/30", "dev", "cable")
            _run("ip", "-n", end, "link", "set", "cable", "up")
        if to:
            _run("ip", "-n", here, "route", "add", to, "via", THERE)

    def _enter(self, end: str) -> tuple[str, str]:
        return (shutil.which("nsenter") or "nsenter", f"--net=/run/netns/{end}")

    def cut(self) -> None:
        """
        Lose every packet from now on, both ways, and tell nobody: no reset, no ICMP, no carrier lost.

        They are dropped where they arrive: to drop what is sent would be an error of the sender's.
        """
        self._is_cut = True
        for end in (self.here, self.there):
            _run(*end, "nft", "-f", "-", text=_CUT)

    def mend(self) -> None:
        """Lose no more of them."""
        self._is_cut = False
        for end in (self.here, self.there):
            _run(*end, "nft", "delete", "table", "inet", "cut")

    def narrow(self, octets: int) -> None:
        """Let every new TCP socket at either end have buffers of so many bytes at most."""
        for end in (self.here, self.there):
            for side in ("rmem", "wmem"):
                _run(*end, "tee", f"/proc/sys/net/ipv4/tcp_{side}", text=f"4096 {octets} {octets}")

    def _remove(self) -> None:
        if self._is_cut:  # what is there may stay
            self.mend()
        for end in self._made:
            if os.path.exists(f"/run/netns/{end}"):
                _run("ip", "netns", "delete", end)
