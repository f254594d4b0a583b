"""Log format "seed": the first dcalqr's lines, so that the grep jobs written for it go on working.

Only the names of part files differ. What the first one did not say follows the same pattern: date, event in brackets,
then name=value, and the job's uuid or SYSTEM in parentheses. The date is local time, as it was.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import orjson

from dcalqr.log.line import Fields

# Of jobs that are open, usually at most the window; one that was forgotten is said with its path in dCache.
_REMEMBERED = 100_000


class SeedLines:
    """Renders a line; the last step of the chain in `log`.

    Parameters
    ----------
    local
        Gives the path here of a file, from its path in dCache.
    """

    def __init__(self, local: Callable[[str], str]) -> None:
        self._local = local
        self._paths: OrderedDict[str, str] = OrderedDict()  # by the job's uuid; most lines bear only that
        self._running: dict[str, None] = {}

    def __call__(self, _logger: object, _method: str, line: Fields) -> bytes:
        event, job = str(line.pop("event")), str(line.pop("uuid", "SYSTEM"))
        trace = line.pop("exception", "")
        date = time.strftime("%Y/%m/%d %H:%M:%S", time.localtime())
        del line["time"]
        if line.get("level") == "info":
            del line["level"]
        self._follow(event, job, line)
        render = getattr(self, f"_{event.lower()}", None)
        text = render(job, line) if render is not None else None
        who = "SYSTEM" if event == "CURRENTLY_RUNNING" else job
        head = f"{date} [{event}] {text or _pairs(line)} ({who})"
        # Indented, so that no line of it can pass for a log line.
        return "\n    | ".join([head, *trace.splitlines()]).encode("utf-8", "replace")

    def _follow(self, event: str, job: str, line: Fields) -> None:
        """Remember which file a job is about, and which jobs have an order under way."""
        if event == "UPLOAD":
            self._paths[job] = str(line["path"])
            if len(self._paths) > _REMEMBERED:
                self._paths.popitem(last=False)
        elif event == "CURRENTLY_RUNNING":
            self._running[job] = None
        elif event in {"COPY_OVER", "COPY_RETRY", "COPY_FAILED", "COPY_REPORT", "WAIT_VISIBLE"}:
            self._running.pop(job, None)

    def _here(self, job: str, part: object = None) -> str:
        path = self._local(self._paths.get(job, ""))
        return os.path.join(os.path.dirname(path), str(part)) if part else path

    # --- the first dcalqr's lines ---------------------------------------------------------------------------------

    def _upload(self, _job: str, line: Fields) -> str:
        return f"New file on partition {line.get('partition')} : {line.get('path')}"

    def _currently_running(self, _job: str, _line: Fields) -> str:
        return f"{len(self._running)} running tasks: [{' '.join(self._running)}]"

    def _copy_init(self, job: str, line: Fields) -> str:
        return f"Creating destination file {self._here(job, line.get('part'))}"

    def _copy_start(self, _job: str, line: Fields) -> str:
        return f"Getting data from {line.get('url')}"

    def _copy_run(self, job: str, line: Fields) -> str:
        return f"Copying data to {self._here(job, line.get('part'))}"

    def _copy_over(self, job: str, line: Fields) -> str:
        checked = "OK" if line.get("checksum") == "ok" else line.get("checksum")
        return f"{line.get('url')} to {self._here(job)} (checksum validation: {checked})"

    def _copy_report(self, job: str, line: Fields) -> str | None:
        self._paths.pop(job, None)
        size, rate = line.get("size"), line.get("mbit_per_s")
        if line.get("outcome") != "landed" or not isinstance(size, int):
            return None
        seconds = size * 8 / (rate * 1e6) if isinstance(rate, float | int) and rate else 0.0
        binary = size * 8 / 2**20 / seconds if seconds else 0.0  # its Mbps were 2^20 bits
        return f"{size / 1e6:.0f} MB copied in {_duration(seconds)}, {binary:.2f} Mbps"


def _duration(seconds: float) -> str:
    """A duration as Go writes it."""
    if seconds < 1:
        return f"{_short(seconds * 1000)}ms" if seconds else "0s"
    hours, rest = divmod(seconds, 3600)
    minutes, left = divmod(rest, 60)
    words = f"{int(hours)}h" if hours else ""
    words += f"{int(minutes)}m" if hours or minutes else ""
    return f"{words}{_short(left)}s"


def _short(number: float) -> str:
    return f"{number:.6f}".rstrip("0").rstrip(".")


def _pairs(line: Fields) -> str:
    return " ".join(f"{name}={_value(value)}" for name, value in line.items() if value is not None)


def _value(value: Any) -> str:
    if isinstance(value, str) and value and not any(sign in value for sign in ' "='):
        return value
    return orjson.dumps(value).decode()
