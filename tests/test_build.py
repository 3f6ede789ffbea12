"""Tests for L{pipeops_agent.build}."""

from __future__ import annotations

import json
import platform

from twisted.copyright import version as twisted_version
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent import __version__, build


class BuildInfoTests(SynchronousTestCase):
    """What C{/version} says."""

    def test_names_the_commit_of_the_build_file(self) -> None:
        """The packaged file's commit and date are told, the commit shortened in the full version."""
        commit = "0123456789abcdef0123456789abcdef01234567"
        content = json.dumps({"git_commit": commit, "build_date": "2025-10-15T08:00:00Z"}).encode()
        info = build.describe("1.2.3", content)
        self.assertEqual((info.git_commit, info.build_date), (commit, "2025-10-15T08:00:00Z"))
        self.assertIn("pipeops-agent 1.2.3 (0123456789ab, 2025-10-15T08:00:00Z)", info.full_version)

    def test_names_the_libraries(self) -> None:
        """Python's and Twisted's versions are those that run."""
        info = build.describe("1.2.3", None)
        self.assertEqual(info.python_version, platform.python_version())
        self.assertEqual(info.twisted_version, twisted_version)

    def test_without_a_build_file(self) -> None:
        """A checkout has no build file: commit and date are unknown, and the full version leaves them out."""
        info = build.describe("1.2.3", None)
        self.assertEqual((info.git_commit, info.build_date), ("unknown", "unknown"))
        self.assertNotIn("unknown", info.full_version)

    def test_damaged_build_file(self) -> None:
        """A build file that can't be read never keeps the agent from starting."""
        for damaged in (b"", b"{", b"[]", b'{"git_commit": 5}', b"\xff\xfe"):
            self.assertEqual(build.describe("1", damaged), build.describe("1", None), damaged)

    def test_not_installed(self) -> None:
        """Where no such distribution is installed the package's own version is told."""
        version = build.installed_version("pipeops-agent-that-nobody-installed")
        self.assertEqual(version, __version__)

    def test_of_this_process(self) -> None:
        """The running program's own information is complete, and the same at each asking."""
        info = build.build_info()
        self.assertTrue(info.version)
        self.assertIs(build.build_info(), info)
