"""
C{docs/api.md}, made from the operations and their types.

C{python -m pipeops_agent.web.api.docs} writes it; with C{--check} it only says whether it is up to date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from pipeops_agent.commands.messages import command_messages
from pipeops_agent.made_page import make_page
from pipeops_agent.web.api.asyncapi import asyncapi
from pipeops_agent.web.api.examples import EXAMPLES
from pipeops_agent.web.api.messages import OUTGOING, REQUESTS
from pipeops_agent.web.api.openapi import openapi, parameters
from pipeops_agent.web.api.operation import COMMON, Operation
from pipeops_agent.web.api.operations import OPERATIONS as ANSWERED
from pipeops_agent.web.api.schemas import Schema
from pipeops_agent.web.api.streams import COMMANDS, EVENTS, LOGS, WEBSOCKET
from pipeops_agent.web.websocket import standard_messages

OPERATIONS: Final = (*ANSWERED, EVENTS, LOGS, COMMANDS, WEBSOCKET)

FILE: Final = Path("docs/api.md")

_INTRODUCTION: Final = """\
# The agent's HTTP interface

<!-- Made by `python -m pipeops_agent.web.api.docs` from the operations and their types.
     Change those, not this page. -->

One port, 8080 by default (`server.port`). The same in OpenAPI 3.1 is at `/openapi.json` of every agent. The
examples are executed by the project's tests; they ask `$AGENT`, an address such as `http://127.0.0.1:8080`,
and show `$TOKEN`.

Times are RFC 3339 in UTC; durations are seconds as numbers unless they are named otherwise. All answers have
`Cache-Control: no-store`, and large ones are compressed for those who take gzip. What answers GET answers
HEAD too, and OPTIONS with the methods that there are.

## Errors

Whatever is not answered as asked has a status of 400 or above and says why, for programs and for people:

```sh
curl -sS -H "Authorization: Bearer $TOKEN" "$AGENT/api/cluster/pods?namepsace=shop"
```

```json
{
  "error": {
    "code": "bad_parameter",
    "message": "unknown parameter 'namepsace'; known here: limit, continue, namespace"
  }
}
```

A request that is no HTTP, or does not arrive whole, is answered so with 400, 408, 413, 414 or 431. What
operations have in common is not repeated below:
"""

_PAGES: Final = """\
## Lists, page by page

A page has at most `limit` objects. Its `continue` asks for the next one, and is null on the last. It is a
place in the list's order and no snapshot: nothing is kept for a client, and nothing expires, not even by a
restart of the agent.

- An object that is there from the first page to the last is given exactly once, as it is at the time of its
  page.
- What is made or deleted meanwhile is given or not, as its place is behind the page or ahead of it. Nothing
  is given twice, except what was deleted and made anew.
- The order is that of `namespace/name`; of events that of time, the newest first. An event that happens again
  meanwhile moves to the front: it is not given once more, and whoever had not come to it yet misses it. Who
  must miss none follows the channel `events`.
- The owner's rules (`access.*`, `kubernetes.namespaces`) and the caller's scope hold for each page anew: a
  `continue` gives no rights.
- `limit` may change from page to page; the list and its `namespace` may not.

`list` in each page says what the list is worth at that moment. One that could not be kept up to date is still
given, with the state `broken` and the time since when.
"""


_WEBSOCKET: Final = """\
## The WebSocket

`/ws` takes text messages, one JSON object each: `{"type": ..., "id": ..., "data": {...}}`, where the last two
may be missing, and says `{"type": ..., "timestamp": ..., "data": {...}, "id": ...}` with the `id` of the
message that it answers. Binary messages, malformed UTF-8 and messages over 1 MiB end the connection; whatever
else is wrong is answered with `error`.
"""

# They are described, not called.
_STANDARD: Final = (
    *standard_messages(status=dict, metrics=dict, logs=cast(Any, None)),
    *command_messages(cast(Any, None)),
)


def render() -> str:
    """The whole page."""
    document = openapi(OPERATIONS, "")
    parts = [_INTRODUCTION, *_common(), _PAGES, "## Overview", "", *_overview(), "", "## Operations", ""]
    for operation in OPERATIONS:
        parts += _operation(operation)
    parts += [_WEBSOCKET, *_messages(), "## Types", ""]
    messages = asyncapi(_STANDARD, "")
    schemas = {**document["components"]["schemas"], **messages["components"]["schemas"]}
    for name, schema in sorted(schemas.items()):
        parts += _type(name, schema)
    return "\n".join(parts).rstrip() + "\n"


def _messages() -> Iterator[str]:
    yield "| to the agent | data | | answered by |"
    yield "|---|---|---|---|"
    for taken in _STANDARD:
        request = REQUESTS[taken.name]
        replies = ", ".join(f"`{reply}`" for reply in request.replies)
        yield f"| `{taken.name}` | {_body(taken.data, ())} | {request.text} | {replies} |"
    yield ""
    yield "| from the agent | data | |"
    yield "|---|---|---|"
    for message in OUTGOING:
        yield f"| `{message.name}` | {_body(message.data, ()) or 'object'} | {message.text} |"
    yield ""


def _common() -> Iterator[str]:
    yield "| name | when |"
    yield "|---|---|"
    for answer in COMMON:
        yield f"| {answer.common} | {answer.text} |"
    yield ""


def _overview() -> Iterator[str]:
    yield "| | needs | |"
    yield "|---|---|---|"
    for each in OPERATIONS:
        needs = f"`{each.needs}`" if each.needs else each.optional
        yield f"| [`{each.method} {each.path}`](#{_anchor(each)}) | {needs} | {each.summary} |"


def _anchor(operation: Operation) -> str:
    """As GitHub makes it of the heading."""
    heading = f"{operation.method} {operation.path}".lower().replace(" ", "-")
    return "".join(character for character in heading if character.isalnum() or character in "-_")


def _operation(operation: Operation) -> Iterator[str]:
    yield f"### `{operation.method} {operation.path}`"
    yield ""
    yield f"{operation.summary}.{f' {operation.text}' if operation.text else ''}"
    yield ""
    if operation.query.__struct_fields__:
        yield from _parameters(operation)
    yield "| status | | |"
    yield "|---|---|---|"
    for code, answer in operation.all_answers.items():
        if answer.common:
            yield f"| {code} | {answer.common} | |"
        else:
            yield f"| {code} | {answer.text} | {_body(answer.kind, answer.types)} |"
    yield ""
    if operation.name in EXAMPLES:
        yield from _example(operation)


def _parameters(operation: Operation) -> Iterator[str]:
    yield "| parameter | | |"
    yield "|---|---|---|"
    for each in parameters(operation.query):
        yield f"| `{each['name']}` | {_shape(each['schema'])} | {each['description']} |"
    yield ""


def _example(operation: Operation) -> Iterator[str]:
    shows = operation.needs is not None or operation.method != "GET"
    token = ' -H "Authorization: Bearer $TOKEN"' if shows else ""
    method = "" if operation.method == "GET" else f" -X {operation.method}"
    yield "```sh"
    yield f'curl -sS{method}{token} "$AGENT{operation.path}{operation.example}"'
    yield "```"
    yield ""
    yield "```json"
    yield msgspec.json.format(msgspec.json.encode(EXAMPLES[operation.name]), indent=2).decode()
    yield "```"
    yield ""


def _body(kind: Any, content_types: Iterable[str]) -> str:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    return " or ".join(f"`{name}`" for name in content_types)


def _type(name: str, schema: Schema) -> Iterator[str]:
    yield f"### {name}"
    yield ""
    yield schema["description"]
    yield ""
    yield "| field | type | |"
    yield "|---|---|---|"
    required = schema.get("required", ())
    for field, about in schema["properties"].items():
        may_be_missing = "" if field in required else ", may be missing"
        yield f"| `{field}` | {_shape(about)}{may_be_missing} | {about.get('description', '')} |"
    yield ""


def _shape(schema: Mapping[str, Any]) -> str:
    """A type in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_shape(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_shape(schema['items'])}" if "items" in schema else "list"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"mapping of names to {_shape(inner)}" if isinstance(inner, dict) else "object"
    if schema.get("format") == "date-time":
        return "time"
    return f"{kind}{_range(schema)}"


def _range(schema: Mapping[str, Any]) -> str:
    least = schema.get("minimum", f"more than {schema.get('exclusiveMinimum')}")
    parts = [f", {least} to {schema['maximum']}"] if "maximum" in schema else []
    parts += (
        [f", by default {msgspec.json.encode(schema['default']).decode()}"] if "default" in schema else []
    )
    return "".join(parts)


def main(arguments: Sequence[str]) -> int:
    """Write the page, or check it; return the exit status."""
    return make_page(arguments, module="pipeops_agent.web.api.docs", file=FILE, render=render)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
