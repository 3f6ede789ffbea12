"""
Masking of frames (RFC 6455, section 5.3): XOR with a 32-bit key, in place.

Every byte that a client sends is masked, so it must not be a loop over bytes: Autobahn's native function
works on a buffer in place (1 to 6 microseconds for 32 KiB); without it the buffer is one big integer
(about 65), which is said once at start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

_SMALL: Final = 128
"""Bytes up to which the integer is faster than a call into the native function."""


def mask_as_integer(key: bytes, view: memoryview) -> None:
    """Mask C{view} in place, as one big integer."""
    size = len(view)
    pattern = (key * (size // 4 + 1))[:size]
    masked = int.from_bytes(view, "little") ^ int.from_bytes(pattern, "little")
    view[:] = masked.to_bytes(size, "little")


def _native() -> Callable[[bytes, memoryview], None] | None:
    """Return Autobahn's native masking, where this installation has it."""
    try:
        from _nvx_xormasker import ffi, lib  # type: ignore[import-not-found]  # built by cffi
    except ImportError:
        return None
    new, process, free, from_buffer = (
        lib.nvx_xormask_new,
        lib.nvx_xormask_process,
        lib.nvx_xormask_free,
        ffi.from_buffer,
    )
    octets: Any = ffi.typeof("uint8_t[]")

    def mask(key: bytes, view: memoryview) -> None:
        if len(view) <= _SMALL:
            mask_as_integer(key, view)
            return
        masker = new(key)
        try:
            process(masker, from_buffer(octets, view), len(view))
        finally:
            free(masker)

    return mask


_found: Final = _native()

IS_NATIVE: Final = _found is not None
"""Whether masking is done by native code."""

mask: Final[Callable[[bytes, memoryview], None]] = _found or mask_as_integer
"""Masks (or unmasks: it is the same) a buffer in place with a key of four bytes."""
