"""
A WebSocket client of another making (C{websockets}), in a process of its own.

    python ws_client.py ws://127.0.0.1:8080/ws

Each line of standard input is an order: C{{"do": "open", "headers": {...}}} first, then C{{"do": "send",
"message": {...}}}, C{{"do": "close"}}. What comes is written to standard output as lines of JSON: C{open} and
the extensions that were agreed, C{message} with C{type} and the whole C{message}, at last C{closed} with
C{code} and C{reason}, or C{refused} with C{status}. It ends with the connection, or with its input.
"""

from __future__ import annotations

import json
import ssl
import sys
from threading import Thread
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect


def say(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def orders(connection: ClientConnection) -> None:
    """Do what is asked until the end of the input."""
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "close":
            connection.close()
        else:
            connection.send(json.dumps(order["message"]))
    connection.close()


def anybody() -> ssl.SSLContext:
    """TLS with whoever answers."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def main() -> None:
    """Connect, and report."""
    headers = json.loads(sys.stdin.readline())["headers"]
    try:
        tls = anybody() if sys.argv[1].startswith("wss:") else None
        connection = connect(sys.argv[1], additional_headers=headers, max_size=None, ssl=tls)
    except InvalidStatus as refusal:
        say("refused", status=refusal.response.status_code)
        return
    extensions = [str(each) for each in connection.protocol.extensions]
    say("open", extensions=extensions)
    Thread(target=orders, args=(connection,), daemon=True).start()
    try:
        while True:
            message = json.loads(connection.recv())
            say("message", type=message["type"], message=message)
    except ConnectionClosed as end:
        close = end.rcvd
        say("closed", code=close and close.code, reason=close and close.reason)


if __name__ == "__main__":
    main()
