"""
Every line of the process, in one format, with no secret in it.

    globalLogPublisher -> AgentLog.observer -> levels -> repeats -> record -> redaction -> JSON | text -> sink

L{AgentLog} is the façade. The steps are modules: C{levels} (is it shown), C{repeats} (was it said
already), C{record} (an event becomes plain, redacted values), C{render} (one line), C{sink} (bytes to
stdout, stderr or a file), and C{libraries} (python's own C{logging} comes in by the same door).
"""

from pipeops_agent.log.agentlog import AgentLog
from pipeops_agent.log.config import LogConfig
from pipeops_agent.log.redact import Redactor

__all__ = ["AgentLog", "LogConfig", "Redactor"]
