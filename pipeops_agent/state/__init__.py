"""
What survives a restart: who this agent is, and as which cluster the control plane knows it.

L{StateStore} is the interface; L{FileStateStore} keeps the state on a VM, L{MemoryStateStore} in tests
and in the sandbox. C{tests/contracts/state_store.py} is what every store must pass.
"""

from __future__ import annotations

from pipeops_agent.state.codec import Damaged, NewerFormat, decode_state, encode_state
from pipeops_agent.state.disk import Disk
from pipeops_agent.state.file import FileStateStore
from pipeops_agent.state.memory import MemoryStateStore
from pipeops_agent.state.model import Conflict, State, StateStore, Stored, Unavailable
from pipeops_agent.state.places import find_state_file, kept_state_files, state_places

__all__ = [
    "Conflict",
    "Damaged",
    "Disk",
    "FileStateStore",
    "MemoryStateStore",
    "NewerFormat",
    "State",
    "StateStore",
    "Stored",
    "Unavailable",
    "decode_state",
    "encode_state",
    "find_state_file",
    "kept_state_files",
    "state_places",
]
