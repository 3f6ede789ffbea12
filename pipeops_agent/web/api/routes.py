"""The operations joined with what answers them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any

from pipeops_agent.build import build_info
from pipeops_agent.caller import Caller
from pipeops_agent.web import replies
from pipeops_agent.web.access import Access
from pipeops_agent.web.api import operations
from pipeops_agent.web.api.asyncapi import Incoming, asyncapi
from pipeops_agent.web.api.connectivity import ConnectivityService
from pipeops_agent.web.api.health import HealthView
from pipeops_agent.web.api.lists import LISTED, ClusterLists, Listed, ObjectList, PageQuery
from pipeops_agent.web.api.openapi import openapi
from pipeops_agent.web.api.operation import Operation
from pipeops_agent.web.api.runtime import Runtime
from pipeops_agent.web.api.schemas import Schema
from pipeops_agent.web.api.serving import serve
from pipeops_agent.web.api.settings import SettingsView
from pipeops_agent.web.routes import Handler, Route


def api_routes(
    access: Access,
    *,
    health: HealthView,
    runtime: Runtime,
    connectivity: ConnectivityService,
    settings: SettingsView,
    lists: ClusterLists,
    more: Iterable[Operation],
    messages: Iterable[Incoming],
) -> list[Route]:
    """
    The lines for the table of routes.

    @param more: operations whose routes others have.
    @param messages: what C{/ws} understands.
    """
    described = (*operations.OPERATIONS, *more)
    return [
        Route("GET", "/openapi.json", _document(lambda: openapi(described, build_info().version))),
        Route("GET", "/asyncapi.json", _document(lambda: asyncapi(messages, build_info().version))),
        serve(access, operations.DETAILED_HEALTH, lambda caller, query: health.detailed()),
        serve(access, operations.FEATURES, lambda caller, query: health.features()),
        serve(access, operations.RUNTIME, lambda caller, query: runtime.now()),
        serve(access, operations.HISTORY, lambda caller, query: runtime.history()),
        serve(access, operations.CONNECTIVITY, lambda caller, query: connectivity.now()),
        serve(access, operations.SETTINGS, lambda caller, query: settings.now()),
        *(serve(access, operations.LISTS[each.name], partial(_page, lists, each)) for each in LISTED),
    ]


def _document(make: Callable[[], Schema]) -> Handler:
    """Answers with a document, which is made when it is first asked for."""
    made = cache(lambda: replies.json(make()))
    return lambda request, parameters: made()


async def _page(lists: ClusterLists, listed: Listed, caller: Caller, query: PageQuery) -> ObjectList[Any]:
    return await lists.page(caller, listed, query)
