"""What a test lets go wrong."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Fault:
    """
    Befalls the next C{times} requests whose path begins with C{path}.

    @ivar code: answered with C{body}; 0: the connection is closed without an answer.
    @ivar hang: never answered.
    @ivar verb: only this of the API's verbs; empty: all.
    """

    path: str = "/"
    times: int = 1
    code: int = 500
    body: bytes = b"<html>an ingress is unwell</html>"
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    verb: str = ""

    def befalls(self, path: str, verb: str) -> bool:
        """Whether this request is one of those; then it is counted."""
        if self.times <= 0 or not path.startswith(self.path) or self.verb not in ("", verb):
            return False
        self.times -= 1
        return True
