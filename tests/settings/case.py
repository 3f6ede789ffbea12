"""What the tests of settings share: a directory, a home, a file, and the errors as text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.settings import Loaded, Settings, SettingsError, load_settings

UID = os.geteuid()
TOKEN = "tok-5f2c-never-to-be-shown"


class SettingsCase(SynchronousTestCase):
    """Loads settings from a text, variables and options, away from the machine's own."""

    def setUp(self) -> None:
        self.cwd = Path(self.mktemp())
        self.home = Path(self.mktemp())
        self.cwd.mkdir(parents=True)
        self.home.mkdir(parents=True)

    def write(self, text: str | bytes, name: str = "config.yaml", mode: int = 0o600) -> Path:
        """Write a settings file into the working directory."""
        path = self.cwd / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return path

    def load(
        self,
        text: str | bytes | None = None,
        environ: Mapping[str, str] | None = None,
        options: Mapping[str, str | None] | None = None,
        **more: Any,
    ) -> Loaded:
        """Load with a token in place, unless C{environ} is given."""
        if text is not None:
            self.write(text)
        environ = {"PIPEOPS_TOKEN": TOKEN} if environ is None else environ
        more = {"uid": UID, **more}
        return load_settings(options or {}, environ, cwd=self.cwd, home=self.home, **more)

    def settings(self, *args: Any, **more: Any) -> Settings:
        """The settings alone."""
        return self.load(*args, **more).settings

    def problems(self, *args: Any, **more: Any) -> list[str]:
        """The lines of the error that loading ends in."""
        error = self.assertRaises(SettingsError, self.load, *args, **more)
        return str(error).split("\n")
