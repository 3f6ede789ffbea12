"""Static tokens: those of the settings, in them or in files, and without any the control plane's own."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from twisted.logger import Logger

from pipeops_agent.caller import READ, Grant
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model_server import LEAST_TOKEN, ServerToken
from pipeops_agent.tokens import FileToken, SettingsToken, TokenSource

CONTROL_PLANE: Final = "control-plane token"
"""The name of whoever shows the agent's own token."""

_log = Logger(namespace="access")


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """
    Whose token it is.

    @ivar kubernetes_token: the token itself, where it is one of the cluster's.
    """

    subject: str
    scopes: frozenset[Grant]
    kubernetes_token: Secret | None = None


class _Entry(msgspec.Struct):
    """One configured token, and where it comes from."""

    known: Known
    source: TokenSource
    file: str
    seen: Secret | None = None


class StaticTokens:
    """
    Finds the owner of a token.

    @param control_plane: the agent's own; it is known, with L{READ} alone, where no others are configured:
        the master credential is not for operating.
    @param keep: told of all tokens whenever one has changed, so that the log can mask them.
    """

    def __init__(self, control_plane: TokenSource, keep: Callable[[Sequence[Secret]], object]) -> None:
        self._control_plane = control_plane
        self._keep = keep
        self._entries: tuple[_Entry, ...] = ()
        self._key = secrets.token_bytes(32)

    def configure(self, tokens: Sequence[ServerToken]) -> None:
        """Know these tokens, and no others, from now on. A file that was read before stays as it was read."""
        files = {entry.file: entry.source for entry in self._entries if entry.file}
        self._entries = tuple(
            _Entry(
                Known(subject=token.name, scopes=frozenset(token.scopes)),
                _source(token, files),
                token.file,
            )
            for token in tokens
        )
        for entry in self._entries:
            self._current(entry)

    def find(self, shown: Secret) -> Known | None:
        """
        Whose token C{shown} is; None: nobody's here.

        All are compared, each in the same time: how long it takes says neither whose it is nor how near.
        """
        found: Known | None = None
        digest = self._digest(shown)
        for entry in self._entries:
            current = self._current(entry)
            if current and hmac.compare_digest(self._digest(current), digest) and found is None:
                found = entry.known
        if not self._entries and self.is_control_planes(shown):
            found = Known(subject=CONTROL_PLANE, scopes=frozenset({Grant(READ)}))
        return found

    def is_control_planes(self, shown: Secret) -> bool:
        """Whether C{shown} is the agent's own token, known or not: it must be shown to nobody else."""
        current = self._control_plane.current()
        # An empty one counts as none: it would be everybody's.
        return bool(current) and hmac.compare_digest(self._digest(current or shown), self._digest(shown))

    def _current(self, entry: _Entry) -> Secret | None:
        """The token of C{entry} now; one from a file that could be guessed is none, which is said once."""
        token = entry.source.current()
        if not token:
            return None
        weak = len(token.reveal()) < LEAST_TOKEN
        if token != entry.seen:
            entry.seen = token
            self._keep([each.seen for each in self._entries if each.seen is not None])
            if weak:
                _log.error(
                    "the token in {path} has less than {least} characters and is not used: it can be guessed",
                    path=entry.file,
                    least=LEAST_TOKEN,
                )
        return None if weak else token

    def _digest(self, token: Secret) -> bytes:
        """By a key of this process: as long for each token, and worth nothing elsewhere."""
        return hmac.digest(self._key, token.reveal().encode("utf-8", "surrogatepass"), "sha256")


def _source(token: ServerToken, files: dict[str, TokenSource]) -> TokenSource:
    if not token.file:
        return SettingsToken(token.token)
    return files.get(token.file) or FileToken(Path(token.file))
