"""
The agent's own HTTP interface: one C{twisted.web} site.

L{build_site} puts it together: C{channel} bounds what a connection may send and how long it may take,
C{request} finds the route and sends the reply, C{routes} is the table, C{resources} what stands in it,
C{access} who may see what, and C{client} asks a running agent (C{--status}).
"""

from pipeops_agent.web.client import fetch_status
from pipeops_agent.web.site import AgentSite, build_site

__all__ = ["AgentSite", "build_site", "fetch_status"]
