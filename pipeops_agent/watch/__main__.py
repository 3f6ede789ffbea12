"""Runs L{pipeops_agent.watch} from the command line."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from pipeops_agent.log.render import printable
from pipeops_agent.watch.client import AgentClient, WatchError
from pipeops_agent.watch.doing import Doing
from pipeops_agent.watch.options import parse, target_of


def _out(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _say(line: str) -> None:
    sys.stderr.write(f"{printable(line)}\n")
    sys.stderr.flush()


async def _run(reactor: Any, arguments: list[str]) -> NoReturn:
    options = parse(arguments)
    for stream in (sys.stdout, sys.stderr):
        # Whatever the terminal can't show is shown as its escape.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # they are text files
    try:
        client = AgentClient(reactor, target_of(options, os.environ))
        status = await Doing(client, options, _out, _say).run()
    except WatchError as error:
        _say(str(error))
        status = 1
    except BrokenPipeError:  # whoever read this has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    raise SystemExit(status)


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(_run(reactor, sys.argv[1:])))
