"""C{docs/sandbox.md} and the faults that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.sandbox import faults

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "sandbox.md"


def kinds(base: Any) -> set[tuple[str, frozenset[str]]]:
    """The kind and fields of every concrete class under C{base}."""
    found: set[tuple[str, frozenset[str]]] = set()
    for each in base.__subclasses__():
        if each is faults.CallFault:
            found |= kinds(each)
        else:
            names = frozenset(field.name for field in msgspec.structs.fields(each)) - {"count"}
            found.add((str(each.__struct_config__.tag), names))
    return found


class DocumentTests(SynchronousTestCase):
    """The table of faults."""

    def test_every_fault_and_field(self) -> None:
        """The table names every fault with its fields, and none that does not exist."""
        rows = re.findall(r"^\| `([a-z-]+)` \| ([^|]*)\|", DOCUMENT.read_text(), re.MULTILINE)
        table = {(kind, frozenset(re.findall(r"`(\w+)`", fields))) for kind, fields in rows}
        self.assertEqual(table, kinds(faults.Fault) | kinds(faults.Act))
