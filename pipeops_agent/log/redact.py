"""
No secret leaves in a record: known ones by their text, unknown ones by their shape.

What has been learned is found however it was written down: as it is, escaped by ``repr`` or JSON, in a
URL, in hexadecimal, in base64 also in the middle of something longer (``user:password``). What was never
learned (another's token in a peer's answer) is found by what stands around it.

Every expression here runs in time linear to the text: no two repetitions that can match the same
characters follow each other, and none begins with one. A peer chooses much of what is logged.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, quote_plus

from pipeops_agent.secrets import Secret

MASK: Final = "***"
"""What stands for a secret. Shorter than any that is learned, so that masking always ends."""

MIN_LEARNED: Final = 8
"""Shorter texts are everyday words: masking C{admin} everywhere hides the log and tells the secret."""

MAX_LEARNED: Final = 32
"""Secrets remembered beside those that are kept; tokens rotate, and the oldest is forgotten first."""

MAX_TEXT: Final = 64 * 1024
"""Characters of one text that are looked at; the rest is cut off before it can cost time."""

CUT: Final = "…"

_MIN_LINE: Final = 16
_TELLTALES: Final = (
    r"(?:pass(?:word|wd|phrase)|secret|token|credentials?|cookie|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|session[_-]?key|authorization)"
)

_SENSITIVE_NAME: Final = re.compile(rf"{_TELLTALES}$", re.IGNORECASE)

_QUOTED_OR_WORD: Final = r"""(?:b?"(?:\\.|[^"\\])*"?|b?'(?:\\.|[^'\\])*'?|[^\s,;&"'})\]]+)"""

_SHAPES: Final = (
    # A private key in PEM form, to its end or that of the text.
    (
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?"
            r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)",
            re.DOTALL,
        ),
        MASK,
    ),
    # Authorization: Bearer ..., also in the repr of a header object.
    (
        re.compile(
            r"(authorization['\"]?\s*[:=]\s*\[?(?:b?['\"])?(?:(?:bearer|basic|token|negotiate|digest)\s+)?)"
            r"[^\s'\",;\]}]+",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1{MASK}"),
    # password=..., "token": "...", 'api_key': b'...'; a Secret's own description is left to be read.
    (
        re.compile(
            rf"""({_TELLTALES}(?:\s*=\s*|\\?["']\s*:\s*))(?!<secret, )\\?{_QUOTED_OR_WORD}""",
            re.IGNORECASE | re.DOTALL,
        ),
        rf"\1{MASK}",
    ),
    # X-Api-Key: 5f3a..., token: s3cret: after a bare colon only what has a digit, so that sentences survive.
    (
        re.compile(
            rf"({_TELLTALES}:\s*)(?=[^\s\d,;&\"'}})\]]{{0,64}}\d)[^\s,;&\"'}})\]]{{6,}}", re.IGNORECASE
        ),
        rf"\1{MASK}",
    ),
    # A JSON web token.
    (re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"), MASK),
    # https://user:password@host
    (re.compile(r"(?<=://)[^\s/?#'\"<>]+@"), f"{MASK}@"),
)


def is_sensitive(name: str) -> bool:
    """Whether a field of this name holds a secret: C{token}, C{X-Api-Key}, C{k8s_service_token}."""
    return _SENSITIVE_NAME.search(name) is not None


class Redactor:
    """Takes secrets out of texts. One per process: whatever loads a secret tells it first."""

    def __init__(self) -> None:
        self._learned: dict[str, tuple[str, ...]] = {}
        self._kept: dict[str, dict[str, tuple[str, ...]]] = {}
        self._needles: tuple[str, ...] = ()

    def learn(self, secret: Secret) -> bool:
        """
        Mask C{secret} from now on, in every form that it may be written in.

        @return: False where it is too short to be masked by its text (L{MIN_LEARNED}); what stands
            around it must then give it away, and whoever loaded it may want to say so.
        """
        text = secret.reveal().strip()
        if len(text) < MIN_LEARNED:
            return False
        self._remember(text, tuple(_forms(text)))
        self._sharpen()
        return True

    def keep(self, name: str, *secrets: Secret) -> None:
        """
        Mask C{secrets} until others are kept under C{name}, however many are learned meanwhile: passwords
        that change with every poll must not push out the agent's own token.

        Those that were kept under it before are remembered like any that was learned.
        """
        texts = [text for secret in secrets if len(text := secret.reveal().strip()) >= MIN_LEARNED]
        before = self._kept.get(name, {})
        if list(before) == texts:
            return
        for text, forms in before.items():
            self._remember(text, forms)
        self._kept[name] = {text: tuple(_forms(text)) for text in texts}
        self._sharpen()

    def _remember(self, text: str, forms: tuple[str, ...]) -> None:
        self._learned.pop(text, None)
        self._learned[text] = forms
        while len(self._learned) > MAX_LEARNED:
            del self._learned[next(iter(self._learned))]

    def _sharpen(self) -> None:
        """Look for what is known now."""
        known = (self._learned, *self._kept.values())
        needles = {form for each in known for forms in each.values() for form in forms}
        self._needles = tuple(sorted(needles, key=len, reverse=True))

    def clean(self, text: str) -> str:
        """C{text} without secrets, and without what goes beyond L{MAX_TEXT}."""
        if len(text) <= MAX_TEXT:
            return self._mask(text)
        # The cut may go through the middle of a secret, of which no more than this is left at the end.
        longest = len(self._needles[0]) if self._needles else 0
        masked = self._mask(text[:MAX_TEXT])
        return masked[: max(0, len(masked) - longest)] + CUT

    def knows(self, text: str) -> bool:
        """Whether a learned secret is in C{text}. For what has no shape to look at, such as a number."""
        return any(needle in text for needle in self._needles)

    def _mask(self, text: str) -> str:
        for shape, mask in _SHAPES:
            text = shape.sub(mask, text)
        found = True
        while found:  # what is left on both sides of a mask may be a secret again
            found = False
            for needle in self._needles:
                if needle in text:
                    text = text.replace(needle, MASK)
                    found = True
        return text


def _forms(text: str) -> Iterator[str]:
    """Every way in which C{text} may be written, each at least L{MIN_LEARNED} characters long."""
    forms = {
        text,
        repr(text)[1:-1],
        repr(text.encode("utf-8", "surrogatepass"))[2:-1],
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        *_encoded(text.encode("utf-8", "surrogatepass")),
    }
    lines = text.splitlines()
    if len(lines) > 1:  # a key file: a traceback or a parser may quote any one line of it
        forms.update(line for line in lines if len(line) >= _MIN_LINE and not line.startswith("-----"))
    return (form for form in forms if len(form) >= MIN_LEARNED)


def _encoded(raw: bytes) -> Iterator[str]:
    yield quote(raw, safe="")
    yield quote_plus(raw)
    yield raw.hex()
    for before in range(3):
        # Base64 of something that contains the secret after `before` bytes (modulo 3): the characters
        # that are made of the secret's own bits alone are always the same.
        first, last = (before * 8 + 5) // 6, (before + len(raw)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(bytes(before) + raw).decode()[first:last]
