"""
What a subscriber gets, whatever carries it: events and log records, numbered, encoded once, for many readers.

C{journal} is the ring, C{feed} its readers, each with a place in it; C{events} and C{agent_logs} fill one
each, and C{state} is what is told first and after every loss.
L{pipeops_agent.web.realtime} carries all of it.
"""

from pipeops_agent.realtime.agent_logs import LogFeed
from pipeops_agent.realtime.events import EventFeed
from pipeops_agent.realtime.feed import CHUNK, Encoding, Feed, Missed, Reader, Sink
from pipeops_agent.realtime.journal import Entry, Journal
from pipeops_agent.realtime.state import present_state

__all__ = [
    "CHUNK",
    "Encoding",
    "Entry",
    "EventFeed",
    "Feed",
    "Journal",
    "LogFeed",
    "Missed",
    "Reader",
    "Sink",
    "present_state",
]
