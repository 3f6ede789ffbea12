"""JSON Schema of the types that answers are made of, with their own documentation in it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Final

import msgspec

_REFERENCE: Final = "#/components/schemas/{name}"
_FIELD: Final = re.compile(r"^\s*@ivar (\w+): ", re.MULTILINE)
_CODE: Final = re.compile(r"C\{((?:[^{}]|\{[^{}]*\})*)\}")
_LINK: Final = re.compile(r"L\{([^<}]*)(?:<[^}]*>)?\}")

Schema = dict[str, Any]


def components(sent: Iterable[Any], taken: Iterable[Any] = ()) -> tuple[dict[Any, Schema], dict[str, Schema]]:
    """
    The schemas of types, which all are or hold structs.

    @param sent: what the agent says: of these every field is there, unless its struct leaves defaults out.
    @param taken: what it is told: of these only those must be there that have no default.
    @return: for each type a reference or a schema, and all that these refer to, by name.
    """
    taken = list(dict.fromkeys(taken))
    kinds = list(dict.fromkeys([*sent, *taken]))
    references, schemas = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    structs = {struct.__name__: struct for struct in _structs(msgspec.inspect.multi_type_info(kinds))}
    given = {struct.__name__ for struct in _structs(msgspec.inspect.multi_type_info(taken))}
    for name, schema in schemas.items():
        _document(schema, structs[name])
        if name not in given:
            _complete(schema, structs[name])
    return dict(zip(kinds, references, strict=True)), dict(sorted(schemas.items()))


def plain(text: str) -> str:
    """A docstring's markup as CommonMark."""
    return _LINK.sub(r"`\1`", _CODE.sub(r"`\1`", text))


def _document(schema: Schema, struct: type[msgspec.Struct]) -> None:
    """Write in what the struct's docstring says."""
    schema["description"] = about(struct)
    texts = _field_texts(struct)
    for field in msgspec.structs.fields(struct):
        if field.name in texts:
            schema["properties"][field.encode_name].setdefault("description", texts[field.name])


def _complete(schema: Schema, struct: type[msgspec.Struct]) -> None:
    """Say that every field is sent, where that is so: a default is the code's affair, not the reader's."""
    for described in schema["properties"].values():
        described.pop("default", None)
    if not struct.__struct_config__.omit_defaults:
        schema["required"] = list(schema["properties"])


def about(struct: type[msgspec.Struct]) -> str:
    """What it is, without its fields."""
    return plain(" ".join(_FIELD.split(inspect.getdoc(struct) or "")[0].split()))


@cache
def _field_texts(struct: type[msgspec.Struct]) -> dict[str, str]:
    """What a docstring, or an inherited one, says of fields, by their names."""
    found: dict[str, str] = {}
    for each in reversed(struct.__mro__):
        parts = _FIELD.split(inspect.cleandoc(each.__doc__ or ""))
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            found[name] = plain(_sentence(" ".join(text.split())))
    return found


def _sentence(text: str) -> str:
    """C{text} with a capital at its beginning, unless that is code."""
    return text if text[1:2] == "{" else text[:1].upper() + text[1:]


def _structs(infos: Iterable[msgspec.inspect.Type]) -> Iterator[type[msgspec.Struct]]:
    """Every struct that the types are made of."""
    waiting, seen = list(infos), set()
    while waiting:
        info = waiting.pop()
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in seen:
                continue
            seen.add(info.cls)
            yield info.cls
            waiting += [field.type for field in info.fields]
        else:
            waiting += _inner(info)


def _inner(info: msgspec.inspect.Type) -> list[msgspec.inspect.Type]:
    """The types that a type is directly made of."""
    if isinstance(info, msgspec.inspect.Metadata):
        return [info.type]
    if isinstance(info, msgspec.inspect.UnionType):
        return list(info.types)
    if isinstance(info, msgspec.inspect.DictType):
        return [info.key_type, info.value_type]
    if isinstance(info, msgspec.inspect.CollectionType):
        return [info.item_type]
    return list(info.item_types) if isinstance(info, msgspec.inspect.TupleType) else []
