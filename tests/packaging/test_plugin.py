"""The drop-in, as twistd finds it in an installed wheel. These tests start twistd with the wheel unpacked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from tests.packaging.wheel import unpacked
from tests.quality.checkout import ROOT

TIMEOUT: Final = 60.0

PREPARE: Final = """
import os, sys
checkout, installed = sys.argv[1:3]
del sys.argv[1:3]
sys.path[:] = [installed] + [path for path in sys.path if path and os.path.realpath(path) != checkout]
"""
"""The wheel in front, and the checkout (an editable installation) out of the way."""

TWISTD: Final = """
from twisted.scripts import twistd
import atexit
sys.argv[0] = "twistd"
ours = lambda: sorted(m for m in sys.modules if m.partition(".")[0] == "pipeops_agent")
atexit.register(lambda: print("IMPORTED", *ours()))
twistd.run()
"""

IMPORT: Final = """
from twisted.plugins import pipeops_agent_plugin
print(pipeops_agent_plugin.__file__)
heavy = {"pipeops_agent", "autobahn", "treq"}
print("IMPORTED", *sorted(m for m in sys.modules if m.partition(".")[0] in heavy))
"""


def python(program: str, installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run C{program} with the wheel that is unpacked at C{installed}, in a directory of its own."""
    with tempfile.TemporaryDirectory() as empty:
        return subprocess.run(
            [sys.executable, "-c", PREPARE + program, str(ROOT), str(installed), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
            cwd=empty,
            env={"PATH": os.environ["PATH"], "HOME": empty, "PYTHONDONTWRITEBYTECODE": "1"},
        )


def install(place: Path) -> Path:
    """A site-packages of the test's own, as it is right after installing."""
    return Path(shutil.copytree(unpacked(), place.resolve()))


class DropInTests(SynchronousTestCase):
    """The file that twistd imports whenever it lists its sub-commands."""

    def test_imports_nothing_of_ours(self) -> None:
        """Importing it brings in the service maker, and none of the agent."""
        installed = install(Path(self.mktemp()))
        done = python(IMPORT, installed)
        file, modules = done.stdout.splitlines()
        self.assertEqual(Path(file), installed / "twisted" / "plugins" / "pipeops_agent_plugin.py")
        self.assertEqual(modules, "IMPORTED")

    def test_names_lead_somewhere(self) -> None:
        """Both service makers name modules that are there and have what twistd asks for."""
        installed = install(Path(self.mktemp()))
        for command in ("pipeops-agent", "pipeops-sandbox"):
            done = python(TWISTD, installed, command, "--help")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(f"{command} [options]", done.stdout)
            self.assertEqual(done.stderr, "")


class PluginCacheTests(SynchronousTestCase):
    """Whatever twistd's plugin cache is like: both sub-commands are listed, none of the agent is imported."""

    def listed(self, prepare: Callable[[Path], None]) -> subprocess.CompletedProcess[str]:
        """What C{twistd --help} says after C{prepare} has had the plugins' directory."""
        installed = install(Path(self.mktemp()))
        prepare(installed / "twisted" / "plugins")
        done = python(TWISTD, installed, "--help")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"\n +pipeops-agent +Connect this machine")
        self.assertRegex(done.stdout, r"\n +pipeops-sandbox +A control plane")
        self.assertTrue(done.stdout.endswith("IMPORTED\n"), done.stdout[-200:])
        return done

    def test_none(self) -> None:
        """Right after installing."""

        def prepare(plugins: Path) -> None:
            self.assertFalse((plugins / "dropin.cache").exists())

        self.listed(prepare)

    def test_fresh(self) -> None:
        """After twistd has run once."""

        def prepare(plugins: Path) -> None:
            python(TWISTD, plugins.parents[1], "--help")
            self.assertTrue((plugins / "dropin.cache").exists())

        self.listed(prepare)

    def test_stale(self) -> None:
        """An older version's cache, from before the sandbox was there."""

        def prepare(plugins: Path) -> None:
            drop_in = plugins / "pipeops_agent_plugin.py"
            whole = drop_in.read_text()
            drop_in.write_text(whole[: whole.index("pipeops_sandbox = ")])
            python(TWISTD, plugins.parents[1], "--help")
            os.utime(plugins / "dropin.cache", (1, 1))
            drop_in.write_text(whole)

        self.listed(prepare)

    def test_damaged(self) -> None:
        """A cache that was cut off while it was written."""

        def prepare(plugins: Path) -> None:
            (plugins / "dropin.cache").write_bytes(b"\x80\x04\x95")

        self.listed(prepare)

    def test_not_writable(self) -> None:
        """A cache that can't be written, not even by root: here its place is taken by a directory."""

        def prepare(plugins: Path) -> None:
            (plugins / "dropin.cache" / "x").mkdir(parents=True)

        self.listed(prepare)
