"""The status page: a snapshot as HTML, for somebody who was woken and has never read our code. Pure.

Paths and messages are written by others: `_text` is the only way into the page, for them and for all else.
"""

from __future__ import annotations

import html
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dcalqr import logtext
from dcalqr.metrics.page_style import POLICY, STYLE, sign
from dcalqr.metrics.web import Answer
from dcalqr.metrics.wording import behind, clock, count, rate, size, span

# Slow enough to read and to copy a word from, quick enough to see a bar move.
REFRESH_SECONDS = 10
# Of a thousand copies nobody reads the second hundred.
SHOWN_COPIES = 50
# A path may have 4 095 bytes; its end, which is the name, is always shown.
PATH_CHARACTERS = 240
# A proxy lives for a day or a few; one that ends in two hours should have been renewed by now.
SHORT_LIFE_SECONDS = 2 * 3600.0

# What a hold is about, for who has never met one; the same words are anchors in the runbook.
_HOLDS = {
    "credential": "There is no proxy certificate that the door accepts.",
    "unreachable": "The door cannot be reached.",
    "folder": "The door does not show the configured folder.",
    "space": "There is no room in the download folder.",
    "mount": "The download folder is not there, or not writable.",
}
_PHASES = {
    "queued": "waits for a slot",
    "door_wait": "asked the door",
    "connect": "connects to the pool",
    "first_byte": "waits for the first byte",
    "body": "receives",
    "sync": "writes to the disk",
    "publish": "gets its name",
}


def render(snapshot: Mapping[str, Any], complaints: Sequence[str]) -> Answer:
    """Make the page; `complaints` are what is not well, worst first."""
    state, word = _state(snapshot, complaints)
    body = "".join(
        (
            _header(snapshot, state, word),
            "<main>",
            _complaints(snapshot, complaints),
            _tiles(snapshot),
            _copies(snapshot),
            _failures(snapshot),
            '<div class="pair">',
            _surroundings(snapshot),
            _partitions(snapshot),
            "</div></main>",
            _footer(snapshot),
        )
    )
    title = f"{word}: {snapshot['instance']} (dcalqr)"
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}"><title>{_text(title)}</title>'
        f'<link rel="icon" href="{sign(state)}"><style>{STYLE}</style></head><body>{body}</body></html>\n'
    )
    return Answer(200, page.encode(), "text/html; charset=utf-8", (("Content-Security-Policy", POLICY),))


def _text(value: object) -> str:
    """Any text, fit to stand in HTML, between quotes too; controls, bidi marks and lone surrogates are escaped."""
    return html.escape(logtext.escape(str(value)), quote=True)


def _state(snapshot: Mapping[str, Any], complaints: Sequence[str]) -> tuple[str, str]:
    if snapshot["draining"]:
        return "warn", "draining"
    return ("bad", "not well") if complaints else ("good", "well")


def _section(title: str, content: str, aside: str = "", state: str = "") -> str:
    extra = f"<span>{aside}</span>" if aside else ""
    return f'<section class="{state}"><h2>{title}{extra}</h2>{content}</section>'


def _header(snapshot: Mapping[str, Any], state: str, word: str) -> str:
    return (
        f"<header><h1>{_text(snapshot['instance'])}<small>dcalqr</small></h1>"
        f'<span class="state {state}">{word}</span>'
        f'<span class="when">{clock(snapshot["time"])} UTC</span></header>'
    )


def _complaints(snapshot: Mapping[str, Any], complaints: Sequence[str]) -> str:
    """What is not well: a hold with what it means, all else in the words of `dcalqr status`."""
    held = [
        f'<li><div class="row"><b class="badword">{_HOLDS.get(hold["reason"], "Nothing is tried.")}</b>'
        f'<span class="soft">for {span(hold["seconds"])}</span></div>'
        f'<p class="why">{_text(hold["message"])}</p>'
        f'<p class="note">Nothing is tried and nothing is lost until this is over. In the runbook:'
        f" hold-{_text(hold['reason'])}.</p></li>"
        for hold in snapshot["holds"]
    ]
    others = [f'<li><p class="why">{_text(each)}</p></li>' for each in complaints if not each.startswith("hold ")]
    if not held and not others:
        return ""
    return _section(
        "Not well", f"<ul>{''.join((*held, *others))}</ul>", aside="what to do: docs/runbook.md", state="bad"
    )


def _tile(title: str, number: str, note: str, state: str = "") -> str:
    return f'<section><h2>{title}</h2><strong class="{state}">{number}</strong><p>{note}</p></section>'


def _tiles(snapshot: Mapping[str, Any]) -> str:
    settled, pace, slots = snapshot["settled"], snapshot["pace"], snapshot["slots"]
    landed, failed = settled.get("landed", 0), settled.get("failed", 0)
    waiting = max(0, snapshot["open"] - slots["taken"])
    hidden = snapshot["waiting_for_visibility"]
    return (
        '<div class="tiles">'
        + _tile(
            "Landed",
            count(landed),
            f"{size(snapshot['landed_bytes'])} in all; now {rate(pace['bytes_per_second'])},"
            f" {pace['files_per_second'] * 60:.3g} files/min",
        )
        + _tile("Lag", *_lag(snapshot))
        + _tile(
            "Under way",
            f"{count(slots['taken'])} of {count(slots['limit'])}",
            f"{count(waiting)} wait" + (f", {count(hidden)} of them for their file to appear" if hidden else ""),
        )
        + _tile("Failed", count(failed), "rows in the failed-tasks file", "warnword" if failed else "")
        + "</div>"
    )


def _lag(snapshot: Mapping[str, Any]) -> tuple[str, str, str]:
    pace, found = snapshot["pace"], behind(snapshot["kafka"])
    if not snapshot["kafka"]["partitions"]:
        return "?", "no partition is assigned", "warnword"
    if found is None:
        return "?", "not known yet", ""
    unread = f"{count(found.unread)} unread"
    match pace["catch_up"]:
        case "done":
            return count(found.lag), f"{unread}: everything is read", ""
        case "closing":
            return count(found.lag), f"{unread}; caught up in {span(pace['catch_up_seconds'])}", ""
        case "growing":
            return count(found.lag), f"{unread}, and they become more", "warnword"
        case _:
            return count(found.lag), f"{unread}; the pace is not known yet", ""


def _copies(snapshot: Mapping[str, Any]) -> str:
    running = sorted(snapshot["running"], key=lambda each: (each["phase"] == "queued", -each["seconds"]))
    if not running:
        return _section("Copies", '<p class="note">None just now.</p>')
    left = len(running) - SHOWN_COPIES
    more = f'<li class="soft">and {count(left)} more</li>' if left > 0 else ""
    aside = f"{count(len(running))}, longest first"
    return _section("Copies", f"<ul>{''.join(map(_copy, running[:SHOWN_COPIES]))}{more}</ul>", aside)


def _copy(each: Mapping[str, Any]) -> str:
    received, total = each["received_bytes"], each["size_bytes"]
    how_much = f"{size(received)} of {size(total)}" if total else size(received)
    bar = ""
    if each["phase"] != "queued":
        share = f' max="{int(total)}" value="{min(int(received), int(total))}"' if total else ""
        bar = f'<progress{share} aria-label="received"></progress>'
    phase = _text(_PHASES.get(each["phase"], each["phase"]))
    return (
        f'<li><div class="row">{_path(each["path"])}<span class="soft">{how_much}</span></div>{bar}'
        f'<div class="soft">{phase}, {span(each["seconds"])}</div></li>'
    )


def _path(path: str) -> str:
    """The folder softly, the name plainly; the middle of what is too long goes, its name stays."""
    shown = logtext.escape(path)
    if len(shown) > PATH_CHARACTERS:
        half = PATH_CHARACTERS // 2
        shown = f"{shown[:half]} … {shown[-half:]}"
    folder, slash, name = shown.rpartition("/")
    return f'<bdi class="path"><span>{_text(folder + slash)}</span><b>{_text(name)}</b></bdi>'


def _failures(snapshot: Mapping[str, Any]) -> str:
    failures = snapshot["last_failures"]
    if not failures:
        return ""
    rows = "".join(
        f'<li><div class="row">{_path(each["path"])}'
        f'<span class="soft">{span(snapshot["time"] - each["at"])} ago, {_tries(each["attempts"])}</span></div>'
        f'<p class="why"><b>{_text(each["error_class"])}</b> {_text(each["message"])}</p></li>'
        for each in reversed(failures)
    )
    command = f"dcalqr replay --config {shlex.quote(snapshot['config'])}"
    advice = (
        '<p class="note">Each is a row in the failed-tasks file. When the cause is gone, look, then run them again;'
        " the daemon may stay:</p>"
        f"<code>{_text(command)} --dry-run\n{_text(command)}</code>"
    )
    return _section("Last failures", f"<ul>{rows}</ul>{advice}", "since the start, newest first")


def _tries(number: int) -> str:
    return "1 try" if number == 1 else f"{number} tries"


def _surroundings(snapshot: Mapping[str, Any]) -> str:
    papers = snapshot["surroundings"].get("papers", {})
    facts = [("Credential", _life(snapshot["credential_expires_at"], snapshot["time"]))]
    if papers.get("kafka_certificate_expires_at"):
        facts.append(("Kafka certificate", _life(papers["kafka_certificate_expires_at"], snapshot["time"])))
    if papers.get("crl_oldest_at"):
        facts.append(("Oldest revocation list", f"{span(snapshot['time'] - papers['crl_oldest_at'])} old"))
    files = snapshot["surroundings"].get("files", {})
    facts.append(("Failed-tasks file", size(files.get("failed_bytes"))))
    if files.get("unreadable_bytes"):
        facts.append(("Unreadable records", size(files["unreadable_bytes"])))
    lines = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
    return _section("This machine", f"{_room(snapshot)}<dl>{lines}</dl>")


def _life(expires_at: float | None, now: float) -> str:
    if expires_at is None:
        return '<b class="badword">none that can be used</b>'
    left = expires_at - now
    if left <= 0:
        return f'<b class="badword">expired {span(-left)} ago</b>'
    words = f"{span(left)} left"
    return f'<b class="warnword">{words}</b>' if left < SHORT_LIFE_SECONDS else words


def _room(snapshot: Mapping[str, Any]) -> str:
    room = snapshot["surroundings"].get("room", {})
    if "free_bytes" not in room:
        why = _text(room.get("trouble", "it was not looked at yet"))
        return f'<p class="why">Free space is not known: {why}</p>'
    free, whole, least = room["free_bytes"], room["size_bytes"], room["least_bytes"]
    used, full = max(0, whole - free), free <= least
    age = snapshot["time"] - room["seen_at"]
    return (
        f'<div class="row"><span>Download folder</span>'
        f'<span class="{"badword" if full else ""}">{size(free)} free of {size(whole)}</span></div>'
        f'<progress class="{"full" if full else ""}" max="{whole}" value="{used}" aria-label="used space"></progress>'
        f'<p class="note">stops at {size(least)}; seen {span(age)} ago</p>'
    )


def _partitions(snapshot: Mapping[str, Any]) -> str:
    kafka, now = snapshot["kafka"], snapshot["time"]
    rows = "".join(
        f"<tr><td>{_text(number)}</td><td>{_count(each['unread'])}</td><td>{_count(each['open'])}</td>"
        f"<td>{'' if each['oldest_at'] is None else span(now - each['oldest_at'])}</td></tr>"
        for number, each in kafka["partitions"].items()
    )
    halted = "".join(
        f'<tr><td>{_text(number)}</td><td colspan="3" class="badword">halted</td></tr>' for number in kafka["halted"]
    )
    head = "<tr><th>Partition</th><th>Unread</th><th>In work</th><th>Oldest</th></tr>"
    table = f'<div class="wide"><table><thead>{head}</thead><tbody>{rows}{halted}</tbody></table></div>'
    committed = kafka["last_commit_at"]
    note = "nothing committed yet" if committed is None else f"last commit {span(now - committed)} ago"
    return _section(f"Topic {_text(kafka['topic'])}", table, note)


def _count(number: int | None) -> str:
    return "?" if number is None else count(number)


def _footer(snapshot: Mapping[str, Any]) -> str:
    parts: Iterable[str] = (
        f"dcalqr {_text(snapshot['version'])}",
        f"Python {_text(snapshot['python'])}",
        f"aiokafka {_text(snapshot['aiokafka'])}",
        f"process {snapshot['pid']}, up {span(snapshot['time'] - snapshot['started_at'])}",
        _text(snapshot["config"]),
    )
    return f"<footer>{' · '.join(parts)}<br>This page renews itself every {REFRESH_SECONDS} s.</footer>"
