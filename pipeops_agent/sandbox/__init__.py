"""A control plane in one process, for a laptop and for tests: a real peer, not a mock."""
