"""Rules between several settings, and what is allowed but dangerous."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import chain
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from pipeops_agent.log.components import COMPONENTS, is_component
from pipeops_agent.settings.addresses import is_loopback
from pipeops_agent.settings.containers import nearest
from pipeops_agent.settings.model import AccessSettings, Settings
from pipeops_agent.settings.model_tunnel import DEFAULT_FORWARDS, Forward
from pipeops_agent.settings.problems import DEFAULT, Origin, Problem

_Finding = tuple[str, str]
"""The path of a setting, and what is wrong with it."""

_DISTINCT: Final = re.compile(r"tunnel\.forwards\[\d+\]\.(?:name|remote_port|aliases\[\d+\])")
"""What no two forwards share; port 0 stands for none."""


def _plain_http(settings: Settings) -> bool:
    """Whether the token would travel in the clear through a network."""
    url = urlsplit(settings.pipeops.api_url)
    return url.scheme == "http" and not is_loopback(url.hostname or "")


def _api_url_is_safe(settings: Settings) -> Iterator[_Finding]:
    if _plain_http(settings) and not settings.pipeops.allow_insecure:
        reason = "http:// is allowed to loopback only; use https://, or set pipeops.allow_insecure"
        yield "pipeops.api_url", reason


def _tls_is_meant(settings: Settings) -> Iterator[_Finding]:
    if not settings.pipeops.tls.enabled and settings.pipeops.api_url.startswith("https:"):
        yield "pipeops.tls.enabled", "false needs a pipeops.api_url that begins with http://"


def _certificate_is_whole(settings: Settings) -> Iterator[_Finding]:
    tls = settings.pipeops.tls
    if tls.cert_file and not tls.key_file:
        yield "pipeops.tls.cert_file", "needs pipeops.tls.key_file as well"
    if tls.key_file and not tls.cert_file:
        yield "pipeops.tls.key_file", "needs pipeops.tls.cert_file as well"


def _one_token(settings: Settings) -> Iterator[_Finding]:
    if settings.pipeops.token is not None and settings.pipeops.token_file:
        yield "pipeops.token_file", "pipeops.token is set as well; keep one of the two"


def _one_cluster_token(settings: Settings) -> Iterator[_Finding]:
    if settings.pipeops.cluster_service_account and settings.pipeops.cluster_token_file:
        yield (
            "pipeops.cluster_token_file",
            "pipeops.cluster_service_account is set too; keep one of the two",
        )


def _token_is_there(settings: Settings) -> Iterator[_Finding]:
    if settings.pipeops.token is None and not settings.pipeops.token_file:
        yield "pipeops.token", "required; set PIPEOPS_TOKEN, pipeops.token or pipeops.token_file"


def _forwards_are_distinct(read: Mapping[str, Any]) -> Iterator[_Finding]:
    """Of what was written and could be read: what is wrong with one forward must not hide the next error."""
    taken: dict[str | int, str] = {}
    for path, value in read.items():
        if _DISTINCT.fullmatch(path) and value != 0:
            if value in taken:
                yield path, f"{value!r} is {taken[value]} already"
            taken.setdefault(value, path)


def _canary_has_a_forward(settings: Settings) -> Iterator[_Finding]:
    canary = settings.tunnel.canary
    if canary.enabled and canary.forward not in {forward.name for forward in settings.tunnel.forwards}:
        yield "tunnel.canary.forward", f"{canary.forward!r} is the name of no configured forward"


def _server_tokens_are_whole(settings: Settings) -> Iterator[_Finding]:
    names: dict[str, int] = {}
    for index, token in enumerate(settings.server.tokens):
        path = f"server.tokens[{index}]"
        if token.token is not None and token.file:
            yield f"{path}.file", f"{path}.token is set as well; keep one of the two"
        if token.token is None and not token.file:
            yield path, "needs a token or a file"
        if not token.scopes:
            yield f"{path}.scopes", "expected at least one: read or operate"
        if token.name in names:
            yield f"{path}.name", f"{token.name!r} is server.tokens[{names[token.name]}].name already"
        names.setdefault(token.name, index)


def _server_certificate_is_whole(settings: Settings) -> Iterator[_Finding]:
    tls = settings.server.tls
    if tls.mode == "files" and not tls.cert_file:
        yield "server.tls.cert_file", "required where server.tls.mode is files"
    if tls.mode != "files":
        for name in ("cert_file", "key_file"):
            if getattr(tls, name):
                yield f"server.tls.{name}", f"needs server.tls.mode: files, which is {tls.mode}"


_CHECKS: Final[tuple[tuple[tuple[str, ...], Callable[[Settings], Iterator[_Finding]]], ...]] = (
    (("pipeops.api_url", "pipeops.allow_insecure"), _api_url_is_safe),
    (("pipeops.api_url", "pipeops.tls.enabled"), _tls_is_meant),
    (("pipeops.tls.cert_file", "pipeops.tls.key_file"), _certificate_is_whole),
    (("pipeops.token", "pipeops.token_file"), _one_token),
    (("pipeops.cluster_service_account", "pipeops.cluster_token_file"), _one_cluster_token),
    (("server.tokens",), _server_tokens_are_whole),
    (("server.tls.mode", "server.tls.cert_file", "server.tls.key_file"), _server_certificate_is_whole),
    (("tunnel.canary.enabled", "tunnel.canary.forward", "tunnel.forwards"), _canary_has_a_forward),
)
_TOKEN_CHECK: Final = (("pipeops.token", "pipeops.token_file"), _token_is_there)


def check(
    settings: Settings,
    origins: Mapping[str, Origin],
    read: Mapping[str, Any],
    broken: Collection[str],
    *,
    token_required: bool,
) -> Iterator[Problem]:
    """
    What is wrong between settings that are each well-formed.

    @param read: the value of each text that could be read, by path.
    @param broken: the paths that have a problem already: no rule that involves them is asked.
    """
    found = [_forwards_are_distinct(read)]
    found += [
        findings(settings)
        for paths, findings in (*_CHECKS, *((_TOKEN_CHECK,) if token_required else ()))
        if not any(path in broken for path in paths)
    ]
    for path, reason in chain(*found):
        origin = origins.get(path, DEFAULT)
        yield Problem(path, reason, None if origin == DEFAULT else origin)


def cautions(settings: Settings) -> Iterator[str]:
    """What the owner has allowed and should hear of at each start."""
    pipeops = settings.pipeops
    if _plain_http(settings):
        yield "pipeops.allow_insecure: the token travels unencrypted, readable to every network on the way"
    if pipeops.tls.insecure_skip_verify:
        yield (
            "pipeops.tls.insecure_skip_verify: the control plane's certificate is not verified;"
            " whoever stands between can take its place and read the token"
        )
    if settings.tunnel.allow_insecure:
        yield "tunnel.allow_insecure: a tunnel server without TLS is accepted"
    if settings.server.allow_plaintext_tokens and settings.server.tls.mode == "off":
        yield "server.allow_plaintext_tokens: callers' tokens may travel unencrypted through networks"
    if settings.access != AccessSettings():
        yield (
            "access: all that is asked of the agent itself keeps to it, the control plane is told; it does"
            " not look into what the tunnel forwards, where RBAC alone binds who reaches the Kubernetes API"
        )
    for component in settings.logging.levels:
        if not is_component(component):
            meant = nearest(component, COMPONENTS)
            known = f"did you mean {meant}?" if meant else f"there are {', '.join(COMPONENTS)}"
            yield f"logging.levels.{component}: no component has this name; {known}"


def with_default_aliases(forwards: tuple[Forward, ...]) -> tuple[Forward, ...]:
    """
    Give forwards that have a default's name and list no aliases the default's.

    So that the specification's own example, which lists the defaults without aliases, works with a
    control plane that calls them C{k8s-api} and C{kubelet}. What another forward claims stays its.
    """
    claimed = {name for forward in forwards for name in (forward.name, *forward.aliases)}
    implied = {forward.name: forward.aliases for forward in DEFAULT_FORWARDS}

    def complete(forward: Forward) -> Forward:
        if forward.aliases:
            return forward
        aliases = tuple(name for name in implied.get(forward.name, ()) if name not in claimed)
        return msgspec.structs.replace(forward, aliases=aliases)

    return tuple(map(complete, forwards))
