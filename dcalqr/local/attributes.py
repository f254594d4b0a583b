"""What a landed file says of itself: its pnfsid and its Adler32, in extended attributes.

Size and mtime are written beside them and vouch for them: whoever changes the file takes the word from both.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from dcalqr.checksum import hex8, parse_digest
from dcalqr.local.oserrors import NO_SPACE

XATTR_PNFSID = "user.dcalqr.pnfsid"
XATTR_ADLER32 = "user.dcalqr.adler32"
XATTR_STAT = "user.dcalqr.stat"  # "<size> <mtime_ns>": written last, it vouches for the two others

# Attributes save work later, they prove nothing: without them the file is read again.
_NO_XATTR = NO_SPACE | {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.E2BIG}


class Attributes(NamedTuple):
    """None: not recorded."""

    pnfsid: str | None
    adler32: int | None


NONE = Attributes(None, None)


def write(fd: int, found: os.stat_result, pnfsid: str, adler32: int | None) -> None:
    """Record both in an open file, which was `found` complete; what the file system cannot hold is left out."""
    values = {XATTR_PNFSID: pnfsid, XATTR_ADLER32: "" if adler32 is None else hex8(adler32)}
    values[XATTR_STAT] = f"{found.st_size} {found.st_mtime_ns}"
    try:
        for name, value in values.items():
            if value:
                os.setxattr(fd, name, value.encode("utf-8"))
    except OSError as error:
        if error.errno not in _NO_XATTR:
            raise


def read(fd: int, found: os.stat_result) -> Attributes:
    """Give what an open file says, if its size and mtime, in `found`, still vouch for it."""
    try:
        if _value(fd, XATTR_STAT) != f"{found.st_size} {found.st_mtime_ns}":
            return NONE
        adler32 = parse_digest(f"adler32={_value(fd, XATTR_ADLER32)}")
        return Attributes(_value(fd, XATTR_PNFSID), adler32)
    except UnicodeDecodeError:
        return NONE  # attributes that somebody else wrote


def _value(fd: int, name: str) -> str | None:
    try:
        return os.getxattr(fd, name).decode("utf-8")
    except OSError as error:
        if error.errno in {errno.ENODATA, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM}:
            return None
        raise
