"""Snapshots as `status.snapshot` makes them; tests/service/test_board.py sees to it that a daemon's has these keys."""

from __future__ import annotations

from typing import Any

from dcalqr.metrics.counters import PHASES
from dcalqr.metrics.histogram import COPY_BOUNDS, STALL_BOUNDS, Histogram

NOW = 1_790_000_000.0
FOLDER = "/pnfs/example.org/data/lsst/user/j/jane.doe"


def histogram(*seconds: float, bounds: tuple[float, ...] = COPY_BOUNDS) -> dict[str, Any]:
    made = Histogram(bounds)
    for each in seconds:
        made.observe(each)
    return made.as_json()


def partition(mark: int, position: int, end: int, oldest_at: float | None = None) -> dict[str, Any]:
    return {
        "mark": mark,
        "position": position,
        "open": position - mark,
        "committed": mark,
        "end": end,
        "lag": end - mark,
        "unread": end - position,
        "oldest_at": oldest_at,
    }


def copy(path: str = f"{FOLDER}/23003/raw_0001.fits", **changes: Any) -> dict[str, Any]:
    found = {"path": path, "phase": "body", "received_bytes": 6_400_000_000, "size_bytes": 12_800_000_000}
    return {**found, "seconds": 42.0, **changes}


def failure(path: str = f"{FOLDER}/23003/raw_0002.fits", **changes: Any) -> dict[str, Any]:
    message = "gave up after 11 attempts: pool p1.example.org cannot be reached: timed out"
    found = {"at": NOW - 600, "path": path, "error_class": "transient", "message": message, "attempts": 11}
    return {**found, **changes}


def snapshot(**changes: Any) -> dict[str, Any]:
    """Make what an instance that is well and busy says of itself."""
    return {
        "version": "0.1.0",
        "python": "3.11.9",
        "aiokafka": "0.14.0",
        "instance": "node1",
        "pid": 4711,
        "config": "/etc/dcalqr.toml",
        "time": NOW,
        "started_at": NOW - 3 * 86400 - 7200,
        "draining": False,
        "kafka": {
            "topic": "billing",
            "group": "dcalqr",
            "trouble": "",
            "rebuilds": 1,
            "partitions": {
                "0": partition(100_000, 100_040, 100_740, NOW - 95),
                "1": partition(99_000, 99_000, 99_000),
            },
            "lag_records": {"0": 740, "1": 0},
            "halted": {},
            "rebalances": 2,
            "commit_failures": 3,
            "stale_batches": 1,
            "last_commit_at": NOW - 4,
        },
        "pace": {
            "files_per_second": 3.2,
            "bytes_per_second": 182_000_000.0,
            "read_per_second": 140.0,
            "written_per_second": 134.0,
            "catch_up": "closing",
            "catch_up_seconds": 116.667,
        },
        "holds": [],
        "open": 31,
        "waiting_for_visibility": 4,
        "slots": {"limit": 10, "taken": 2},
        "stuck_threads": 0,
        "workers": {"count": 2, "resident_bytes": 60_000_000, "cpu_seconds": 912.5, "lost": 0, "outdated": False},
        "running": [
            copy(),
            copy(f"{FOLDER}/23003/raw_0003.fits", received_bytes=1_100_000_000, size_bytes=8_500_000_000, seconds=9.0),
        ],
        "matched": 412_345,
        "unreadable": 2,
        "events": [
            ["skip", "direction", 1_203_456],
            ["skip", "prefix", 881_000],
            ["match", "", 412_345],
            ["look_now", "", 17],
            ["unreadable", "json", 1],
            ["unreadable", "traversal", 1],
            ["undated", "", 5],
        ],
        "settled": {"landed": 412_010, "already": 300, "gone": 3, "replaced": 1, "failed": 2, "unreadable": 2},
        "failed": {"transient": 1, "checksum": 1},
        "retries": {"ConnectionLost": 7, "ChecksumMismatch": 2, "RedirectRefused": 1},
        "holds_begun": {"unreachable": 1},
        "unwritten": 0,
        "last_event_at": NOW - 2,
        "landed_bytes": 51_234_567_890_123,
        "unverified": 0,
        "copying": histogram(0.05, 2.0, 41.0),
        "waiting": histogram(0.2, 1.5, 90.0),
        "loop_stall": histogram(0.0004, 0.002, bounds=STALL_BOUNDS),
        "phase_seconds": dict.fromkeys(PHASES, 1.25),
        "last_failures": [failure()],
        "reload": None,
        "touched": {},
        "file_trouble": {},
        "jobs": {"total": 0, "listed": []},
        "reports": {"lost": {"file": {}}, "queued": {"file": 0}},
        "credential_expires_at": NOW + 11 * 3600 + 1200,
        "credential_trouble": "",
        "surroundings": {
            "room": {
                "free_bytes": 21_000_000_000_000,
                "size_bytes": 80_000_000_000_000,
                "least_bytes": 800_000_000_000,
                "seen_at": NOW - 3,
            },
            "files": {"failed_bytes": 4096, "unreadable_bytes": 812, "seen_at": NOW - 3},
            "papers": {"kafka_certificate_expires_at": None, "crl_oldest_at": NOW - 6 * 3600, "seen_at": NOW - 3},
        },
        **changes,
    }
