"""The Kubernetes API on the reactor: what the cluster is, what it does, and what may be done to it."""
