"""Mounting and unmounting, as root."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def mount(folder: Path, *options: str) -> None:
    assert os.geteuid() == 0, "these tests mount file systems: run them as root"
    subprocess.run(["mount", *options, folder], check=True)


def tmpfs(folder: Path, size: str = "1m") -> None:
    mount(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")


def umount(folder: Path) -> None:
    subprocess.run(["umount", "-l", folder], check=True)
