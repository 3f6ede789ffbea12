"""
The table of routes: method, template, handler.

A template is a path whose segments in braces stand for any one segment: C{/api/cluster/{kind}}. It is
also the route's name in metrics and logs, where a raw path would let every client make names of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import msgspec

from pipeops_agent.web.replies import Reply
from pipeops_agent.web.streaming import Stream, Upgrade

if TYPE_CHECKING:
    from pipeops_agent.web.request import AgentRequest

Parameters = Mapping[str, str]
"""What the segments in braces stood for."""

Answer = Reply | Stream | Upgrade

Handler = Callable[["AgentRequest", Parameters], Answer | Awaitable[Answer]]
"""Answers a request, at once or later; cancelled when the client goes away. May raise L{Refusal}."""


class Route(msgspec.Struct, frozen=True):
    """One line of the table."""

    method: str
    template: str
    handler: Handler


class Match(msgspec.Struct, frozen=True):
    """A template that a path fits, with everything that can be done there."""

    template: str
    parameters: Parameters
    handlers: Mapping[str, Handler]

    def handler(self, method: str) -> Handler | None:
        """What answers C{method}: HEAD is answered by GET, its body left out."""
        return self.handlers.get("GET" if method == "HEAD" else method)

    @property
    def allow(self) -> str:
        """The value of the header C{Allow}."""
        head = ("HEAD",) if "GET" in self.handlers else ()
        return ", ".join(sorted((*self.handlers, *head, "OPTIONS")))


class Router:
    """
    Finds the route for a path. Where a fixed segment and one in braces both fit, the fixed one wins.

    @raise ValueError: two routes have the same method and template.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._tables: dict[tuple[str, ...], dict[str, Handler]] = {}
        for route in routes:
            handlers = self._tables.setdefault(tuple(route.template.split("/")), {})
            if route.method in handlers:
                raise ValueError(f"{route.method} {route.template} stands in the table twice")
            handlers[route.method] = route.handler
        # Fixed segments sort before those in braces, position by position.
        self._order = sorted(self._tables, key=lambda segments: [_is_open(name) for name in segments])

    @property
    def table(self) -> frozenset[tuple[str, str]]:
        """Method and template of every route."""
        return frozenset(
            (method, "/".join(names)) for names, handlers in self._tables.items() for method in handlers
        )

    def match(self, path: bytes) -> Match | None:
        """The route for C{path}, percent-encoded as it came; None: there is none."""
        try:
            segments = [unquote_to_bytes(segment).decode("utf-8") for segment in path.split(b"/")]
        except UnicodeDecodeError:
            return None
        for names in self._order:
            if len(names) == len(segments) and all(
                (_is_open(name) and segment != "") or name == segment
                for name, segment in zip(names, segments, strict=True)
            ):
                parameters = {
                    name[1:-1]: segment
                    for name, segment in zip(names, segments, strict=True)
                    if _is_open(name)
                }
                return Match("/".join(names), parameters, self._tables[names])
        return None


def _is_open(name: str) -> bool:
    return name.startswith("{") and name.endswith("}")
