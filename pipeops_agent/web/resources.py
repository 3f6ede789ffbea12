"""What stands at C{/}, C{/health}, C{/ready}, C{/version} and C{/metrics}."""

from __future__ import annotations

import html
from typing import Final

from pipeops_agent.build import BuildInfo
from pipeops_agent.clock import WallClock
from pipeops_agent.health import CheckResult, HealthCheck, Registry
from pipeops_agent.metrics import Metrics
from pipeops_agent.status import AgentStatus, StatusBoard
from pipeops_agent.web import replies
from pipeops_agent.web.access import READ, Access
from pipeops_agent.web.answers import Health, Ready, ReadyCheck
from pipeops_agent.web.replies import Reply
from pipeops_agent.web.request import AgentRequest
from pipeops_agent.web.routes import Parameters, Route

_PAGES: Final = ("/health", "/ready", "/version", "/metrics")
_PLACEHOLDER: Final = """\
<!doctype html>
<html lang="en">
<title>pipeops-agent</title>
<h1>pipeops-agent {version}</h1>
<p>This version has no dashboard yet. What there is to see:</p>
<ul>{links}</ul>
</html>
"""


class BasicPages:
    """The pages that are there before the agent has registered, for probes, scrapers and people."""

    def __init__(
        self,
        board: StatusBoard,
        checks: Registry[HealthCheck],
        metrics: Metrics,
        wall: WallClock,
        build: BuildInfo,
        access: Access,
    ) -> None:
        self._board = board
        self._checks = checks
        self._metrics = metrics
        self._wall = wall
        self._build = build
        self._access = access

    def routes(self) -> list[Route]:
        """The lines for the table."""
        return [
            Route("GET", "/", self.root),
            Route("GET", "/dashboard", self.dashboard),
            Route("GET", "/health", self.health),
            Route("GET", "/ready", self.ready),
            Route("GET", "/version", self.version),
            Route("GET", "/metrics", self.metrics),
        ]

    def root(self, request: AgentRequest, parameters: Parameters) -> Reply:
        """To the dashboard."""
        return Reply(code=303, headers=(("Location", "/dashboard"),))

    def dashboard(self, request: AgentRequest, parameters: Parameters) -> Reply:
        """The place of the dashboard, until there is one."""
        links = "".join(f'<li><a href="{path}">{path}</a></li>' for path in _PAGES)
        page = _PLACEHOLDER.format(version=html.escape(self._build.version), links=links)
        return Reply(body=page.encode(), content_type="text/html; charset=utf-8")

    def health(self, request: AgentRequest, parameters: Parameters) -> Reply:
        """The reactor turns. Nothing else may make this fail: the answer to a failure is a restart."""
        now = self._wall().replace(microsecond=0)
        return replies.json(Health(timestamp=now, version=self._build.version))

    async def ready(self, request: AgentRequest, parameters: Parameters) -> Reply:
        """
        The agent does its work, or stands by to do it.

        Everybody learns which check fails; why is for callers with the scope C{read}.

        @raise Refusal: 401, a token was shown that is not known.
        """
        caller = await self._access.caller(request)
        messages = caller is not None and caller.allows(READ)
        status = self._board.now
        if status.phase == "standby":
            return replies.json(Ready("standby"))
        results = self._results(status)
        checks = {
            name: ReadyCheck(result.ok, result.message if messages else None)
            for name, result in results.items()
        }
        if all(result.ok for result in results.values()):
            return replies.json(Ready("ready", checks))
        return replies.json(Ready("not ready", checks), code=503)

    def version(self, request: AgentRequest, parameters: Parameters) -> Reply:
        """What this agent was made from."""
        return replies.json(self._build)

    async def metrics(self, request: AgentRequest, parameters: Parameters) -> Reply:
        """
        Prometheus text or OpenMetrics, as C{Accept} says.

        @raise Refusal: a token is asked for.
        """
        if self._access.protects_metrics():
            await self._access.require(request, READ)
        body, content_type = self._metrics.expose(request.getHeader("accept") or "")
        return Reply(body=body, content_type=content_type)

    def _results(self, status: AgentStatus) -> dict[str, CheckResult]:
        results = {item.name: item.run(status) for item in self._checks if item.readiness}
        if status.phase == "stopping":
            # All may still be well: who asks must go elsewhere all the same.
            results["shutdown"] = CheckResult(False, "the agent is stopping")
        return results
