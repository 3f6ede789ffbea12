"""The command line of C{python -m pipeops_agent.watch}."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pipeops_agent.events import CHANNELS
from pipeops_agent.net import ClientTLS
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.addresses import BaseURL
from pipeops_agent.settings.problems import Unfit
from pipeops_agent.watch.client import Target, WatchError

TOKEN_VARIABLE: Final = "PIPEOPS_WATCH_TOKEN"  # noqa: S105  # a variable's name
URL_VARIABLE: Final = "PIPEOPS_WATCH_URL"

_EXAMPLES: Final = f"""\
The token comes from the variable {TOKEN_VARIABLE} or from --token-file, never from the command line.

  python -m pipeops_agent.watch status
  python -m pipeops_agent.watch events tunnel cluster
  python -m pipeops_agent.watch logs --tail 100 shop/web-0
  python -m pipeops_agent.watch send scale deployment/web -n shop --arg replicas=3
  python -m pipeops_agent.watch send exec pod/web-0 -n shop -- ls -l
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """What is to be done. Ends the process where that can't be understood."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeops_agent.watch",
        description="Look at a running agent: its state, its events, its logs; send it commands.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # --token would be --token-file, and a token stand in the list of processes
    )
    parser.add_argument("--url", help=f"the agent; else {URL_VARIABLE}, else http://127.0.0.1:8080")
    parser.add_argument("--token-file", type=Path, help="a file with the token")
    parser.add_argument("--ca-file", default="", help="certificates to verify an https agent by")
    parser.add_argument(
        "--plaintext", action="store_true", help="send the token over plain HTTP to another machine"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object per line, for programs")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("status", help="how the agent is; status 1 where it is not well")
    events = actions.add_parser("events", help="what happens, for ever")
    events.add_argument("channels", nargs="*", metavar="CHANNEL", help=", ".join(CHANNELS))
    metrics = actions.add_parser("metrics", help="what the agent uses, again and again")
    metrics.add_argument("--interval", type=_seconds, default=5.0, help="seconds, 5 by default")
    logs = actions.add_parser("logs", help="the agent's log, or a pod's")
    logs.add_argument("pod", nargs="?", help="NAMESPACE/POD; else the agent's own log")
    logs.add_argument("--container", "-c")
    logs.add_argument("--tail", type=int, help="begin with so many lines from before")
    logs.add_argument("--no-follow", dest="follow", action="store_false", help="end with the present end")
    send = actions.add_parser("send", help="a command to the cluster; status 1 where it fails")
    send.add_argument("type", help="scale, restart, exec, ...")
    send.add_argument("target", nargs="?", default="", help="KIND/NAME")
    send.add_argument("--namespace", "-n", default="")
    send.add_argument("--container", "-c", default="")
    send.add_argument("--arg", "-a", action="append", default=[], metavar="NAME=VALUE", help="it may be JSON")
    send.add_argument("--timeout", type=_seconds)
    words, rest = _split(arguments)
    options = parser.parse_args(words)
    options.command = rest
    if rest and options.action != "send":
        parser.error("what stands behind -- is for send")
    return options


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before C{--}, and those behind it."""
    words = list(arguments)
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 86_400:
        raise argparse.ArgumentTypeError("expected seconds, 0.1 to 86400")
    return value


def target_of(options: argparse.Namespace, environ: Mapping[str, str]) -> Target:
    """
    The agent, and who asks it.

    @raise WatchError: there is no such file, or no such address.
    """
    try:
        url = BaseURL().parse(options.url or environ.get(URL_VARIABLE) or "http://127.0.0.1:8080")
    except Unfit as error:
        raise WatchError(f"the agent's address: {error}") from None
    token = environ.get(TOKEN_VARIABLE, "")
    if options.token_file is not None:
        try:
            token = options.token_file.read_text("utf-8")
        except (OSError, UnicodeError) as error:
            raise WatchError(f"{options.token_file}: {error}") from None
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise WatchError("the token holds characters that no header can carry")
    return Target(
        url=url,
        token=Secret(token) if token else None,
        tls=ClientTLS(ca_file=options.ca_file),
        plaintext=options.plaintext,
    )


def command_of(options: argparse.Namespace, decode: Any) -> dict[str, Any]:
    """
    The C{command} message that C{send} stands for.

    @param decode: reads JSON, or raises ValueError.
    @raise WatchError: an argument is no NAME=VALUE.
    """
    kind, _, name = options.target.partition("/")
    arguments = {}
    for each in options.arg:
        key, equals, text = each.partition("=")
        if not key or not equals:
            raise WatchError(f"expected NAME=VALUE, got {each}")
        try:
            arguments[key] = decode(text)
        except ValueError:
            arguments[key] = text
    command: dict[str, Any] = {
        "type": options.type,
        "target": {
            "type": kind,
            "name": name,
            "namespace": options.namespace,
            "container": options.container,
        },
        "command": options.command,
        "args": arguments,
    }
    if options.timeout is not None:
        command["timeout"] = options.timeout
    return command
