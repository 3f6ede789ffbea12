"""
The stored form of a L{State}: a JSON object.

    {"format": 1, "agent_id": "agent-web1-5f0c9b3a77de", "cluster_id": "550e8400-…",
     "previous_cluster_id": null, "cluster_token": null}

Unknown members are ignored, so that a later agent may add some; one that changes the meaning of those
above takes the next C{format}, and then an older agent leaves the content alone.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

import msgspec

from pipeops_agent.secrets import Secret
from pipeops_agent.state.model import State

FORMAT: Final = 1
CONTENT_LIMIT: Final = 64 * 1024
"""The bytes that a stored state may have: far above any real one."""

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+\Z")]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=32 * 1024)]


EMPTY_VERSION: Final = ""
"""The version of no content. No content has it: others are hashes."""


class Damaged(Exception):
    """The content is no state. The message names the reason and never quotes the content."""


class NewerFormat(Exception):
    """The content was written by a newer agent, whose format this one doesn't know."""


class _Header(msgspec.Struct):
    format: Annotated[int, msgspec.Meta(ge=1)]


class _Wire(msgspec.Struct, kw_only=True):
    format: int
    agent_id: _Name
    cluster_id: _Name | None = None
    previous_cluster_id: _Name | None = None
    cluster_token: _Text | None = None


def encode_state(state: State) -> bytes:
    """
    The stored form of C{state}. It holds the cluster's token in clear.

    @raise ValueError: L{decode_state} would not accept it.
    """
    token = state.cluster_token
    wire = _Wire(
        format=FORMAT,
        agent_id=state.agent_id,
        cluster_id=state.cluster_id,
        previous_cluster_id=state.previous_cluster_id,
        cluster_token=None if token is None else token.reveal(),
    )
    try:
        content = msgspec.json.format(msgspec.json.encode(wire), indent=2) + b"\n"
        decode_state(content)
    except UnicodeEncodeError:
        # Its text would show what could not be encoded, and so do the tracebacks of chained errors.
        raise ValueError("the state can't be stored: it holds half a surrogate pair") from None
    except Damaged as damage:
        raise ValueError(f"the state can't be stored: {damage}") from None
    return content


def decode_state(content: bytes) -> State:
    """
    The L{State} whose stored form is C{content}.

    @raise Damaged: it is none.
    @raise NewerFormat: a newer agent wrote it.
    """
    if len(content) > CONTENT_LIMIT:
        raise Damaged(f"it is longer than {CONTENT_LIMIT} bytes")
    if not content.strip():
        raise Damaged("it is empty")
    try:
        header = msgspec.json.decode(content, type=_Header)
        if header.format > FORMAT:
            raise NewerFormat(f"its format is {header.format}, this agent knows {FORMAT}")
        wire = msgspec.json.decode(content, type=_Wire)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # msgspec names the place and the expected type, not what it has found there; a decoding error
        # of Python's own would carry the content.
        reason = str(error) if isinstance(error, msgspec.DecodeError) else type(error).__name__
        raise Damaged(reason) from None
    return State(
        agent_id=wire.agent_id,
        cluster_id=wire.cluster_id,
        previous_cluster_id=wire.previous_cluster_id,
        cluster_token=None if wire.cluster_token is None else Secret(wire.cluster_token),
    )


def content_version(content: bytes | None) -> str:
    """A version for a store that has none of its own to give: the same for the same content only."""
    return EMPTY_VERSION if content is None else hashlib.sha256(content).hexdigest()
