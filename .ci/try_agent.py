#!/usr/bin/env python3
"""
Start an agent with its sandbox and use it as a person would: ``try_agent.py COMMAND…``.

Waits until the output has named the port of each of the three forwards, curls through each, then sends
SIGTERM to twistd: it must be gone within 5 s, by the signal or with status 0, without a traceback. Before
that the command may take minutes: the README's installs first.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

FORWARDS = {
    "kubernetes-api": "https://127.0.0.1:{}/",
    "kubelet": "https://127.0.0.1:{}/",
    "agent-http": "http://127.0.0.1:{}/health",
}
NAMED = re.compile(r"127\.0\.0\.1:(\d+) -> ([a-z-]+)")
"""What the sandbox says when a port has been bound."""

START_TIMEOUT = 600.0
"""Seconds for everything up to the ports: the README's command installs first, on a cold cache."""
STOP_TIMEOUT = 5.0
CURL = ("curl", "--silent", "--show-error", "--insecure", "--noproxy", "*", "--max-time", "10")


class Output:
    """What the command has printed; a thread reads it, so that the pipe never fills."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._process = process
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)
            print("   |", line, end="", flush=True)

    def ports(self) -> dict[str, int]:
        """The forwards named so far, each with its latest port."""
        found = (NAMED.search(line) for line in list(self.lines))
        return {match[2]: int(match[1]) for match in found if match and match[2] in FORWARDS}

    def finish(self) -> str:
        """Everything, once the command has ended."""
        self._reader.join(5)
        return "".join(self.lines)


def descendants(pid: int) -> Iterator[int]:
    """Every process below C{pid}, in whatever PID namespace, nearest first."""
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = status.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        parents.setdefault(int(after_name[1]), []).append(int(status.parent.name))
    level = [pid]
    while level:
        yield from level
        level = [child for one in level for child in parents.get(one, [])]


def twistd_below(pid: int) -> int:
    """The process that runs twistd itself, not one that has it among its arguments."""
    for one in descendants(pid):
        words = Path(f"/proc/{one}/cmdline").read_bytes().split(b"\0")
        if any(word.endswith(b"/twistd") for word in words[:2]):
            return one
    raise SystemExit("FAILED: twistd is not running")


def wait_for_ports(process: subprocess.Popen[str], output: Output) -> dict[str, int]:
    """The port of each forward; ends the program where they don't come."""
    deadline = time.monotonic() + START_TIMEOUT
    while (ports := output.ports()).keys() != FORWARDS.keys():
        if process.poll() is not None:
            raise SystemExit(f"FAILED: ended with {process.returncode} before it had named the forwards")
        if time.monotonic() > deadline:
            raise SystemExit(f"FAILED: only {sorted(ports)} named within {START_TIMEOUT:g} s")
        time.sleep(0.1)
    return ports


def curl(name: str, port: int) -> None:
    """Ask through one forward."""
    url = FORWARDS[name].format(port)
    command = [*CURL, "--output", os.devnull, "--write-out", "%{http_code}", url]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"{name}: {url} answers {answer.stdout} {answer.stderr.strip()}")
    if answer.stdout != "200":
        raise SystemExit(f"FAILED: no 200 through {name}")


def stop(process: subprocess.Popen[str]) -> None:
    """SIGTERM to twistd; the command must end in time and well."""
    twistd = twistd_below(process.pid)
    began = time.monotonic()
    os.kill(twistd, signal.SIGTERM)
    try:
        status = process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"FAILED: still there {STOP_TIMEOUT:g} s after SIGTERM") from None
    print(f"stopped in {time.monotonic() - began:.2f} s with status {status}")
    if status not in {0, -signal.SIGTERM, 128 + signal.SIGTERM}:
        raise SystemExit(f"FAILED: status {status} after SIGTERM")


def main(command: list[str]) -> None:
    """Start C{command}, use the agent, stop it."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    # Whoever ends this script by a signal means the agent too: an exception lets the last lines run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    output = Output(process)
    try:
        ports = wait_for_ports(process, output)
        for name, port in ports.items():
            curl(name, port)
        stop(process)
    finally:
        if process.poll() is None:
            for one in reversed(list(descendants(process.pid))):
                os.kill(one, signal.SIGKILL)
    text = output.finish()
    if "Traceback (most recent call last)" in text or "Unhandled" in text:
        raise SystemExit("FAILED: a traceback in the output")


if __name__ == "__main__":
    main(sys.argv[1:])
