"""
Messages as frames (RFC 6455, 5.2), made once for all who get them.

A server's frames have no mask, so they are the same for everybody. Compressed ones (RFC 7692) are, too, where
no message refers to the one before: the server keeps no context (7.1.1.1).
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

MIN_DEFLATED: Final = 256
"""Bytes from which on a message is worth being compressed."""

_TEXT: Final = 0x81
_DEFLATED_TEXT: Final = 0xC1
_TAIL: Final = 4
"""Bytes that every flushed message ends with, and that are left out (RFC 7692, 7.2.1)."""


def text_frame(message: bytes) -> bytes:
    """C{message}, in UTF-8, as one frame."""
    return _header(_TEXT, len(message)) + message


class Deflater:
    """Makes frames for who has agreed to C{permessage-deflate}: one for the process, whoever they are for."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(wbits=-15)

    def text_frame(self, message: bytes) -> bytes:
        """C{message} as one frame; compressed where that makes it shorter."""
        if len(message) < MIN_DEFLATED:
            return text_frame(message)
        # A full flush forgets what was before: nothing of this message is referred to by the next.
        packed = self._compressor.compress(message) + self._compressor.flush(zlib.Z_FULL_FLUSH)
        packed = packed[:-_TAIL]
        if len(packed) >= len(message):
            return text_frame(message)
        return _header(_DEFLATED_TEXT, len(packed)) + packed


def _header(first: int, length: int) -> bytes:
    if length <= 125:
        return bytes((first, length))
    if length <= 0xFFFF:
        return struct.pack(">BBH", first, 126, length)
    return struct.pack(">BBQ", first, 127, length)
