"""The benchmarks' arithmetic; what they measure is no test."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from benchmarks import bars, goals, phases, sets, tables, verdict
from benchmarks.bars import Bar
from benchmarks.runs import Measured
from benchmarks.usage import Cpu, Sample, Watch

PROGRAMS = ["__main__", "copies", "daemon", "engine", "machine", "peers.naive", "profile", "servers", "stage"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_can_be_imported(name: str) -> None:
    assert importlib.import_module(f"benchmarks.{name}").__doc__


# --- bars ---------------------------------------------------------------------------------------------------------


def bar(measured: float | None, limit: float, *, at_least: bool = True) -> Bar:
    return Bar("a bar", measured, limit, "x", at_least)


@pytest.mark.parametrize(
    ("one", "holds"),
    [
        (bar(1.0, 1.0), True),
        (bar(0.999, 1.0), False),
        (bar(1.0, 1.0, at_least=False), True),
        (bar(1.001, 1.0, at_least=False), False),
        (bar(None, 0.0), False),
        (bar(None, 9.0, at_least=False), False),
    ],
)
def test_a_bar_holds_up_to_its_limit_and_never_unmeasured(one: Bar, holds: bool) -> None:
    assert one.holds is holds


def test_the_parts_are_combined_and_one_missed_bar_makes_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bars.finish("copies", [bar(2.0, 1.0)], tmp_path) == 0
    assert bars.finish("events", [bar(2.0, 1.0), bar(0.5, 1.0)], tmp_path) == 1
    capsys.readouterr()
    assert verdict.main(["--folder", str(tmp_path), "--into", str(tmp_path / "results" / "full")]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "bars: 2 of 3 hold"
    bars.finish("events", [bar(2.0, 1.0)], tmp_path)
    assert verdict.main(["--folder", str(tmp_path), "--into", str(tmp_path / "results" / "full")]) == 0
    assert "**bars: 2 of 2 hold**" in (tmp_path / "results" / "full.md").read_text()
    told = json.loads((tmp_path / "results" / "full.json").read_text())
    assert told["bars"]["events"][0]["holds"]
    assert told["machine"]["kernel"]


def test_a_part_that_has_not_run_is_not_forgotten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bars.finish("copies", [bar(2.0, 1.0)], tmp_path)
    bars.finish("events", [bar(2.0, 1.0)], tmp_path)
    bars.forget("events", tmp_path)
    assert verdict.main(["--folder", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "bars: 1 of 1 hold"


def test_no_bars_at_all_are_no_success() -> None:
    assert bars.exit_code([]) == 1


# --- tables and goals ---------------------------------------------------------------------------------------------


def runs(*seconds: float, cpu: float = 1.0) -> list[Measured]:
    return [Measured(each, Cpu(cpu, 0.0), 2**20) for each in seconds]


def test_rates_are_of_the_median_run_and_divided_by_the_reference() -> None:
    table = tables.table("large", 4, 4 * 10**9, {"dcalqr": runs(9.0, 2.0, 1.0), "Go tuned": runs(4.0, 4.0, 4.0)})
    assert table.rows["dcalqr"].rate == 2 * 10**9
    assert table.rate_ratio("dcalqr", "Go tuned") == 2.0
    assert table.rate_ratio("dcalqr", "nobody") is None
    assert "| dcalqr | 2000 | 2.00 | 0.25 | 1.00 | 1 | 1.00 - 9.00 |  |" in tables.markdown(table)


def test_small_files_are_counted_and_not_weighed() -> None:
    table = tables.table("small", 1000, 20_000_000, {"Go tuned": runs(2.0)})
    assert table.rows["Go tuned"].rate == 500


def all_tables(ours: float, theirs: float) -> dict[str, tables.Table]:
    programs = {
        **dict.fromkeys(["dcalqr", "dcalqr engine"], runs(ours, cpu=ours)),
        **dict.fromkeys(["Go plain", "Go tuned", "Go tuned resuming", "rclone", "C floor"], runs(theirs, cpu=theirs)),
    }
    return {each.name: tables.table(each.name, 1, 10**9, programs) for each in sets.SETS}


def test_all_goals_are_reached_by_who_is_twice_as_fast_and_none_by_who_is_not_measured() -> None:
    assert all(each.holds for each in goals.copy_bars(all_tables(1.0, 2.0)))
    assert not any(each.holds for each in goals.copy_bars(all_tables(2.0, 1.0)))
    assert {each.measured for each in goals.copy_bars({})} == {None}


# --- sets ---------------------------------------------------------------------------------------------------------


def test_a_missing_a_short_and_a_wrong_file_are_found(tmp_path: Path) -> None:
    kinds = sets.make(tmp_path, sets.Sizes(large=1, large_bytes=1000, medium=2, small=4))
    assert [file.size_bytes for file in kinds["mixed"]] == [sets.MEDIUM_BYTES, sets.SMALL_BYTES, sets.SMALL_BYTES]
    manifest = sets.write_manifest(tmp_path / "manifest", kinds["small"])
    assert sets.read_manifest(manifest) == kinds["small"]
    manifest.unlink()
    every = [file for files in kinds.values() for file in files]
    sets.check(tmp_path, every)
    victim = tmp_path / kinds["small"][0].path
    content = victim.read_bytes()
    for wrong in (content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
        victim.unlink()
        victim.write_bytes(wrong)
        with pytest.raises(sets.WrongResult):
            sets.check(tmp_path, every, sample=len(every))
    victim.unlink()
    with pytest.raises(sets.WrongResult):
        sets.check(tmp_path, every)


# --- what a run costs ---------------------------------------------------------------------------------------------


def test_processor_time_between_two_looks_is_shared_out_evenly() -> None:
    watch = Watch(0)
    watch.samples = [Sample(10.0, Cpu(1.0, 0.0), 5), Sample(20.0, Cpu(3.0, 4.0), 9), Sample(30.0, Cpu(5.0, 4.0), 7)]
    assert watch.cpu_at(15.0) == Cpu(2.0, 2.0)
    assert watch.cpu_at(0.0) == Cpu(1.0, 0.0)
    assert watch.cpu_at(99.0) == Cpu(5.0, 4.0)
    assert watch.peak_bytes == 9


PERF = """\
 4711
\tffffffff81 tcp_sendmsg ([kernel.kallsyms])
\tffffffff82 __x64_sys_sendto ([kernel.kallsyms])
\tffffffff83 do_syscall_64 ([kernel.kallsyms])
\t    7f0001 __send (/usr/lib/libc.so.6)

 4712
\t    7f0002 aesni_gcm_decrypt (/usr/lib/libcrypto.so.3)

 4712
\t    7f0003 _PyEval_EvalFrameDefault (/usr/lib/libpython3.11.so.1.0)
"""


def test_a_sample_belongs_to_its_system_call_or_else_to_its_library() -> None:
    found = [(pid, phases.part_of(stack)) for pid, stack in phases.samples(PERF)]
    assert found == [(4711, "kernel: network: send, receive"), (4712, "TLS: ciphers"), (4712, "Python")]


def test_stacks_are_counted_by_the_module_that_runs() -> None:
    lines = ["main (a.py:1);one (dcalqr/log.py:7) 3", "main (a.py:1);two (/x/site-packages/httpx/_urls.py:2) 2"]
    assert phases.modules(lines) == {"dcalqr/log.py": 3, "httpx": 2}
