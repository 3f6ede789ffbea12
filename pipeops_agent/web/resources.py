"""What stands at C{/}, C{/health}, C{/ready}, C{/version} and C{/metrics}."""

from __future__ import annotations

import html
from typing import Any, Final

import msgspec
from twisted.logger import Logger

from pipeops_agent.build import BuildInfo
from pipeops_agent.clock import WallClock, rfc3339
from pipeops_agent.health import CheckResult, HealthCheck, Registry
from pipeops_agent.metrics import Metrics
from pipeops_agent.status import AgentStatus, StatusBoard
from pipeops_agent.web import replies
from pipeops_agent.web.access import READ, Access
from pipeops_agent.web.replies import Reply
from pipeops_agent.web.request import AgentRequest
from pipeops_agent.web.routes import Parameters, Route

_log = Logger(namespace="web")

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
        return replies.json(
            {"status": "healthy", "timestamp": rfc3339(self._wall()), "version": self._build.version}
        )

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
            return replies.json({"status": "standby"})
        results = self._results(status)
        checks: dict[str, Any] = {
            name: {"ok": result.ok, "message": result.message} if messages else {"ok": result.ok}
            for name, result in results.items()
        }
        if all(result.ok for result in results.values()):
            return replies.json({"status": "ready", "checks": checks})
        return replies.json({"status": "not ready", "checks": checks}, code=503)

    def version(self, request: AgentRequest, parameters: Parameters) -> Reply:
        """What this agent was made from."""
        return replies.json(msgspec.structs.asdict(self._build))

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
        results = {item.name: self._run(item, status) for item in self._checks if item.readiness}
        if status.phase == "stopping":
            # All may still be well: who asks must go elsewhere all the same.
            results["shutdown"] = CheckResult(False, "the agent is stopping")
        return results

    def _run(self, item: HealthCheck, status: AgentStatus) -> CheckResult:
        try:
            return item.check(status)
        except Exception:
            _log.failure("the health check {check} failed itself", check=item.name)
            return CheckResult(False, "the check itself failed")
