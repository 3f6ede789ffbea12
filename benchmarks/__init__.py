"""
What the agent costs, measured beside chisel's own client: C{python -m benchmarks}.

README.md in this directory says what is measured and how; docs/performance.md has the figures.
"""
