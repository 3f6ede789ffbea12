"""What is said in text: the control plane's answers, an HTTP server's, and a chisel peer's words."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Final

from pipeops_agent.controlplane.answer import Answer, parse_date, parse_retry_after, status_error
from pipeops_agent.controlplane.errors import EXCERPT_BYTES, AnswerError
from pipeops_agent.controlplane.messages import MAX_IDENTIFIER, parse_registered
from pipeops_agent.controlplane.tunnel_answer import MAX_ALLOCATIONS, clamp, parse_tunnel_answer
from pipeops_agent.secrets import Secret
from pipeops_agent.tunnel.refusal import explain_close, explain_refusal
from pipeops_agent.tunnel.remotes import (
    ConfigError,
    TargetError,
    named_ports,
    parse_config,
    parse_target,
)
from pipeops_agent.tunnel.ssh.common import peer_text
from tests.fuzz.source import Source

MAX_SENTENCE: Final = 4096
"""Characters that no sentence made of a peer's words has."""

_NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
_SECRET: Final = Secret("the-secret-of-the-fuzzer")


def answers(data: bytes) -> None:
    """Bodies and headers of the control plane: a value within its bounds, or the one error."""
    source = Source(data)
    choice = source.byte()
    body = source.rest()
    text = body.decode("latin-1")
    if choice % 4 == 0:
        with contextlib.suppress(AnswerError):
            answer = parse_tunnel_answer(body, allow_insecure=bool(choice & 4), allowed_servers=["*.example"])
            assert answer.poll_after is None or answer.poll_after == clamp(answer.poll_after)
            assert answer.order is None or len(answer.order.allocations) <= MAX_ALLOCATIONS
    elif choice % 4 == 1:
        with contextlib.suppress(AnswerError):
            assert 1 <= len(parse_registered(body).cluster_id) <= MAX_IDENTIFIER
    elif choice % 4 == 2:
        parse_date(text)
        wait = parse_retry_after(text, _NOW)
        assert wait is None or wait == clamp(wait)
    else:
        error = status_error(
            Answer(status=100 + choice * 2, body=body, location=text), "a call", secrets=[_SECRET]
        )
        assert len(error.sentence) <= MAX_SENTENCE
        assert len((error.response or "").encode()) <= 4 * EXCERPT_BYTES
        assert _SECRET.reveal() not in error.sentence


def words(data: bytes) -> None:
    """Chisel's configuration, targets and refusals, and what a peer says: bounded, printable sentences."""
    source = Source(data)
    choice = source.below(3)
    text = source.rest()
    if choice == 0:
        with contextlib.suppress(ConfigError):
            assert parse_config(text).remotes
    elif choice == 1:
        with contextlib.suppress(TargetError):
            target = parse_target(text)
            assert target.protocol == "socks" or (target.host and 1 <= target.port <= 65535)
    else:
        assert all(1 <= port <= 65535 for port in named_ports(text.decode("latin-1")))
    for sentence in (explain_close(text), explain_refusal(text, "no upgrade"), peer_text(text)):
        assert len(sentence) <= MAX_SENTENCE
        assert sentence.isprintable() or not text
