"""
C{${VAR}} and C{${VAR:-default}} in the settings file, from the environment.

Only the texts of a file that has been parsed already are expanded, so that no variable can add a
key or a list to it. C{$$} is a dollar sign.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from ipaddress import IPv6Address

from pipeops_agent.settings.problems import Unfit

_REFERENCE = re.compile(
    r"\$(?:(?P<escaped>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^${}]*))?\})?"
)
_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|APIKEY|PRIVATE|(?:^|_)(?:KEYS?|PASS)(?:_|$)", re.IGNORECASE
)
_NAMES_A_FILE = re.compile(r"_(?:FILE|PATH|DIR)$", re.IGNORECASE)


class Variables:
    """
    The environment, as a settings file may use it.

    @param secret_names: the variables of secret settings; others are recognised by their names.
    """

    def __init__(self, environ: Mapping[str, str], secret_names: Collection[str] = ()) -> None:
        self._environ = environ
        self._secret_names = frozenset(secret_names)

    def holds_secret(self, name: str) -> bool:
        """Whether the variable C{name} is taken to hold a secret: C{DB_PASSWORD}, not C{TOKEN_FILE}."""
        if name in self._secret_names:
            return True
        return bool(_SECRET_NAME.search(name)) and not _NAMES_A_FILE.search(name)

    def expand(self, text: str, *, secret: bool = False, host: bool = False) -> str:
        """
        Replace every reference in C{text}.

        @param secret: the text is for a secret setting, so variables that hold secrets may be used.
        @param host: the text holds a host, so an IPv6 address in its position is bracketed.
        @raise Unfit: a variable is not set, may not be used here, or a C{$} begins no reference.
        """

        def replace(match: re.Match[str]) -> str:
            if match["escaped"]:
                return "$"
            if match["name"] is None:
                raise Unfit("a '$' begins ${NAME} or ${NAME:-default}, or is written as $$")
            value = self._value(match["name"], match["default"], secret=secret)
            if host and _in_host_position(match) and _is_ipv6(value):
                return f"[{value}]"
            return value

        return _REFERENCE.sub(replace, text)

    def _value(self, name: str, default: str | None, *, secret: bool) -> str:
        if self.holds_secret(name) and not secret:
            raise Unfit(f"variable {name} holds a secret, which only a secret setting may use")
        value = self._environ.get(name)
        if default is not None:
            return value or default  # as in a shell, ":-" also stands in for an empty one
        if value is None:
            raise Unfit(f"variable {name} is not set; set it, or write ${{{name}:-default}}")
        return value


def _in_host_position(match: re.Match[str]) -> bool:
    before, after = match.string[: match.start()], match.string[match.end() :]
    return (not before or before.endswith("//")) and (not after or after[0] in ":/")


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
