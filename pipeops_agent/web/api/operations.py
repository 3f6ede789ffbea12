"""The table of operations."""

from __future__ import annotations

from typing import Any, Final

from pipeops_agent.build import BuildInfo
from pipeops_agent.metrics import OPENMETRICS_FORMAT, TEXT_FORMAT
from pipeops_agent.web.answers import Error, Health, Ready
from pipeops_agent.web.api.connectivity import Connectivity
from pipeops_agent.web.api.health import DetailedHealth, Features
from pipeops_agent.web.api.lists import LISTED, Listed, NamespacedQuery, PageQuery
from pipeops_agent.web.api.operation import Answer, Operation
from pipeops_agent.web.api.runtime import RuntimeFigures, RuntimeHistory
from pipeops_agent.web.api.settings import SettingsAnswer
from pipeops_agent.web.session import SignedIn


def _one(kind: Any, text: str) -> dict[int, Answer]:
    return {200: Answer(text, kind)}


BASIC: Final = (
    Operation(
        path="/health",
        name="get_health",
        summary="The agent runs",
        text="For liveness probes: it answers as long as the process does anything at all.",
        needs=None,
        limited=False,
        answers=_one(Health, "It runs."),
    ),
    Operation(
        path="/ready",
        name="get_readiness",
        summary="The agent does its work, or stands by to do it",
        text="For readiness probes. Which check fails is for everybody, why it does for callers with `read`.",
        needs=None,
        optional="says more with `read`",
        limited=False,
        answers={
            200: Answer("It is registered and heartbeats get through; or it is a standby.", Ready),
            503: Answer("It is not ready: `checks` says what is missing.", Ready),
        },
    ),
    Operation(
        path="/version",
        name="get_version",
        summary="What this agent was made from",
        needs=None,
        answers=_one(BuildInfo, "Versions and the commit."),
    ),
    Operation(
        path="/metrics",
        name="get_metrics",
        summary="Prometheus metrics",
        text="OpenMetrics for those who ask for it by `Accept`, else Prometheus text.",
        needs=None,
        optional="`read`, where `server.protect_metrics` is set",
        answers={
            200: Answer("All metrics.", content_types=(TEXT_FORMAT, OPENMETRICS_FORMAT)),
            403: Answer("The token does not have the scope.", Error),
        },
    ),
    Operation(
        path="/",
        name="get_root",
        summary="Leads to the dashboard",
        needs=None,
        answers={303: Answer("See `/dashboard`.", headers=(("Location", "string", "Where it is."),))},
    ),
    Operation(
        path="/dashboard",
        name="get_dashboard",
        summary="The web dashboard",
        needs=None,
        answers={200: Answer("A page that needs nothing from elsewhere.", content_types=("text/html",))},
    ),
    Operation(
        path="/openapi.json",
        name="get_openapi",
        summary="This interface in OpenAPI 3.1",
        needs=None,
        answers=_one(dict[str, Any], "The description."),
    ),
    Operation(
        method="POST",
        path="/api/session",
        name="sign_in",
        summary="A browser's sign-in",
        text="The cookie alone is worth nothing: each request also shows the key, in `X-Session-Key`.",
        needs=None,
        optional="any token",
        answers={
            200: Answer(
                "A session, with what the token allows.",
                SignedIn,
                headers=(("Set-Cookie", "string", "The session's cookie, which no script reads."),),
            ),
            403: Answer("The token came over plain HTTP.", Error),
        },
    ),
    Operation(
        method="DELETE",
        path="/api/session",
        name="sign_out",
        summary="The end of a browser's sign-in",
        needs=None,
        optional="a session",
        answers={
            204: Answer(
                "It is over.", headers=(("Set-Cookie", "string", "Makes the browser forget the cookie."),)
            ),
            403: Answer("The credential came over plain HTTP.", Error),
        },
    ),
    Operation(
        path="/asyncapi.json",
        name="get_asyncapi",
        summary="The messages of `/ws` in AsyncAPI 3",
        needs=None,
        answers=_one(dict[str, Any], "The description."),
    ),
)
"""What there is for probes, scrapers, people and programmers."""


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
        partly=True,
        example="?limit=2",
        query=NamespacedQuery if listed.resource.namespaced else PageQuery,
        answers={
            200: Answer("One page.", listed.page),
            404: Answer("No cluster is configured.", Error),
        },
    )


LISTS: Final = {listed.name: _list_of(listed) for listed in LISTED}

OPERATIONS: Final = (
    *BASIC,
    DETAILED_HEALTH,
    FEATURES,
    RUNTIME,
    HISTORY,
    CONNECTIVITY,
    SETTINGS,
    *LISTS.values(),
)
"""All of them, in the order of the documentation."""
