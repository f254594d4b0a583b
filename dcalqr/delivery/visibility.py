"""Which upload a path shows, and how long one may stay invisible. Pure: times are arguments.

`looked_seconds` is how long the door has been answering looks without a break; `now` is in seconds since the epoch.

What the door shows is given as HEAD's pnfsid (empty without dCache's ETag) and size in bytes (None: not said).
"""

from __future__ import annotations

from dcalqr.model import StorageEvent, Version

# A plain upload was visible before its message was sent; what it may lack is a door that has caught up.
PLAIN_SECONDS = 30.0
# An event may be old when it is read first, and the commit of its upload may still be under way.
LEAST_SECONDS = 60.0


def is_overdue(event: StorageEvent, looked_seconds: float, now: float, visible_seconds: float) -> bool:
    """Whether to give up waiting for an upload to appear under its path."""
    if not event.staged:
        return looked_seconds >= min(PLAIN_SECONDS, visible_seconds)
    return is_sum_overdue(event, looked_seconds, now, visible_seconds)


def is_sum_overdue(event: StorageEvent, looked_seconds: float, now: float, visible_seconds: float) -> bool:
    """Whether to give up waiting for the door to know a file's Adler32."""
    if event.date is None:
        return looked_seconds >= visible_seconds
    return looked_seconds >= min(LEAST_SECONDS, visible_seconds) and now >= event.date + visible_seconds


def is_shown(pnfsid: str, size_bytes: int | None, event: StorageEvent) -> bool:
    """Whether the path shows this upload, and not the file that it will replace.

    A door without dCache's ETag can only be judged by the size.
    """
    if pnfsid and event.pnfsid:
        return pnfsid == event.pnfsid
    return event.size_bytes is None or size_bytes == event.size_bytes


def version_shown(pnfsid: str, size_bytes: int | None, event: StorageEvent) -> Version:
    """Return the version that the path shows; what the door does not say is taken to be the event's."""
    same_file = pnfsid in ("", event.pnfsid)
    same_size = size_bytes is None or event.size_bytes in (None, size_bytes)
    return event.version if same_file and same_size else Version(pnfsid or event.pnfsid, size_bytes)
