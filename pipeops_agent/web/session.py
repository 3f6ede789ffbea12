"""C{/api/session}: a browser signs in, and out."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import msgspec

from pipeops_agent.access.denied import Denied
from pipeops_agent.clock import Moment, WallClock
from pipeops_agent.web import replies
from pipeops_agent.web.access import Access, refusal
from pipeops_agent.web.replies import Refusal, Reply
from pipeops_agent.web.request import AgentRequest
from pipeops_agent.web.routes import Parameters, Route

PATH: Final = "/api/session"


class SignedIn(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the page gets to know of its session.

    @ivar key: to be sent with each request, in C{X-Session-Key}; the cookie alone is worth nothing.
    @ivar expires: when it ends at the latest.
    @ivar scopes: what it allows now, in words of the settings.
    """

    subject: str
    scopes: list[str]
    key: str
    expires: Moment


class SessionPages:
    """Signing in with a token, and out with a session."""

    def __init__(self, access: Access, wall: WallClock) -> None:
        self._access = access
        self._wall = wall

    def routes(self) -> list[Route]:
        """The lines for the table."""
        return [Route("POST", PATH, self.sign_in), Route("DELETE", PATH, self.sign_out)]

    async def sign_in(self, request: AgentRequest, parameters: Parameters) -> Reply:
        """
        A session for the bearer of a token.

        @raise Refusal: 401, 403, 429, or 503 as long as the agent does not know its own id.
        """
        name = self._cookie(request)
        try:
            caller, opened = await self._access.gate.sign_in(
                self._access.shown(request), self._access.origin(request)
            )
        except Denied as error:
            raise refusal(error) from None
        answer = SignedIn(
            subject=caller.subject,
            scopes=sorted(grant.text for grant in caller.scopes),
            key=opened.key.reveal(),
            expires=self._wall() + timedelta(seconds=opened.seconds),
        )
        cookie = _cookie(request, name, opened.identifier.reveal(), int(opened.seconds))
        return msgspec.structs.replace(replies.json(answer), headers=(("Set-Cookie", cookie),))

    async def sign_out(self, request: AgentRequest, parameters: Parameters) -> Reply:
        """
        The session that is shown, with its key, ends.

        @raise Refusal: 401, there is none.
        """
        name = self._cookie(request)
        try:
            await self._access.gate.sign_out(self._access.shown(request), self._access.origin(request))
        except Denied as error:
            raise refusal(error) from None
        return Reply(code=204, headers=(("Set-Cookie", _cookie(request, name, "", 0)),))

    def _cookie(self, request: AgentRequest) -> str:
        name = self._access.cookie(request)
        if name is None:
            raise Refusal(503, "unavailable", "the agent is starting; sign in later", ("Retry-After", "2"))
        return name


def _cookie(request: AgentRequest, name: str, value: str, seconds: int) -> str:
    """C{Set-Cookie}: no script reads it, no other site's page makes the browser send it."""
    secure = "; Secure" if request.isSecure() else ""
    return f"{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
