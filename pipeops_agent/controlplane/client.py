"""The calls of the contract, typed: what goes in, what comes out, and the errors in between."""

from __future__ import annotations

from typing import Final, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IAgent

from pipeops_agent.build import build_info
from pipeops_agent.clock import WallClock
from pipeops_agent.controlplane.answer import Answer
from pipeops_agent.controlplane.errors import AnswerError, ApiError, excerpt
from pipeops_agent.controlplane.messages import (
    Heartbeat,
    HeartbeatAnswer,
    NoClusterID,
    Registered,
    Registration,
    encode,
    parse_heartbeat_answer,
    parse_registered,
)
from pipeops_agent.controlplane.transport import MAX_ANSWER, Transport
from pipeops_agent.controlplane.tunnel_answer import TunnelAnswer, parse_tunnel_answer
from pipeops_agent.net import ClientTLS
from pipeops_agent.settings.model_pipeops import PipeopsSettings, TLSSettings
from pipeops_agent.settings.model_tunnel import TunnelSettings
from pipeops_agent.status import StatusBoard
from pipeops_agent.tokens import TokenSource

NOT_JSON: Final = "failed to parse registration response (invalid JSON from control plane)"
NO_CLUSTER: Final = "no cluster UUID found in registration response"


class AgentSource(Protocol):
    """What makes HTTP agents: L{pipeops_agent.net.Connector}, or what stands for it in a test."""

    def agent(self, tls: ClientTLS | None = None, *, max_answer: int | None = None) -> IAgent:
        """An agent that speaks TLS as C{tls} says, and takes no longer answers."""


def client_tls(settings: TLSSettings) -> ClientTLS:
    """
    C{pipeops.tls} as the connector takes it.

    C{enabled: false} says of a plain C{http://} address that it is meant; it loosens nothing where
    TLS is spoken after all.
    """
    return ClientTLS(
        min_version=settings.min_version,
        ca_file=settings.ca_file,
        cert_file=settings.cert_file,
        key_file=settings.key_file,
        verify=not settings.insecure_skip_verify,
    )


class ControlPlaneClient:
    """
    Speaks to one control plane.

    @param connector: where connections come from; it is also who closes them in the end.
    @param board: told of the clocks' difference.
    """

    def __init__(
        self,
        clock: IReactorTime,
        settings: PipeopsSettings,
        tokens: TokenSource,
        connector: AgentSource,
        board: StatusBoard,
        wall: WallClock,
    ) -> None:
        self._paths = settings.endpoints
        self._tokens = tokens
        tls = client_tls(settings.tls)
        self._transport = Transport(
            clock,
            connector.agent(tls, max_answer=MAX_ANSWER),
            settings,
            tokens,
            board,
            wall,
            version=build_info().version,
            tls=tls,
        )

    async def register(self, registration: Registration) -> Registered:
        """
        Register, or hear that this agent is known.

        @raise ApiError: it did not work; its sentence is the one to log.
        """
        answer = await self._transport.call(
            "POST",
            self._paths.register,
            "registration",
            ids={"agent_id": registration.agent_id},
            body=encode(registration),
        )
        known = answer.status == 409
        if answer.status not in (200, 201) and not known:
            raise self._transport.refusal(answer, "registration")
        try:
            return parse_registered(answer.body, known=known)
        except AnswerError as error:
            if known:
                refusal = self._transport.refusal(answer, "registration")
                refusal.sentence += f" ({NO_CLUSTER})"
                raise refusal from error
            raise self._unusable(_registration_sentence(error), answer) from error

    async def heartbeat(self, heartbeat: Heartbeat) -> HeartbeatAnswer:
        """
        Send a heartbeat. 200 and 204 are success, whatever the body.

        @raise ApiError: it did not get through.
        """
        answer = await self._transport.call(
            "POST",
            self._paths.heartbeat,
            "heartbeat",
            ids={"cluster_id": heartbeat.cluster_id, "agent_id": heartbeat.agent_id},
            body=encode(heartbeat),
        )
        if answer.status not in (200, 204):
            raise self._transport.refusal(answer, "heartbeat")
        return parse_heartbeat_answer(answer.body)

    async def tunnel_status(
        self, *, cluster_id: str, agent_id: str, tunnel: TunnelSettings
    ) -> TunnelAnswer | None:
        """
        Ask what is wanted of the tunnel.

        @return: None where the control plane has no tunnels: 404, or an empty body.
        @raise ApiError: the poll failed; nothing changes.
        """
        answer = await self._transport.call(
            "GET",
            self._paths.tunnel_status,
            "tunnel status",
            ids={"cluster_id": cluster_id, "agent_id": agent_id},
        )
        if answer.status == 404 or (answer.status in (200, 204) and not answer.body.strip()):
            return None
        if answer.status != 200:
            raise self._transport.refusal(answer, "tunnel status")
        try:
            return parse_tunnel_answer(
                answer.body,
                allow_insecure=tunnel.allow_insecure,
                allowed_servers=tunnel.allowed_servers,
            )
        except AnswerError as error:
            raise self._unusable(f"tunnel status: unusable answer: {error}", answer) from error

    async def reach(self) -> None:
        """
        Ask whether the control plane is there; any answer says so but a refusal of the token, 429 or 5xx.

        @raise ApiError: it can't be reached, or used.
        """
        answer = await self._transport.call("GET", self._paths.health, "reachability", ids={})
        if answer.status in (401, 403, 429) or answer.status >= 500:
            raise self._transport.refusal(answer, "reachability")

    def _unusable(self, sentence: str, answer: Answer) -> ApiError:
        """An error about an answer whose status is a success and whose body is not."""
        return ApiError(
            sentence, status=answer.status, response=excerpt(answer.body, (self._tokens.current(),))
        )


def _registration_sentence(error: AnswerError) -> str:
    sentence = NO_CLUSTER if isinstance(error, NoClusterID) else NOT_JSON
    detail = "" if error.syntax else str(error)
    return f"{sentence}: {detail}" if detail else sentence
