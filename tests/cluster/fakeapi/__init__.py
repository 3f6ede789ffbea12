"""
An API server in one object, for tests: a fake that passes the same contract suite as a real kube-apiserver.

It has lists in pages with expiring tokens, watches with bookmarks and a history that can be compacted,
optimistic locking, patches, users with tokens and rights, and faults that a test switches on. It knows
nothing of what an object means: no controllers, no defaulting, no validation but names.
"""

from __future__ import annotations

from tests.cluster.fakeapi.faults import Fault
from tests.cluster.fakeapi.server import Asked, FakeApi
from tests.cluster.fakeapi.storage import Storage

__all__ = ["Asked", "FakeApi", "Fault", "Storage"]
