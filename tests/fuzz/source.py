"""An input's bytes as decisions, and what an object holds: shared by all targets."""

from __future__ import annotations

from collections.abc import Iterable
from types import FunctionType, MethodType, ModuleType
from typing import Any, Final

from twisted.conch.ssh.common import NS

_LENGTHS: Final = (0, 1, 2, 7, 64, 1000, 1024, 32 * 1024)
"""Amounts at which something changes; a decision is one of them, plus a few."""

_NUMBERS: Final = (0, 1, 2, 3, 255, 1023, 1024, 32768, 65535, 65536, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)


class Source:
    """
    Decisions taken from C{data}, in order; zeros once it is used up.

    Every input therefore means something, and a change in one place leaves what stands before it as it was.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether something is left."""
        return self._at < len(self._data)

    def byte(self) -> int:
        """A number from 0 to 255."""
        if self._at >= len(self._data):
            return 0
        self._at += 1
        return self._data[self._at - 1]

    def below(self, limit: int) -> int:
        """A number below C{limit}, which is at most 256."""
        return self.byte() % limit

    def take(self, count: int) -> bytes:
        """At most C{count} bytes as they are."""
        taken = self._data[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))

    def amount(self) -> int:
        """How much of something: 0 to about 40,000."""
        choice = self.byte()
        return _LENGTHS[choice % 8] + choice // 8

    def number(self) -> int:
        """A 32-bit number: small ones, those at which something changes, or any."""
        choice = self.byte()
        if choice < 128:
            return choice % 16
        if choice < 240:
            return _NUMBERS[choice % len(_NUMBERS)]
        return int.from_bytes(self.take(4).ljust(4, b"\0"), "big")

    def fields(self) -> bytes:
        """The payload of some message: numbers, strings, flags, and strings that lie about their length."""
        parts = []
        for _ in range(self.below(6)):
            kind = self.below(5)
            if kind == 0:
                parts.append(self.number().to_bytes(4, "big"))
            elif kind == 1:
                parts.append(NS(self.take(self.below(24))))
            elif kind == 2:
                parts.append(self.take(1 + self.below(24)))
            elif kind == 3:
                parts.append(NS(bytes(self.amount())))
            else:
                parts.append(self.number().to_bytes(4, "big") + self.take(self.below(8)))
        return b"".join(parts)


_NO_DATA: Final = (type, ModuleType, FunctionType, MethodType, str, int, float, bool, type(None))


def held(*roots: object, beside: Iterable[object] = ()) -> int:
    """
    How many bytes of data the objects below C{roots} hold, whatever the attributes are called.

    Followed are containers and the package's own objects; C{beside} is what belongs to somebody else.
    """
    seen = {id(each) for each in beside}
    waiting: list[Any] = list(roots)
    total = 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, _NO_DATA) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, bytes | bytearray):
            total += len(one)
        elif isinstance(one, memoryview):
            waiting.append(one.obj)
        elif isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, Iterable) and type(one).__module__ in {"builtins", "collections"}:
            if not hasattr(one, "__next__"):
                waiting += one
        elif type(one).__module__.startswith("pipeops_agent."):
            waiting += _attributes(one)
    return total


def _attributes(one: object) -> list[object]:
    names = {name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())}
    return [*getattr(one, "__dict__", {}).values(), *(getattr(one, name, None) for name in names)]
