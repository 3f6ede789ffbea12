"""An HTTP answer of the control plane, and what its status and headers mean."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import msgspec

from pipeops_agent.controlplane.errors import ApiError, excerpt, first_line, redact
from pipeops_agent.controlplane.strict import is_object
from pipeops_agent.controlplane.tunnel_answer import clamp
from pipeops_agent.secrets import Secret


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """
    What came back.

    @ivar retry_after: the seconds that it asks to wait, clamped.
    @ivar date: the server's clock.
    @ivar location: where a redirect points; it is reported, never followed.
    """

    status: int
    body: bytes
    retry_after: float | None = None
    date: datetime | None = None
    location: str | None = None


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """C{Retry-After}: seconds or a date (RFC 9110 section 10.2.3), clamped; None where it is neither."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return clamp(float(text[:9]))
    moment = parse_date(text)
    return None if moment is None else clamp((moment - now).total_seconds())


def parse_date(value: str | None) -> datetime | None:
    """An HTTP date (RFC 9110 section 5.6.7); None where it is none."""
    if value is None or len(value) > 64:
        return None
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        return None


def status_error(
    answer: Answer, what: str, *, secrets: Collection[Secret | None] = (), clock_note: str = ""
) -> ApiError:
    """
    The error that an answer's status stands for.

    @param what: which call it was, for the sentence: "heartbeat".
    @param clock_note: said first where the token was refused: a wrong clock is the likely reason.
    """
    status = answer.status
    said = f"{status} {_phrase(status)}"
    reason = _reason(answer, secrets)
    if answer.location is not None and 300 <= status < 400:
        reason = f"redirects are not followed; Location: {redact(first_line(answer.location), secrets)}"
    if status in (401, 403):
        sentence = f"{clock_note}{what}: the control plane refuses the token ({said})"
    elif 400 <= status < 500 and status != 429:
        sentence = f"{what}: the control plane refuses the call ({said})"
    else:
        sentence = f"{what}: the control plane answers {said}"
    return ApiError(
        f"{sentence}: {reason}" if reason else sentence,
        status=status,
        retryable=status >= 500 or status == 429,
        retry_after=answer.retry_after,
        response=excerpt(answer.body, secrets),
        json_object=is_object(answer.body),
    )


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "(unknown status)"


def _reason(answer: Answer, secrets: Collection[Secret | None]) -> str:
    """What the answer itself gives as its reason: a message in JSON, else its first line of text."""
    text = redact(answer.body.decode("utf-8", "replace"), secrets)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return first_line(text)
    for name in ("message", "error", "detail"):
        said = value.get(name) if isinstance(value, dict) else None
        if isinstance(said, dict):
            said = said.get("message")
        if isinstance(said, str):
            return first_line(said)
    return ""
