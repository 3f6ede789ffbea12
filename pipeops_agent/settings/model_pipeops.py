"""The settings of the control plane: section C{pipeops}."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from pipeops_agent.secrets import Secret
from pipeops_agent.settings.addresses import BaseURL, PathTemplate
from pipeops_agent.settings.kinds import About, Boolean, Choice, Duration, FilePath, Integer, Name, SecretText
from pipeops_agent.settings.proxy_url import ProxyChoice, ProxyURL


class ReconnectSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How lost connections to the control plane are tried again."""

    enabled: Annotated[
        bool, About("False: the first lost connection ends the process with status 69.", Boolean())
    ] = True
    max_attempts: Annotated[
        int,
        About(
            "After so many failures in a row the agent counts as disconnected; it keeps trying. 0: it never"
            " counts.",
            Integer(0, 1_000_000),
        ),
    ] = 10
    interval: Annotated[float, About("The bound of the first wait.", Duration(0.1))] = 5.0
    backoff: Annotated[
        float,
        About(
            "What the bound grows by: the n-th wait is random, up to interval + backoff * (2^n - 1), 30s at"
            " most.",
            Duration(0),
        ),
    ] = 5.0
    stable_after: Annotated[
        float, About("How long a success must last before failures are counted anew.", Duration(0))
    ] = 30.0


class RegistrationSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The registration at start."""

    retry_for: Annotated[
        float,
        About(
            "How long a control plane that can't be reached, or answers 5xx or 429, is tried again before"
            " the process ends. 0: at once.",
            Duration(0),
        ),
    ] = 0.0


class TLSSettings(msgspec.Struct, frozen=True, kw_only=True):
    """TLS to the control plane."""

    enabled: Annotated[
        bool, About("False is allowed only with an http:// address, to say that it is meant.", Boolean())
    ] = True
    insecure_skip_verify: Annotated[
        bool,
        About("Don't verify the control plane's certificate. Said loudly at each start.", Boolean()),
    ] = False
    cert_file: Annotated[str, About("The client certificate, PEM.", FilePath())] = ""
    key_file: Annotated[str, About("The client certificate's key, PEM.", FilePath())] = ""
    ca_file: Annotated[
        str,
        About(
            "The authorities that vouch for the control plane, PEM. Empty: the system's.",
            FilePath(),
            option="ca-file",
        ),
    ] = ""
    min_version: Annotated[
        Literal["1.2", "1.3"], About("The lowest TLS version that is spoken.", Choice(("1.2", "1.3")))
    ] = "1.3"


class EndpointSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The paths of the control plane's calls, below its address."""

    register: Annotated[str, About("Registration, POST.", PathTemplate(("agent_id",)))] = (
        "/api/v1/clusters/agent/register"
    )
    heartbeat: Annotated[str, About("Heartbeat, POST.", PathTemplate(("cluster_id", "agent_id")))] = (
        "/api/v1/clusters/agent/{cluster_id}/heartbeat"
    )
    tunnel_status: Annotated[
        str,
        About(
            "Tunnel status, GET. An older service has it at /api/agents/{agent_id}/tunnel/status.",
            PathTemplate(("cluster_id", "agent_id")),
        ),
    ] = "/api/v1/tunnel/status?agent_id={agent_id}"
    health: Annotated[str, About("Reachability, GET; for connectivity probes.", PathTemplate())] = (
        "/api/v1/health"
    )


class PipeopsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The control plane."""

    api_url: Annotated[
        str,
        About(
            "The control plane's address. http:// is refused except to loopback, or with"
            " pipeops.allow_insecure.",
            BaseURL(),
            option="api-url",
        ),
    ] = "https://api.pipeops.sh"
    token: Annotated[
        Secret | None,
        About(
            "The token that the agent authenticates with. Required, here or in pipeops.token_file; it has no"
            " option, since ps would show it.",
            SecretText(),
            live=True,
        ),
    ] = None
    token_file: Annotated[
        str,
        About(
            "A file that holds the token, such as a mounted Secret; read again when it changes.",
            FilePath(),
            live=True,
        ),
    ] = ""
    timeout: Annotated[float, About("How long one call may take in all.", Duration())] = 30.0
    connect_timeout: Annotated[
        float, About("How long name resolution, TCP, proxy and TLS may take together.", Duration())
    ] = 10.0
    proxy: Annotated[
        ProxyChoice,
        About(
            "The proxy for control plane and tunnel. environment: what HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"
            " name. none, or empty: no proxy. NO_PROXY holds in any case; see docs/proxies.md. A new value"
            " counts for new connections.",
            ProxyURL(),
            live=True,
        ),
    ] = "environment"
    allow_insecure: Annotated[
        bool,
        About("Allow http:// to other hosts than loopback. Said loudly at each start.", Boolean()),
    ] = False
    cluster_service_account: Annotated[
        str,
        About(
            "The service account, in the agent's namespace of the cluster, whose token the control plane is"
            " given for the tunnelled API; asked for by TokenRequest, and renewed. See docs/kubernetes.md.",
            Name(),
        ),
    ] = ""
    cluster_token_file: Annotated[
        str,
        About(
            "The file with the token that the control plane is given for the tunnelled API, where that is not"
            " an account's.",
            FilePath(),
        ),
    ] = ""
    reconnect: ReconnectSettings = ReconnectSettings()
    registration: RegistrationSettings = RegistrationSettings()
    tls: TLSSettings = TLSSettings()
    endpoints: EndpointSettings = EndpointSettings()
