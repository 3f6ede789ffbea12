"""Which pod a command is about."""

from __future__ import annotations

from typing import Final

from pipeops_agent.cluster.operations import BadRequest
from pipeops_agent.cluster.resources import checked_segment

_NAMES: Final = frozenset({"", "po", "pod", "pods"})


def is_pod(kind: str) -> bool:
    """Whether C{kind}, of a target, says pods, or nothing else."""
    return kind.lower() in _NAMES


def checked_place(what: str, namespace: str, name: str | None = None) -> None:
    """
    Let pass a namespace, and a pod's name, that can be some.

    @param what: what they are for.
    @raise BadRequest: they can't.
    """
    for text, part in ((namespace, "namespace"), (name, "name")):
        if text is None:
            continue
        if not text:
            raise BadRequest(f"{what} needs the pod's {part}")
        try:
            checked_segment(text, f"a pod's {part}")
        except ValueError as error:
            raise BadRequest(str(error)) from None
