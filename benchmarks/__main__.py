"""C{python -m benchmarks}: measure, print the table, keep the raw values."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import SkipTest

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from benchmarks.clients import available
from benchmarks.model import FULL, QUICK, Results
from benchmarks.report import raw, sources_digest, table
from benchmarks.suite import MEASUREMENTS, run_all
from tests.peers.building import gochisel


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").strip())
    names = [measurement.name for measurement in MEASUREMENTS]
    clients = [client.name for client in available()]
    parser.add_argument("--quick", action="store_true", help="one short run of everything: does it work?")
    parser.add_argument("--runs", type=int, default=0, help="of each measurement and client (default 5)")
    parser.add_argument("--only", action="append", choices=names, help="this measurement; may be repeated")
    parser.add_argument("--client", action="append", choices=clients, help="this client; may be repeated")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there")
    return parser.parse_args(arguments)


async def measure(reactor: Any, options: argparse.Namespace) -> None:
    """Do what the command line asks for; what was measured is shown even where something fails later."""
    measurements = [each for each in MEASUREMENTS if not options.only or each.name in options.only]
    clients = [each for each in available() if not options.client or each.name in options.client]
    runs = options.runs or (1 if options.quick else 5)
    if not os.environ.get("CHISEL"):
        print("CHISEL names no chisel: Go's client is not measured, and the server is our Go peer's")
    results = Results()
    sources = sources_digest()
    try:
        scale = QUICK if options.quick else FULL
        await run_all(reactor, measurements, clients, results, runs=runs, scale=scale, say=_say)
    finally:
        if sources_digest() != sources:
            print("pipeops_agent was changed meanwhile: these are the figures of no version")
        shown = table(results, measurements, clients)
        print(shown)
        if options.markdown:
            options.markdown.write_text(shown, encoding="utf-8")
        if options.json:
            options.json.write_text(raw(results, runs), encoding="utf-8")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> None:
    """Run to the end of the process."""
    options = parse(arguments)
    try:
        gochisel()
    except SkipTest as reason:
        sys.exit(f"nothing can be measured: {reason}")
    react(lambda reactor: Deferred.fromCoroutine(measure(reactor, options)))


main(sys.argv[1:])
