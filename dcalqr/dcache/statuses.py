"""What the statuses of an answer mean. Pure."""

from __future__ import annotations

from dcalqr import errors


def door_refusal(status: int, host: str) -> errors.TryError:
    """Return what 401, 403 and 404 mean when the door itself says them."""
    if status == 401:
        return errors.CredentialRefused(why=f"HTTP 401 from {host}", http_status=status)
    if status == 403:
        return errors.Forbidden(host=host, http_status=status)
    return errors.NotFound(host=host, http_status=status)


def server_error(status: int, host: str, retry_after: str) -> errors.ServerError:
    """Return the error of any other status from 400 on; Retry-After as it is written, empty if there is none."""
    return errors.ServerError(host=host, http_status=status, retry_after_seconds=_seconds_to_wait(retry_after))


def _seconds_to_wait(retry_after: str) -> float | None:
    """Read a number of seconds; the field's date form is not sent by dCache and is ignored."""
    value = retry_after.strip()
    return float(value) if value.isascii() and value.isdigit() and len(value) < 10 else None
