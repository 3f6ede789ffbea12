"""
A kubeconfig: merged by the official client's package, understood and checked here.

That package would write keys to temporary files and run credential plugins while everything waits, so it
only reads and merges the files. It takes 20 MB and most of a second to import, so it is imported when there
is a kubeconfig to read, and in a pod never.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from pipeops_agent.cluster.config import ClusterConfig, Credentials, StaticCredentials
from pipeops_agent.cluster.errors import Misconfigured
from pipeops_agent.net import ClientTLS
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.addresses import is_loopback
from pipeops_agent.tokens import FileToken, SettingsToken

T = TypeVar("T")

MAX_FILE: Final = 1 << 20
"""The longest certificate or key file that is read, in bytes."""

_EXTENSION: Final = "client.authentication.k8s.io/exec"
"""The extension of a cluster's entry that is meant for the plugin."""


class ExecPlugin(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """
    C{users[].user.exec}: the program that gives the credential (client-go credential plugins).

    @ivar cluster_info: what the plugin is told of the cluster where it asks for that; not in the file.
    """

    class Variable(msgspec.Struct, frozen=True):
        """One variable of the plugin's environment."""

        name: str
        value: str

    api_version: str
    command: str
    args: tuple[str, ...] | None = None
    env: tuple[Variable, ...] | None = None
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = "IfAvailable"
    cluster_info: dict[str, Any] | None = None


class _Extension(msgspec.Struct, frozen=True):
    name: str
    extension: Any = None


class _Cluster(msgspec.Struct, frozen=True, rename="kebab"):
    server: str
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""
    extensions: tuple[_Extension, ...] | None = None


class _User(msgspec.Struct, frozen=True, rename="kebab"):
    token: str = ""
    token_file: str = msgspec.field(name="tokenFile", default="")
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    username: str = ""
    auth_provider: Any = None
    exec: ExecPlugin | None = None


class _Context(msgspec.Struct, frozen=True):
    cluster: str
    user: str = ""
    namespace: str = ""


class _Entry(msgspec.Struct, frozen=True):
    """One named entry of a list, and the directory that its relative paths start from."""

    value: Any
    directory: Path


def load_kubeconfig(
    paths: str, context: str, run_plugin: Callable[[ExecPlugin, Path], Credentials]
) -> ClusterConfig:
    """
    The cluster of one context.

    @param paths: one file, or several with C{:} between them, as in C{KUBECONFIG}.
    @param context: its name; empty: the current one.
    @param run_plugin: makes the credentials of a user that has a plugin, whose relative command starts
        from this directory.
    @raise Misconfigured: a file can't be used, or what it says can't be done; the sentence says where.
    """
    merged = _merged(paths)
    name = context or str(merged.get("current-context") or "")
    if not name:
        raise Misconfigured(f"{paths}: there is no current-context, and no kubernetes.context is set")
    chosen = _understood(
        _entry(merged, "contexts", name, paths), "context", _Context, f"{paths}: context {name}"
    )
    at_cluster, at_user = f"{paths}: cluster {chosen.cluster}", f"{paths}: user {chosen.user}"
    entry = _entry(merged, "clusters", chosen.cluster, paths)
    cluster = _understood(entry, "cluster", _Cluster, at_cluster)
    host, port, prefix, plain = _server(cluster.server, at_cluster)
    tls = None if plain else _tls(cluster, entry.directory, at_cluster)
    credentials: Credentials = StaticCredentials()
    if chosen.user:
        user_entry = _entry(merged, "users", chosen.user, paths)
        user = _understood(user_entry, "user", _User, at_user)
        if user.exec is not None:
            told = _told(cluster, entry.directory, at_cluster) if user.exec.provide_cluster_info else None
            user = msgspec.structs.replace(user, exec=msgspec.structs.replace(user.exec, cluster_info=told))
        credentials = _credentials(user, user_entry.directory, at_user, run_plugin)
    return ClusterConfig(
        origin=f"context {name} of {paths}",
        host=host,
        port=port,
        prefix=prefix,
        tls=tls,
        credentials=credentials,
        namespace=chosen.namespace or None,
        proxy=Secret(cluster.proxy_url) if cluster.proxy_url else None,
    )


def _merged(paths: str) -> Any:
    """The files as one C{ConfigNode}: a mapping whose lists hold C{ConfigNode}s that know their file."""
    for path in filter(None, paths.split(":")):
        if not Path(path).expanduser().exists():
            raise Misconfigured(f"{path}: there is no such file (kubernetes.kubeconfig)")
    # Here, not above: see this module's docstring.
    from kubernetes.config.kube_config import KubeConfigMerger

    try:
        node = KubeConfigMerger(paths).config
    except Exception as error:  # OSError, yaml's errors, and whatever a wrong shape makes it raise
        problem = str(error).partition("\n")[0][:200] or type(error).__name__
        raise Misconfigured(f"{paths}: this is no kubeconfig: {problem}") from error
    if node is None or not isinstance(node.value, dict):
        raise Misconfigured(f"{paths}: this is no kubeconfig: it is empty")
    return node.value


def _entry(merged: Any, section: str, name: str, paths: str) -> _Entry:
    for node in merged.get(section) or ():
        value = getattr(node, "value", node)
        if isinstance(value, dict) and value.get("name") == name:
            return _Entry(value, Path(getattr(node, "path", paths)).expanduser().parent)
    raise Misconfigured(f"{paths}: {section} has no {name!r}")


def _understood(entry: _Entry, key: str, kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(entry.value.get(key), kind)
    except msgspec.ValidationError as error:
        # Its message names types and places, never a value.
        raise Misconfigured(f"{where}: {error}") from None


def _server(url: str, where: str) -> tuple[str, int, str, bool]:
    """Host, port, prefix, and whether it is plain HTTP."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or parts.username:
        raise Misconfigured(f"{where}: server: expected https://host[:port], got something else")
    plain = parts.scheme == "http"
    if plain and not is_loopback(host):
        raise Misconfigured(f"{where}: server: http:// is for this machine only; use https://")
    return host, port or (80 if plain else 443), parts.path.rstrip("/"), plain


def _tls(cluster: _Cluster, directory: Path, where: str) -> ClientTLS:
    if cluster.insecure_skip_tls_verify:
        raise Misconfigured(
            f"{where}: insecure-skip-tls-verify is not accepted: whoever stands between could take the"
            " cluster's place; name its certificate-authority"
        )
    authority = cluster.certificate_authority_data
    return ClientTLS(
        min_version="1.2",
        ca_data=_decoded(authority, f"{where}: certificate-authority-data"),
        # Data goes before a file, as in client-go.
        ca_file="" if authority else _joined(directory, cluster.certificate_authority),
        server_name=cluster.tls_server_name,
        origin="the kubeconfig",
        ca_remedy="the issuer's certificate belongs into the kubeconfig's certificate-authority",
    )


def _told(cluster: _Cluster, directory: Path, where: str) -> dict[str, Any]:
    """
    What a plugin is told of the cluster: C{spec.cluster} of an C{ExecCredential}. Not its C{proxy-url}, which
    may hold a password.
    """
    authority = _content(
        cluster.certificate_authority_data,
        cluster.certificate_authority,
        directory,
        f"{where}: certificate-authority",
    )
    config = next((each.extension for each in cluster.extensions or () if each.name == _EXTENSION), None)
    info = {
        "server": cluster.server,
        "tls-server-name": cluster.tls_server_name,
        "certificate-authority-data": base64.b64encode(authority).decode(),
        "config": config,
    }
    return {name: value for name, value in info.items() if value}


def _credentials(
    user: _User, directory: Path, where: str, run_plugin: Callable[[ExecPlugin, Path], Credentials]
) -> Credentials:
    if user.auth_provider is not None:
        raise Misconfigured(f"{where}: auth-provider is not supported any more; use a plugin (exec)")
    if user.username:
        raise Misconfigured(f"{where}: a user name and password are not accepted by Kubernetes since 1.19")
    if user.exec is not None:
        return run_plugin(user.exec, directory)
    certificate = _content(
        user.client_certificate_data, user.client_certificate, directory, f"{where}: client-certificate"
    )
    key = _content(user.client_key_data, user.client_key, directory, f"{where}: client-key")
    if bool(certificate) != bool(key):
        raise Misconfigured(f"{where}: a client-certificate and a client-key go together")
    if user.token or not user.token_file:
        tokens: SettingsToken | FileToken = SettingsToken(Secret(user.token))
    else:
        tokens = FileToken(Path(_joined(directory, user.token_file)))
    return StaticCredentials(
        tokens, certificate=certificate, key=Secret(key.decode("utf-8", "replace")) if key else None
    )


def _content(data: str, file: str, directory: Path, where: str) -> bytes:
    """What is given in base64, or in a file."""
    if data:
        return _decoded(data, f"{where}-data")
    if not file:
        return b""
    path = Path(_joined(directory, file))
    try:
        with path.open("rb") as opened:
            content = opened.read(MAX_FILE + 1)
    except OSError as error:
        raise Misconfigured(f"{where}: {path}: {error.strerror or type(error).__name__}") from error
    if len(content) > MAX_FILE:
        raise Misconfigured(f"{where}: {path}: longer than {MAX_FILE} bytes")
    return content


def _decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Misconfigured(f"{where}: this is no base64") from error


def _joined(directory: Path, path: str) -> str:
    return str(directory / path) if path else ""
