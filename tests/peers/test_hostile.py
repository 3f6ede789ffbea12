"""
The agent's session against a server that misbehaves, mode by mode (C{docs/chisel.md}, "Hostile modes").

None may end in a hang, a leak or a traceback: trial fails a test for any logged failure, and the suite
compares timers, descriptors and live objects with those of before.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from pipeops_agent.scheduling import bounded, sleep
from pipeops_agent.tunnel.errors import SessionError
from pipeops_agent.tunnel.session import ChiselSession
from tests.peers.client import QUICK, Client, Leftovers, remote_to
from tests.peers.harness import Peers, Services, free_port, tunnel_server
from tests.peers.processes import real_reactor

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "chisel.md"
ROW: Final = re.compile(r"^\| `([a-z0-9-]+)` \| ([a-z]+) \| ([a-z-]+) \|", re.MULTILINE)
TABLE: Final = DOCUMENT.read_text().partition("### Hostile modes")[2]
MODES: Final = [(name, stage, expect) for name, stage, expect in ROW.findall(TABLE)]

PATIENCE: Final = 15.0
"""Seconds in which every mode must have come to its end."""

ENOUGH: Final = 6.0
"""Seconds after which a mode that never says that it is through is taken to be so."""

SETTINGS: Final = msgspec.structs.replace(QUICK, max_channels=200, rekey_bytes=1e12)


class Outcome(msgspec.Struct, frozen=True):
    """What became of a session with a hostile server."""

    mode: str
    ended: str | None
    """Why it ended; None: it was alive until the test closed it."""
    accepted: int


class HostileServers(TestCase):
    """One test per stage of a connection; the modes of a stage run side by side."""

    timeout = 120

    def setUp(self) -> None:
        self.reactor: Any = real_reactor()
        self.peers = Peers(self.reactor, self)

    async def check(self, stage: str) -> None:
        """Meet every mode of C{stage}; each must come out as its C{expect} says."""
        services = await self.peers.services()
        chosen = [(name, expect) for name, at, expect in MODES if at == stage]
        assert chosen, f"no modes of stage {stage}"
        before = Leftovers.now(self.reactor)
        meetings = [Deferred.fromCoroutine(self.meet(name, expect, services)) for name, expect in chosen]
        results: list[tuple[bool, Any]] = await DeferredList(meetings, consumeErrors=True)
        problems = [
            f"{name}: {result.getErrorMessage()}"
            for (name, _), (_, result) in zip(chosen, results, strict=True)
            if isinstance(result, Failure)
        ]
        assert not problems, "\n".join(problems)
        await sleep(self.reactor, 0.1)
        after = Leftovers.now(self.reactor)
        assert after.timers == before.timers, (before, after)
        # The programs themselves are still running, each with three pipes.
        assert after.descriptors - 3 * len(chosen) <= before.descriptors + 2, (before, after)

    async def meet(self, mode: str, expect: str, services: Services) -> None:
        """Open a session with one hostile server, and see what becomes of it."""
        server = await self.peers.gochisel_server(hostile=mode, quiet=True)
        client = Client(self.reactor, SETTINGS)
        remote = remote_to(services["echo"], free_port())
        session: ChiselSession | None = None
        ended: str | None = None
        try:
            session = await bounded(
                self.reactor, PATIENCE, client.open(tunnel_server(server), remote), "opening"
            )
        except SessionError as error:
            ended = error.sentence
            assert client.trace is not None
            last = client.trace.steps[-1]
            assert last.error, f"no step says what failed: {client.trace.steps}"
        else:
            ended = await self.watch(session, server.program, mode, expect)
            await bounded(self.reactor, 2.0, session.close("the test is over"), "closing")
        CHECKS[expect](Outcome(mode, ended, client.traffic.forward("test").opened))

    async def watch(self, session: ChiselSession, program: Any, mode: str, expect: str) -> str | None:
        """Wait until the mode is through with it, or the session has ended."""
        lost = session.when_lost()
        if expect == "end":
            return str(await bounded(self.reactor, PATIENCE, lost, "the end of the session"))
        done: Deferred[Any] = Deferred.fromCoroutine(
            program.wait_for("hostile", step="end", timeout=PATIENCE)
        )
        done.addErrback(lambda _: None)
        enough = sleep(self.reactor, ENOUGH)
        await DeferredList([lost, done, enough], fireOnOneCallback=True)
        for waiting in (done, enough):
            waiting.addErrback(lambda _: None)
            waiting.cancel()
        # Alive means: pings are answered after all that.
        await sleep(self.reactor, 1.5 * (SETTINGS.ping_interval + SETTINGS.ping_timeout) / 2)
        return str(lost.result) if lost.called else None


def _must_end(outcome: Outcome) -> None:
    assert outcome.ended, "the session went on"
    assert len(outcome.ended) < 1000, "an endless sentence"
    assert outcome.ended.isprintable(), f"control characters in {outcome.ended!r}"


def _must_live(outcome: Outcome) -> None:
    assert outcome.ended is None, f"the session ended: {outcome.ended}"


def _must_refuse(outcome: Outcome) -> None:
    _must_live(outcome)
    most = SETTINGS.max_channels if outcome.mode in {"channel-flood", "channel-requests"} else 0
    assert outcome.accepted <= most, f"{outcome.accepted} channels were let in"


def _may_do_either(outcome: Outcome) -> None:
    if outcome.ended is not None:
        _must_end(outcome)


CHECKS: Final[dict[str, Callable[[Outcome], None]]] = {
    "end": _must_end,
    "carry-on": _must_live,
    "refuse": _must_refuse,
    "bounded": _may_do_either,
}


def _add_tests() -> None:
    for stage in dict.fromkeys(stage for _, stage, _ in MODES):

        async def test(self: HostileServers, stage: str = stage) -> None:
            await self.check(stage)

        test.__doc__ = f"Every way to misbehave at stage {stage} comes to an orderly end."
        setattr(HostileServers, f"test_{stage}", test)


_add_tests()
