"""
C{docs/configuration.md}, made from the definitions.

C{python -m pipeops_agent.settings.docs} writes it; with C{--check} it only says whether it is up to date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeops_agent.made_page import make_page
from pipeops_agent.settings.containers import ListOf, Record
from pipeops_agent.settings.definitions import ROOT, Definition, Section
from pipeops_agent.settings.kinds import Kind

FILE: Final = Path("docs/configuration.md")

_INTRODUCTION: Final = """\
# Configuration

<!-- Made by `python -m pipeops_agent.settings.docs` from the settings' own definitions.
     Change those, not this page. -->

Every setting has a key in the settings file and an environment variable; the common ones have a command
line option too. One thing is required: a token, in `PIPEOPS_TOKEN`, `pipeops.token` or
`pipeops.token_file`.

`twistd -n --pidfile= pipeops-agent --check-config` prints every value and where it comes from, or
everything that is wrong, with places:

    tunnel.forwards[1].local_addr: expected host:port, got 'localhost' (config.yaml line 14)

## Which value wins

1. the command line option
2. the environment variable (an empty one counts as not set)
3. the settings file (a key without a value counts as not set)
4. the default

A value that another source hides is not looked at. Lists and mappings are taken whole from one source.

## The file

`--config FILE`, else `./config.yaml`, else `~/.pipeops-agent.yaml`: the first that exists, or none. It is
YAML in UTF-8, at most 256 KiB, and holds one mapping of sections. It is refused when it is owned by
neither root nor the user that runs the agent, or can be written by its group or by others
(`chmod go-w`). Unknown and repeated keys are errors.

```yaml
agent:
  cluster_name: production
  labels:
    environment: production
pipeops:
  token_file: /run/secrets/pipeops-token
tunnel:
  forwards:
    - name: kubernetes-api
      local_addr: localhost:6443
```

SIGHUP reads everything again. Settings marked *live* take effect at once, the others are named in the log
and need a restart; an error keeps the old settings.

### Variables in the file

`${NAME}` in a value stands for an environment variable; `${NAME:-default}` has a default for one that is
unset or empty; `$$` is a dollar sign. An unset variable without a default is an error. They are replaced
after the file has been parsed, so a variable can't add a key. Where a host is expected, an IPv6 address is
bracketed: `${KUBERNETES_SERVICE_HOST}:${KUBERNETES_SERVICE_PORT}` is right for both families.

Variables that hold secrets (`PIPEOPS_TOKEN`, and those whose names say token, secret, password, credential
or key) can be used in secret settings only, so that none ends in a log or on a page. `..._FILE`,
`..._PATH` and `..._DIR` name files and can be used everywhere.

## How values are written

- **Durations** as in Go: `1m30s`, `500ms`, `1.5h`, `0`. Units: `h`, `m`, `s`, `ms`, `us` or `µs`, `ns`. A
  number without a unit is an error.
- **Addresses**: `host:port`; an IPv6 address in brackets, `[::1]:6443`.
- **True or false**: `true`, `yes`, `on`, `1`; `false`, `no`, `off`, `0`.
- **Lists and mappings in a variable**: `a,b` and `a=b,c=d`; or YAML in brackets, `[a, b]`, `{a: b}`,
  `PIPEOPS_TUNNEL_FORWARDS='[{name: database, local_addr: "localhost:5432"}]'`.
- **Paths**: `~/` is the home directory of the user that runs the agent.
- **Secrets** have no command line option, since it would show in `ps`. They are never logged;
  `--check-config` shows their length and a short hash.

## The variables' names

`PIPEOPS_` and the key in capitals, with `_` for each dot; `pipeops.` is left out: `tunnel.ping_interval`
is `PIPEOPS_TUNNEL_PING_INTERVAL`, `pipeops.tls.ca_file` is `PIPEOPS_TLS_CA_FILE`. A few have shorter
names, given below.
"""


def render() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for section in ROOT.sections():
        own = [member for member in section.members.values() if isinstance(member, Definition)]
        if own:
            parts.append(_heading(section))
            parts.extend(_setting(definition) for definition in own)
    return "\n".join(parts)


def _heading(section: Section) -> str:
    return f"## `{section.path}`\n\n{section.text}\n"


def _setting(definition: Definition) -> str:
    rows = [
        ("key", f"`{definition.path}`"),
        ("option", f"`{definition.option}`" if definition.option else "none"),
        ("variable", f"`{definition.variable}`"),
        ("type", _escape(definition.kind.label)),
        ("default", _default(definition.path, definition.kind, definition.default)),
        ("change", "live, by SIGHUP" if definition.about.live else "needs a restart"),
    ]
    lines = [f"### `{definition.path}`", "", definition.about.text, "", "| | |", "|---|---|"]
    lines += [f"| {name} | {text} |" for name, text in rows]
    return "\n".join([*lines, "", *_fields(definition.kind)])


def _fields(kind: Kind[Any]) -> Iterator[str]:
    """The table of what an element holds, for lists of records."""
    if not isinstance(kind, ListOf) or not isinstance(kind.item, Record):
        return
    yield f"Each {kind.item.noun}:"
    yield ""
    yield "| key | type | default | |"
    yield "|---|---|---|---|"
    for name, about, value in kind.item.parts():
        text = "required" if value is msgspec.NODEFAULT else _default("", about.kind, value)
        yield f"| `{name}` | {_escape(about.kind.label)} | {text} | {_escape(about.text)} |"
    yield ""


def _default(path: str, kind: Kind[Any], value: object) -> str:
    """A default as the table shows it; a list of records has one per line."""
    if isinstance(kind, ListOf) and isinstance(kind.item, Record) and isinstance(value, tuple):
        return "<br>".join(_record(kind.item, element) for element in value) or "(none)"
    texts = [text for _, text in kind.rows(path, value)]
    return ", ".join(f"`{text}`" if text and text[0] != "(" else text or "empty" for text in texts)


def _record(kind: Record[Any], value: object) -> str:
    """The fields of a record that differ from their defaults."""
    parts = [
        (name, about.kind, getattr(value, name))
        for name, about, other in kind.parts()
        if getattr(value, name) != other
    ]
    return ", ".join(f"{name}: {_default('', inner, own)}" for name, inner, own in parts)


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: Sequence[str]) -> int:
    """Write the page, or check it; return the exit status."""
    return make_page(arguments, module="pipeops_agent.settings.docs", file=FILE, render=render)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
