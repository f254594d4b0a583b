"""Which rows a replay takes, and that it leaves the others alone."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from dcalqr.config import load
from dcalqr.looking.asked import event_path
from dcalqr.replay import to_do
from dcalqr.replay.select import Selection, moment
from dcalqr.testing import samples
from tests.replay.test_replay import replay, row, write_rows
from tests.support.site import FOLDER, ROOT, Site

NOW = 1_790_000_000.0
BASE = row("a/x", b"abc", "0" * 36)


@pytest.mark.parametrize(
    ("selection", "taken"),
    [
        (Selection(), True),
        (Selection(classes=frozenset({"forbidden"})), True),
        (Selection(classes=frozenset({"transient", "checksum"})), False),
        (Selection(reasons=("HTTP 403",)), True),
        (Selection(reasons=("http 403", "although")), True),
        (Selection(reasons=("http 403", "timed out")), False),
        (Selection(path=f"{ROOT}{FOLDER}"), True),
        (Selection(path=f"{ROOT}{FOLDER}/a/"), True),
        (Selection(path=f"{ROOT}{FOLDER}/a/x"), True),
        (Selection(path=f"{ROOT}{FOLDER}/a/x/y"), False),
        (Selection(path=f"{ROOT}{FOLDER}/a/"[:-2]), True),
        (Selection(path=f"{ROOT}{FOLDER}/b"), False),
        (Selection(since=NOW), True),
        (Selection(since=NOW + 1), False),
        (Selection(until=NOW), False),
        (Selection(until=NOW + 1), True),
        (Selection(classes=frozenset({"forbidden"}), since=NOW + 1), False),
    ],
)
def test_a_selection_takes_what_meets_all_that_is_asked(selection: Selection, taken: bool) -> None:
    message = "the door refuses this file (HTTP 403) although it serves the folder"
    assert selection.takes(msgspec.structs.replace(BASE, time=NOW, message=message)) is taken


def test_a_path_is_a_prefix_at_component_boundaries_only() -> None:
    assert not Selection(path=f"{ROOT}{FOLDER}/a").takes(msgspec.structs.replace(BASE, path=f"{ROOT}{FOLDER}/ab/x"))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("now", NOW),
        ("90s", NOW - 90),
        ("30m", NOW - 1800),
        ("2h", NOW - 7200),
        ("1.5d", NOW - 129_600),
        ("1w", NOW - 604_800),
        ("2026-09-21T14:13:20Z", NOW),
        ("2026-09-21T16:13:20+02:00", NOW),
        ("2026-09-21", NOW - 14 * 3600 - 13 * 60 - 20),
    ],
)
def test_a_time_is_a_date_or_a_duration_until_now(text: str, meant: float) -> None:
    assert moment(text, NOW) == meant


@pytest.mark.parametrize(
    "text", ["", "2", "h", "-2h", "2 h", "yesterday", "2026-9-21", "2026-02-30", "2026-09-21T14:13:20", "earliest"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        moment(text, NOW)


def test_a_file_is_known_by_all_its_names(site: Site) -> None:
    config = load(site.write_config())
    path = f"{ROOT}{FOLDER}/a/b c"
    for given in (path, f"{FOLDER}/a/b c", "a/b c", "./a//b c", f"{site.download}/a/b c"):
        assert event_path(config, given) == path
    assert event_path(config, "b c", f"{site.download}/a") == path
    assert event_path(config, "a/", "/tmp") == f"{ROOT}{FOLDER}/a"
    assert event_path(config, str(site.download)) == f"{ROOT}{FOLDER}"
    for given in (f"{site.download}x/a", "/pnfs/elsewhere", f"{ROOT}{FOLDER}x/a"):
        with pytest.raises(ValueError, match="is neither below"):
            event_path(config, given)


# --- as a command -------------------------------------------------------------------------------------------------


def mixed_rows(site: Site) -> Path:
    """Two forbidden, one of them old, and a transient one, in two folders."""
    rows = []
    for number, (name, error_class, age) in enumerate(
        [("a/new", "forbidden", 60), ("a/old", "forbidden", 7200), ("b/late", "transient", 60)]
    ):
        file = site.door.put(f"{FOLDER}/{name}", b"abc", pnfsid=samples.new_pnfsid(site.random))
        made = row(name, b"abc", file.pnfsid, number=number)
        message = "gave up: timed out" if error_class == "transient" else "HTTP 403"
        changes = {"error_class": error_class, "time": time.time() - age, "message": message}
        rows.append(msgspec.structs.replace(made, **changes))
    return write_rows(site, *rows)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--class", "transient"], ["b/late"]),
        (["--class", "transient", "--class", "forbidden"], ["a/new", "a/old", "b/late"]),
        (["--reason", "Timed OUT"], ["b/late"]),
        (["--path", "a"], ["a/new", "a/old"]),
        (["--path", f"{ROOT}{FOLDER}/a/old"], ["a/old"]),
        (["--since", "1h"], ["a/new", "b/late"]),
        (["--until", "1h"], ["a/old"]),
        (["--since", "2020-01-01"], ["a/new", "a/old", "b/late"]),
        (["--class", "forbidden", "--since", "1h"], ["a/new"]),
    ],
)
def test_only_selected_rows_run_and_the_others_stay_to_do(site: Site, arguments: list[str], names: list[str]) -> None:
    path, config = mixed_rows(site), site.write_config()
    others = 3 - len(names)
    dry = replay(config, "--dry-run", *arguments, str(path))
    assert f"{len(names)} row" in dry.stdout.splitlines()[-1]
    assert (f"{others} not selected" in dry.stdout) is bool(others)
    assert not site.door.requests

    done = replay(config, *arguments, str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    selected = f"{others} not selected, " if others else ""
    assert f"3 rows: 0 done before, {selected}{len(names)} landed, 0 not reached" in done.stdout
    assert sorted(str(each.relative_to(site.download)) for each in site.download.rglob("*") if each.is_file()) == names
    rest = replay(config, str(path))
    assert f"3 rows: {len(names)} done before, " in rest.stdout
    assert len(to_do(path)) == 3


def test_a_dry_run_counts_by_class(site: Site) -> None:
    done = replay(site.write_config(), "--dry-run", str(mixed_rows(site)))
    assert done.stdout.splitlines()[-1] == "3 rows to replay, 0 done before; by class: 2 forbidden, 1 transient"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--since", "soon"], "neither a time, nor a date such as 2026-01-31 (UTC), nor a duration"),
        (["--since", "1h", "--until", "2h"], "is after"),
        (["--path", "/elsewhere"], "is neither below"),
        (["--class", "nonsense"], "no row has the class nonsense; there are checksum,"),
        (["--compact", "--class", "x"], "--compact takes CSV and nothing else"),
        (["--compact", "--from-topic", "1h", "now"], "--compact takes CSV and nothing else"),
        (["--from-topic", "1h", "now", "--class", "x"], "neither CSV nor a selection"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(site: Site, arguments: list[str], words: str) -> None:
    done = replay(site.write_config(), *arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_the_first_dcalqrs_file_is_named_as_such_with_the_way_out(site: Site) -> None:
    path = site.folder / "failed.csv"
    path.write_text("/pnfs/x,404\n")
    done = replay(site.write_config())
    assert done.returncode == 65
    assert "If the first dcalqr wrote it: move it away" in done.stderr
    assert "dcalqr replay --from-topic T1 T2" in done.stderr
