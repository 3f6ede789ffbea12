"""The PipeOps agent: registers a machine with its control plane and forwards through one chisel tunnel."""

from __future__ import annotations

from typing import Final

__version__: Final = "0.1.0"
"""The one place where the version stands: the package's metadata are made from it."""
