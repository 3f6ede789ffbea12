"""A tunnel manager, the server that it is tested against, and what tests ask of both."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from pipeops_agent.errors import FatalError
from pipeops_agent.events import EventHub
from pipeops_agent.orders import TunnelOrder
from pipeops_agent.settings.model_pipeops import ReconnectSettings
from pipeops_agent.settings.model_tunnel import Forward, TunnelSettings
from pipeops_agent.status import StatusBoard
from pipeops_agent.tunnel.line import CLOSE_TIMEOUT
from pipeops_agent.tunnel.manager import TunnelManager
from pipeops_agent.tunnel.traffic import TrafficCounters
from tests.tunnel.scripted import Attempt, ScriptedOpener, ScriptedSession, make_order, wall_of

FORWARDS = tuple(
    Forward(name=name, local_addr=f"localhost:{port}") for name, port in [("a", 1), ("b", 2), ("c", 3)]
)
FIRST_WAIT = 10.0
"""The seconds to the second attempt, with the default settings and the longest jitter."""

IDLE = TunnelOrder("idle")
DISABLED = TunnelOrder("disabled")


class Rig:
    """A manager with a clock, a board, and a server whose every answer is the test's."""

    def __init__(self, reconnect: ReconnectSettings | None = None, **tunnel: Any) -> None:
        self.clock = Clock()
        self.hub = EventHub(self.wall)
        self.board = StatusBoard(self.hub, self.wall)
        self.opener = ScriptedOpener(self.clock)
        self.counters = TrafficCounters()
        self.settings = TunnelSettings(**{"forwards": FORWARDS, **tunnel})
        self.fatal: list[FatalError] = []
        self.states: list[str] = []
        self.openers_made = 0
        self.manager = TunnelManager(
            self.clock,
            self.settings,
            reconnect or ReconnectSettings(),
            board=self.board,
            wall=self.wall,
            make_opener=self.make_opener,
            counters=self.counters,
            on_fatal=self.fatal.append,
            random=lambda: 1.0,
        )

    def make_opener(self) -> ScriptedOpener:
        """What the manager asks for at the start, and at each rebuild."""
        self.openers_made += 1
        return self.opener

    def wall(self) -> Any:
        return wall_of(self.clock)

    @property
    def tunnel(self) -> Any:
        return self.board.now.tunnel

    @property
    def state(self) -> str:
        return self.board.now.tunnel.state

    @property
    def forwards(self) -> dict[str, str]:
        """The state of each forward."""
        return {forward.name: forward.state for forward in self.tunnel.forwards}

    def answer(self) -> Attempt:
        """The one attempt that waits for an answer."""
        (pending,) = self.opener.pending
        return pending

    def connect(self, *ports: int, order: TunnelOrder | None = None) -> ScriptedSession:
        """Have a session to these ports."""
        self.manager.obey(order or make_order(*(ports or (8000, 8001, 8002))))
        return self.answer().accept()


class ManagerCase(SynchronousTestCase):
    """Starts managers; at the end of each test stops them, and sees that nothing is left of them."""

    def rig(self, reconnect: ReconnectSettings | None = None, **tunnel: Any) -> Rig:
        rig = Rig(reconnect, **tunnel)
        rig.manager.startService()
        self.addCleanup(self.stop, rig)
        return rig

    def stop(self, rig: Rig) -> None:
        """Stop the manager; afterwards there is no timer, no attempt and no session."""
        if rig.manager.running:
            stopped = rig.manager.stopService()
            rig.clock.pump([CLOSE_TIMEOUT / 2] * 6)
            self.successResultOf(stopped)
        self.assertEqual(rig.clock.getDelayedCalls(), [])
        self.assertEqual(rig.opener.pending, [])
        self.assertEqual(rig.state, "disabled")

    def logged(self, level: LogLevel) -> list[str]:
        """What has been logged at C{level} from now on."""
        lines: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            if event["log_level"] is level and event["log_namespace"] == "tunnel":
                lines.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return lines
