"""
Lines for a terminal, or JSON for programs.

What others have written (a pod's log above all) is shown, never obeyed: a character that could end a line,
move the cursor or change the title stands there as its escape. JSON is ASCII alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from pipeops_agent.log.render import printable
from pipeops_agent.watch.sse import ServerEvent

MAX_LINE: Final = 64 * 1024
"""Characters that wait for the end of their line."""

_MARK: Final = {True: "ok", False: "FAILED"}


def as_json(value: Any) -> str:
    """C{value} on one line, in ASCII."""
    return json.dumps(value, separators=(",", ":"))


def event_json(event: ServerEvent) -> str:
    """An event for programs."""
    return as_json({"event": event.name, "id": event.id, "data": _data(event)})


def event_line(event: ServerEvent) -> str:
    """An event for people."""
    data = _data(event)
    if event.name == "gap":
        return printable(f"-- {_gap(data)}")
    if not isinstance(data, dict):
        return printable(f"{event.name}: {event.data}")
    if event.name == "log":
        return log_line(data)
    if {"time", "channel", "event"} <= data.keys():
        about = _pairs(data["data"]) if isinstance(data.get("data"), dict) else str(data.get("data", ""))
        return printable(f"{data['time']} {data['channel']}.{data['event']} {about}".rstrip())
    return printable(f"{event.name}: {_pairs(data)}")


def log_line(record: Mapping[str, Any]) -> str:
    """A line of a pod's log, or a record of the agent's own."""
    if "msg" in record:
        rest = {key: record[key] for key in record if key not in ("time", "level", "component", "msg")}
        head = f"{record.get('time', '')} {record.get('level', ''):<5} {record.get('component', '')}"
        return printable(f"{head} {record['msg']} {_pairs(rest)}".rstrip())
    return printable(str(record.get("line", record.get("text", _pairs(record)))))


class Lines:
    """
    Text that comes in pieces, as lines.

    @param out: writes one.
    """

    def __init__(self, out: Callable[[str], None]) -> None:
        self._out = out
        self._rest = ""

    def add(self, text: str) -> None:
        """A piece; what may go on in the next one waits for it, up to L{MAX_LINE}."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._out(printable(line.removesuffix("\r")))
        if len(self._rest) > MAX_LINE:
            self.end()

    def end(self) -> None:
        """No more comes, for now."""
        if self._rest:
            self._out(printable(self._rest))
            self._rest = ""


def runtime_line(figures: Mapping[str, Any]) -> str:
    """What the agent uses, in one line."""
    bandwidth = figures["bandwidth"]
    return printable(
        f"{figures['time']} up {figures['uptime']}, cpu {figures['cpu']['percent']:.1f} %,"
        f" memory {figures['memory']['resident'] / 1e6:.1f} MB,"
        f" {figures['file_descriptors']['open']} descriptors, lag {1000 * figures['reactor_lag']:.1f} ms,"
        f" tunnel in {bandwidth['rate_in']:.0f} B/s, out {bandwidth['rate_out']:.0f} B/s"
    )


def health_lines(health: Mapping[str, Any]) -> list[str]:
    """How the agent is: a line for it, for each check, for each forward."""
    agent, tunnel = health["agent"], health["tunnel"]
    about = f"{health['status']}, {agent['phase']}, up {agent['uptime']}"
    lines = [f"{agent['agent_id']} {agent['version']}: {about}"]
    for name, check in health["checks"].items():
        lines.append(f"  {name:<14} {_MARK[bool(check['ok'])]:<6} {check['message']}")
    lines.append(f"tunnel: {tunnel['state']}: {tunnel['message']}")
    for forward in tunnel["forwards"]:
        port = "no port" if forward["remote_port"] is None else f"port {forward['remote_port']}"
        lines.append(
            f"  {forward['name']:<18} {forward['state']:<10} {port}, {forward['open_connections']} open,"
            f" {forward['bytes_in']} bytes in, {forward['bytes_out']} out"
        )
    return [printable(line) for line in lines]


def _data(event: ServerEvent) -> Any:
    try:
        return msgspec.json.decode(event.data)
    except msgspec.DecodeError:
        return event.data


def _gap(data: Any) -> str:
    count = data.get("count") if isinstance(data, dict) else None
    return "events are missing here" if count is None else f"{count} events are missing here"


def _pairs(data: Mapping[str, Any]) -> str:
    return " ".join(
        f"{key}={value if isinstance(value, str) and value and ' ' not in value else as_json(value)}"
        for key, value in data.items()
    )
