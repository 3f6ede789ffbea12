"""The scripts of C{.ci}, which is not a package, for tests of them."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from tests.quality.checkout import ROOT


def load(name: str) -> ModuleType:
    """C{.ci/<name>.py} as a module."""
    spec = importlib.util.spec_from_file_location(f"ci_{name}", ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
