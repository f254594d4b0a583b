"""How a compaction gets the failed-tasks file from the daemon that holds it. Blocking.

It asks by a file beside it, ``<file>.compact``, which it keeps locked from its first to its last step: who is killed
asks no more. That same file becomes the new failed-tasks file by a rename.
"""

from __future__ import annotations

import fcntl
import os

SUFFIX = ".compact"


def request_path(path: str) -> str:
    """The file by which a compaction asks for another; beside the file itself, not beside a symbolic link to it."""
    return os.path.realpath(path) + SUFFIX


def is_asked_for(path: str) -> bool:
    """Whether a living process asks for this file."""
    try:
        fd = os.open(request_path(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False  # usually there is none; one that we may not open is not meant for us
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False
