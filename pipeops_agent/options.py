"""The command line of C{twistd pipeops-agent}: what can be given there. No value is judged here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import ClassVar, NoReturn

from twisted.python.usage import Options as TwistedOptions
from twisted.python.usage import UsageError

from pipeops_agent import __version__
from pipeops_agent.settings.definitions import DEFINITIONS

_ORDERS = ("check-config", "status", "reset-state")
"""What the process does instead of running the agent: one at a time."""

_EXAMPLES = """\
Try it, with a control plane of its own:
    twistd -n --pidfile= pipeops-agent --sandbox
Run it:
    export PIPEOPS_TOKEN
    twistd -n --pidfile= pipeops-agent --cluster-name shop
See every setting and where it comes from:
    twistd -n --pidfile= pipeops-agent --check-config
All settings, with their files and variables: docs/configuration.md
"""


class Options(TwistedOptions):
    """
    The options, as a dictionary: a setting's text, or None where it was not given.

    They go to L{pipeops_agent.settings.load_settings} as they are; what is wrong with a value it
    reports, together with everything else, as the fault of C{option --port}.
    """

    synopsis = "[options]"
    longdesc = (
        "Registers this machine or cluster with the PipeOps control plane, and forwards what it asks for"
        " through one tunnel. The token is given in PIPEOPS_TOKEN or in the settings file; there is no"
        " option for it, since it would show in ps."
    )
    optFlags: ClassVar = [
        ["check-config", None, "Print every setting with its origin, or everything that is wrong, and end."],
        ["status", None, "Ask the running agent how it is, print that, and end: 0 when it is ready, else 1."],
        ["reset-state", None, "Forget this agent's ids and its cluster, and end; it starts as a new agent."],
        ["sandbox", None, "Bring a control plane along, on loopback, for trying things out."],
    ]
    optParameters: ClassVar = [
        ["config", None, None, "The settings file [default: ./config.yaml, else ~/.pipeops-agent.yaml]."],
        *(
            [definition.about.option, None, None, definition.about.text]
            for definition in DEFINITIONS.values()
            if definition.about.option
        ),
    ]

    def parseOptions(self, options: Sequence[str] | None = None) -> None:  # noqa: N802 - overrides
        """@raise UsageError: among others with a better answer for those who look for C{--token}."""
        try:
            super().parseOptions(options)
        except UsageError as error:
            if "--token" in str(error):
                raise UsageError(
                    "there is no option for a token, since it would show in ps;"
                    " set PIPEOPS_TOKEN, pipeops.token or pipeops.token_file"
                ) from None
            raise

    def getUsage(self, width: int | None = None) -> str:
        """The options, and examples, which the wrapping of C{longdesc} would tear apart."""
        return f"{super().getUsage(width)}\n{_EXAMPLES}"

    def parseArgs(self, *args: str) -> None:
        """What stands without an option is not repeated: it might be a token."""
        if args:
            raise UsageError("pipeops-agent takes options only; what is given without one is not understood")

    def postOptions(self) -> None:
        """@raise UsageError: two orders that exclude each other."""
        orders = [f"--{name}" for name in _ORDERS if self[name]]
        if len(orders) > 1:
            raise UsageError(f"{' and '.join(orders)} can't be used together")

    def opt_version(self) -> NoReturn:
        """Print the agent's version, and end."""
        sys.stdout.write(f"pipeops-agent {__version__}\n")
        raise SystemExit(0)
