"""Processes in pods: exec, attach, and a shell."""

from __future__ import annotations

import codecs
from base64 import b64encode
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Annotated, Any, Final, Literal

import msgspec

from pipeops_agent.access.audit import Entry
from pipeops_agent.cluster.errors import ClusterError
from pipeops_agent.cluster.operations import BadRequest, Command, parsed
from pipeops_agent.cluster.sessions import Chunk, ExecSession, Exit, StreamCut
from pipeops_agent.cluster.streaming import Streams, Terminal
from pipeops_agent.commands.answers import Outcome, Output
from pipeops_agent.commands.asking import MAX_PIECE, Asker
from pipeops_agent.commands.inputs import MAX_INPUT, InputQueue
from pipeops_agent.commands.pods import checked_place, is_pod
from pipeops_agent.scheduling import Tasks
from pipeops_agent.web.websocket.messages import MAX_SIDE, Input, MessageError, Resize

MAX_PARTS: Final = 1000
"""Words of a command."""

SHELL: Final = (
    "/bin/sh",
    "-c",
    "TERM=xterm-256color; export TERM; if [ -x /bin/bash ]; then exec /bin/bash; else exec /bin/sh; fi",
)
"""What a shell is where the command does not say."""

_Side = Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)]


class ProcessArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    How a process is connected.

    @ivar stdin: C{input} messages follow, which it reads.
    @ivar input: what it reads, and then the end.
    @ivar tty: it has a terminal, of C{cols} and C{rows} at first.
    @ivar encoding: of output and input; C{text}: what is not UTF-8 is replaced.
    """

    stdin: bool = False
    input: Annotated[str, msgspec.Meta(max_length=MAX_INPUT)] | None = None
    tty: bool = False
    cols: _Side | None = None
    rows: _Side | None = None
    encoding: Literal["text", "base64"] = "text"


class Processes:
    """
    Runs processes for callers.

    @param streams: opens streams, by what holds at this moment.
    """

    def __init__(self, streams: Callable[[], Streams]) -> None:
        self._streams = streams

    async def run(self, asker: Asker, command: Command, entry: Entry) -> Outcome:
        """
        Run what C{command} asks for, until it ends.

        @raise BadRequest: it makes no sense.
        @raise OutOfReach: it is not allowed.
        @raise ClusterError: it could not be run, or how it has ended is not known.
        """
        arguments = _arguments(asker, command)
        connection = _Connection(asker, arguments, entry, command.type)
        asker.receiver = connection.take  # from now on: who types does not wait until there is a process
        try:
            ended = await connection.run(await self._open(asker, command, arguments))
        finally:
            asker.receiver = None
        if command.type == "attach":
            return Outcome()  # that is the stream's end; what the process does is another matter
        error = None if ended.code == 0 else ended.message or f"exit code {ended.code}"
        return Outcome(success=ended.code == 0, error=error, exit_code=ended.code)

    async def _open(self, asker: Asker, command: Command, arguments: ProcessArguments) -> ExecSession:
        target = command.target
        terminal = Terminal(
            namespace=target.namespace,
            pod=target.name,
            container=target.container,
            stdin=arguments.stdin or arguments.input is not None,
            tty=arguments.tty,
        )
        streams = self._streams()
        if command.type == "attach":
            return await streams.attach(asker.caller, terminal)
        words = command.command or SHELL
        return await streams.exec(asker.caller, terminal, words, called=command.type)


class _Connection:
    """A process that runs, and the caller that sees and feeds it."""

    _session: ExecSession

    def __init__(self, asker: Asker, arguments: ProcessArguments, entry: Entry, name: str) -> None:
        self._asker = asker
        self._arguments = arguments
        self._entry = entry
        self._name = name
        self._tasks = Tasks()
        self._encoded = arguments.encoding == "base64"
        self._input = InputQueue(encoded=self._encoded, room=self._say_room)
        cols, rows = arguments.cols, arguments.rows
        self._size = None if cols is None or rows is None else Resize(cols, rows)
        self._resizing = True  # not before there is a process
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}

    async def run(self, session: ExecSession) -> Exit:
        """Hand on what is written both ways, until the process has ended."""
        self._session = session
        self._tasks.spawn(self._send_size(), "handing on a terminal's size")
        if self._arguments.stdin or self._arguments.input is not None:
            self._tasks.spawn(self._feed(), "handing on input")
        try:
            while chunks := await session.read():
                for stream, data in _pieces(chunks):
                    await self._say(stream, data)
            for stream in self._decoders:
                await self._say(stream, b"", final=True)
        finally:
            session.close()
            self._tasks.stop()
        assert session.exit is not None
        return session.exit

    async def _say(self, stream: str, data: bytes, *, final: bool = False) -> None:
        if self._encoded:
            text = b64encode(data).decode()
        else:
            decoder = self._decoders.get(stream)
            if decoder is None:  # a character may come in two pieces
                decoder = self._decoders[stream] = codecs.getincrementaldecoder("utf-8")("replace")
            text = decoder.decode(data, final)
        self._entry.bytes_out += len(data)
        if text:
            await self._asker.ready()
            self._asker.reply("command_output", Output(output=text, stream=stream))

    def take(self, given: Any) -> None:
        """
        The caller sends something.

        @raise MessageError: it can't be taken.
        """
        if isinstance(given, Resize):
            if not self._arguments.tty:
                raise MessageError("not_possible", f"this {self._name} has no terminal (args.tty)")
            self._size = given  # of several that can't be sent the last one counts
            if not self._resizing:
                self._tasks.spawn(self._send_size(), "handing on a terminal's size")
        elif isinstance(given, Input):
            if not self._arguments.stdin:
                raise MessageError("not_possible", f"this {self._name} takes no input (args.stdin)")
            self._input.put(given)

    async def _send_size(self) -> None:
        self._resizing = True
        try:
            while (size := self._size) is not None:
                self._size = None
                await self._session.resize(size.cols, size.rows)
        except StreamCut:
            pass  # the reader says so
        finally:
            self._resizing = False

    async def _feed(self) -> None:
        try:
            if self._arguments.input is not None:
                await self._write(self._arguments.input.encode("utf-8", "surrogatepass"))
            else:
                while data := await self._input.read():
                    await self._write(data)
            await self._session.close_stdin()
        except StreamCut:
            pass  # the reader says so
        except ClusterError as error:
            self._asker.reply("error", {"code": "not_possible", "message": error.sentence})

    async def _write(self, data: bytes) -> None:
        self._entry.bytes_in += len(data)
        await self._session.write(data)

    def _say_room(self) -> None:
        self._asker.reply("command_output", Output(room=True))


def _arguments(asker: Asker, command: Command) -> ProcessArguments:
    """@raise BadRequest: it can't be meant so."""
    target = command.target
    if not is_pod(target.type):
        raise BadRequest(f"{command.type} is for pods, not for {target.type[:80]!r}")
    checked_place(command.type, target.namespace, target.name)
    arguments = parsed(ProcessArguments, command.args, command.type)
    if command.type == "exec" and not command.command:
        raise BadRequest("exec needs a command")
    if command.type == "attach" and command.command:
        raise BadRequest("attach takes no command: it is to what runs already")
    if len(command.command) > MAX_PARTS:
        raise BadRequest(f"a command has at most {MAX_PARTS} words")
    if command.type == "shell":
        arguments = msgspec.structs.replace(arguments, stdin=arguments.input is None, tty=True)
    if arguments.stdin and arguments.input is not None:
        raise BadRequest(f"{command.type}: args.input, or args.stdin for input that follows: one of them")
    if arguments.stdin and not asker.talks:
        raise BadRequest(f"{command.type}: no input can follow by this way: use /ws, or args.input")
    return arguments


def _pieces(chunks: list[Chunk]) -> Iterator[tuple[str, bytes]]:
    """What was written, put together where it can be, but for pieces of a size to be sent."""
    for stream, same in groupby(chunks, key=lambda chunk: chunk.stream):
        data = b"".join(chunk.data for chunk in same)
        for start in range(0, len(data), MAX_PIECE):
            yield stream, data[start : start + MAX_PIECE]
