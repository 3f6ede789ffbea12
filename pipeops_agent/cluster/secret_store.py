"""The state in a Secret of the agent's own namespace: one object, one write, its version checked."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from twisted.logger import Logger

from pipeops_agent.clock import WallClock
from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.errors import ClusterError, StatusError
from pipeops_agent.cluster.resources import SECRETS
from pipeops_agent.state import (
    Conflict,
    Damaged,
    NewerFormat,
    State,
    Stored,
    Unavailable,
    decode_state,
    encode_state,
)

_log = Logger(namespace="state")

KEY: Final = "state.json"
"""The state's key among the Secret's data; what is set aside has this and more."""

MAX_DATA: Final = 900 * 1024
"""The most data, in bytes, that the Secret may come to hold: the API server's own limit is 1 MiB."""

_Secret = dict[str, Any]
"""The whole object: labels, annotations and data that people have put there are put back as they were."""


class SecretStateStore:
    """
    Keeps the state in a Secret that exists already (L{pipeops_agent.state.StateStore}).

    The manifests make it, empty, so that the agent needs C{get} and C{update} on this one name. The version
    is the object's C{resourceVersion}: whoever else writes to it, a person included, causes a conflict.
    """

    def __init__(self, api: Api, namespace: str, name: str, *, wall: WallClock) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._wall = wall

    def describe(self) -> str:
        return f"the Secret {self._namespace}/{self._name}"

    async def load(self) -> Stored:
        secret = await self._get()
        content = self._content(secret)
        try:
            return Stored(None if content is None else decode_state(content), _version(secret))
        except NewerFormat as newer:
            raise Unavailable(
                f"{self.describe()} was written by a newer agent ({newer}); "
                "run that one, or become a new agent with --reset-state"
            ) from None
        except Damaged as damage:
            reason = str(damage)
        kept, secret = await self._set_aside(secret, "damaged")
        _log.error(
            "the state in {secret} was damaged and is set aside there; to be the same agent again, stop it,"
            " repair {kept} and move it back to {key}",
            secret=self.describe(),
            kept=kept,
            key=KEY,
            reason=reason,
        )
        return Stored(
            None, _version(secret), f"{self.describe()} was damaged ({reason}) and is kept as {kept}"
        )

    async def save(self, state: State, version: str) -> Stored:
        content = encode_state(state)
        secret = await self._get()
        if _version(secret) != version:
            raise Conflict(f"{self.describe()} has changed since it was read")
        _data(secret)[KEY] = base64.b64encode(content).decode()
        return Stored(state, _version(await self._put(secret)))

    async def reset(self) -> None:
        secret = await self._get()
        if self._content(secret) is None:
            return
        kept, _ = await self._set_aside(secret, "reset")
        _log.info("the state was reset as told; the old one is kept in {kept}", kept=kept)

    async def _set_aside(self, secret: _Secret, why: str) -> tuple[str, _Secret]:
        """Give the content another key; return that and the Secret as it is then."""
        data = _data(secret)
        stem = f"{KEY}.{why}-{self._wall():%Y%m%dT%H%M%SZ}"
        kept, count = stem, 1
        while kept in data:
            kept, count = f"{stem}-{count}", count + 1
        if sum(map(len, data.values())) > MAX_DATA:
            raise Unavailable(f"{self.describe()} is full of what was set aside; delete what is not needed")
        data[kept] = data.pop(KEY)
        try:
            return kept, await self._put(secret)
        except Conflict as conflict:
            raise Unavailable(str(conflict)) from None

    async def _get(self) -> _Secret:
        try:
            return await self._api.get(dict, SECRETS, self._name, namespace=self._namespace)
        except ClusterError as error:
            raise self._unavailable("read", error) from error

    async def _put(self, secret: _Secret) -> _Secret:
        try:
            return await self._api.replace(dict, SECRETS, self._name, secret, namespace=self._namespace)
        except ClusterError as error:
            if isinstance(error, StatusError) and error.conflict:
                raise Conflict(f"{self.describe()} has changed since it was read") from None
            raise self._unavailable("written", error) from error

    def _unavailable(self, what: str, error: ClusterError) -> Unavailable:
        remedy = ""
        if isinstance(error, StatusError) and error.not_found:
            remedy = f"; make it: kubectl create secret generic {self._name} -n {self._namespace}"
        elif isinstance(error, StatusError) and error.forbidden:
            remedy = f"; the agent's Role needs get and update on secrets/{self._name}"
        return Unavailable(f"{self.describe()} can't be {what}: {error.sentence}{remedy}")

    def _content(self, secret: _Secret) -> bytes | None:
        text = _data(secret).get(KEY)
        if text is None:
            return None
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            return b""  # the API server keeps no such data; decode_state calls it damaged


def _data(secret: _Secret) -> dict[str, str]:
    """The Secret's data, to be changed in place."""
    data: dict[str, str] | None = secret.get("data")
    if data is None:
        data = secret["data"] = {}
    return data


def _version(secret: _Secret) -> str:
    return str(secret["metadata"]["resourceVersion"])
