"""
C{python -m pipeops_agent.watch}: looks at a running agent from a terminal, by what it offers to everybody.

C{client} asks, C{sse} reads streams of events, C{following} stays with one over cut connections, C{command}
sends a command over the WebSocket, C{shown} makes lines that no terminal is steered by, C{options} reads the
command line, C{doing} does what it says.
"""
