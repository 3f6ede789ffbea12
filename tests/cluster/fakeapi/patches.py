"""What the kinds of patches do to an object."""

from __future__ import annotations

import copy
from typing import Any

from tests.cluster.fakeapi.storage import Refused


def merge(into: Any, patch: Any, *, strategic: bool = False) -> Any:
    """
    A JSON merge patch (RFC 7386).

    @param strategic: lists whose members have names are merged by them, as most of the API's are.
    """
    if strategic and _named(patch) and _named(into):
        found = {each["name"]: each for each in into}
        for each in patch:
            found[each["name"]] = merge(found.get(each["name"]), each, strategic=True)
        return list(found.values())
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(into) if isinstance(into, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value, strategic=strategic)
    return result


def _named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) and "name" in each for each in value)


def json_patch(into: Any, steps: Any) -> Any:
    """A JSON patch (RFC 6902): C{test}, C{add}, C{replace} and C{remove}, in objects. @raise Refused: 422."""
    result = copy.deepcopy(into)
    for step in steps:
        *way, last = (part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:])
        place = result
        for part in way:
            place = place.get(part)
            if not isinstance(place, dict):
                raise Refused(422, "Invalid", f"the path {step['path']} is not there")
        if step["op"] != "add" and (
            last not in place or (step["op"] == "test" and place[last] != step["value"])
        ):
            raise Refused(422, "Invalid", f"the step {step['op']} {step['path']} fails")
        if step["op"] in ("add", "replace"):
            place[last] = copy.deepcopy(step["value"])
        elif step["op"] == "remove":
            del place[last]
    return result
