"""
The tunnel's states, and what leads from one to another.

One machine keeps at most one session to one L{Target}. Its states are those of
L{pipeops_agent.status.TUNNEL_STATES}, and the status shows their own names::

                 want                  opened
     disabled ----------> connecting ----------> connected
     idle                 ^   |   |                |   |
      ^                   |   |   | failed    lost |   |
      |          due,want |   |   v                v   |
      +------------------ | - | - waiting <--------+   |
      |   rest, disable   |   |      ^                 |
      |                   |   |      |                 | want (another), postpone,
      |                   |   v      |                 | rest, disable
      +------------------ closing ---+ <---------------+
         ended_idle,       ended_connecting, ended_waiting
         ended_disabled

C{want}, C{postpone}, C{rest} and C{disable} are wishes. Where nothing is held (disabled, idle, waiting) each
is fulfilled at once: connecting, waiting, idle, disabled. Where something is held (connecting: an attempt;
connected: a session) the machine gives it up first, in closing, where a new wish replaces the one before;
when everything has ended, C{ended_...} leads to the state that was wished last.

So a session is held in connected, and in closing until it has ended; an attempt is under way in connecting,
and in closing until it has ended; a timer for the next attempt runs in waiting alone.

What can't happen (an attempt ends in idle) has a transition too: in network code it does happen. A session
that nobody waits for is closed; the rest changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, Final, ParamSpec, Protocol

from automat import TypeMachineBuilder

from pipeops_agent.status import TUNNEL_STATES
from pipeops_agent.tunnel.errors import SessionError
from pipeops_agent.tunnel.session_api import Session, Target


class TunnelInputs(Protocol):
    """What may be told to the machine. Everything returns None, so that an input may cause another."""

    def want(self, target: Target) -> None:
        """There shall be a session to C{target}; one to another is given up first."""

    def postpone(self, target: Target | None, why: str) -> None:
        """There shall be one to C{target} after a while; without a target, after another order."""

    def rest(self, why: str) -> None:
        """No session for now."""

    def disable(self, why: str) -> None:
        """No session at all."""

    def opened(self, session: Session) -> None:
        """The attempt has led to a session."""

    def failed(self, error: SessionError) -> None:
        """The attempt has failed."""

    def lost(self, why: str) -> None:
        """The session has ended by itself."""

    def due(self) -> None:
        """The wait is over."""

    def ended_disabled(self) -> None:
        """Nothing is held any more; disable was wished last."""

    def ended_idle(self) -> None:
        """Nothing is held any more; rest was wished last."""

    def ended_waiting(self) -> None:
        """Nothing is held any more; postpone was wished last."""

    def ended_connecting(self) -> None:
        """Nothing is held any more; want was wished last."""


class TunnelEffects(Protocol):
    """What the machine has done for it. L{entered} comes last in each transition that it reports."""

    def entered(self, state: str) -> None:
        """The machine is in C{state} now, or has come back to it for a new reason."""

    def start(self, target: Target) -> None:
        """Begin to open a session to C{target}; end any wait."""

    def start_again(self) -> None:
        """The same, to the target known."""

    def wait(self, target: Target | None, why: str) -> None:
        """Count a refusal and set the timer; without a target, wait without one."""

    def wait_after_failure(self, error: SessionError) -> None:
        """Count a failure and set the timer."""

    def wait_after_loss(self, why: str) -> None:
        """Let go of the session that has ended, count that as a failure, and set the timer."""

    def stay(self, why: str) -> None:
        """Do nothing for this reason; end any wait."""

    def hold(self, session: Session) -> None:
        """Keep C{session}, and hear when it ends."""

    def discard(self, session: Session) -> None:
        """Close a session that nobody waits for."""

    def give_up_to_connect(self, target: Target) -> None:
        """Give up what is held, if that has not begun, and then connect to C{target}."""

    def give_up_to_wait(self, target: Target | None, why: str) -> None:
        """The same, and then wait."""

    def give_up_to_rest(self, why: str) -> None:
        """The same, and then rest."""

    def give_up_to_disable(self, why: str) -> None:
        """The same, and then be disabled."""

    def carry_on(self) -> None:
        """Begin what was wished last."""


INPUTS: Final = tuple(name for name in vars(TunnelInputs) if not name.startswith("_"))
"""The names of all inputs."""

_P = ParamSpec("_P")


def _build() -> Callable[[TunnelEffects], TunnelInputs]:
    builder = TypeMachineBuilder(
        TunnelInputs,
        TunnelEffects,  # type: ignore[type-abstract] # only its type is used, never an instance
    )
    states = {name: builder.state(name) for name in TUNNEL_STATES}
    unheard = {(state, name) for state in TUNNEL_STATES for name in INPUTS}

    def move(
        old: str,
        signal: Callable[Concatenate[TunnelInputs, _P], None],
        new: str,
        effect: Callable[Concatenate[TunnelEffects, _P], None],
    ) -> None:
        """On C{signal}, go from C{old} to C{new}, have C{effect} done, and report the state."""
        name = effect.__name__  # the core's own method of this name, not the protocol's

        def output(_: TunnelInputs, core: TunnelEffects, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
            getattr(core, name)(*args, **kwargs)
            if new != old or new == "waiting":
                core.entered(states[new].name)

        states[old].upon(signal).to(states[new])(output)
        unheard.remove((old, signal.__name__))

    for state in ("disabled", "idle", "waiting"):
        move(state, TunnelInputs.want, "connecting", TunnelEffects.start)
        move(state, TunnelInputs.postpone, "waiting", TunnelEffects.wait)
        move(state, TunnelInputs.rest, "idle", TunnelEffects.stay)
        move(state, TunnelInputs.disable, "disabled", TunnelEffects.stay)
    for state in ("connecting", "connected", "closing"):
        move(state, TunnelInputs.want, "closing", TunnelEffects.give_up_to_connect)
        move(state, TunnelInputs.postpone, "closing", TunnelEffects.give_up_to_wait)
        move(state, TunnelInputs.rest, "closing", TunnelEffects.give_up_to_rest)
        move(state, TunnelInputs.disable, "closing", TunnelEffects.give_up_to_disable)
    move("connecting", TunnelInputs.opened, "connected", TunnelEffects.hold)
    move("connecting", TunnelInputs.failed, "waiting", TunnelEffects.wait_after_failure)
    move("connected", TunnelInputs.lost, "waiting", TunnelEffects.wait_after_loss)
    move("waiting", TunnelInputs.due, "connecting", TunnelEffects.start_again)
    move("closing", TunnelInputs.ended_disabled, "disabled", TunnelEffects.carry_on)
    move("closing", TunnelInputs.ended_idle, "idle", TunnelEffects.carry_on)
    move("closing", TunnelInputs.ended_waiting, "waiting", TunnelEffects.carry_on)
    move("closing", TunnelInputs.ended_connecting, "connecting", TunnelEffects.carry_on)
    for state in TUNNEL_STATES:
        if state != "connecting":
            move(state, TunnelInputs.opened, state, TunnelEffects.discard)
    for state, name in sorted(unheard):
        states[state].upon(getattr(TunnelInputs, name)).loop().returns(None)
    return builder.build()


tunnel_machine: Final = _build()
"""Makes a machine, in C{disabled}, around its effects."""
