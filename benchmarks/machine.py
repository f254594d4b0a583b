"""Where and with what a result was measured."""

from __future__ import annotations

import datetime as dt
import os
import platform
import ssl
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

# What decides speed here: the event loop's and the engine's libraries.
PACKAGES = ("aiokafka", "cryptography", "httpx", "msgspec", "pyOpenSSL", "zlib-ng")


def facts() -> dict[str, str]:
    """Say what the machine is and which versions are on it; what is missing is left out."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    known = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": _first_line(["git", "describe", "--always", "--dirty"]),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "OpenSSL of ssl": ssl.OPENSSL_VERSION,
        "OpenSSL of cryptography": _openssl_of_cryptography(),
        **{name: _version(name) for name in PACKAGES},
        "Go": _first_line(["go", "version"]),
        "rclone": _first_line(["rclone", "--version"]),
        "curl": _first_line(["curl", "--version"]),
        "nginx": _first_line(["nginx", "-v"]),
    }
    return {name: value for name, value in known.items() if value}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _openssl_of_cryptography() -> str:
    from cryptography.hazmat.backends.openssl import backend

    return backend.openssl_version_text()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _first_line(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return (done.stdout or done.stderr).partition("\n")[0]  # nginx says it on stderr
