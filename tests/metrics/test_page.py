"""The status page, as text and in a browser."""

from __future__ import annotations

import asyncio
import html.parser
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dcalqr.looking import status
from dcalqr.metrics.page import PATH_CHARACTERS, SHOWN_COPIES, render
from dcalqr.metrics.page_style import POLICY
from dcalqr.metrics.web import WebServer
from dcalqr.metrics.wording import count, size, span
from tests.support.process import require
from tests.support.snapshots import FOLDER, NOW, copy, failure, partition, snapshot

HOSTILE = [
    "<script>document.title='owned'</script>",
    '"><img src=x onerror=document.title="owned">',
    "'><svg/onload=document.title='owned'>",
    "</style></title><body onload=document.title='owned'>",
    "&lt;b&gt;&amp;#60;",
    "<!-- ",
    "]]>",
    "{{7*7}}${7*7}",
    "a\nb\r\x00\x1b[2J\x7f\x9b",
    "\u202egpj.exe",
    "\ud800 lone \udcff",
    "n" * 4000,
    "javascript:alert(1)",
    "' onmouseover=alert(1) x='",
]


class Elements(html.parser.HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(found: dict[str, Any]) -> Elements:
    return Elements(render(found, status.complaints(found)).body)


def hostile() -> dict[str, Any]:
    """A snapshot in which all that others write is meant to do harm."""
    all_of_it = " ".join(HOSTILE)
    found = snapshot(
        running=[copy(f"{FOLDER}/{each}/{each}", phase=each[:9]) for each in HOSTILE],
        last_failures=[failure(each, message=each, error_class=each) for each in HOSTILE],
        holds=[{"domain": "door", "reason": each, "message": each, "seconds": 5.0} for each in HOSTILE],
        config=f"/etc/{all_of_it}",
    )
    halted = dict.fromkeys(HOSTILE, all_of_it)
    found["kafka"] = {**found["kafka"], "topic": all_of_it, "trouble": all_of_it, "halted": halted}
    found["surroundings"] = {"room": {"trouble": all_of_it, "seen_at": NOW}}
    return found


# --- what it says -------------------------------------------------------------------------------------------------


def test_who_is_well_says_so_and_shows_what_it_does() -> None:
    found = page_of(snapshot())
    assert "well: node1 (dcalqr)" in found.text
    assert "412\u2009010" in found.text
    assert "Lag740700 unread; caught up in 1\u00a0min 57\u00a0s" in found.text
    assert "11\u00a0h 20\u00a0min left" in found.text
    assert "21\u00a0TB free of 80\u00a0TB" in found.text
    bars = [attributes for tag, attributes in found.tags if tag == "progress"]
    assert {"max": "12800000000", "value": "6400000000", "aria-label": "received"} in bars
    assert "what to do" not in found.text


def test_a_hold_is_said_first_with_what_it_means_and_where_to_read_on() -> None:
    hold = {"domain": "door", "reason": "credential", "message": "the proxy expired", "seconds": 4210.0}
    found = page_of(snapshot(holds=[hold], credential_expires_at=NOW - 60)).text
    assert "not well: node1" in found
    assert "There is no proxy certificate that the door accepts." in found
    assert "the proxy expired" in found
    assert "for 1\u00a0h 10\u00a0min" in found
    assert "hold-credential" in found
    assert "expired 1\u00a0min ago" in found
    assert found.index("proxy expired") < found.index("Landed")


def test_a_failure_bears_its_reason_and_the_command_that_replays_it() -> None:
    found = page_of(snapshot(config="/etc/my config.toml")).text
    assert "raw_0002.fits" in found
    assert "pool p1.example.org cannot be reached" in found
    assert "10\u00a0min ago, 11 tries" in found
    assert "dcalqr replay --config '/etc/my config.toml' --dry-run" in found


@pytest.mark.parametrize(
    ("pace", "words"),
    [
        ({"catch_up": "done", "catch_up_seconds": 0.0}, "unread: everything is read"),
        ({"catch_up": "growing", "catch_up_seconds": None}, "they become more"),
        ({"catch_up": "unknown", "catch_up_seconds": None}, "the pace is not known yet"),
    ],
)
def test_the_backlog_is_said_in_words(pace: dict[str, Any], words: str) -> None:
    assert words in page_of(snapshot(pace=snapshot()["pace"] | pace)).text


def test_an_instance_without_partitions_does_not_look_as_if_all_was_read() -> None:
    assert "no partition is assigned" in page_of(snapshot(kafka=snapshot()["kafka"] | {"partitions": {}})).text


def test_a_lag_that_nobody_knows_does_not_look_as_if_there_was_none() -> None:
    partitions = {"0": partition(5, 5, 5) | {"unread": None, "lag": None, "end": None}}
    assert "Lag?not known yet" in page_of(snapshot(kafka=snapshot()["kafka"] | {"partitions": partitions})).text


def test_a_proxy_file_that_cannot_be_loaded_is_said_beside_the_one_in_use() -> None:
    found = page_of(snapshot(credential_trouble="the proxy /x cannot be read: it is <empty>")).text
    assert "not well: node1" in found
    assert "the proxy /x cannot be read: it is <empty>; the one loaded before is used on, until 2026-" in found


def test_a_file_system_that_does_not_answer_is_said_and_its_last_answer_is_old() -> None:
    room = snapshot()["surroundings"]["room"] | {"seen_at": NOW - 300}
    found = page_of(snapshot(surroundings={"room": room})).text
    assert "the download folder's file system has not answered for 300 s" in found
    assert "seen 5\u00a0min ago" in found
    assert "Free space is not known" in page_of(snapshot(surroundings={})).text


def test_of_a_thousand_copies_the_longest_are_shown_and_the_others_counted() -> None:
    found = page_of(snapshot(running=[copy(f"/file{number}.x", seconds=number) for number in range(1000)]))
    assert sum(tag == "progress" for tag, _ in found.tags) == SHOWN_COPIES + 1  # and the disk's
    assert "file999.x" in found.text
    assert f"and {1000 - SHOWN_COPIES} more" in found.text


def test_a_copy_of_unknown_size_has_a_bar_without_an_end_and_one_that_waits_has_none() -> None:
    found = page_of(snapshot(running=[copy(size_bytes=None), copy(phase="queued")]))
    assert [attributes for tag, attributes in found.tags if tag == "progress"][:1] == [{"aria-label": "received"}]
    assert sum(tag == "progress" for tag, _ in found.tags) == 2
    assert "waits for a slot" in found.text


def test_a_long_path_loses_its_middle_and_keeps_its_name() -> None:
    found = page_of(snapshot(running=[copy(f"/{'d' * 3000}/name.fits")]))
    assert "name.fits" in found.text
    assert "d" * (PATH_CHARACTERS + 1) not in found.text


def test_partitions_are_listed_with_the_age_of_their_oldest_match() -> None:
    partitions = {"5": partition(10, 12, 1500, NOW - 7200)}
    found = page_of(snapshot(kafka=snapshot()["kafka"] | {"partitions": partitions, "halted": {"6": "lost"}})).text
    assert re.search(r"5\s*1\u2009488\s*2\s*2\u00a0h", found)
    assert "6halted" in found


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0\u00a0s"),
        (59.6, "1\u00a0min"),
        (61, "1\u00a0min 1\u00a0s"),
        (3600, "1\u00a0h"),
        (90_061, "1\u00a0d 1\u00a0h"),
    ],
)
def test_durations_are_said_by_their_two_largest_units(seconds: float, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [(None, "unknown"), (0, "0\u00a0B"), (999, "999\u00a0B"), (12_345, "12.3\u00a0kB"), (4e15, "4\u2009000\u00a0TB")],
)
def test_sizes_are_decimal(number: float | None, words: str) -> None:
    assert size(number) == words
    assert count(1234567) == "1\u2009234\u2009567"


# --- what others write --------------------------------------------------------------------------------------------


def test_hostile_names_add_no_tag_and_no_attribute() -> None:
    harmless, found = page_of(snapshot()), page_of(hostile())
    assert {tag for tag, _ in found.tags} <= {tag for tag, _ in harmless.tags} | {"p", "b", "ul", "li"}
    assert {name for _, attributes in found.tags for name in attributes} <= {
        *("lang", "charset", "name", "content", "http-equiv", "rel", "href", "class", "max", "value", "aria-label"),
        "colspan",
    }
    for each in HOSTILE[:5]:
        assert each in found.text


def test_a_hostile_page_has_no_controls_and_no_bidi_marks() -> None:
    body = render(hostile(), status.complaints(hostile())).body.decode()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", body)


def test_nothing_is_loaded_from_anywhere() -> None:
    found = page_of(hostile())
    links = [str(attributes["href"]) for tag, attributes in found.tags if tag == "link"]
    assert [link.partition(",")[0] for link in links] == ["data:image/svg+xml"]
    assert not {tag for tag, _ in found.tags} & {"script", "img", "iframe", "object", "form", "a", "base"}
    assert "default-src 'none'" in POLICY
    assert "unsafe" not in POLICY


async def in_browser(tmp_path: Path, found: dict[str, Any], *options: str) -> tuple[str, str]:
    """Let Chromium fetch the page from a real server; returns the document as it then is, and the console."""
    chromium = require("chromium", "apt-get install chromium")
    server = WebServer({"/": lambda: render(found, status.complaints(found))}, lambda error: None)
    await server.start("127.0.0.1", 0)
    command = [
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"),
        *(f"--user-data-dir={tmp_path / 'chromium'}", *options, f"http://127.0.0.1:{server.port}/"),
    ]
    try:
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=90, check=True)
    finally:
        server.close()
    return done.stdout.decode(), "\n".join(line for line in done.stderr.decode().splitlines() if "CONSOLE" in line)


async def test_a_browser_shows_the_page_and_complains_of_nothing(tmp_path: Path) -> None:
    document, console = await in_browser(tmp_path, snapshot(), "--dump-dom")
    assert "<title>well: node1 (dcalqr)</title>" in document
    assert console == ""


async def test_a_browser_runs_nothing_of_what_hostile_names_bring(tmp_path: Path) -> None:
    document, console = await in_browser(tmp_path, hostile(), "--dump-dom")
    assert "<title>not well: node1 (dcalqr)</title>" in document
    assert "onerror=document" in document
    assert "<img" not in document
    assert "<script" not in document
    assert console == ""


@pytest.mark.parametrize("width", [360, 1280])
async def test_a_browser_paints_it_on_phones_and_desks(tmp_path: Path, width: int) -> None:
    picture = tmp_path / "page.png"
    await in_browser(tmp_path, hostile(), f"--screenshot={picture}", f"--window-size={width},1600")
    assert picture.stat().st_size > 20_000  # an empty page has some 5 kB
