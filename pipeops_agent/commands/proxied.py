"""Callers' own requests to the Kubernetes API, streamed both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from pipeops_agent.access.audit import Entry
from pipeops_agent.cluster.proxying import Exchange, Proxy, ProxyRequest, ProxyResponse
from pipeops_agent.commands.answers import ProxyPart
from pipeops_agent.commands.asking import Asker
from pipeops_agent.commands.inputs import InputQueue
from pipeops_agent.web.websocket.messages import Input, MessageError

MAX_WHOLE: Final = 1024 * 1024
"""The longest answer that is given in one message, in bytes; longer ones are to be streamed."""


class ProxyMessage(ProxyRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    A request to the Kubernetes API.

    @ivar upload: the body comes in C{input} messages, in base64, up to the one with C{eof}.
    """

    upload: bool = False


class Proxied:
    """
    Hands on requests.

    @param proxy: sends them, by what holds at this moment.
    """

    def __init__(self, proxy: Callable[[], Proxy]) -> None:
        self._proxy = proxy

    async def run(self, asker: Asker, message: ProxyMessage, entry: Entry) -> int:
        """
        Send a request on, and C{proxy_response} messages back; return the answer's status.

        @raise OutOfReach: it is not allowed.
        @raise ClusterError: it can't be sent on, or there was no answer.
        @raise Cut: the answer broke off.
        """
        source = None
        if message.upload:
            source = _Upload(entry, room=lambda: asker.reply("proxy_response", ProxyPart(room=True)))
            asker.receiver = source.take
        else:
            entry.bytes_in += len(message.body or b"")
        exchange = await self._proxy().send(asker.caller, message, source)
        try:
            if message.stream:
                await self._stream(asker, exchange, entry)
            else:
                _say(asker, await exchange.whole(MAX_WHOLE), entry)
        finally:
            exchange.close()
        return exchange.status_code

    async def _stream(self, asker: Asker, exchange: Exchange, entry: Entry) -> None:
        done = False
        while not done:
            part = await exchange.read()
            await asker.ready()
            _say(asker, part, entry)
            done = part.done


class _Upload:
    """A body that comes in messages (L{BodySource<pipeops_agent.cluster.proxying.BodySource>})."""

    def __init__(self, entry: Entry, *, room: Callable[[], None]) -> None:
        self._entry = entry
        self._queue = InputQueue(encoded=True, room=room)

    def take(self, given: Any) -> None:
        """@raise MessageError: it can't be taken."""
        if not isinstance(given, Input):
            raise MessageError("not_possible", "a proxied request has no terminal")
        self._queue.put(given)

    async def read(self) -> bytes:
        """The next bytes; none: that was all."""
        data = await self._queue.read()
        self._entry.bytes_in += len(data)
        return data


def _say(asker: Asker, part: ProxyResponse, entry: Entry) -> None:
    entry.bytes_out += len(part.body)
    told = {name: value for name, value in msgspec.structs.asdict(part).items() if value is not None}
    asker.reply("proxy_response", ProxyPart(**told))
