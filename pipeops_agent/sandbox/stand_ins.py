"""
Two small TLS servers that stand in for the Kubernetes API and the kubelet, so that every forward leads
somewhere on a machine without a cluster. Every answer says what they are, so that nobody takes them for real.
"""

from __future__ import annotations

from typing import Final

from twisted.application.service import MultiService
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator

from pipeops_agent.sandbox.pki import Authority
from pipeops_agent.sandbox.serving import (
    Answer,
    Answering,
    BoundedRequest,
    IServerReactor,
    Listener,
    QuietSite,
)
from pipeops_agent.scheduling import Tasks

LOOPBACK: Final = "127.0.0.1"


class StandInResource(Answering):
    """Answers every request with a Kubernetes C{Status} that says what this is."""

    def __init__(self, stands_for: str, tasks: Tasks) -> None:
        super().__init__(tasks)
        self._stands_for = stands_for

    async def answer(self, request: BoundedRequest) -> Answer:
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "message": f"pipeops sandbox stand-in for {self._stands_for}",
            "code": 200,
        }
        return Answer(body=status)


class StandIns(MultiService):
    """Both stand-ins, on free ports of loopback, with certificates of C{authority}."""

    def __init__(self, reactor: IServerReactor, authority: Authority) -> None:
        super().__init__()
        self._tasks = Tasks()
        tls = authority.server(["localhost", LOOPBACK, "kubernetes", "kubernetes.default.svc"])
        self._api = self._listener(reactor, "the Kubernetes API", tls)
        self._kubelet = self._listener(reactor, "the kubelet", tls)

    def _listener(
        self, reactor: IServerReactor, stands_for: str, tls: IOpenSSLServerConnectionCreator
    ) -> Listener:
        site = QuietSite(reactor, StandInResource(stands_for, self._tasks))
        listener = Listener(reactor, site, interface=LOOPBACK, port=0, tls=tls)
        listener.setServiceParent(self)
        return listener

    @property
    def kubernetes_api(self) -> tuple[str, int]:
        """Where the stand-in for the Kubernetes API listens."""
        return LOOPBACK, self._api.port

    @property
    def kubelet(self) -> tuple[str, int]:
        """Where the stand-in for the kubelet listens."""
        return LOOPBACK, self._kubelet.port
