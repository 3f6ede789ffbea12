"""What the pages for probes, scrapers and people answer, and what every error looks like."""

from __future__ import annotations

from typing import Literal

import msgspec

from pipeops_agent.clock import Moment


class Problem(msgspec.Struct, frozen=True):
    """
    Why a request was not answered as asked.

    @ivar code: for programs: C{not_found}.
    @ivar message: for people.
    """

    code: str
    message: str


class Error(msgspec.Struct, frozen=True):
    """The body of every answer whose status is 400 or above, but that of C{/ready}."""

    error: Problem


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The reactor turns."""

    status: Literal["healthy"] = "healthy"
    timestamp: Moment
    version: str


class ReadyCheck(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    One condition of readiness.

    @ivar message: only for callers with the scope C{read}.
    """

    ok: bool
    message: str | None = None


class Ready(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    Whether the agent does its work, or stands by to do it.

    @ivar checks: by name; a standby has none.
    """

    status: Literal["ready", "standby", "not ready"]
    checks: dict[str, ReadyCheck] = {}
