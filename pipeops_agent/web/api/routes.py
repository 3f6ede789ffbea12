"""The operations joined with what answers them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from pipeops_agent.build import build_info
from pipeops_agent.caller import Caller
from pipeops_agent.web import replies
from pipeops_agent.web.access import Access
from pipeops_agent.web.api import operations
from pipeops_agent.web.api.connectivity import ConnectivityService
from pipeops_agent.web.api.health import HealthView
from pipeops_agent.web.api.lists import LISTED, ClusterLists, Listed, ObjectList, PageQuery
from pipeops_agent.web.api.openapi import openapi
from pipeops_agent.web.api.runtime import Runtime
from pipeops_agent.web.api.serving import serve
from pipeops_agent.web.api.settings import SettingsView
from pipeops_agent.web.replies import Reply
from pipeops_agent.web.request import AgentRequest
from pipeops_agent.web.routes import Parameters, Route


def api_routes(
    access: Access,
    *,
    health: HealthView,
    runtime: Runtime,
    connectivity: ConnectivityService,
    settings: SettingsView,
    lists: ClusterLists,
) -> list[Route]:
    """The lines for the table of routes."""
    return [
        Route("GET", "/openapi.json", partial(_document, _openapi)),
        serve(access, operations.DETAILED_HEALTH, lambda caller, query: health.detailed()),
        serve(access, operations.FEATURES, lambda caller, query: health.features()),
        serve(access, operations.RUNTIME, lambda caller, query: runtime.now()),
        serve(access, operations.HISTORY, lambda caller, query: runtime.history()),
        serve(access, operations.CONNECTIVITY, lambda caller, query: connectivity.now()),
        serve(access, operations.SETTINGS, lambda caller, query: settings.now()),
        *(serve(access, operations.LISTS[each.name], partial(_page, lists, each)) for each in LISTED),
    ]


def _document(document: Callable[[], Reply], request: AgentRequest, parameters: Parameters) -> Reply:
    return document()


@cache
def _openapi() -> Reply:
    return replies.json(openapi(operations.OPERATIONS, build_info().version))


async def _page(lists: ClusterLists, listed: Listed, caller: Caller, query: PageQuery) -> ObjectList[Any]:
    return await lists.page(caller, listed, query)
