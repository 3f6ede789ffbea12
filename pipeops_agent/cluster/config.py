"""Where the cluster is and how the agent proves itself to it: the pod's service account, or a kubeconfig."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec

from pipeops_agent.cluster.errors import Misconfigured
from pipeops_agent.net import ClientTLS
from pipeops_agent.secrets import Secret
from pipeops_agent.tokens import FileToken, SettingsToken, TokenSource

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet puts the token, the CA and the namespace of a pod's service account."""


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """
    What one request is made with.

    @ivar token: sent as a bearer token.
    @ivar certificate: the client's certificate and its chain, in PEM form; C{key} is its key.
    """

    token: Secret | None = None
    certificate: bytes = b""
    key: Secret | None = None


class Credentials(Protocol):
    """Gives the credential to use now."""

    async def current(self) -> Credential:
        """
        The one that holds now, got anew where it has run out.

        @raise Misconfigured: there is none to be had.
        """
        ...

    def refused(self) -> bool:
        """The API server refused it (401): get another one. Return whether it is worth trying again."""
        ...


class StaticCredentials:
    """A certificate, a token that may rotate in its file, both or neither (L{Credentials})."""

    def __init__(
        self, tokens: TokenSource | None = None, *, certificate: bytes = b"", key: Secret | None = None
    ) -> None:
        self._tokens = tokens or SettingsToken(None)
        self._certificate = certificate
        self._key = key

    async def current(self) -> Credential:
        return Credential(token=self._tokens.current(), certificate=self._certificate, key=self._key)

    def refused(self) -> bool:
        return self._tokens.refresh()


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """
    One cluster, as the agent reaches it.

    @ivar origin: where this comes from, for people: "the pod's service account".
    @ivar host: the API server's name or address, IPv6 without brackets; C{port} its port.
    @ivar prefix: what stands before each path, without a slash at its end: usually empty.
    @ivar tls: how TLS is spoken, without the credentials' certificate; None: plain HTTP, to loopback only.
    @ivar namespace: the agent's own namespace, or the context's; None: it says none.
    @ivar proxy: the kubeconfig's C{proxy-url}; None: no proxy, whatever the environment says.
    """

    origin: str
    host: str
    port: int
    prefix: str = ""
    tls: ClientTLS | None
    credentials: Credentials
    namespace: str | None = None
    proxy: Secret | None = None

    @property
    def authority(self) -> str:
        """C{host:port}, an IPv6 address bracketed."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def base(self) -> str:
        """The URL before each path."""
        return f"{'https' if self.tls is not None else 'http'}://{self.authority}{self.prefix}"


def in_pod(environ: Mapping[str, str]) -> bool:
    """Whether this process runs in a pod that can reach its API server."""
    return bool(environ.get("KUBERNETES_SERVICE_HOST") and environ.get("KUBERNETES_SERVICE_PORT"))


def service_account(environ: Mapping[str, str], directory: Path = SERVICE_ACCOUNT) -> ClusterConfig:
    """
    The cluster of the pod that this process runs in.

    Token and CA are read where they are used, so that both may be replaced.

    @raise Misconfigured: the service account is not mounted.
    """
    token, authority = directory / "token", directory / "ca.crt"
    for path in (token, authority):
        if not os.access(path, os.R_OK):
            raise Misconfigured(
                f"the pod's service account is not there: {path} can't be read (automountServiceAccountToken)"
            )
    port = environ["KUBERNETES_SERVICE_PORT"]
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise Misconfigured(f"KUBERNETES_SERVICE_PORT can't be {port[:20]!r}")
    return ClusterConfig(
        origin="the pod's service account",
        host=environ["KUBERNETES_SERVICE_HOST"].strip("[]"),
        port=int(port),
        # 1.2: what the API server speaks with whom is the cluster's affair, and some clusters are old.
        tls=ClientTLS(
            min_version="1.2", ca_file=str(authority), origin="the pod's service account", ca_remedy=""
        ),
        credentials=StaticCredentials(FileToken(token)),
        namespace=account_namespace(directory),
    )


def account_namespace(directory: Path) -> str | None:
    """The namespace of a pod's service account; None: that is not mounted."""
    try:
        return (directory / "namespace").read_text("utf-8")[:253].strip() or None
    except (OSError, UnicodeError):
        return None
