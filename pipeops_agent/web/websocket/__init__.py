"""
C{/ws}: messages both ways, events, and handlers that run for a client.

C{hub} knows all sessions; C{session} is one, on a connection (C{wire}); C{registry} says which messages there
are, C{standard} has the first of them, C{running} keeps their handlers. Others register theirs:

    registry.add(MessageType(name="greet", data=Greeting, handler=greet))

    async def greet(call: Call, data: Greeting) -> None:
        call.reply("greeting", {"text": f"hello, {data.name}"})
"""

from pipeops_agent.web.websocket.hub import WebSocketHub
from pipeops_agent.web.websocket.messages import MessageError
from pipeops_agent.web.websocket.registry import MessageType, Registry
from pipeops_agent.web.websocket.running import Call
from pipeops_agent.web.websocket.standard import standard_messages

__all__ = ["Call", "MessageError", "MessageType", "Registry", "WebSocketHub", "standard_messages"]
