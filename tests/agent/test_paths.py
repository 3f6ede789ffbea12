"""Each path without a token, with too little, with enough: as docs/access.md has it (real sockets)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from twisted.application.service import MultiService

from pipeops_agent.caller import Grant
from pipeops_agent.scheduling import bounded
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model_server import ClientLimits, LimitsSettings, ServerToken
from pipeops_agent.web.listener import Listener
from tests.agent.house import REACTOR, House, dial
from tests.peers.processes import PATIENCE

READER = Secret("reader-77aa88bb99cc00dd")
OPERATOR = Secret("operator-5f2c6a1d9e8b7c")
NARROW = Secret("narrow-0123456789abcdef")

TOKENS: Final = (
    ServerToken(name="reader", token=READER, scopes=(Grant("read"),)),
    ServerToken(name="operator", token=OPERATOR, scopes=(Grant("operate"),)),
    ServerToken(name="narrow", token=NARROW, scopes=(Grant.parse("read:*:*:web"),)),
)

PAGE: Final = Path(__file__).parents[2] / "docs" / "access.md"
_ROW: Final = re.compile(r"\| `(GET|POST|DELETE) (/[^` ]*)` \|([^|]*)\|")


class Row(msgspec.Struct, frozen=True):
    """A line of the table: what it asks for is the words before any C{;} or bracket."""

    method: str
    path: str
    needs: str


def rows() -> list[Row]:
    """The table of paths."""
    lines = _ROW.findall(PAGE.read_text())
    assert len(lines) > 20, "the table has another form"
    return [Row(method, path, re.split(r"[;(]", needs)[0].strip()) for method, path, needs in lines]


def listeners(parent: MultiService) -> Iterator[Listener]:
    """Every listener below C{parent}."""
    for service in parent:
        if isinstance(service, Listener):
            yield service
        elif isinstance(service, MultiService):
            yield from listeners(service)


class PathTests(House):
    """The running agent keeps to the page."""

    async def code(self, row: Row, token: Secret | None) -> int:
        """The status of the answer; its body, which may never end, is not waited for."""
        user = await dial(self.agent.settings.server.port)
        self.addCleanup(self._hang_up, user)
        authorization = f"Authorization: Bearer {token.reveal()}\r\n" if token else ""
        path = row.path.replace("{nonce}", "0" * 32)
        user.say(f"{row.method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{authorization}\r\n".encode())
        head = await user.heard(len("HTTP/1.1 200"))
        assert user.transport is not None
        user.transport.abortConnection()  # type: ignore[attr-defined]  # a TCP one
        await bounded(REACTOR, PATIENCE, user.gone, "the end of the connection")
        return int(head.split()[1])

    def start(self) -> None:
        self.start_sandbox()
        limits = LimitsSettings(client=ClientLimits(requests=10_000, connections=1_000))
        self.start_agent(self.settings(server={"tokens": TOKENS, "limits": limits}))

    async def test_scopes(self) -> None:
        """401 for nobody, 403 for too little, neither for enough; what the page has no scope for is open."""
        self.start()
        await self.until(lambda status: status.agent_id is not None, "the id")
        missing: dict[str, set[Secret | None]] = {
            "": set(),
            "`read`": {None, OPERATOR, NARROW},
            "`read` narrow": {None, OPERATOR},
        }
        for row in rows():
            refused = missing.get(row.needs)
            if refused is None or await self.code(row, READER) == 404:
                continue  # as the command, a session: tests of their own; or this version does not have it
            for token in (None, READER, OPERATOR, NARROW):
                code = await self.code(row, token)
                expected = {401} if token is None else {403}
                self.assertEqual(code in (401, 403), token in refused, f"{row}: {code}")
                if token in refused:
                    self.assertEqual({code}, expected, row)

    async def test_complete(self) -> None:
        """Every path that the agent has is on the page."""
        self.start()
        there = {(row.method, row.path) for row in rows()}
        (listener,) = listeners(self.agent)
        self.assertEqual(sorted(listener.site.router.table - there), [])
