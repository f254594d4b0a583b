"""What copying is to reach, as bars over the tables of one run. Pure.

Ratios compare medians of the same run. "dcalqr" is the whole daemon, from Kafka to the final name, with everything it
checks and syncs; only where a bar is about the engine it is "dcalqr engine".
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.bars import Bar
from benchmarks.tables import REFERENCE, Table

DAEMON, ENGINE = "dcalqr", "dcalqr engine"
GO_PLAIN, GO_TUNED, GO_RESUME, RCLONE, FLOOR = "Go plain", REFERENCE, "Go tuned resuming", "rclone", "C floor"


def copy_bars(tables: Mapping[str, Table]) -> list[Bar]:
    """Hold every goal about copying against the tables, by name of the set.

    A set or a program that was left out makes its bars "not measured", which is not reached.
    """

    def rate(name: str, what: str, ours: str, theirs: str, limit: float) -> Bar:
        measured = tables[name].rate_ratio(ours, theirs) if name in tables else None
        return Bar(f"{name}: {what}, rate to {theirs}", measured, limit, "x", at_least=True)

    large_cpu = tables["large"].cpu_ratio(DAEMON, GO_TUNED) if "large" in tables else None
    return [
        rate("large", "whole daemon", DAEMON, GO_TUNED, 1.0),
        rate("large", "whole daemon", DAEMON, RCLONE, 1.0),
        rate("large", "whole daemon", DAEMON, FLOOR, 0.90),
        rate("medium", "whole daemon", DAEMON, GO_TUNED, 1.0),
        rate("medium", "whole daemon", DAEMON, RCLONE, 1.0),
        rate("medium", "whole daemon", DAEMON, FLOOR, 0.90),
        rate("small", "engine, keep-alive", ENGINE, GO_PLAIN, 2.0),
        rate("small", "engine, keep-alive", ENGINE, GO_TUNED, 1.0),
        # dcalqr resumes TLS sessions. Go does so only when it is told to: both are shown.
        rate("small-redirect", "whole daemon, door and pool, fsync", DAEMON, GO_TUNED, 1.0),
        rate("small-redirect", "whole daemon, door and pool, fsync", DAEMON, GO_RESUME, 1.0),
        rate("mixed", "whole daemon", DAEMON, GO_TUNED, 1.0),
        Bar(f"large: whole daemon, CPU per GB to {GO_TUNED}", large_cpu, 1.0, "x", at_least=False),
    ]
