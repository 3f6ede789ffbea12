"""What a call to the control plane can end with, other than the answer that was hoped for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from pipeops_agent.secrets import Secret

EXCERPT_BYTES: Final = 2048
"""How much of an answer an error carries."""
REASON_CHARACTERS: Final = 200
"""How much of an answer stands in a sentence."""


class AnswerError(Exception):
    """
    An answer's body is not what the contract says; the message names the field and the reason.

    @ivar syntax: it is not even a JSON object.
    """

    def __init__(self, message: str, *, syntax: bool = False) -> None:
        super().__init__(message)
        self.syntax = syntax


class ApiError(Exception):
    """
    A call failed.

    @ivar sentence: what happened, fit for an operator, free of secrets.
    @ivar status: the answer's HTTP status; None where there was no answer.
    @ivar retryable: whether the same call can succeed later: the network, 5xx, 429.
    @ivar retry_after: the seconds that the answer asks to wait, clamped; None where it does not.
    @ivar response: the first 2 KiB of the answer, redacted; None where there was none.
    @ivar json_object: whether the answer is a JSON object, as opposed to some proxy's page.
    @ivar unusable_settings: whether the settings forbid the call, so that no server was asked.
    """

    def __init__(
        self,
        sentence: str,
        *,
        status: int | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
        response: str | None = None,
        json_object: bool = False,
        unusable_settings: bool = False,
    ) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.status = status
        self.retryable = retryable
        self.retry_after = retry_after
        self.response = response
        self.json_object = json_object
        self.unusable_settings = unusable_settings

    @property
    def refused(self) -> bool:
        """Whether the control plane does not accept the token."""
        return self.status in (401, 403)

    @property
    def lost(self) -> bool:
        """Whether the control plane can't be reached or used: no answer, or a server's failure."""
        return not self.unusable_settings and (self.status is None or self.status >= 500)


REDACTED: Final = "[redacted]"
_WORDS: Final = "token|secret|passw|passphrase|credential|authorization|cookie|api_?key|private_?key"
# Bounded on both sides of the word: an unbounded name would let an answer cost quadratic time.
_FIELD = re.compile(
    rf'("[^"\\]{{0,64}}(?:{_WORDS})[^"\\]{{0,64}}"\s{{0,16}}:\s{{0,16}})'
    r'(?:"(?:[^"\\]|\\.)*(?:"|\\?$)|\[[^\]]*\]?)',
    re.IGNORECASE | re.DOTALL,
)
_BEARER = re.compile(r"\b(bearer|basic)\s{1,16}[\w.~+/=:-]+", re.IGNORECASE)
_JWT = re.compile(r"\beyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?")


def redact(text: str, secrets: Iterable[Secret | None] = ()) -> str:
    """C{text} without C{secrets}, without fields that are named like one, without bearer tokens."""
    for secret in secrets:
        if secret:
            text = text.replace(secret.reveal(), REDACTED)
    text = _FIELD.sub(rf'\1"{REDACTED}"', text)
    text = _BEARER.sub(rf"\1 {REDACTED}", text)
    return _JWT.sub(REDACTED, text)


def excerpt(body: bytes, secrets: Iterable[Secret | None] = ()) -> str:
    """The first 2 KiB of C{body}. Redacted first: a token that the cut halves must not be missed."""
    text = redact(body.decode("utf-8", "replace"), secrets)
    return text.encode()[:EXCERPT_BYTES].decode("utf-8", "ignore")


def first_line(text: str) -> str:
    """The first line of C{text} that says something, without HTML's tags, fit for a sentence."""
    plain = re.sub(r"(?is)<(script|style)\b.*?(?:</\1\s*>|$)", " ", text[: 4 * EXCERPT_BYTES])
    plain = re.sub(r"(?s)<[^>]*>", "\n", plain)
    for line in plain.splitlines():
        said = " ".join(re.sub(r"[^\x20-\x7e\xa0-\uffff]", " ", line).split())
        if said:
            return said[:REASON_CHARACTERS]
    return ""
