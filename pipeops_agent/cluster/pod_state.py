"""What logs and streams need to know of a pod: its containers, their runs, and how those ended."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Terminated(msgspec.Struct, frozen=True, rename="camel"):
    """How a run ended: C{state.terminated}."""

    exit_code: int = 0
    reason: str = ""
    signal: int = 0


class Waiting(msgspec.Struct, frozen=True):
    """Why a container does not run yet."""

    reason: str = ""


class Running(msgspec.Struct, frozen=True):
    """That it runs."""


class State(msgspec.Struct, frozen=True):
    """One of these."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """C{status.containerStatuses}; C{restart_count} is the number of the present run."""

    name: str = ""
    restart_count: int = 0
    state: State = State()
    last_state: State = State()

    @property
    def ended(self) -> Terminated | None:
        """How the present run, or the one before it, has ended."""
        return self.state.terminated or self.last_state.terminated


class Container(msgspec.Struct, frozen=True, rename="camel"):
    """C{spec.containers}."""

    name: str = ""
    restart_policy: str = ""


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    uid: str = ""
    deletion_timestamp: datetime | None = None


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    restart_policy: str = "Always"
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    ephemeral_containers: tuple[Container, ...] = ()


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    phase: str = ""
    container_statuses: tuple[Status, ...] = ()
    init_container_statuses: tuple[Status, ...] = ()
    ephemeral_container_statuses: tuple[Status, ...] = ()


class PodState(msgspec.Struct, frozen=True):
    """A C{Pod}, as far as it is needed here."""

    metadata: _Meta = _Meta()
    spec: _Spec = _Spec()
    status: _Status = _Status()

    @property
    def container_names(self) -> tuple[str, ...]:
        """Its containers, without those that only prepare or debug it."""
        return tuple(container.name for container in self.spec.containers)

    def has(self, container: str) -> bool:
        """Whether there is such a container, of whichever sort."""
        spec = self.spec
        found = (*spec.containers, *spec.init_containers, *spec.ephemeral_containers)
        return any(each.name == container for each in found)

    def container(self, name: str) -> Status:
        """The status of a container; one of nothing where there is none yet."""
        status = self.status
        found = (
            *status.container_statuses,
            *status.init_container_statuses,
            *status.ephemeral_container_statuses,
        )
        return next((each for each in found if each.name == name), Status(name=name))

    def restarts(self, name: str, ended: Terminated) -> bool:
        """Whether the kubelet starts a container again that has C{ended} so."""
        if self.metadata.deletion_timestamp is not None or self.status.phase in ("Succeeded", "Failed"):
            return False
        if any(each.name == name for each in self.spec.ephemeral_containers):
            return False
        policy = self.spec.restart_policy
        for each in self.spec.init_containers:
            if (
                each.name == name
            ):  # one with a policy of its own is a sidecar; the others run until they succeed
                policy = each.restart_policy or ("Never" if policy == "Never" else "OnFailure")
        return policy == "Always" or (policy == "OnFailure" and ended.exit_code != 0)
