"""What can go wrong on the way to a peer, as errors that carry what an operator needs to know."""

from __future__ import annotations

from datetime import datetime
from typing import Literal


class ConnectProblem(Exception):
    """
    A connection could not be made.

    @ivar step: the step that failed: C{dns}, C{tcp}, C{proxy} or C{tls}.
    @ivar sentence: what happened, fit for an operator.
    @ivar remedy: where to look first; empty where there is nothing to add.
    @ivar retryable: whether the same attempt can succeed later without anybody changing anything.
    @ivar timed_out: whether time ran out, rather than an answer coming that said no.
    """

    def __init__(
        self, step: str, sentence: str, *, retryable: bool, remedy: str = "", timed_out: bool = False
    ) -> None:
        super().__init__(f"{sentence} ({remedy})" if remedy else sentence)
        self.step = step
        self.sentence = sentence
        self.remedy = remedy
        self.retryable = retryable
        self.timed_out = timed_out


class LookupProblem(Exception):
    """
    A name has no address, or the question could not be asked.

    @ivar temporary: no server answered (C{EAI_AGAIN}, or too many lookups at once), as opposed to
        "there is no such name".
    """

    def __init__(self, host: str, reason: str, *, temporary: bool) -> None:
        super().__init__(f"cannot look up {host}: {reason}")
        self.host = host
        self.reason = reason
        self.temporary = temporary


class ProxyRefusal(Exception):
    """
    A proxy makes no connection.

    @ivar reason: what it does, as a sentence goes on after its name: "refuses ...".
    @ivar remedy: where to look; empty where there is nothing to add.
    @ivar retryable: whether the same attempt can succeed later without anybody changing anything.
    """

    def __init__(self, reason: str, *, remedy: str = "", retryable: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
        self.retryable = retryable


class AnswerTooLong(Exception):
    """A peer sends more than an answer may have."""


class TLSFileProblem(Exception):
    """A certificate, key or CA file can't be used; the message names the setting's file and why."""


CertificateFault = Literal[
    "unknown CA", "self-signed", "expired", "not yet valid", "name", "revoked", "purpose", "weak", "other"
]


class CertificateProblem(Exception):
    """
    The peer's certificate was not accepted.

    @ivar fault: what is wrong with it.
    @ivar subject: whom the certificate names; for C{name}, all the names that it is for.
    @ivar issuer: who signed the certificate that failed.
    @ivar not_before: from when it is valid.
    @ivar not_after: until when it is valid.
    @ivar detail: OpenSSL's words for it.
    """

    def __init__(
        self,
        fault: CertificateFault,
        *,
        subject: str,
        issuer: str,
        not_before: datetime,
        not_after: datetime,
        detail: str,
    ) -> None:
        super().__init__(f"{detail} (certificate of {subject}, issued by {issuer})")
        self.fault = fault
        self.subject = subject
        self.issuer = issuer
        self.not_before = not_before
        self.not_after = not_after
        self.detail = detail
