"""Which upload a path shows, and until when one may stay invisible. Pure: times are arguments, seconds since the epoch.

What the door shows is given as HEAD's pnfsid (empty without dCache's ETag) and size in bytes (None: not said).
"""

from __future__ import annotations

from dcalqr.model import StorageEvent, Version

# A plain upload was visible before its message was sent; what it may lack is a door that has caught up.
PLAIN_SECONDS = 30.0
# An event may be old when it is read first, and the commit of its upload may still be under way.
LEAST_SECONDS = 60.0


def visible_until(event: StorageEvent, first_look_at: float, visible_seconds: float) -> float:
    """Return when to give up waiting for an upload to appear under its path."""
    if not event.staged:
        return first_look_at + min(PLAIN_SECONDS, visible_seconds)
    return _not_before_least(event, first_look_at, visible_seconds)


def summed_until(event: StorageEvent, first_look_at: float, visible_seconds: float) -> float:
    """Return when to give up waiting for the door to know a file's Adler32."""
    return _not_before_least(event, first_look_at, visible_seconds)


def _not_before_least(event: StorageEvent, first_look_at: float, visible_seconds: float) -> float:
    since = first_look_at if event.date is None else event.date
    return max(since + visible_seconds, first_look_at + min(LEAST_SECONDS, visible_seconds))


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
