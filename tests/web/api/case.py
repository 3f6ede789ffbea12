"""The operations on a clock, without sockets."""

from __future__ import annotations

from typing import Any

import msgspec

from pipeops_agent.cluster.inventory import Inventory
from pipeops_agent.cluster.scope import Scope
from pipeops_agent.health import Feature, Registry
from pipeops_agent.scheduling import sleep
from pipeops_agent.settings import Loaded, Settings
from pipeops_agent.web.api.connectivity import ConnectivityService, Trial, Trials
from pipeops_agent.web.api.health import HealthView
from pipeops_agent.web.api.lists import ClusterLists, Sight, SightByScope
from pipeops_agent.web.api.routes import api_routes
from pipeops_agent.web.api.runtime import ProcessFigures, Runtime
from pipeops_agent.web.api.settings import SettingsView
from pipeops_agent.web.routes import Route
from pipeops_agent.web.site import AgentSite
from tests.web.harness import TOKEN, Answer, SiteCase


class Cluster(msgspec.Struct):
    """A cluster whose inventory the test keeps."""

    configured: bool = True
    inventory: Inventory = msgspec.field(default_factory=Inventory)


class ApiCase(SiteCase):
    """A site with all operations; C{process} is what the system says of the process."""

    def build(self, *more: Route) -> AgentSite:
        self.process = ProcessFigures(
            cpu_seconds=1.5, resident=50_000_000, virtual=200_000_000, descriptors=20, threads=3
        )
        self.lag = 0.25
        self.features: Registry[Feature] = Registry()
        self.runtime = Runtime(self.clock, self.wall, self.board, lambda: self.lag, lambda: self.process)
        self.health = HealthView(
            self.clock,
            self.wall,
            self.board,
            self.checks,
            self.features,
            runtime=self.runtime.now,
            version="1.2.3",
        )
        self.attempted: list[str] = []
        self.trials = Trials(control_plane=self.trial("https://api.example"))
        self.connectivity = ConnectivityService(
            self.clock, self.wall, lambda: self.trials, lambda target, error: f"{target}: {error}"
        )
        self.cluster = Cluster()
        self.scope = Scope()
        self.settings = Settings()
        self.loaded = Loaded(self.settings, {}, None)
        return super().build(*self.api_routes(), *more)

    def api_routes(self) -> list[Route]:
        return api_routes(
            self.access,
            health=self.health,
            runtime=self.runtime,
            connectivity=self.connectivity,
            settings=SettingsView(lambda: self.loaded, lambda: self.settings),
            lists=ClusterLists(self.cluster, self.board, lambda: self.scope, self.sight()),
            more=[],
            messages=[],
        )

    def sight(self) -> Sight:
        """What says what a caller may see."""
        return SightByScope()

    def trial(self, target: str, seconds: float = 0.0, error: Exception | None = None) -> Trial:
        """Something that is reached after so long, or not."""

        async def attempt() -> None:
            self.attempted.append(target)
            await sleep(self.clock, seconds)
            if error is not None:
                raise error

        return Trial(target, attempt)

    def get(self, path: str, **headers: str) -> Answer:
        """Ask with a token that is known."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request(path, {"Authorization": f"Bearer {TOKEN}", **named})

    def refused(self, path: str, code: int = 400) -> str:
        """Ask what is not answered; the error's message."""
        answer = self.get(path)
        self.assertEqual(answer.code, code, answer.body)
        self.assertEqual(set(answer.json), {"error"})
        message: Any = answer.json["error"]["message"]
        assert isinstance(message, str)
        return message
