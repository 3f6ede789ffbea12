"""
What twistd finds: two service makers, each naming its module by string.

twistd imports this file whenever it lists its sub-commands, so the file imports nothing of ours; the module
that a maker names is imported when that sub-command is chosen.
"""

from __future__ import annotations

from twisted.application.service import ServiceMaker

pipeops_agent = ServiceMaker(
    "PipeOps agent",
    "pipeops_agent.tap",
    "Connect this machine to PipeOps: register, send heartbeats, forward through one tunnel.",
    "pipeops-agent",
)

pipeops_sandbox = ServiceMaker(
    "PipeOps sandbox",
    "pipeops_agent.sandbox.tap",
    "A control plane in one process, for a laptop and for tests.",
    "pipeops-sandbox",
)
