"""How long to wait before the next try. Pure: chance and time are arguments."""

from __future__ import annotations

from dataclasses import dataclass

from dcalqr.errors import TransientError

# Five minutes: longer waits only hide from the operator that something is wrong.
LONGEST_WAIT_SECONDS = 300.0
# A server that asks for more than ten minutes is asked again anyway: Retry-After may be wrong by hours.
LONGEST_RETRY_AFTER_SECONDS = 600.0
# SRM's putDone follows the pool's message within a second where the client is prompt (DIRAC is), so look soon ...
FIRST_LOOK_SECONDS = 0.2
# ... and rarely later: doors since 11.2 allow one client about 250 requests a second, for all waiting uploads together.
LONGEST_LOOK_SECONDS = 30.0


@dataclass(frozen=True)
class RetryPolicy:
    """Back-off with full jitter: U(0, min(300, retry_seconds x 2^n)) seconds before retry n (from 0).

    Parameters
    ----------
    retry_seconds
        The first retry's longest wait.
    retry_times
        Retries after the first attempt (count).
    """

    retry_seconds: float
    retry_times: int

    def spent(self, failures: int) -> bool:
        """Whether this many failures (count, from 1) leave no further try."""
        return failures > self.retry_times

    def wait_seconds(self, failures: int, error: TransientError, draw: float) -> float:
        """Return the wait before the next try.

        Parameters
        ----------
        failures
            How many tries have failed so far (count, from 1).
        error
            The last failure; it may name a least wait.
        draw
            A random number in [0, 1).
        """
        if error.at_once and failures == 1:
            return 0.0
        exponent = min(failures - 1, 30)
        jittered = draw * min(LONGEST_WAIT_SECONDS, self.retry_seconds * 2.0**exponent)
        return max(jittered, min(error.minimum_wait_seconds, LONGEST_RETRY_AFTER_SECONDS))


def look_wait_seconds(looks: int) -> float:
    """Return the wait before look number `looks` (from 0) for an upload that is not visible yet."""
    return min(LONGEST_LOOK_SECONDS, FIRST_LOOK_SECONDS * 2.0 ** min(looks, 30))


def not_before_seconds(date: float | None, delay_seconds: float, now: float) -> float:
    """Return the wait until event date + delay (both times in seconds since the epoch).

    Never longer than the delay itself, whatever the clocks say; an old event does not wait.
    """
    if date is None:
        return delay_seconds
    return max(0.0, min(delay_seconds, date + delay_seconds - now))
