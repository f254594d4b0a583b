"""`dcalqr demo`: the real daemon at work between a small Kafka and a small dCache, with faults, and every file checked.

========== ===========================================================================================
`scenario` what is uploaded, when, and what goes wrong with it
`broker`   Kafka: embedded (librdkafka's mock cluster), or a real one
`storage`  the dCache: uploads, their messages, and the truth about each file
`site`     the folder of it all, and the configuration
`child`    `dcalqr run` as a process, and its log
`journal`  what that log tells, in words
`story`    how it is shown
`play`     the scenario, played
`verdict`  what is checked at the end
`show`     the whole demo
`trial`    the trial site: Kafka and dCache alone, for a daemon of yours
========== ===========================================================================================
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from dcalqr import errors


def perform(servers: Sequence[str] | None, *, seed: int, keep: bool) -> bool:
    """Run the demo; returns whether all is as it should be.

    Parameters
    ----------
    servers, seed, keep
        As of `show.Show`.

    Raises
    ------
    StartError
        The package confluent-kafka is not installed; or Kafka, or a temporary folder, cannot be had.
    """
    with _missing_in_words():
        from dcalqr.demo.show import Show
    return Show(servers, seed=seed, keep=keep).run()


def stay(servers: Sequence[str] | None, *, seed: int, keep: bool) -> None:
    """Set up the trial site; returns when somebody has ended it by Ctrl-C.

    Parameters
    ----------
    servers, seed, keep
        As of `trial.Trial`.

    Raises
    ------
    StartError
        As of `perform`.
    """
    with _missing_in_words():
        from dcalqr.demo.trial import Trial
    Trial(servers, seed=seed, keep=keep).run()


@contextlib.contextmanager
def _missing_in_words() -> Iterator[None]:
    """Say what to install where Kafka's mock cluster is missing."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "confluent_kafka":
            raise
        how = "pip install 'dcalqr[demo]', or from a checkout: pip install '.[demo]'"
        why = f"it is not installed, and the demo needs it: {how}"
        raise errors.ServiceUnavailable(service="the package confluent-kafka", why=why) from error
