"""Why a tunnel session could not be opened."""

from __future__ import annotations


class SessionError(Exception):
    """
    A session could not be opened.

    @ivar step: how far it got: C{dns}, C{tcp}, C{proxy}, C{tls}, C{upgrade}, C{ssh}, C{login}, ….
    @ivar sentence: what happened, fit for an operator, free of secrets.
    @ivar retryable: whether the same attempt may succeed later without anybody changing anything. A wrong
        host key or a refused password is not: it is tried again all the same, and said to be so.
    """

    def __init__(self, step: str, sentence: str, retryable: bool = True) -> None:
        super().__init__(sentence)
        self.step = step
        self.sentence = sentence
        self.retryable = retryable


class RemotesRefused(SessionError):
    """
    The server answered, and does not want this configuration.

    @ivar ports: the ports that its reason names; empty where it names none.
    """

    def __init__(self, reason: str, ports: frozenset[int] = frozenset()) -> None:
        super().__init__("configuration", reason)
        self.ports = ports
