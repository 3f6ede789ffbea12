"""What C{twistd pipeops-sandbox} calls: options, then the service."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, cast

from twisted.application.service import IService
from twisted.internet.error import CannotListenError
from twisted.python import usage

from pipeops_agent.clock import utc_now
from pipeops_agent.errors import ExitStatus, FatalError
from pipeops_agent.log import AgentLog, LogConfig, Redactor
from pipeops_agent.process import Process
from pipeops_agent.sandbox.service import SandboxError, SandboxService, SandboxSettings
from pipeops_agent.sandbox.serving import IServerReactor
from pipeops_agent.secrets import Secret

TOKEN_VARIABLE: Final = "PIPEOPS_SANDBOX_TOKEN"  # noqa: S105 - the name of a variable
DEFAULT_PORT: Final = 8181
MIN_TOKEN: Final = 16
"""Characters that a token has at least."""

MAX_TOKEN_FILE: Final = 4096
"""The most characters that a token, or the file that holds it, has."""


def _number(least: int, most: int) -> Any:
    """A coercion to an integer in a range, as twistd's options want one."""

    def coerce(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise ValueError(f"expected {least} to {most}, got {number}")
        return number

    coerce.coerceDoc = f"A whole number from {least} to {most}."  # type: ignore[attr-defined]  # Twisted reads it
    return coerce


def _log_format(text: str) -> str:
    """A coercion to a format of the log."""
    if text not in ("text", "json"):
        raise ValueError("expected text or json")
    return text


_log_format.coerceDoc = "text or json."  # type: ignore[attr-defined]  # Twisted reads it


class Options(usage.Options):
    """
    The command line of C{twistd pipeops-sandbox}.

    @ivar settings: what it comes to, once parsed.
    """

    settings: SandboxSettings

    synopsis = "[options]"
    longdesc = (
        "A PipeOps control plane in one process, for rehearsals and tests: registration, heartbeat, tunnel"
        " status, a chisel server, and faults on request (POST /faults). GET / lists who registered and which"
        f" local port reaches which forward. The token comes from the environment variable {TOKEN_VARIABLE}"
        " or from --token-file; without either one is made up and written to a file, whose name is shown."
    )
    optFlags: ClassVar[list[list[Any]]] = [
        ["tls", None, "Speak TLS, with a CA made at each start (ca.pem)."],
        ["stand-ins", None, "Start TLS stand-ins for the Kubernetes API and the kubelet."],
    ]
    optParameters: ClassVar[list[list[Any]]] = [
        ["port", "p", DEFAULT_PORT, "The port to listen on; 0: a free one.", _number(0, 65535)],
        [
            "listen",
            "l",
            "127.0.0.1",
            "The address to listen on. Not loopback: needs --tls and a token of yours.",
        ],
        [
            "tls-dir",
            None,
            "",
            "Where ca.pem and the made-up token are written; otherwise a temporary directory.",
        ],
        ["token-file", None, "", "A file that holds the token."],
        ["log-format", None, "text", "The log's format: text for people, or json.", _log_format],
        [
            "poll-frequency",
            None,
            0,
            "Seconds between polls, as agents are told; 0: not told.",
            _number(0, 600),
        ],
    ]

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        super().__init__()
        self._environ = environ
        self["names"] = []

    def opt_name(self, name: str) -> None:
        """A further name of this machine, for the certificate; may be repeated."""
        self["names"].append(name)

    def postOptions(self) -> None:
        """Here and not in L{makeService}: what is wrong is told as usage, not as a traceback."""
        self.settings = settings_from(self, self._environ)


def find_token(environ: Mapping[str, str], token_file: str) -> Secret | None:
    """
    The token that was given, if any; a file goes before the environment.

    @raise UsageError: the file can't be read, or the token is too short to be one.
    """
    text = environ.get(TOKEN_VARIABLE, "")
    place = TOKEN_VARIABLE
    if token_file:
        place = f"--token-file {token_file}"
        try:
            with Path(token_file).open(encoding="utf-8") as file:
                text = file.read(MAX_TOKEN_FILE + 1).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise usage.UsageError(f"{place}: {error}") from None
    if not text and not token_file:
        return None
    if not MIN_TOKEN <= len(text) <= MAX_TOKEN_FILE or not (text.isascii() and text.isprintable()):
        raise usage.UsageError(
            f"{place}: expected {MIN_TOKEN} to {MAX_TOKEN_FILE} printable ASCII characters"
        )
    return Secret(text)


def settings_from(options: Options, environ: Mapping[str, str]) -> SandboxSettings:
    """
    The command line and the environment as settings.

    @raise UsageError: they don't fit together.
    """
    token = find_token(environ, options["token-file"])
    settings = SandboxSettings(
        listen=options["listen"],
        port=options["port"],
        tls=bool(options["tls"]),
        names=tuple(options["names"]),
        directory=options["tls-dir"],
        token=token,
        write_token=token is None,
        stand_ins=bool(options["stand-ins"]),
        poll_frequency=options["poll-frequency"],
    )
    try:
        settings.check()
    except SandboxError as error:
        raise usage.UsageError(f"{error} ({TOKEN_VARIABLE} or --token-file)") from None
    return settings


def makeService(options: Options) -> IService:
    """The service that twistd runs: the sandbox, and the log that every line of the process goes through."""
    from twisted.internet import reactor

    # What --help does not need is not imported for it.
    from pipeops_agent.launch import TopService

    service = _Sandbox(cast(IServerReactor, reactor), options.settings, utc_now)
    log = AgentLog(LogConfig(format=options["log-format"]), cast(Any, reactor), Redactor())
    log.redactor.learn(service.token)
    top = TopService(cast(Any, reactor), log, Process(cast(Any, reactor)).end)
    service.setServiceParent(top)
    return top


class _Sandbox(SandboxService):
    """The sandbox under twistd: where it can't start, that ends the process with 1."""

    def startService(self) -> None:
        """@raise FatalError: the address can't be had, or the directory can't be written."""
        try:
            super().startService()
        except (CannotListenError, OSError) as error:
            raise FatalError(f"the sandbox can't start: {error}", ExitStatus.FAILURE) from error
