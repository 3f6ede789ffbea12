"""What C{twistd pipeops-agent} calls: options in, a service out. Only here the global reactor is imported."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NoReturn, cast

from twisted.application.service import IService

from pipeops_agent.clock import steady_seconds
from pipeops_agent.errors import ExitStatus, FatalError
from pipeops_agent.options import Options

__all__ = ["Options", "makeService"]


def makeService(options: Options) -> IService:
    """
    The service for C{options}; an errand is run right here, and the process ends with it.

    @raise SystemExit: with 78 where the settings can't be used; with an errand's status after it.
    """
    from twisted.internet import reactor

    # What --help does not need is not imported for it.
    from pipeops_agent.errands import ERRANDS
    from pipeops_agent.launch import Surroundings, launch, say_early

    cast(Any, reactor).seconds = steady_seconds()
    around = Surroundings.of_this_process()
    for name, errand in ERRANDS.items():
        if options[name]:
            _run(reactor, partial(errand, reactor, options, around))
    try:
        return launch(reactor, options, around)
    except FatalError as error:
        say_early(reactor, options, around, error)
        raise SystemExit(error.status) from None


def _run(reactor: Any, errand: Callable[[], Awaitable[tuple[str, ExitStatus]]]) -> NoReturn:
    """Run C{errand} to its end, print what it found, and end the process."""
    from twisted.internet.task import react

    async def run(_: object) -> None:
        try:
            text, status = await errand()
        except FatalError as error:
            sys.stderr.write(f"{error.sentence}\n")
            raise SystemExit(error.status) from None
        sys.stdout.write(f"{text}\n")
        raise SystemExit(status)

    react(run, _reactor=reactor)
    raise AssertionError("react always ends the process")
