"""How far the logs of a stream have been read, as a text by which another stream goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from pipeops_agent.cluster.log_items import LogLine
from pipeops_agent.cluster.log_lines import Piece, Place
from pipeops_agent.cluster.logs import MAX_STREAMS
from pipeops_agent.cluster.operations import BadRequest

MAX_AFTER: Final = 12 * 1024
"""Characters of the text: of as many containers as a stream may have, with the longest names."""


class LogPlaces:
    """
    Keeps the place in each container's log.

    The API server has no positions in a log. C{pod/container=place}, joined by commas, say how each goes on.

    @param places: where it begins, see L{parse_places}.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = {name: Place.parse(text) for name, text in places.items()}
        self._inside = {name for name, place in self._places.items() if not place.ended}

    def advance(self, lines: Iterable[LogLine]) -> str:
        """These have been handed out: return where it goes on."""
        for line in lines:
            name = f"{line.pod}/{line.container}"
            piece = Piece(line.time.encode(), line.data, name not in self._inside, not line.partial)
            (self._inside.add if line.partial else self._inside.discard)(name)
            self._places.setdefault(name, Place()).advance([piece])
        return ",".join(f"{name}={place.text}" for name, place in self._places.items() if place.known)


def parse_places(text: str) -> dict[str, str]:
    """
    The places by C{pod/container}.

    @raise BadRequest: C{text} is none that was given out.
    """
    places: dict[str, str] = {}
    for part in text.split(",") if text else ():
        name, equals, place = part.partition("=")
        try:
            Place.parse(place)
        except ValueError:
            equals = ""
        if not equals or len(places) >= MAX_STREAMS:
            raise BadRequest("logs: what was read last (after, Last-Event-ID) is no place in a log")
        places[name] = place
    return places
