"""What heartbeat and poll have in common: how often, how long to wait after a failure, what to log."""

from __future__ import annotations

import random as _random
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pipeops_agent.backoff import Backoff
from pipeops_agent.controlplane.errors import ApiError
from pipeops_agent.settings.model_pipeops import ReconnectSettings


class Retry:
    """
    Follows the outcome of one repeated call.

    The first failure is logged as a warning, those that follow at debug level, and the recovery at
    info, with how many there were and for how long: an outage is two records.

    @ivar failures: how many calls in a row have failed.
    """

    def __init__(
        self,
        clock: IReactorTime,
        reconnect: ReconnectSettings,
        log: Logger,
        what: str,
        *,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._clock = clock
        self._log = log
        self._what = what
        self._backoff = Backoff(
            clock,
            interval=reconnect.interval,
            step=reconnect.backoff,
            stable_after=reconnect.stable_after,
            random=random,
        )
        self._began = clock.seconds()
        self._failing_since = 0.0
        self._wait: float | None = None
        self._server_spoke = False
        self.failures = 0

    def began(self) -> None:
        """A call begins."""
        self._began = self._clock.seconds()

    def succeeded(self) -> bool:
        """The call got through; return whether that ends an outage."""
        recovered = self.failures > 0
        if recovered:
            self._log.info(
                "{what} works again ({failures} failed in {seconds} s)",
                what=self._what,
                failures=self.failures,
                seconds=round(self._clock.seconds() - self._failing_since),
            )
        self.failures = 0
        self._wait = None
        self._backoff.succeeded()
        return recovered

    def failed(self, error: ApiError, *, said: bool = False) -> None:
        """The call failed. C{said}: the caller has logged why."""
        wait = self._backoff.failed()
        if error.retry_after is not None:
            wait = max(wait, error.retry_after)
        self._wait = wait
        self._server_spoke = error.status is not None
        self.failures += 1
        if self.failures == 1:
            self._failing_since = self._clock.seconds()
            if not said:
                self._log.warn(
                    "{what} failed, trying again: {error}",
                    what=self._what,
                    error=error.sentence,
                    log_counted=True,
                )
        else:
            self._log.debug(
                "{what} failed {failures} times in a row, next attempt in {wait} s: {error}",
                what=self._what,
                failures=self.failures,
                wait=round(wait, 1),
                error=error.sentence,
            )

    @property
    def worth_waking(self) -> bool:
        """Whether the last call failed on the way: then another's success is news. A server's own
        refusal, and the wait that it asked for, are not overruled by that.
        """
        return self._wait is not None and not self._server_spoke

    def delay(self, normal: float) -> float:
        """
        The seconds from the last call's I{start} to the next call.

        @param normal: the pace, kept even where a call was slow. A wait after a failure counts from
            the call's end.
        """
        if self._wait is None:
            return normal
        return self._wait + self._clock.seconds() - self._began
