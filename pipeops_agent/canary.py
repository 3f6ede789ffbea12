"""
The canary: the agent reaches for itself through its own forward, from the far side.

    agent -- HTTP --> control plane's address for the port --> chisel server -- channel --> agent's own site

A ping proves the server, a dial the target; this proves the whole way that the control plane's requests
take. The request's path holds a nonce that nobody can guess, the site answers it with another, and only this
process knows both. So it is this agent that has answered, now, and no cache, other agent or error page.

It is no activity: the channel is known by the nonce from its first byte on (L{pipeops_agent.tunnel.watched}),
and neither inactivity nor the counters see it. The request asks for its connection to be closed after it, so
that no intermediary puts somebody else's on the same.
"""

from __future__ import annotations

import secrets
from typing import Final
from urllib.parse import urlsplit

import msgspec
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.client import readBody
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from pipeops_agent.clock import WallClock
from pipeops_agent.figures import CanaryResult
from pipeops_agent.net import explain
from pipeops_agent.scheduling import DeadlineExceeded, PeriodicService, bounded
from pipeops_agent.settings.model_tunnel import CanarySettings
from pipeops_agent.status import ForwardStatus, StatusBoard
from pipeops_agent.tunnel.traffic import ForwardCounters

_log = Logger(namespace="tunnel.canary")

PATH: Final = "/canary/"
"""Where the agent's own site answers; the nonce follows."""

MAX_ANSWER: Final = 16 * 1024
"""Bytes of an answer, headers included: what is not ours may be of any length."""

MAX_HEADS: Final = 8
"""Beginnings of requests by which late channels are known."""

RETRY: Final = 2.0
"""Seconds until the forward is looked for again, while no session carries it."""


class Canary(msgspec.Struct, eq=False):
    """
    One canary.

    @ivar answer: what this agent answers to C{nonce}, and nobody else can.
    @ivar heard: the request has reached this agent.
    """

    nonce: str
    answer: str
    heard: bool = False


class Canaries:
    """The canaries that are out; what the agent's own site asks when one comes."""

    def __init__(self) -> None:
        self._out: dict[str, Canary] = {}

    def make(self) -> Canary:
        """A new one, out until L{forget}."""
        canary = Canary(secrets.token_urlsafe(24), secrets.token_urlsafe(24))
        self._out[canary.nonce] = canary
        return canary

    def answer(self, nonce: str) -> str | None:
        """The answer to C{nonce}; None: no canary of this agent has it, or has it any more."""
        canary = self._out.get(nonce)
        if canary is None:
            return None
        canary.heard = True
        return canary.answer

    def forget(self, canary: Canary) -> None:
        """It is back, or lost."""
        del self._out[canary.nonce]


class CanaryService(PeriodicService):
    """
    Sends canaries while the forward is carried by a session.

    @param agent: sends requests as the settings of proxy and TLS say.
    @param counters: those of the forward; its C{canary} is the result.
    """

    def __init__(
        self,
        clock: IReactorTime,
        agent: IAgent,
        settings: CanarySettings,
        *,
        canaries: Canaries,
        board: StatusBoard,
        wall: WallClock,
        counters: ForwardCounters,
        version: str,
    ) -> None:
        super().__init__(clock, self._try, self._pause, what="sending a canary")
        self._agent = agent
        self._settings = settings
        self._canaries = canaries
        self._board = board
        self._wall = wall
        self._counters = counters
        self._version = version
        self._sent = False

    def _pause(self) -> float:
        return self._settings.interval if self._sent else min(RETRY, self._settings.interval)

    async def _try(self) -> None:
        url = self._url()
        self._sent = url is not None
        if url is None:
            return
        canary = self._canaries.make()
        self._expect(url, canary)
        began = self._clock.seconds()
        try:
            error = await self._send(url, canary)
        finally:
            self._canaries.forget(canary)
        if error is not None and self._url() != url:
            return  # the tunnel has ended, or has another port, meanwhile: this tells nothing
        self._note(error, self._clock.seconds() - began)

    def _url(self) -> str | None:
        """Where the forward's port is reached from the far side; None while it is not listened on."""
        tunnel, name = self._board.now.tunnel, self._settings.forward
        forward = next((each for each in tunnel.forwards if each.name == name), None)
        if forward is None or tunnel.server is None or not _is_carried(forward):
            return None
        host = urlsplit(tunnel.server).hostname or ""
        host = f"[{host}]" if ":" in host else host
        return self._settings.url.replace("{host}", host).replace("{port}", str(forward.remote_port))

    def _expect(self, url: str, canary: Canary) -> None:
        """Let the channel be known by its first bytes, whether or not a path of the URL's arrives with it."""
        paths = dict.fromkeys((urlsplit(url).path + PATH, PATH))
        heads = tuple(f"GET {path}{canary.nonce} ".encode() for path in paths)
        self._counters.canary_heads = (*self._counters.canary_heads, *heads)[-MAX_HEADS:]

    async def _send(self, url: str, canary: Canary) -> str | None:
        """Send one; return why it failed, or None."""
        place, timeout = urlsplit(url).netloc, self._settings.timeout
        try:
            return await bounded(self._clock, timeout, self._ask(url, canary), "the canary's answer")
        except DeadlineExceeded:
            reached = "the request reached this agent, but " if canary.heard else ""
            return f"{reached}no answer came back from {place} within {timeout:g} s"
        except CancelledError:
            raise
        except Exception as error:
            cause = _cause(error)
            if isinstance(cause, CancelledError):  # twisted.web wraps it like any other
                raise CancelledError from None
            return explain(cause, place).sentence

    async def _ask(self, url: str, canary: Canary) -> str | None:
        place = urlsplit(url).netloc
        headers = Headers(
            {
                "Host": [place],  # twisted.web leaves out an IPv6 address's brackets
                "User-Agent": [f"PipeOps-Agent/{self._version}"],
                "Connection": ["close"],
            }
        )
        whole = f"{url}{PATH}{canary.nonce}".encode()
        response: IResponse = await self._agent.request(b"GET", whole, headers)
        body = await readBody(response)
        if canary.heard and response.code == 200 and body == canary.answer.encode():
            return None
        if canary.heard:
            return f"the request reached this agent, but {place} answers with something else: {response.code}"
        return f"{place} answers with {response.code}, and does not lead to this agent"

    def _note(self, error: str | None, seconds: float) -> None:
        before = self._counters.canary or CanaryResult()
        if error is not None and error != before.error:
            _log.warn(
                "forward {forward}: the canary failed: {why}", forward=self._settings.forward, why=error
            )
        elif error is None and before.error is not None:
            _log.info("forward {forward}: the canary is back", forward=self._settings.forward)
        self._counters.canary = CanaryResult(
            last_success=self._wall() if error is None else before.last_success,
            rtt=seconds if error is None else before.rtt,
            error=error,
            tried=before.tried + 1,
            failed=before.failed + (error is not None),
        )


def _is_carried(forward: ForwardStatus) -> bool:
    return forward.remote_port is not None and forward.state in ("listening", "proven", "stale")


def _cause(error: BaseException) -> BaseException:
    """What is behind twisted.web's wrappers."""
    reasons = getattr(error, "reasons", None)
    return _cause(reasons[0].value) if reasons else error
