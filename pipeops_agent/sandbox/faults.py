"""
What can be made to go wrong, on request: the faults of C{POST /faults}, and the box that holds them.

A fault is one JSON object, told apart by its C{kind}. Most stay until C{DELETE /faults}, or until they
have struck C{count} times; L{Act}s happen at once and are not kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

MAX_FAULTS: Final = 100
"""How many faults may be switched on at a time."""

Call = Literal["any", "register", "heartbeat", "tunnel-status", "health"]
"""A call of the HTTP contract."""

Stage = Literal["upgrade", "version", "kex", "auth", "config"]
"""How far a chisel session gets: each name is the step that is *not* answered."""

Seconds = Annotated[float, msgspec.Meta(ge=0, le=600)]
HTTPStatus = Annotated[int, msgspec.Meta(ge=200, le=599)]


def _kebab(name: str) -> str:
    """C{HalfOpen} as C{half-open}."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


class Fault(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag=_kebab
):
    """
    Something that goes wrong from now on.

    @ivar count: how many times it strikes before it is gone; None: until it is cleared.
    """

    count: Annotated[int, msgspec.Meta(ge=1)] | None = None


class CallFault(Fault, frozen=True, kw_only=True):
    """
    A fault of the HTTP contract.

    @ivar call: which call it strikes; C{any}: each of them.
    """

    call: Call = "any"

    def strikes(self, call: str) -> bool:
        """Whether this fault is meant for C{call}."""
        return self.call in ("any", call)


class Delay(CallFault, frozen=True, kw_only=True):
    """The answer comes C{seconds} late. Goes together with any other fault."""

    seconds: Seconds


class Status(CallFault, frozen=True, kw_only=True):
    """Another status, and whatever body is wanted; the call itself is not carried out."""

    status: HTTPStatus
    body: str | None = None
    """None: C{{"error": ...}} as the control plane would say it."""
    content_type: str = "application/json"
    retry_after: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Html(CallFault, frozen=True, kw_only=True):
    """A proxy's HTML page instead of the answer."""

    status: HTTPStatus = 200


class Broken(CallFault, frozen=True, kw_only=True):
    """The call is carried out, and its JSON answer cut in the middle."""


class Redirect(CallFault, frozen=True, kw_only=True):
    """A redirection, which an agent must not follow."""

    status: Literal[301, 302, 303, 307, 308] = 301
    location: str = "https://elsewhere.invalid/"


class Drop(CallFault, frozen=True, kw_only=True):
    """The connection is reset instead of an answer."""


class HalfOpen(CallFault, frozen=True, kw_only=True):
    """The request is taken and never answered."""


class Skew(Fault, frozen=True, kw_only=True):
    """The C{Date} of every answer is C{seconds} off; negative: in the past."""

    seconds: float


class Tunnel(Fault, frozen=True, kw_only=True):
    """The tunnel status says this instead of C{ready}: C{IDLE}, C{REQUIRED}, C{disabled}, or anything."""

    status: str


class Reconnect(Fault, frozen=True, kw_only=True):
    """
    The answers to heartbeats ask for another tunnel connection: C{reconnect: true}.

    @ivar message: why.
    @ivar server: another chisel server, to be named with it.
    """

    message: Annotated[str, msgspec.Meta(max_length=200)] = "as the sandbox was told"
    server: str | None = None


class RefuseUpgrade(Fault, frozen=True, kw_only=True):
    """The chisel server answers the WebSocket upgrade with an HTTP status."""

    status: HTTPStatus = 403
    html: bool = False


class Silent(Fault, frozen=True, kw_only=True):
    """The chisel server goes silent at this stage and keeps the connection."""

    stage: Stage


class WrongKey(Fault, frozen=True, kw_only=True):
    """The chisel server shows another host key than the one announced."""


class WrongPassword(Fault, frozen=True, kw_only=True):
    """The chisel server refuses the credentials, right as they are."""


class BindRefused(Fault, frozen=True, kw_only=True):
    """
    The chisel server says that it cannot listen.

    @ivar forwards: names of forwards, or ports as text; none: all of them.
    """

    forwards: tuple[str, ...] = ()


class Swallow(Fault, frozen=True, kw_only=True):
    """
    Packets vanish: a chisel session stays open, and nothing that comes is read or answered.

    Strikes the sessions there are, and new ones as soon as they are up. A session so struck stays dead
    when the fault is cleared, since its bytes are gone.
    """


class SlowPing(Fault, frozen=True, kw_only=True):
    """The chisel server answers pings C{seconds} late."""

    seconds: Seconds


class Act(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag=_kebab
):
    """Something that happens once, now."""


class DropTunnels(Act, frozen=True, kw_only=True):
    """Every chisel session is reset."""


class OtherPorts(Act, frozen=True, kw_only=True):
    """Every agent is given other ports for its forwards; the next tunnel status says which."""


class Forget(Act, frozen=True, kw_only=True):
    """Every agent is forgotten: heartbeats get 404, until the agents register again."""


AnyFault = (
    Delay
    | Status
    | Html
    | Broken
    | Redirect
    | Drop
    | HalfOpen
    | Skew
    | Tunnel
    | Reconnect
    | RefuseUpgrade
    | Silent
    | WrongKey
    | WrongPassword
    | BindRefused
    | Swallow
    | SlowPing
)
AnyRequest = AnyFault | DropTunnels | OtherPorts | Forget

F = TypeVar("F", bound=Fault)


class TooManyFaults(Exception):
    """The box is full."""


class _Kept:
    """A fault, and how many times it will strike yet."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.left = fault.count


class FaultBox:
    """The faults that are switched on, in the order in which they came."""

    def __init__(self) -> None:
        self._kept: list[_Kept] = []
        self._watchers: list[Callable[[], None]] = []

    def add(self, *faults: Fault) -> None:
        """
        Switch on all of C{faults}, or none.

        @raise TooManyFaults: there would be more than L{MAX_FAULTS}.
        """
        if len(self._kept) + len(faults) > MAX_FAULTS:
            raise TooManyFaults(f"at most {MAX_FAULTS} faults can be switched on at a time")
        self._kept.extend(_Kept(fault) for fault in faults)
        for watcher in tuple(self._watchers):
            watcher()

    def clear(self) -> None:
        """Switch everything off."""
        self._kept.clear()

    def take(self, kind: type[F], strikes: Callable[[F], bool] = lambda _: True) -> F | None:
        """The first fault of C{kind}, or derived from it, that C{strikes}. It has then struck once."""
        for kept in self._kept:
            fault = kept.fault
            if isinstance(fault, kind) and strikes(fault):
                if kept.left is not None:
                    kept.left -= 1
                    if kept.left == 0:
                        self._kept.remove(kept)
                return fault
        return None

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call C{watcher} after each L{add}: for faults that strike what is under way."""
        self._watchers.append(watcher)

    def shown(self) -> list[Mapping[str, Any]]:
        """The faults as JSON objects; C{count} is how many times each will strike yet."""
        return [msgspec.to_builtins(kept.fault) | {"count": kept.left} for kept in self._kept]


def parse_faults(body: bytes) -> list[Fault | Act]:
    """
    The body of C{POST /faults}: one fault, or a list of them.

    @raise msgspec.MsgspecError: it is something else; the message names the place.
    """
    if body.lstrip().startswith(b"["):
        return list(msgspec.json.decode(body, type=list[AnyRequest]))
    return [msgspec.json.decode(body, type=AnyRequest)]
