from __future__ import annotations

import subprocess
import sys

from dcalqr.metrics.processes import usage
from tests.support.process import wait_until

SECONDS = 30.0


def test_a_child_is_counted_with_its_memory_and_its_time_also_after_its_end() -> None:
    before = usage([])["cpu_seconds"]
    # A name with blanks and brackets: the fields behind it must still be found.
    burn = "open('/proc/self/comm', 'w').write('a) R (b'); sum(range(30_000_000)); input()"
    child = subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE)
    wait_until(lambda: usage([child.pid])["cpu_seconds"] - before > 0.3, SECONDS, "some processor time")
    found = usage([child.pid])
    assert found["count"] == 1
    assert 5_000_000 < found["resident_bytes"] < 100_000_000
    child.communicate(b"\n")
    after = usage([child.pid])
    assert (after["count"], after["resident_bytes"]) == (0, 0)
    assert after["cpu_seconds"] >= found["cpu_seconds"]


def test_without_workers_all_is_zero_but_what_ended_ones_used() -> None:
    found = usage([])
    assert (found["count"], found["resident_bytes"]) == (0, 0)
