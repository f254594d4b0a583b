"""What an instance says of itself: status file, STATUS line, the minute's summary. Reads all parts, changes none."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from dcalqr import __version__, errors
from dcalqr.local.state import STATUS, State

if TYPE_CHECKING:  # `dcalqr status` only reads a file
    from dcalqr.assembly import Assembly
    from dcalqr.kafka.consumer import Consumer

# An instance writes its status every few seconds; one this old is not running, or hangs.
STALE_SECONDS = 30.0


def snapshot(assembly: Assembly, consumer: Consumer, started_at: float, *, draining: bool) -> dict[str, Any]:
    """Return the status as JSON knows it. Times are seconds since the epoch, sizes bytes."""
    dispatcher, counters, now = assembly.dispatcher, assembly.counters, time.monotonic()
    return {
        "version": __version__,
        "instance": assembly.instance,
        "time": time.time(),
        "started_at": started_at,
        "draining": draining,
        "kafka": _kafka(assembly, consumer),
        "holds": [
            {
                "domain": hold.domain,
                "reason": hold.reason,
                "message": hold.message,
                "seconds": round(now - hold.since, 1),
            }
            for hold in dispatcher.holding.holds.active.values()
        ],
        "open": dispatcher.window.open,
        "waiting_for_visibility": dispatcher.window.invisible,
        "slots": {"limit": assembly.copier.slots.limit, "taken": assembly.copier.slots.taken},
        "stuck_threads": assembly.copier.stuck,
        "running": [
            {
                "path": each.path,
                "phase": each.phase,
                "received_bytes": each.received_bytes,
                "size_bytes": each.size_bytes,
            }
            for each in assembly.transfer.running.values()
        ],
        "matched": counters.matched,
        "unreadable": counters.unreadable,
        "settled": dict(counters.settled),
        "failed": dict(counters.failed),
        "retries": dict(counters.retries),
        "unwritten": counters.unwritten,
        "last_event_at": counters.last_event_at,
        "landed_bytes": counters.landed_bytes,
        "unverified": counters.unverified,
        "reports_dropped": assembly.reports.dropped,
        "credential_expires_at": _expiry(assembly),
    }


def _kafka(assembly: Assembly, consumer: Consumer) -> dict[str, Any]:
    membership = consumer.membership
    return {
        "topic": assembly.config.kafka.topic,
        "trouble": consumer.trouble,
        "rebuilds": consumer.rebuilds,
        "lag_records": {str(number): lag for number, lag in membership.lag().items()} if membership else {},
        "marks": {str(number): mark for number, mark in membership.marks().items()} if membership else {},
        "halted": {str(number): why for number, why in membership.halted.items()} if membership else {},
        "rebalances": membership.rebalances if membership else 0,
        "commit_failures": membership.commit_failures if membership else 0,
        "stale_batches": membership.stale_batches if membership else 0,
        "last_commit_at": membership.last_commit_at if membership else None,
    }


def _expiry(assembly: Assembly) -> float | None:
    try:
        return assembly.credentials.current().expires_at
    except errors.CredentialRefused:
        return None


def read(folder: str, instance: str) -> dict[str, Any]:
    """Read the status of the running instance whose state folder this is.

    Raises
    ------
    ServiceUnavailable
        It is not running, or it hangs, or it is of a version that writes another status.
    NoPermission
        This user may not see it.
    """
    service = f"instance {instance}"
    found = State.read_status(folder)
    if found is None:
        _let_in(os.path.join(folder, STATUS))
        raise errors.ServiceUnavailable(service=service, why=f"it is not running: no status in {folder}")
    try:
        age = time.time() - found["time"]
        in_words(found)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise errors.ServiceUnavailable(service=service, why=f"its status in {folder} is of another version") from None
    if found.get("stopped"):
        raise errors.ServiceUnavailable(service=service, why=f"it is not running: stopped {age:.0f} s ago")
    if age > STALE_SECONDS:
        why = f"it is not running, or it hangs: its last word is {age:.0f} s old"
        raise errors.ServiceUnavailable(service=service, why=why)
    return found


def _let_in(path: str) -> None:
    """Refuse who may not look: to them a running instance must not seem to be stopped."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError as error:
        why = f"{error.strerror}; ask as the user of the daemon, or as root"
        raise errors.NoPermission(path=path, why=why) from error
    except OSError:
        return  # it is not there


def complaints(status: dict[str, Any]) -> list[str]:
    """Say what is not well, worst first; empty: all is well."""
    found = []
    if status["kafka"]["trouble"]:
        found.append(f"Kafka: {status['kafka']['trouble']}")
    found += [f"partition {number} is halted: {why}" for number, why in status["kafka"]["halted"].items()]
    found += [f"hold {hold['reason']} for {hold['seconds']:.0f} s: {hold['message']}" for hold in status["holds"]]
    if status["credential_expires_at"] is None:
        found.append("no usable credential, see CREDENTIAL in the log")
    if status["unwritten"]:
        found.append(f"{status['unwritten']} rows or unreadable records cannot be written, see ROW_NOT_WRITTEN")
    if status["stuck_threads"]:
        found.append(f"{status['stuck_threads']} threads do not answer: is the destination's file system hung?")
    return found


def in_words(status: dict[str, Any]) -> str:
    """One line for systemd: the worst complaint, if there is one, and the numbers."""
    return "; ".join([*complaints(status)[:1], in_numbers(status)])


def in_numbers(status: dict[str, Any]) -> str:
    """How much has been done since the start, and how much is at hand."""
    settled = status["settled"]
    words = (
        f"{settled.get('landed', 0)} landed, {settled.get('failed', 0)} failed, {status['open']} open, "
        f"{status['slots']['taken']} running, lag {sum(status['kafka']['lag_records'].values())}"
    )
    return f"draining; {words}" if status["draining"] else words
