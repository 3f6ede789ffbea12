"""
An API server in one object, for tests: a fake that passes the same contract suite as a real kube-apiserver.

It has lists in pages with expiring tokens, selectors, watches with bookmarks and a history that can be
compacted, optimistic locking, patches, finalizers, users with tokens and rights, and faults that a test
switches on. It knows next to nothing of what an object means: no controllers, no defaulting, no validation
but L{check<tests.cluster.fakeapi.validation.check>}'s; it tracks no field managers, namespaces are not
made, and all resource versions are one number, as in etcd.
"""

from __future__ import annotations

from tests.cluster.fakeapi.faults import Fault
from tests.cluster.fakeapi.server import FakeApi
from tests.cluster.fakeapi.storage import Storage
from tests.cluster.fakeapi.watches import Asked

__all__ = ["Asked", "FakeApi", "Fault", "Storage"]
