"""What happens in the demo: which uploads, in which order, and what goes wrong with some of them. Pure."""

from __future__ import annotations

import enum
import math
import random
from dataclasses import dataclass
from typing import NamedTuple

# Enough for exact counts to mean something, few enough for a slow disk's fsyncs: some seconds of work.
BACKLOG_UPLOADS = 100
LIVE_UPLOADS = 200
LIVE_UPLOADS_PER_SECOND = 25.0
# What else is said on a billing topic for each upload: reads, copies between pools, tape, doors, removals, failures.
NOISE_PER_UPLOAD = 10
STAGED_UPLOADS = 5
REPEATED = 10
OVERWRITTEN = 2
# About 100 MB in all: a spread of sizes as real ones have, without filling anybody's /tmp.
MEDIAN_BYTES = 150_000
SPREAD = 1.2  # of the logarithm: one in 40 is ten times the median
LARGEST_BYTES = 8_000_000
LARGE_BYTES = 48_000_000
# Far more than socket buffers hold, so that the copy has begun when the pool falls silent.
STALLED_BYTES = 4_000_000
STALL_AFTER_BYTES = 1_500_000


class Kind(enum.Enum):
    """How an upload behaves."""

    PLAIN = "plain"
    STAGED = "staged"  # by SRM: it becomes visible with its commit, after its message
    LATE = "late"  # the door answers 404 for a while
    WRONG_SUM = "wrong sum"  # the first copy has another Adler32 than the pool promised
    STALLED = "stalled"  # the first copy falls silent
    FORBIDDEN = "forbidden"  # 403 for ever


BECOME_VISIBLE = (Kind.STAGED, Kind.LATE)
RETRIED = (Kind.WRONG_SUM, Kind.STALLED)


class Upload(NamedTuple):
    """One file: its name below the configured folder, how large, and how it behaves."""

    name: str
    size_bytes: int
    kind: Kind = Kind.PLAIN


@dataclass(frozen=True)
class Scenario:
    """What is uploaded.

    Parameters
    ----------
    backlog
        Before the daemon starts.
    live
        While it runs, at a steady rate.
    repeated
        Names of the backlog that Kafka delivers a second time once they have landed.
    overwritten
        Names of the backlog that get another content once they have landed.
    """

    backlog: tuple[Upload, ...]
    live: tuple[Upload, ...]
    repeated: tuple[str, ...]
    overwritten: tuple[str, ...]

    @property
    def uploads(self) -> tuple[Upload, ...]:
        return self.backlog + self.live

    @property
    def matched(self) -> int:
        """Deliveries that are the daemon's business (count)."""
        return len(self.uploads) + len(self.repeated) + len(self.overwritten)

    @property
    def landed(self) -> int:
        """Copies that must succeed (count): each version of each file once."""
        return len(self.uploads) + len(self.overwritten) - len(self.named(Kind.FORBIDDEN))

    def named(self, *kinds: Kind) -> list[str]:
        """Return the names of the uploads of some kinds."""
        return [upload.name for upload in self.uploads if upload.kind in kinds]


def make(rng: random.Random) -> Scenario:
    """Make a scenario; the same state of `rng` gives the same one."""
    backlog = tuple(Upload(_name(number), size_bytes(rng)) for number in range(BACKLOG_UPLOADS))
    chosen = rng.sample([upload.name for upload in backlog], REPEATED + OVERWRITTEN)
    special = [
        Upload("00002/wrong_checksum_once.fits", size_bytes(rng), Kind.WRONG_SUM),
        Upload("00002/pool_stalls.fits", STALLED_BYTES, Kind.STALLED),
        Upload("00002/not_there_yet.fits", size_bytes(rng), Kind.LATE),
        Upload("00002/forbidden.fits", size_bytes(rng), Kind.FORBIDDEN),
        *(Upload(f"00002/by_srm_{number}.fits", size_bytes(rng), Kind.STAGED) for number in range(STAGED_UPLOADS)),
        Upload("00002/empty.fits", 0),
        Upload("00002/large.fits", LARGE_BYTES),
        Upload("00002/strange name #1, 100%?.fits", size_bytes(rng)),
    ]
    plain = range(BACKLOG_UPLOADS, BACKLOG_UPLOADS + LIVE_UPLOADS - len(special))
    live = [Upload(_name(number), size_bytes(rng)) for number in plain]
    step = len(live) // len(special)
    for number, upload in enumerate(special):
        live.insert(number * (step + 1), upload)
    return Scenario(backlog, tuple(live), tuple(chosen[:REPEATED]), tuple(chosen[REPEATED:]))


def _name(number: int) -> str:
    return f"{number // 50:05d}/image_{number:04d}.fits"


def size_bytes(rng: random.Random) -> int:
    """Return the size of a file as real ones have it."""
    return min(LARGEST_BYTES, round(rng.lognormvariate(math.log(MEDIAN_BYTES), SPREAD)))
