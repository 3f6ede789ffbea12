"""C{/openapi.json}: the interface in OpenAPI 3.1, made from the operations and their types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from pipeops_agent.web.api.examples import EXAMPLES
from pipeops_agent.web.api.operation import COMMON, Answer, Operation
from pipeops_agent.web.api.schemas import Schema, components

VERSION: Final = "3.1.0"

SECURITY: Final[Schema] = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of `server.tokens`, the agent's own (`read` alone), or one of the cluster's.",
    },
}
"""How a caller shows who it is."""


def openapi(operations: Iterable[Operation], version: str) -> Schema:
    """
    The document.

    @param version: the agent's.
    """
    operations = tuple(operations)
    answers = (answer for each in operations for answer in each.all_answers.values())
    known, schemas = components(
        (answer.kind for answer in answers if answer.kind is not None),
        taken=(each.body for each in operations if each.body is not None),
    )
    paths: dict[str, Schema] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, known)
    return {
        "openapi": VERSION,
        "info": {
            "title": "pipeops-agent",
            "version": version,
            "summary": "The agent's own HTTP interface",
            "description": (
                "Times are RFC 3339 in UTC; durations are seconds as numbers unless they are named otherwise."
                " Every path that answers GET answers HEAD and OPTIONS too. Large answers are compressed for"
                " those who take gzip. A request that is no HTTP, or does not arrive whole, is answered with"
                " 400, 408, 413, 414 or 431 and an `Error`."
            ),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {each.common: _answer(each, known) for each in COMMON},
            "securitySchemes": SECURITY,
        },
    }


def parameters(query: type[msgspec.Struct]) -> list[Schema]:
    """The parameters of a query, as OpenAPI has them."""
    (_,), schemas = msgspec.json.schema_components([query])
    (schema,) = schemas.values()
    return [_parameter(name, dict(about)) for name, about in schema["properties"].items()]


def _parameter(name: str, about: Schema) -> Schema:
    description = about.pop("description")
    if about.get("default") == "":
        del about["default"]  # it stands for none, and can't be sent
    return {"name": name, "in": "query", "description": description, "required": False, "schema": about}


def _operation(operation: Operation, known: Mapping[Any, Schema]) -> Schema:
    described: Schema = {"operationId": operation.name, "summary": operation.summary}
    if operation.text:
        described["description"] = operation.text
    if operation.query.__struct_fields__:
        described["parameters"] = parameters(operation.query)
    if operation.body is not None:
        schema = {"schema": known[operation.body]}
        described["requestBody"] = {"required": True, "content": {"application/json": schema}}
    described["responses"] = {
        str(code): (
            {"$ref": f"#/components/responses/{answer.common}"}
            if answer.common
            else _answer(answer, known, EXAMPLES.get(operation.name) if code == 200 else None)
        )
        for code, answer in operation.all_answers.items()
    }
    described["security"] = _security(operation)
    return described


def _answer(answer: Answer, known: Mapping[Any, Schema], example: Any = None) -> Schema:
    described: Schema = {"description": answer.text}
    if answer.headers:
        described["headers"] = {
            name: {"description": text, "schema": {"type": kind}} for name, kind, text in answer.headers
        }
    schema = {"type": "string"} if answer.kind is None else known[answer.kind]
    if answer.types:
        shown = {} if example is None else {"example": msgspec.to_builtins(example)}
        described["content"] = {name: {"schema": schema, **shown} for name in answer.types}
    return described


def _security(operation: Operation) -> list[Schema]:
    """What must be shown; an empty one of these: nothing need be."""
    if operation.needs is not None:
        return [{"token": [operation.needs]}]
    return [{}, {"token": []}] if operation.optional else []
