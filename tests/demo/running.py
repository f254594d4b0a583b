"""`dcalqr demo` as a process, for the tests of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

CHECKOUT = Path(__file__).parents[2]


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a demo whose temporary folder is below `folder`; every warning is an error there."""
    return {**os.environ, "TMPDIR": str(folder), "PYTHONWARNINGS": "error", "PYTHONPATH": str(CHECKOUT)}


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A demo as a process, its temporary folder below `folder`; every warning is an error."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dcalqr", "demo", *arguments],
        cwd=CHECKOUT,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            child.kill()
        process.kill()
        process.communicate()
