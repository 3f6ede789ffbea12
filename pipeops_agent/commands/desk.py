"""Takes in what callers ask for: sees whether they may, does it, keeps the books, and says how it ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol, TypeVar

import msgspec
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.access.audit import Audit, Entry, Verdict
from pipeops_agent.access.limits import Kind, Place
from pipeops_agent.cluster.errors import BadAnswer
from pipeops_agent.cluster.logs import LogRequest, Logs
from pipeops_agent.cluster.operations import SAME, Command, Operations, OutOfTime, Progress, Result
from pipeops_agent.cluster.proxying import Proxy
from pipeops_agent.cluster.reach import NotGranted, Reach
from pipeops_agent.cluster.streaming import Streams
from pipeops_agent.commands.answers import Ended, Outcome, Output
from pipeops_agent.commands.asking import Asker
from pipeops_agent.commands.failures import FAILURES, code_of, verdict_of
from pipeops_agent.commands.pod_logs import PodLogs
from pipeops_agent.commands.processes import Processes
from pipeops_agent.commands.proxied import Proxied, ProxyMessage
from pipeops_agent.scheduling import DeadlineExceeded, bounded
from pipeops_agent.web.websocket.messages import MessageError

T = TypeVar("T")

MAX_RESULT: Final = 2 * 1024 * 1024
"""The longest result that a message holds, in bytes."""

MAX_NAMED: Final = 5
"""Objects of a manifest that an audit record names."""

STREAMED: Final = {"exec": 600.0, "attach": 3600.0, "shell": 3600.0, "logs": 3600.0}
"""The commands that are no operations, and the seconds that one may take where it does not say."""

TYPES: Final = Operations.types | frozenset(STREAMED)
"""What a command's type may be."""

_NAMES: Final = {**SAME, "shell": ("shell", "exec")}

Work = Callable[[], Awaitable[None]]
"""Does what was asked for, and tells the caller what comes of it."""


class Cluster(Protocol):
    """What is asked of the cluster: L{ClusterService<pipeops_agent.cluster.service.ClusterService>}."""

    @property
    def operations(self) -> Operations: ...
    @property
    def proxy(self) -> Proxy: ...
    @property
    def logs(self) -> Logs: ...
    @property
    def streams(self) -> Streams: ...


class Desk:
    """
    Where callers ask, whichever way they have come.

    What is asked for is first looked at, which raises L{MessageError} or C{TooMany} where it can't be begun;
    what is returned then does it, is cancelled where it must end early, and has to be called.
    """

    def __init__(self, clock: IReactorTime, cluster: Cluster, audit: Audit) -> None:
        self._clock = clock
        self._cluster = cluster
        self._audit = audit
        self._processes = Processes(lambda: cluster.streams)
        self._logs = PodLogs(lambda: cluster.logs)
        self._proxied = Proxied(lambda: cluster.proxy)

    def command(self, asker: Asker, command: Command) -> Work:
        """A command; it ends with C{command_response}."""
        if command.type not in TYPES:
            known = ", ".join(sorted(TYPES))
            raise MessageError("unknown_command", f"there is no command {command.type[:64]!r}, but {known}")
        names = _NAMES.get(command.type, (command.type,))
        entry = self._audit.begin(asker.caller, command.type, command.target.words)
        return partial(self._command, asker, command, entry, self._admit(asker, names, "commands", entry))

    def logs(self, asker: Asker, request: LogRequest) -> Work:
        """Logs of pods as C{log} messages; they end with C{log_end}."""
        entry = self._audit.begin(asker.caller, "logs", f"pods {request.namespace}/{request.pod or '*'}")
        return partial(
            self._follow, asker, request, entry, self._admit(asker, ("logs",), "log_streams", entry)
        )

    def proxy(self, asker: Asker, message: ProxyMessage) -> Work:
        """A request to the Kubernetes API; it ends with the C{proxy_response} that is C{done}."""
        entry = self._audit.begin(asker.caller, f"proxy {message.method}", message.path)
        return partial(self._proxy, asker, message, entry, self._admit(asker, ("proxy",), "commands", entry))

    def _admit(self, asker: Asker, names: tuple[str, ...], kind: Kind, entry: Entry) -> Place:
        """A place, for who may do this at all."""
        try:
            Reach().asking(*names).check_asked(asker.caller)
        except NotGranted as error:
            entry.end("refused", str(error))
            raise MessageError("forbidden", str(error)) from None
        return asker.hold(kind)

    async def _command(self, asker: Asker, command: Command, entry: Entry, place: Place) -> None:
        began = self._clock.seconds()
        with place, entry:
            try:
                outcome = await self._do(asker, command, entry)
            except FAILURES as error:
                entry.end(verdict_of(error), str(error))
                outcome = Outcome(success=False, error=str(error), code=code_of(error))
            else:
                entry.end("done" if outcome.success else "failed", outcome.error or "")
            await asker.ready()
            ended = Ended(
                success=outcome.success,
                error=outcome.error,
                code=outcome.code or ("" if outcome.success else "failed"),
                exit_code=outcome.exit_code,
                duration=round(self._clock.seconds() - began, 6),
                result=outcome.result,
            )
            asker.reply("command_response", ended)

    async def _do(self, asker: Asker, command: Command, entry: Entry) -> Outcome:
        if command.type not in STREAMED:
            return await self._operate(asker, command, entry)
        run = self._logs.run if command.type == "logs" else self._processes.run
        seconds = STREAMED[command.type] if command.timeout is None else command.timeout
        work = run(asker, command, entry)
        try:
            return await bounded(self._clock, seconds, work, command.type)
        except DeadlineExceeded as error:
            left = "" if command.type == "logs" else "; what runs in the container may go on"
            raise OutOfTime(f"{command.type}: ended after {seconds:g} s, its timeout{left}") from error

    async def _operate(self, asker: Asker, command: Command, entry: Entry) -> Outcome:
        def listen(progress: Progress) -> None:
            line = f"{progress.object}: {progress.message}" if progress.object else progress.message
            asker.reply("command_output", Output(output=f"{line}\n", progress=progress))

        entry.bytes_in += len(msgspec.json.encode(command.args))
        result = await self._cluster.operations.run(asker.caller, command, listen)
        objects = getattr(result, "objects", ())
        if objects:
            more = "" if len(objects) <= MAX_NAMED else f" and {len(objects) - MAX_NAMED} more"
            entry.target = ", ".join(each.object for each in objects[:MAX_NAMED]) + more
        told = _encoded(result)
        entry.bytes_out += len(told)
        if len(told) > MAX_RESULT:
            raise BadAnswer(
                f"{command.type}: the result has {len(told)} bytes, and a message holds {MAX_RESULT}: ask for"
                " fewer objects (args.limit), or by a streamed proxy request"
            )
        error = None if result.success else result.error
        return Outcome(success=result.success, error=error, result=told)

    async def _follow(self, asker: Asker, request: LogRequest, entry: Entry, place: Place) -> None:
        with place, entry:
            end = await _explained(self._logs.follow(asker, request, entry), entry)
            asker.reply("log_end", end)

    async def _proxy(self, asker: Asker, message: ProxyMessage, entry: Entry, place: Place) -> None:
        with place, entry:
            status = await _explained(self._proxied.run(asker, message, entry), entry)
            if status >= 400:
                verdict: Verdict = "refused" if status in (401, 403) else "failed"
                entry.end(verdict, f"the API server has answered {status}")


async def _explained(work: Awaitable[T], entry: Entry) -> T:
    """
    What comes of C{work}.

    @raise MessageError: it failed, and why; the audit record says so too.
    """
    try:
        return await work
    except FAILURES as error:
        entry.end(verdict_of(error), str(error))
        raise MessageError(code_of(error), str(error)) from error


def _encoded(result: Result) -> msgspec.Raw:
    """What there is beyond success and error, in JSON."""
    fields = msgspec.structs.fields(result)
    shown = {
        each.encode_name: getattr(result, each.name)
        for each in fields
        if each.name not in Result.__struct_fields__
    }
    return msgspec.Raw(msgspec.json.encode(shown))
