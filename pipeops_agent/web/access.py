"""Who asks, and what they may see."""

from __future__ import annotations

import hmac
from typing import Final

from twisted.web.iweb import IRequest

from pipeops_agent.caller import Caller
from pipeops_agent.tokens import TokenSource
from pipeops_agent.web.replies import Refusal

READ: Final = "read"
"""The scope that shows more than yes and no."""

OPERATE: Final = "operate"
"""The scope that changes things, and sees who has."""

_CHALLENGE: Final = 'Bearer realm="pipeops-agent"'


class Access:
    """
    Knows callers by their bearer token.

    Until tokens of the interface's own are configured there is one: the agent's control-plane token,
    which gives L{READ} alone, because the master credential is not for operating. Where a request comes
    from gives nothing: the tunnel's channels come from loopback too.
    """

    def __init__(self, tokens: TokenSource) -> None:
        self._tokens = tokens

    def caller(self, request: IRequest) -> Caller | None:
        """
        Who sent C{request}; None: somebody who shows no token.

        @raise Refusal: 401, a token that is not the right one, or something else in its place.
        """
        shown = request.requestHeaders.getRawHeaders(b"authorization", [])
        if not shown:
            return None
        scheme, _, token = shown[0].strip().partition(b" ")
        if len(shown) != 1 or scheme.lower() != b"bearer" or not self._is_current(token.strip()):
            raise Refusal(
                401,
                "unauthorized",
                "this token is not known here",
                ("WWW-Authenticate", f'{_CHALLENGE}, error="invalid_token"'),
            )
        peer = request.getClientAddress()
        return Caller(
            subject="control-plane token",
            scopes=frozenset({READ}),
            origin=str(getattr(peer, "host", peer)),
        )

    async def require(self, request: IRequest, scope: str) -> Caller:
        """
        Who sent C{request}, if that is somebody with C{scope}.

        @raise Refusal: 401, no token or one that is not known; 403, the scope is missing.
        """
        caller = self.caller(request)
        if caller is None:
            challenge = ("WWW-Authenticate", _CHALLENGE)
            raise Refusal(401, "unauthorized", "a token is needed here (Authorization: Bearer)", challenge)
        if scope not in caller.scopes:
            raise Refusal(403, "forbidden", f"this token does not have the scope {scope}")
        return caller

    def _is_current(self, token: bytes) -> bool:
        current = self._tokens.current()
        if not current:  # an empty one counts as none: it would be everybody's
            return False
        return hmac.compare_digest(token, current.reveal().encode())
