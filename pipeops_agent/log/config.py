"""What can be chosen about the log: the section C{logging} of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec


class LogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is logged, how, and where to.

    @ivar level: C{debug}, C{info}, C{warn} (or C{warning}), C{error}; everything below is dropped.
    @ivar format: C{json} for machines, one object per line; C{text} for people.
    @ivar output: C{stdout}, C{stderr}, or the path of a file.
    @ivar levels: per component, over C{level}: C{{"tunnel": "debug"}} holds for C{tunnel} and all below it.
    """

    level: str = "info"
    format: Literal["json", "text"] = "json"
    output: str = "stdout"
    levels: Mapping[str, str] = {}
