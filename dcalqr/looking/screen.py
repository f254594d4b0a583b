"""What `dcalqr top` draws of one snapshot, cut to the size of the terminal. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from dcalqr.logtext import show
from dcalqr.metrics.wording import clock, count, lag, rate, size, span

_BAR_CELLS = 14
_MOST_COMPLAINTS = 4
_MOST_FAILURES = 5
_UNLIMITED = 10_000
# What follows a file's name: bar, percentage, size, rate, phase.
_TAIL_CELLS = 2 + _BAR_CELLS + 1 + 5 + 1 + 8 + 1 + 10 + 1 + 9
# What an attempt calls its phases, in the words of who looks on.
_PHASES = {"door_wait": "at door", "connect": "connects", "first_byte": "at pool", "body": "copies", "sync": "to disk"}
_NUMBERS = str.maketrans("\u2009\u00a0", "  ")  # not every terminal font has the thin ones


class Speeds:
    """How fast each running copy is, from one snapshot to the next."""

    def __init__(self) -> None:
        self._before: tuple[float, dict[str, int]] = (0.0, {})
        self._rates: dict[str, float] = {}

    def note(self, snapshot: Mapping[str, Any]) -> None:
        """Take a snapshot; the same one again changes nothing."""
        at, received = snapshot["time"], {each["path"]: each["received_bytes"] for each in snapshot["running"]}
        seconds = at - self._before[0]
        if seconds <= 0:
            return
        known = self._before[1]
        self._rates = {path: max(0, done - known[path]) / seconds for path, done in received.items() if path in known}
        self._before = at, received

    def of(self, copy: Mapping[str, Any]) -> float:
        """Bytes per second; of a copy that was seen once only, since its begin."""
        average = copy["received_bytes"] / max(copy["seconds"], 0.1)
        return self._rates.get(copy["path"], float(average))


def frame(
    snapshot: Mapping[str, Any], complaints: list[str], speeds: Speeds, width: int, height: int | None = None
) -> list[Text]:
    """Return the lines; at most `height`, each of `width` cells or less. None: as many as there are."""
    head = list(_head(snapshot, complaints))
    wrong = [Text(f" not well: {_plain(words)}", "bold red") for words in complaints[:_MOST_COMPLAINTS]]
    if len(complaints) > _MOST_COMPLAINTS:
        wrong.append(Text(f" and {len(complaints) - _MOST_COMPLAINTS} more, see dcalqr status", "bold red"))
    failures = list(_failures(snapshot))
    foot = [Text(" q quits", "dim")] if height is not None else []
    room = _UNLIMITED if height is None else height - len(head) - len(wrong) - len(failures) - len(foot)
    copies = list(_copies(snapshot, speeds, width, max(3, room)))
    body = [*head, *wrong, *copies, *failures]
    if height is not None:
        body = body[: height - 1]
        body += [Text("")] * (height - 1 - len(body))
    lines = [*body, *foot]
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return lines


def absent(why: str, width: int) -> list[Text]:
    """Return what is drawn while there is no snapshot."""
    lines = [Text(f" {_plain(why)}", "bold red"), Text(" waiting for it; q quits", "dim")]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _plain(words: str) -> str:
    return show(words).translate(_NUMBERS)


def _head(now: Mapping[str, Any], complaints: list[str]) -> Iterator[Text]:
    state = "draining" if now["draining"] else "not well" if complaints else "well"
    title = Text(f" dcalqr {now['instance']}  ", "bold")
    title.append(state, "bold red" if complaints else "bold green")
    up = span(now["time"] - now["started_at"])
    title.append(f"  up {up}, {clock(now['time'])} UTC, version {now['version']}".translate(_NUMBERS), "dim")
    yield title
    pace = now["pace"]
    lines = (
        f" {lag(now['kafka'], count)}, {_catch_up(pace)}; reads {pace['read_per_second']:.0f} records/s",
        f" lands {pace['files_per_second']:.2f} files/s, {rate(pace['bytes_per_second'])}; {_life(now)}{_room(now)}",
        f" {count(now['open'])} open ({count(now['waiting_for_visibility'])} wait for visibility); {_settled(now)}",
    )
    for line in lines:
        yield Text(line.translate(_NUMBERS))
    yield Text("")


def _catch_up(pace: Mapping[str, Any]) -> str:
    words = {"done": "all read", "growing": "GROWING", "unknown": "pace not known yet"}
    if pace["catch_up"] == "closing":
        return f"all read in {span(pace['catch_up_seconds'])}"
    return words.get(pace["catch_up"], str(pace["catch_up"]))


def _life(now: Mapping[str, Any]) -> str:
    expires = now["credential_expires_at"]
    return "NO CREDENTIAL" if expires is None else f"credential for {span(expires - now['time'])}"


def _room(now: Mapping[str, Any]) -> str:
    room = now["surroundings"].get("room", {})
    return f"; {size(room['free_bytes'])} free" if "free_bytes" in room else ""


def _settled(now: Mapping[str, Any]) -> str:
    settled = {"landed": 0, "failed": 0, **now["settled"]}
    return ", ".join(f"{count(number)} {how}" for how, number in settled.items() if number or how == "landed")


def _copies(now: Mapping[str, Any], speeds: Speeds, width: int, room: int) -> Iterator[Text]:
    # Who moves bytes first, then who waits for a slot; the longest at work on top.
    copies = sorted(now["running"], key=lambda copy: (copy["phase"] == "queued", -copy["seconds"]))
    slots = now["slots"]
    yield Text(f" copies: {slots['taken']} of {slots['limit']} slots", "bold")
    shown = copies if len(copies) < room else copies[: room - 2]
    for copy in shown:
        yield _copy(copy, speeds.of(copy), width)
    if len(copies) > len(shown):
        yield Text(f"  and {len(copies) - len(shown)} more", "dim")


def _copy(copy: Mapping[str, Any], bytes_per_second: float, width: int) -> Text:
    done, whole = copy["received_bytes"], copy["size_bytes"]
    share = min(1.0, done / whole) if whole else 0.0
    cells = round(share * _BAR_CELLS)
    name = _end(_plain(copy["path"]), max(10, width - _TAIL_CELLS - 2))
    line = Text(f"  {name}")
    line.pad_right(max(0, width - _TAIL_CELLS - line.cell_len))
    line.append("  ")
    line.append("\u2588" * cells, "green")
    line.append("\u2591" * (_BAR_CELLS - cells), "dim")
    speed = "" if copy["phase"] == "queued" else rate(bytes_per_second)
    phase = _PHASES.get(copy["phase"], copy["phase"])
    tail = f" {100 * share:4.0f}% {size(whole):>8} {speed:>10} {phase:<9}"
    return line.append(tail.translate(_NUMBERS))


def _end(path: str, cells: int) -> str:
    """The end of a path: what tells the files of one folder apart."""
    return path if len(path) <= cells else f"\u2026{path[1 - cells :]}"


def _failures(now: Mapping[str, Any]) -> Iterator[Text]:
    last = now["last_failures"][-_MOST_FAILURES:]
    if not last:
        return
    yield Text("")
    yield Text(" given up last", "bold")
    for failure in reversed(last):
        name = _end(_plain(failure["path"]), 30)
        words = f"  {clock(failure['at'])[11:]} {failure['error_class']}  {name}  {failure['message']}"
        yield Text(_plain(words), "red")
