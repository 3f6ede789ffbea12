"""The settings of the agent's own HTTP interface: section C{server}."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from pipeops_agent.caller import Grant
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.addresses import BindAddress
from pipeops_agent.settings.containers import ListOf, Record
from pipeops_agent.settings.kinds import (
    About,
    Boolean,
    Choice,
    Duration,
    FilePath,
    GrantText,
    Integer,
    Name,
    SecretText,
)

LEAST_TOKEN: Final = 16
"""Characters of a token; shorter ones could be guessed."""


class ServerToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token for callers of the HTTP interface, and what it allows."""

    name: Annotated[
        str, About("Who has it; the log and the audit records call its bearer so.", Name(required=True))
    ]
    token: Annotated[
        Secret | None,
        About(
            "The token itself, at least 16 characters: openssl rand -hex 32 makes one.",
            SecretText(least=LEAST_TOKEN),
        ),
    ] = None
    file: Annotated[
        str, About("The file that holds it instead; a replaced one is noticed at once.", FilePath())
    ] = ""
    scopes: Annotated[
        tuple[Grant, ...],
        About(
            "What it allows: read or operate, narrowed or not, as in"
            " operate:scale,restart:deployments:web@shop (verbs, kinds, namespaces, the cluster's id).",
            ListOf(GrantText()),
        ),
    ]


class ServerTLSSettings(msgspec.Struct, frozen=True, kw_only=True):
    """TLS 1.3 on the HTTP interface."""

    mode: Annotated[
        Literal["off", "auto", "files"],
        About(
            "off: plain HTTP. auto: a certificate of the agent's own making, new at each start, whose"
            " fingerprint is logged. files: the one in cert_file, read again when it changes.",
            Choice(("off", "auto", "files")),
        ),
    ] = "off"
    cert_file: Annotated[str, About("The certificate, then its chain, in PEM form.", FilePath())] = ""
    key_file: Annotated[str, About("Its key, in PEM form. Empty: it is in cert_file.", FilePath())] = ""


class ClientLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one client may, told by its address; of IPv6 by its network of 64 bits."""

    requests: Annotated[
        int,
        About(
            "Requests a second, for a time; twice as many at once. /health and /ready are not counted.",
            Integer(1, 1_000_000),
            live=True,
        ),
    ] = 100
    connections: Annotated[
        int,
        About(
            "Connections at one time; the next is answered with 429 and closed.",
            Integer(1, 100_000),
            live=True,
        ),
    ] = 128
    subscriptions: Annotated[
        int, About("Event streams and WebSockets at one time.", Integer(1, 100_000), live=True)
    ] = 100
    commands: Annotated[
        int, About("Commands and proxied requests under way at one time.", Integer(1, 10_000), live=True)
    ] = 8
    log_streams: Annotated[
        int, About("Streams of pods' logs at one time.", Integer(1, 10_000), live=True)
    ] = 16


class TunnelLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The same for all that comes through one forward of the tunnel: who is behind it can't be told apart."""

    requests: Annotated[
        int,
        About("Requests a second, for a time; twice as many at once.", Integer(1, 1_000_000), live=True),
    ] = 300
    connections: Annotated[
        int,
        About(
            "Connections at one time; the next is answered with 429 and closed.",
            Integer(1, 100_000),
            live=True,
        ),
    ] = 256
    subscriptions: Annotated[
        int, About("Event streams and WebSockets at one time.", Integer(1, 100_000), live=True)
    ] = 150
    commands: Annotated[
        int, About("Commands and proxied requests under way at one time.", Integer(1, 10_000), live=True)
    ] = 24
    log_streams: Annotated[
        int, About("Streams of pods' logs at one time.", Integer(1, 10_000), live=True)
    ] = 48


class TotalLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The same for all together, then 503. Connections: server.max_connections, realtime.max_connections."""

    requests: Annotated[
        int,
        About("Requests a second, for a time; twice as many at once.", Integer(1, 1_000_000), live=True),
    ] = 1000
    commands: Annotated[
        int, About("Commands and proxied requests under way at one time.", Integer(1, 10_000), live=True)
    ] = 32
    log_streams: Annotated[
        int, About("Streams of pods' logs at one time.", Integer(1, 10_000), live=True)
    ] = 64


class LimitsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How much clients may ask for; more is answered with 429, or 503, and Retry-After."""

    client: ClientLimits = ClientLimits()
    tunnel: TunnelLimits = TunnelLimits()
    total: TotalLimits = TotalLimits()


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's own HTTP interface."""

    port: Annotated[
        int,
        About(
            "The port of the agent's own HTTP interface. 0: any free one.",
            Integer(0, 65535),
            option="port",
            variable="PIPEOPS_PORT",
        ),
    ] = 8080
    bind: Annotated[
        str,
        About(
            "The address that the HTTP interface listens on; 0.0.0.0 or :: for all.",
            BindAddress(),
            option="bind",
        ),
    ] = "127.0.0.1"
    enable_websocket: Annotated[bool, About("Serve /ws.", Boolean(), variable="PIPEOPS_ENABLE_WEBSOCKET")] = (
        True
    )
    enable_sse: Annotated[
        bool,
        About("Serve /api/realtime/events and /api/realtime/logs.", Boolean(), variable="PIPEOPS_ENABLE_SSE"),
    ] = True
    max_connections: Annotated[
        int, About("Connections at one time; the next is closed.", Integer(1, 100_000))
    ] = 512
    request_timeout: Annotated[float, About("How long a request may take to arrive whole.", Duration())] = (
        30.0
    )
    idle_timeout: Annotated[
        float, About("How long a connection may stay open between requests.", Duration())
    ] = 60.0
    tokens: Annotated[
        tuple[ServerToken, ...],
        About(
            "Who may ask for more than health and metrics. None: the control-plane token is known, and"
            " allows read alone.",
            ListOf(Record(ServerToken, "token")),
            live=True,
        ),
    ] = ()
    allow_plaintext_tokens: Annotated[
        bool,
        About(
            "Accept tokens that come through a network without TLS, readable to everybody on the way.",
            Boolean(),
            live=True,
        ),
    ] = False
    protect_metrics: Annotated[bool, About("/metrics asks for the scope read.", Boolean(), live=True)] = False
    session_lifetime: Annotated[
        float, About("How long a browser's sign-in holds.", Duration(1), live=True)
    ] = 43200.0
    session_idle_timeout: Annotated[
        float, About("How long it holds without a request.", Duration(1), live=True)
    ] = 3600.0
    tls: ServerTLSSettings = ServerTLSSettings()
    limits: LimitsSettings = LimitsSettings()
