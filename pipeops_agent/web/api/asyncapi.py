"""C{/asyncapi.json}: the messages of C{/ws} in AsyncAPI 3, made from the types that read and write them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Protocol

import msgspec

from pipeops_agent.web.api.messages import OUTGOING, REQUESTS, Request
from pipeops_agent.web.api.openapi import SECURITY
from pipeops_agent.web.api.schemas import Schema, about, components

VERSION: Final = "3.0.0"

_CHANNEL: Final = "#/channels/ws"


class Incoming(Protocol):
    """A type of message to the agent."""

    @property
    def name(self) -> str:
        """How its messages are called."""

    @property
    def data(self) -> type[Any]:
        """The struct that its data are read into."""


def asyncapi(incoming: Iterable[Incoming], version: str) -> Schema:
    """
    The document.

    @param incoming: the messages that are understood.
    @param version: the agent's.
    """
    incoming = tuple(incoming)
    known, schemas = components((each.data for each in OUTGOING), taken=(each.data for each in incoming))
    requests = {each.name: REQUESTS.get(each.name) or Request(about(each.data)) for each in incoming}
    messages = {
        **{each.name: _incoming(each, requests[each.name].text, known[each.data]) for each in incoming},
        **{each.name: _outgoing(each.name, each.text, known[each.data]) for each in OUTGOING},
    }
    answering = {reply for request in requests.values() for reply in request.replies}
    return {
        "asyncapi": VERSION,
        "info": {
            "title": "pipeops-agent",
            "version": version,
            "description": (
                "Text messages over one WebSocket, a JSON object each. `id` is the sender's own: what answers"
                " a message repeats it. Binary messages, malformed UTF-8 and messages over 1 MiB end the"
                " connection; whatever else is wrong is answered with `error`."
            ),
            "license": {"name": "MIT"},
        },
        "servers": {
            "agent": {
                "host": "{host}",
                "protocol": "ws",
                "variables": {"host": {"default": "localhost:8080", "description": "The agent's address."}},
                "security": [{"$ref": "#/components/securitySchemes/token"}],
            }
        },
        "channels": {
            "ws": {
                "address": "/ws",
                "title": "Everything",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
            }
        },
        "operations": {
            **{f"take_{name}": _take(name, request) for name, request in requests.items()},
            **{f"send_{each.name}": _send(each.name) for each in OUTGOING if each.name not in answering},
        },
        "components": {"messages": messages, "schemas": schemas, "securitySchemes": SECURITY},
    }


def _take(name: str, request: Request) -> Schema:
    """The agent takes a message, and answers it."""
    taken: Schema = {
        "action": "receive",
        "channel": {"$ref": _CHANNEL},
        "summary": request.text,
        "description": f"Needs the scope {request.needs}.",
        "messages": [_message(name)],
    }
    if request.replies:
        replies = [_message(each) for each in (*request.replies, "error")]
        taken["reply"] = {"channel": {"$ref": _CHANNEL}, "messages": replies}
    return taken


def _send(name: str) -> Schema:
    """The agent sends a message that nobody has asked for by another."""
    return {"action": "send", "channel": {"$ref": _CHANNEL}, "messages": [_message(name)]}


def _message(name: str) -> Schema:
    return {"$ref": f"{_CHANNEL}/messages/{name}"}


def _incoming(message: Incoming, text: str, data: Schema) -> Schema:
    name = message.name
    fields = {"type": {"const": name}, "id": _id("The sender's own; answers repeat it."), "data": data}
    needs_data = any(field.required for field in msgspec.structs.fields(message.data))
    required = ["type", "data"] if needs_data else ["type"]
    return _described(name, text, {"type": "object", "properties": fields, "required": required})


def _outgoing(name: str, text: str, data: Schema) -> Schema:
    fields = {
        "type": {"const": name},
        "timestamp": {"type": "string", "format": "date-time"},
        "data": data,
        "id": _id("Of the message that this answers."),
    }
    required = ["type", "timestamp", "data"]
    return _described(name, text, {"type": "object", "properties": fields, "required": required})


def _described(name: str, text: str, payload: Schema) -> Schema:
    return {"name": name, "summary": text, "contentType": "application/json", "payload": payload}


def _id(text: str) -> Schema:
    return {"type": "string", "description": text}
