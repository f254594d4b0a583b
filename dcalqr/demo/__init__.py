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
========== ===========================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence

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
    try:
        from dcalqr.demo.show import Show
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "confluent_kafka":
            raise
        why = "it is not installed, and the demo needs it: make demo, or pip install '.[demo]' in the clone"
        raise errors.ServiceUnavailable(service="the package confluent-kafka", why=why) from error
    return Show(servers, seed=seed, keep=keep).run()
