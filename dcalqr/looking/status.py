"""What an instance says of itself: status file, STATUS line, the minute's summary. Reads all parts, changes none."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from dcalqr import __version__, errors
from dcalqr.delivery import openjobs
from dcalqr.holds import DESTINATION
from dcalqr.local.state import STATUS, State
from dcalqr.metrics.counters import Counters, Reload
from dcalqr.metrics.pace import Pace, Sample
from dcalqr.metrics.processes import usage
from dcalqr.metrics.wording import lag
from dcalqr.model import Settled

if TYPE_CHECKING:  # `dcalqr status` only reads a file
    from dcalqr.dcache.tls import Credentials
    from dcalqr.kafka.consumer import Consumer
    from dcalqr.service.assembly import Assembly
    from dcalqr.service.surroundings import Surroundings

# Three looks: a file system that has not answered for so long hangs.
OLD_LOOK_SECONDS = 45.0
# An instance writes its status every few seconds; one this old is not running, or hangs.
STALE_SECONDS = 30.0


class About(NamedTuple):
    """What a snapshot says beside what the parts count: the file of the configuration, and since when we run."""

    config_path: str
    started_at: float
    draining: bool


def snapshot(
    assembly: Assembly, consumer: Consumer, surroundings: Surroundings, pace: Pace, about: About
) -> dict[str, Any]:
    """Return all that is told of the instance, as JSON knows it: status file, status page and metrics have no other.

    Times are seconds since the epoch (`_at`) or durations (`seconds`), sizes bytes.
    """
    window, slots = assembly.dispatcher.window, assembly.copier.slots
    return {
        "version": __version__,
        "python": platform.python_version(),
        "aiokafka": importlib.metadata.version("aiokafka"),
        "instance": assembly.instance,
        "pid": os.getpid(),
        "config": about.config_path,
        "time": time.time(),
        "started_at": about.started_at,
        "draining": about.draining,
        "kafka": _kafka(assembly, consumer),
        "pace": {name: _rounded(value) for name, value in vars(pace).items() if not name.startswith("_")},
        "holds": _holds(assembly),
        "open": window.open,
        "waiting_for_visibility": window.invisible,
        "slots": {"limit": slots.limit, "taken": slots.taken},
        "stuck_threads": assembly.copier.stuck,
        "workers": _workers(assembly.copier),
        "running": _running(assembly),
        "jobs": _jobs(assembly),
        **_counted(assembly.counters),
        "reports": {"lost": assembly.reports.lost, "queued": assembly.reports.queued},
        **_credential(assembly.credentials),
        "surroundings": surroundings.found(),
    }


def _rounded(value: float | str | None) -> float | str | None:
    return round(value, 3) if isinstance(value, float) else value


def _counted(counters: Counters) -> dict[str, Any]:
    return {
        "matched": counters.matched,
        "unreadable": counters.unreadable,
        "events": [[decision, reason, count] for (decision, reason), count in counters.events.items()],
        "settled": dict(counters.settled),
        "failed": dict(counters.failed),
        "retries": dict(counters.retries),
        "holds_begun": dict(counters.holds),
        "unwritten": counters.unwritten,
        "touched": dict(counters.touched),
        "file_trouble": dict(counters.file_trouble),
        "last_event_at": counters.last_event_at,
        "landed_bytes": counters.landed_bytes,
        "unverified": counters.unverified,
        "copying": counters.copying.as_json(),
        "waiting": counters.waiting.as_json(),
        "loop_stall": counters.loop_stall.as_json(),
        "phase_seconds": dict(counters.phase_seconds),
        "last_failures": [failure._asdict() for failure in counters.last_failures],
        "reload": counters.reload._asdict() if counters.reload else None,
    }


def _workers(copier: object) -> dict[str, Any]:
    """What worker processes use; a copier of threads has none."""
    return {
        **usage(getattr(copier, "pids", ())),
        "lost": getattr(copier, "deaths", 0),
        "outdated": getattr(copier, "is_outdated", False),
    }


def _holds(assembly: Assembly) -> list[dict[str, Any]]:
    now = time.monotonic()
    return [
        {"domain": hold.domain, "reason": hold.reason, "message": hold.message, "seconds": round(now - hold.since, 1)}
        for hold in assembly.dispatcher.holding.holds.active.values()
    ]


def _running(assembly: Assembly) -> list[dict[str, Any]]:
    now = time.monotonic()
    return [
        {
            "path": each.path,
            "phase": each.phase,
            "received_bytes": each.received_bytes,
            "size_bytes": each.size_bytes,
            "seconds": round(now - each.since, 1),
        }
        for each in assembly.transfer.running.values()
    ]


def _jobs(assembly: Assembly) -> dict[str, Any]:
    dispatcher = assembly.dispatcher
    running = {each.path for each in assembly.transfer.running.values()}
    held = bool(dispatcher.holding.holds.active)
    return openjobs.waiting(dispatcher.inflight.jobs.values(), running, held=held, seconds_open=dispatcher.seconds_open)


def _kafka(assembly: Assembly, consumer: Consumer) -> dict[str, Any]:
    membership, kafka = consumer.membership, assembly.config.kafka
    oldest: dict[int, float] = {}
    for job in assembly.dispatcher.inflight.jobs.values():
        for delivery in job.deliveries:
            if delivery.event.date is not None:
                number = delivery.origin.partition
                oldest[number] = min(oldest.get(number, delivery.event.date), delivery.event.date)
    progress = membership.progress() if membership else {}
    return {
        "topic": kafka.topic,
        "group": kafka.consumergroup,
        "trouble": consumer.trouble,
        "rebuilds": consumer.rebuilds,
        "partitions": {
            str(number): {**each._asdict(), "lag": each.lag, "unread": each.unread, "oldest_at": oldest.get(number)}
            for number, each in sorted(progress.items())
        },
        "lag_records": {str(number): each.lag for number, each in progress.items() if each.lag is not None},
        "halted": {str(number): why for number, why in membership.halted.items()} if membership else {},
        "rebalances": membership.rebalances if membership else 0,
        "commit_failures": membership.commit_failures if membership else 0,
        "stale_batches": membership.stale_batches if membership else 0,
        "last_commit_at": membership.last_commit_at if membership else None,
    }


def _credential(credentials: Credentials) -> dict[str, Any]:
    """Until when the proxy in use is good, None without one; and why there is none, or why none of the files is."""
    try:
        expires_at, trouble = credentials.current().expires_at, credentials.trouble
    except errors.CredentialRefused as error:
        expires_at, trouble = None, error
    why = "" if trouble is None else str(trouble.facts.get("why", trouble))
    return {"credential_expires_at": expires_at, "credential_trouble": why}


def sample(assembly: Assembly, consumer: Consumer, now: float) -> Sample:
    """Return what the pace is made of; `now` in monotonic seconds."""
    progress = consumer.membership.progress() if consumer.membership else {}
    arriving = sum(each.received_bytes for each in assembly.transfer.running.values())
    return Sample(
        at=now,
        positions={number: each.position for number, each in progress.items()},
        ends={number: each.end for number, each in progress.items() if each.end is not None},
        files=assembly.counters.settled[Settled.LANDED.value],
        received_bytes=assembly.counters.landed_bytes + arriving,
    )


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
        raise errors.ServiceUnavailable(
            service=service, why=f"it is not running: no status in {folder} (local.statefolder)"
        )
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
    found += _credential_words(status)
    if status["unwritten"]:
        found.append(f"{status['unwritten']} rows or unreadable records cannot be written, see ROW_NOT_WRITTEN")
    if status["stuck_threads"]:
        found.append(f"{status['stuck_threads']} threads do not answer: is the destination's file system hung?")
    if status.get("workers", {}).get("outdated"):
        found.append("dcalqr was upgraded on the disk: workers cannot be replaced until this daemon is restarted")
    found += [f"{path}: {why}" for path, why in status.get("file_trouble", {}).items()]
    if (reload := status.get("reload")) and not reload["ok"]:
        found.append(reload_words(Reload(**reload)))
    return found + list(_destination(status))


def _credential_words(status: dict[str, Any]) -> Iterator[str]:
    """What is wrong with proxy or CA folder, unless a hold says it already."""
    expires_at, trouble = status["credential_expires_at"], status.get("credential_trouble", "")
    if expires_at is None:
        if not any(hold["reason"] == "credential" for hold in status["holds"]):
            yield f"no usable credential: {trouble or 'see CREDENTIAL in the log'}"
    elif trouble:
        until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(expires_at))
        yield f"{trouble}; the one loaded before is used on, until {until} at the latest"


def reload_words(reload: Reload | None) -> str:
    """What became of the last reload; empty: nobody asked for one."""
    if reload is None:
        return ""
    when = time.strftime("%H:%M:%SZ", time.gmtime(reload.at))
    words = "reloaded" if reload.ok else "the last reload was refused"
    return f"{words} at {when}" + (f": {reload.message}" if reload.message else "")


def _destination(status: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the download folder although no file has met it yet."""
    room = status.get("surroundings", {}).get("room", {})
    if "trouble" in room and not any(hold["domain"] == DESTINATION for hold in status["holds"]):
        yield room["trouble"]
    if room and (age := status["time"] - room["seen_at"]) > OLD_LOOK_SECONDS:
        yield f"the download folder's file system has not answered for {age:.0f} s"


def in_words(status: dict[str, Any]) -> str:
    """One line for systemd: the worst complaint, if there is one, and the numbers."""
    reload = status.get("reload")
    done = [reload_words(Reload(**reload))] if reload and reload["ok"] else []
    return "; ".join([*complaints(status)[:1], in_numbers(status), *done])


def in_numbers(status: dict[str, Any]) -> str:
    """How much has been done since the start, and how much is at hand."""
    settled = status["settled"]
    words = (
        f"{settled.get('landed', 0)} landed, {settled.get('failed', 0)} failed, {status['open']} open, "
        f"{status['slots']['taken']} running, {lag(status['kafka'], str)}"
    )
    return f"draining; {words}" if status["draining"] else words
