"""A string that can't be shown by accident."""

from __future__ import annotations

import hashlib
import hmac
from typing import final


@final
class Secret:
    """
    A token, password or key on its way from a setting to the wire.

    ``str``, ``repr`` and formatting show its length and a short hash only, so that a record, an
    exception or a page that meets one by accident gives nothing away. L{reveal} is the one way to
    the text; grep for it to see every place that uses a secret.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    @property
    def fingerprint(self) -> str:
        """The first 8 hex digits of the text's SHA-256: enough to tell two tokens apart."""
        return hashlib.sha256(self._bytes()).hexdigest()[:8]

    def _bytes(self) -> bytes:
        # What came from the environment may hold lone surrogates, and the error that a plain encode() raises
        # for them carries the whole text.
        return self._text.encode("utf-8", "surrogatepass")

    def __repr__(self) -> str:
        return f"<secret, {len(self._text)} characters, sha256 {self.fingerprint}>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._bytes(), other._bytes())

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled")
