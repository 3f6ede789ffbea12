"""The table of operations: what each takes and gives. Routes and descriptions are made from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pipeops_agent.web.access import READ
from pipeops_agent.web.answers import Error
from pipeops_agent.web.api.connectivity import Connectivity
from pipeops_agent.web.api.health import DetailedHealth, Features
from pipeops_agent.web.api.lists import LISTED, Listed, NamespacedQuery, PageQuery
from pipeops_agent.web.api.query import NoQuery
from pipeops_agent.web.api.runtime import RuntimeFigures, RuntimeHistory
from pipeops_agent.web.api.settings import SettingsAnswer
from pipeops_agent.web.replies import JSON


class Answer(msgspec.Struct, frozen=True):
    """
    One way in which an operation can end.

    @ivar text: when that is.
    @ivar kind: the type of its body; None: it is described by C{content_type} alone.
    @ivar content_type: None: it has no body.
    """

    text: str
    kind: Any = None
    content_type: str | None = JSON


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """
    What can be asked.

    @ivar path: with parameters in braces, as in L{Route<pipeops_agent.web.routes.Route>}.
    @ivar name: C{get_runtime}: unique, for programs that are made from the description.
    @ivar summary: one line.
    @ivar text: what else there is to know; CommonMark.
    @ivar needs: the scope; None: none.
    @ivar query: its parameters.
    @ivar answers: by status, those of success and its own errors; what every operation may answer is added.
    """

    path: str
    name: str
    summary: str
    answers: Mapping[int, Answer]
    method: str = "GET"
    text: str = ""
    needs: str | None = READ
    query: type[msgspec.Struct] = NoQuery

    @property
    def all_answers(self) -> dict[int, Answer]:
        """Those of its own, and those that it has in common with others."""
        common = {400: _BAD_REQUEST}
        if self.needs is not None:
            common |= {401: _UNKNOWN, 403: _FORBIDDEN, 429: _TOO_MANY}
        return dict(sorted({**common, **self.answers}.items()))


_BAD_REQUEST: Final = Answer("A parameter is unknown, malformed or given twice; the message names it.", Error)
_UNKNOWN: Final = Answer("No token, or one that is not known here.", Error)
_FORBIDDEN: Final = Answer("The token does not have the scope; or the owner's rules are against it.", Error)
_TOO_MANY: Final = Answer("Over a limit; the header `Retry-After` says when to ask again.", Error)


def _one(kind: type, text: str) -> dict[int, Answer]:
    return {200: Answer(text, kind)}


DETAILED_HEALTH: Final = Operation(
    path="/api/health/detailed",
    name="get_detailed_health",
    summary="Everything about the agent's health",
    text="Each check with what it found; registration, heartbeat, tunnel and forwards, cluster, runtime.",
    answers=_one(DetailedHealth, "The agent's health, whatever it is."),
)
FEATURES: Final = Operation(
    path="/api/status/features",
    name="get_features",
    summary="What is switched on, and whether it works now",
    answers=_one(Features, "Each feature, by name."),
)
RUNTIME: Final = Operation(
    path="/api/metrics/runtime",
    name="get_runtime",
    summary="What the agent's process uses now",
    answers=_one(RuntimeFigures, "The figures of this moment."),
)
HISTORY: Final = Operation(
    path="/api/metrics/history",
    name="get_runtime_history",
    summary="What the agent's process used in the last hour",
    answers=_one(RuntimeHistory, "One sample every 15 seconds, since the start or for an hour."),
)
CONNECTIVITY: Final = Operation(
    path="/api/status/connectivity",
    name="get_connectivity",
    summary="What of all that the agent needs is within reach",
    text=(
        "Real probes, made when they are asked for: each has 5 seconds, all together 10. Who asks while"
        " others wait, or within 2 seconds after, gets the same answer; `checked_at` says when it was true."
    ),
    answers=_one(Connectivity, "What was found, whatever that is."),
)
SETTINGS: Final = Operation(
    path="/api/settings",
    name="get_settings",
    summary="Every setting with its value and where it comes from",
    text="What holds now. A secret is shown as its length and a short hash.",
    answers=_one(SettingsAnswer, "All settings, in the order of the documentation."),
)


def _list_of(listed: Listed) -> Operation:
    name = listed.name
    return Operation(
        path=f"/api/cluster/{name}",
        name=f"list_{name}",
        summary=f"The cluster's {name}, page by page",
        text=(
            "From the agent's own inventory, kept by watches: the API server is not asked. `list` says"
            " what it is worth. Only what the owner's rules and the caller's scopes allow is in it."
        ),
        query=NamespacedQuery if listed.resource.namespaced else PageQuery,
        answers={
            200: Answer("One page.", listed.page),
            404: Answer("No cluster is configured.", Error),
        },
    )


LISTS: Final = {listed.name: _list_of(listed) for listed in LISTED}
