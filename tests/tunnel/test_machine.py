"""The tunnel's machine: every state, every input."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import pipeops_agent.tunnel.machine as machine_module
from pipeops_agent.status import TUNNEL_STATES
from pipeops_agent.tunnel.errors import SessionError
from pipeops_agent.tunnel.machine import INPUTS, TunnelEffects, TunnelInputs, tunnel_machine
from pipeops_agent.tunnel.remotes import Remote
from pipeops_agent.tunnel.session_api import Session, Target
from tests.tunnel.scripted import ScriptedSession, make_server

TARGET = Target(make_server(), (Remote("a", 8000, "localhost", 80),))
SESSION = ScriptedSession(Clock(), make_server(), TARGET.remotes)
ERROR = SessionError("tcp", "refused")

ARGUMENTS: dict[str, tuple[object, ...]] = {
    "want": (TARGET,),
    "postpone": (TARGET, "later"),
    "rest": ("rest",),
    "disable": ("off",),
    "opened": (SESSION,),
    "failed": (ERROR,),
    "lost": ("gone",),
}

PATHS: dict[str, tuple[str, ...]] = {
    "disabled": (),
    "idle": ("rest",),
    "connecting": ("want",),
    "connected": ("want", "opened"),
    "waiting": ("want", "failed"),
    "closing": ("want", "opened", "rest"),
}

EXPECTED: dict[str, dict[str, tuple[str, str | None]]] = {
    "disabled": {
        "want": ("connecting", "start"),
        "postpone": ("waiting", "wait"),
        "rest": ("idle", "stay"),
        "disable": ("disabled", "stay"),
        "opened": ("disabled", "discard"),
    },
    "idle": {
        "want": ("connecting", "start"),
        "postpone": ("waiting", "wait"),
        "rest": ("idle", "stay"),
        "disable": ("disabled", "stay"),
        "opened": ("idle", "discard"),
    },
    "connecting": {
        "want": ("closing", "give_up_to_connect"),
        "postpone": ("closing", "give_up_to_wait"),
        "rest": ("closing", "give_up_to_rest"),
        "disable": ("closing", "give_up_to_disable"),
        "opened": ("connected", "hold"),
        "failed": ("waiting", "wait_after_failure"),
    },
    "connected": {
        "want": ("closing", "give_up_to_connect"),
        "postpone": ("closing", "give_up_to_wait"),
        "rest": ("closing", "give_up_to_rest"),
        "disable": ("closing", "give_up_to_disable"),
        "opened": ("connected", "discard"),
        "lost": ("waiting", "wait_after_loss"),
    },
    "waiting": {
        "want": ("connecting", "start"),
        "postpone": ("waiting", "wait"),
        "rest": ("idle", "stay"),
        "disable": ("disabled", "stay"),
        "opened": ("waiting", "discard"),
        "due": ("connecting", "start_again"),
    },
    "closing": {
        "want": ("closing", "give_up_to_connect"),
        "postpone": ("closing", "give_up_to_wait"),
        "rest": ("closing", "give_up_to_rest"),
        "disable": ("closing", "give_up_to_disable"),
        "opened": ("closing", "discard"),
        "ended_disabled": ("disabled", "carry_on"),
        "ended_idle": ("idle", "carry_on"),
        "ended_waiting": ("waiting", "carry_on"),
        "ended_connecting": ("connecting", "carry_on"),
    },
}
"""What each input does in each state; what is not listed does nothing."""


class RecordingEffects(TunnelEffects):
    """Keeps the effects by name, and the state that was reported last."""

    def __init__(self) -> None:
        self.state = "disabled"
        self.effects: list[str] = []

    def entered(self, state: str) -> None:
        self.state = state

    def start(self, target: Target) -> None:
        self.effects.append("start")

    def start_again(self) -> None:
        self.effects.append("start_again")

    def wait(self, target: Target | None, why: str) -> None:
        self.effects.append("wait")

    def wait_after_failure(self, error: SessionError) -> None:
        self.effects.append("wait_after_failure")

    def wait_after_loss(self, why: str) -> None:
        self.effects.append("wait_after_loss")

    def stay(self, why: str) -> None:
        self.effects.append("stay")

    def hold(self, session: Session) -> None:
        self.effects.append("hold")

    def discard(self, session: Session) -> None:
        self.effects.append("discard")

    def give_up_to_connect(self, target: Target) -> None:
        self.effects.append("give_up_to_connect")

    def give_up_to_wait(self, target: Target | None, why: str) -> None:
        self.effects.append("give_up_to_wait")

    def give_up_to_rest(self, why: str) -> None:
        self.effects.append("give_up_to_rest")

    def give_up_to_disable(self, why: str) -> None:
        self.effects.append("give_up_to_disable")

    def carry_on(self) -> None:
        self.effects.append("carry_on")


def feed(machine: TunnelInputs, name: str) -> object:
    """Give C{machine} the input C{name}, with arguments that fit."""
    return getattr(machine, name)(*ARGUMENTS.get(name, ()))


def machine_in(state: str) -> tuple[TunnelInputs, RecordingEffects]:
    """A machine in C{state}, and its effects, the ones so far forgotten."""
    effects = RecordingEffects()
    machine = tunnel_machine(effects)
    for name in PATHS[state]:
        feed(machine, name)
    effects.effects.clear()
    return machine, effects


class MachineTests(SynchronousTestCase):
    def test_states_are_those_of_the_status(self) -> None:
        """Every state that the status names can be reached, and reports its own name."""
        self.assertEqual(set(PATHS), set(TUNNEL_STATES))
        for state in TUNNEL_STATES:
            self.assertEqual(machine_in(state)[1].state, state)

    def test_every_state_hears_every_input(self) -> None:
        """Each input in each state has the listed effect, leads to the listed state, and returns None."""
        for state in TUNNEL_STATES:
            for name in INPUTS:
                new, effect = EXPECTED[state].get(name, (state, None))
                machine, effects = machine_in(state)
                result = feed(machine, name)
                self.assertIsNone(result, f"{state}: {name}")
                self.assertEqual(effects.effects, [] if effect is None else [effect], f"{state}: {name}")
                self.assertEqual(effects.state, new, f"{state}: {name}")

    def test_reported_state_is_the_real_one(self) -> None:
        """After any two inputs the machine acts as the state that it reported says."""
        for state in TUNNEL_STATES:
            for first in INPUTS:
                for second in INPUTS:
                    machine, effects = machine_in(state)
                    feed(machine, first)
                    reported = effects.state
                    effects.effects.clear()
                    feed(machine, second)
                    _, effect = EXPECTED[reported].get(second, (reported, None))
                    self.assertEqual(
                        effects.effects, [] if effect is None else [effect], f"{state}: {first}, {second}"
                    )

    def test_the_drawing_names_every_state(self) -> None:
        """The drawing in the module's docstring has all the states."""
        drawing = machine_module.__doc__ or ""
        for state in TUNNEL_STATES:
            self.assertIn(state, drawing)
