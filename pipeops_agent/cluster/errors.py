"""What can go wrong between the agent and the Kubernetes API: errors whose text is a sentence."""

from __future__ import annotations

from typing import Final

import msgspec

MAX_MESSAGE: Final = 1024
"""How many characters of the server's own words are kept."""

NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on bytes that are no JSON, or another's: the second where a text in it is not UTF-8."""


class ClusterError(Exception):
    """
    The Kubernetes API did not do what was asked.

    @ivar retryable: whether the same call can succeed later without anybody changing anything.
    """

    def __init__(self, sentence: str, *, retryable: bool = False) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.retryable = retryable


class Misconfigured(ClusterError):
    """How the cluster is reached can't be found out from what is configured."""


class Unreachable(ClusterError):
    """
    There was no answer.

    @ivar sent: whether the request may have reached the server all the same.
    """

    def __init__(self, sentence: str, *, retryable: bool = True, sent: bool = True) -> None:
        super().__init__(sentence, retryable=retryable)
        self.sent = sent


class BadAnswer(ClusterError):
    """An answer came that is none of the Kubernetes API's: no JSON, another shape, or too long."""


class _Cause(msgspec.Struct, frozen=True):
    reason: str = ""
    message: str = ""
    field: str = ""


class _Details(msgspec.Struct, frozen=True):
    name: str = ""
    kind: str = ""
    causes: tuple[_Cause, ...] = ()
    retry_after: float = msgspec.field(name="retryAfterSeconds", default=0.0)


class ApiStatus(msgspec.Struct, frozen=True):
    """C{meta/v1 Status}: how the API says that something failed, or was done."""

    kind: str = ""
    status: str = ""
    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


class StatusError(ClusterError):
    """
    The API answered with a failure.

    @ivar code: the HTTP status.
    @ivar reason: the API's word for it (C{NotFound}, C{Conflict}, C{Expired}, ...); empty where the answer
        did not come from the API itself, but from something before it.
    @ivar message: what the server says, bounded and printable.
    @ivar retry_after: the seconds that it asks to wait; None: it does not say.
    """

    def __init__(
        self, what: str, code: int, *, reason: str = "", message: str = "", retry_after: float | None = None
    ) -> None:
        said = printable(message) or reason or "no reason given"
        super().__init__(f"{what}: {said} ({code})", retryable=code == 429 or code >= 500)
        self.code = code
        self.reason = reason
        self.message = printable(message)
        self.retry_after = retry_after

    @property
    def not_found(self) -> bool:
        """There is no such object, or no such resource."""
        return self.code == 404

    @property
    def forbidden(self) -> bool:
        """RBAC, or another authorizer, does not allow it."""
        return self.code == 403

    @property
    def unauthorized(self) -> bool:
        """The credentials were not accepted."""
        return self.code == 401

    @property
    def conflict(self) -> bool:
        """Another version is there, or an object of this name."""
        return self.code == 409

    @property
    def expired(self) -> bool:
        """The resource version or the continue token is too old: list again (410)."""
        return self.code == 410 or self.reason == "Expired"


_STATUS: Final = msgspec.json.Decoder(ApiStatus)


def status_error(what: str, code: int, body: bytes, *, retry_after: float | None = None) -> StatusError:
    """
    The error that an answer stands for.

    @param what: names the call: "list pods".
    @param body: a C{Status} in JSON, or whatever else came.
    """
    try:
        said = _STATUS.decode(body)
    except NOT_JSON:
        said = ApiStatus()
    if said.kind != "Status":
        text = body[:MAX_MESSAGE].decode("utf-8", "replace").strip().partition("\n")[0]
        return StatusError(what, code, message=text, retry_after=retry_after)
    if retry_after is None and said.details is not None and said.details.retry_after > 0:
        retry_after = said.details.retry_after
    return StatusError(what, code, reason=said.reason, message=said.message, retry_after=retry_after)


def printable(text: str, limit: int = MAX_MESSAGE) -> str:
    """What a server said: bounded, on one line, without control characters."""
    return "".join(c if c.isprintable() else " " for c in text[:limit]).strip()
