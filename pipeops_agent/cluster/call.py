"""One call to the Kubernetes API, and the head of its answer."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

import msgspec

from pipeops_agent.secrets import Secret

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH: Final = "application/strategic-merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
"""Server-side apply (JSON is YAML)."""

TIMEOUT: Final = 30.0
"""Seconds that a call may take, with all its attempts, where it does not say otherwise."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is asked of the API.

    @ivar method: the HTTP method.
    @ivar verb: the API's verb, as RBAC and metrics name it: get, list, watch, create, update, patch, delete.
    @ivar resource: the resource's name for metrics: C{pods}, C{pods/log}, C{deployments.apps}; no object's.
    @ivar path: quoted, from L{Resource.path<pipeops_agent.cluster.resources.Resource.path>}.
    @ivar query: parameters, in order, not yet quoted.
    @ivar body: what is sent, of type C{content_type}.
    @ivar timeout: the seconds until the whole answer must be there; for a stream, its head.
    @ivar token: the caller's own, in place of the agent's credential.
    @ivar limit: the most bytes that the answer's body may have; None: the transport's own.
    @ivar once: do not make it again, whatever comes of it, but for a credential that has run out.
    """

    method: str
    verb: str
    resource: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    content_type: str = JSON
    accept: str = JSON
    timeout: float = TIMEOUT
    token: Secret | None = None
    limit: int | None = None
    once: bool = False

    @property
    def what(self) -> str:
        """The call as a phrase: "list pods"."""
        return f"{self.verb} {self.resource}"

    @property
    def target(self) -> str:
        """Path and query, quoted."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path

    @property
    def repeatable(self) -> bool:
        """Whether it may be made twice: it changes nothing."""
        return self.method == "GET"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer: its status, below 300, its body and its C{Content-Type}."""

    status: int
    body: bytes
    content_type: str
