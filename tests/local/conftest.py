from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dcalqr.local.mounts import mount_point
from tests.support.mounts import umount


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Path]:
    """A folder for mounts, with a name that the kernel escapes; nothing stays mounted."""
    folder = tmp_path / "mount point"
    folder.mkdir()
    yield folder
    while mount_point(str(folder)) == str(folder):
        umount(folder)
