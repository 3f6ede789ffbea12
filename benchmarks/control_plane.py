"""
The smallest control plane that an agent can run against: it names one chisel server and its ports.

Tests use the sandbox; a measurement must reach a chisel server that is not the sandbox's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from benchmarks.place import HERE, Place, entered
from tests.peers.harness import Peer

CLUSTER_ID: Final = "00000000-0000-4000-8000-000000000001"


class _Answers(Resource):
    """Every path is this resource; the method and the last part of the path decide."""

    isLeaf = True

    def __init__(self, tunnel: Mapping[str, Any]) -> None:
        super().__init__()
        self._answers = {
            b"register": {"cluster_id": CLUSTER_ID},
            b"heartbeat": {},
            b"status": tunnel,
        }

    def render(self, request: Request) -> bytes:
        """Answer like the service does, at once."""
        answer = self._answers.get(request.path.rpartition(b"/")[2])
        if answer is None:
            request.setResponseCode(404)
            return b"{}"
        request.setHeader(b"content-type", b"application/json")
        return json.dumps(answer).encode()


def serve_control_plane(reactor: Any, server: Peer, ports: Mapping[str, int], place: Place = HERE) -> Any:
    """
    Listen on a free port of 127.0.0.1 at C{place}, and return the C{IListeningPort}.

    @param server: the chisel server that agents are sent to.
    @param ports: the allocated port by the forward's name.
    """
    tunnel: dict[str, Any] = {
        "status": "ready",
        "tunnel_server_addr": server.url,
        "server_fingerprint": server.fingerprint,
        "forwards": [{"name": name, "remote_port": port} for name, port in ports.items()],
    }
    if server.credentials is not None:
        user, password = server.credentials
        tunnel["credentials"] = f"{user}:{password.reveal()}"
    with entered(place):
        return reactor.listenTCP(0, Site(_Answers(tunnel)), interface="127.0.0.1")
