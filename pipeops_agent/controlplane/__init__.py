"""
Speaking with the control plane: register, heartbeat, tunnel status.

L{ControlPlaneClient} makes the calls; three services decide when: L{RegistrationService},
L{HeartbeatService}, L{TunnelPollService}. What they find out is on the status board, and what is wanted
of the tunnel is handed on as a L{pipeops_agent.orders.TunnelOrder}.
"""

from __future__ import annotations

from pipeops_agent.controlplane.client import ControlPlaneClient, client_tls
from pipeops_agent.controlplane.describe import describe_agent
from pipeops_agent.controlplane.errors import AnswerError, ApiError
from pipeops_agent.controlplane.heartbeat import HeartbeatReport, HeartbeatService
from pipeops_agent.controlplane.messages import Heartbeat, HeartbeatAnswer, Registered, Registration
from pipeops_agent.controlplane.poll import TunnelPollService
from pipeops_agent.controlplane.registration import RegistrationService
from pipeops_agent.controlplane.tunnel_answer import TunnelAnswer

__all__ = [
    "AnswerError",
    "ApiError",
    "ControlPlaneClient",
    "Heartbeat",
    "HeartbeatAnswer",
    "HeartbeatReport",
    "HeartbeatService",
    "Registered",
    "Registration",
    "RegistrationService",
    "TunnelAnswer",
    "TunnelPollService",
    "client_tls",
    "describe_agent",
]
