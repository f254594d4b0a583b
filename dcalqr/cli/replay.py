"""The command line of `dcalqr replay`: rows of a file, a stretch of the topic, or a compaction."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dcalqr import errors
from dcalqr.cli.options import a_file, config_option, load_config, log_format
from dcalqr.exits import fails_in_words, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from dcalqr.config import Config
    from dcalqr.replay import Result
    from dcalqr.replay.run import Progress
    from dcalqr.replay.select import Selection
    from dcalqr.replay.topic import TopicResult

_WHEN = (
    "an RFC 3339 time such as 2026-01-31T12:00:00Z, a date such as 2026-01-31 (it means 00:00 UTC), or a duration "
    "until now such as 90s, 30m, 2h, 7d"
)


@click.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Only say what would be run again.")
@click.option("--class", "classes", metavar="CLASS", multiple=True, help="Only rows of this class; may be repeated.")
@click.option(
    "--reason", "reasons", metavar="WORDS", multiple=True, help="Only rows with these words in their message."
)
@click.option("--path", "prefix", metavar="PREFIX", help="Only this file, or files below this folder.")
@click.option("--since", metavar="TIME", help=f"Only rows written then or later: {_WHEN}.")
@click.option("--until", metavar="TIME", help="Only rows written before then; as --since.")
@click.option(
    "--from-topic",
    "stretch",
    nargs=2,
    metavar="T1 T2",
    help=f"Run the uploads again that the topic announced from T1 to T2: {_WHEN}, or now.",
)
@click.option("--compact", is_flag=True, help="Take the rows that are done out of CSV; runs nothing.")
@click.argument("csv", required=False, type=a_file)
@fails_in_words
def replay(path: Path, csv: Path | None, **options: Any) -> int:
    """Run the failed tasks of a CSV file again.

    CSV is local.failedtasksfile by default; a running daemon may stay. Rows that are done are noted in CSV.done and not
    run twice; what fails again goes to a new file beside CSV.

    Exit code 0: every row is done, none failed again, 1: some failed again or were not reached, 65: CSV is missing or
    is no failed-tasks file, 69: Kafka does not answer (--from-topic), 73: another replay is running, or a file cannot
    be made, 77: a file is not for this user, 78: the configuration is refused.

    With --from-topic, uploads of the past run again, for example after a disk was lost: without a consumer group, so
    the daemon's offsets stay as they are. What is here already is left alone. May be killed and repeated.
    """
    dry_run, stretch, compact = options.pop("dry_run"), options.pop("stretch"), options.pop("compact")
    selects = any(options.values())
    if compact and (dry_run or stretch or selects):
        raise click.UsageError("--compact takes CSV and nothing else")
    if stretch and (csv or selects):
        raise click.UsageError("--from-topic takes neither CSV nor a selection of rows")
    config = load_config(path)
    if stretch:
        return _from_topic(config, path, *_moments(stretch), dry_run=dry_run)
    selection = _selection(config, **options)
    csv = found_file(csv, Path(config.local.failedtasksfile))
    if compact:
        return _compact(csv)
    if dry_run:
        return _dry_run(csv, selection)
    return _replay(config, path, csv, selection)


def found_file(csv: Path | None, default: Path) -> Path:
    """Return the file that is meant; raises BadData or NoPermission, with its key, for one that cannot be read."""
    path, key = (csv, "CSV") if csv else (default, "local.failedtasksfile")
    try:
        with path.open("rb"):
            return path
    except PermissionError as error:
        why = f"{error.strerror}; run it as the daemon's user, or as root"
        raise errors.NoPermission(path=f"{key}: {path}", why=why) from error
    except FileNotFoundError as error:
        why = "there is no such file" if csv else "there is no such file: a daemon with this configuration makes it"
        raise errors.BadData(path=f"{key}: {path}", why=why) from error
    except OSError as error:
        raise errors.BadData(path=f"{key}: {path}", why=f"cannot be read: {error.strerror}") from error


def _moments(texts: tuple[str, ...]) -> list[float]:
    from dcalqr.replay.select import moment

    now = time.time()
    try:
        moments = [moment(text, now) for text in texts]
    except ValueError as error:
        raise click.UsageError(printable(str(error))) from error
    if moments != sorted(moments):
        raise click.UsageError(f"{printable(texts[0])} is after {printable(texts[1])}")
    return moments


def _selection(
    config: Config,
    *,
    classes: tuple[str, ...],
    reasons: tuple[str, ...],
    prefix: str | None,
    since: str | None,
    until: str | None,
) -> Selection:
    from dcalqr.looking.asked import event_path
    from dcalqr.replay.select import Selection

    for unknown in sorted(set(classes).difference(errors.row_classes())):
        known = ", ".join(errors.row_classes())
        raise click.UsageError(f"no row has the class {printable(unknown)}; there are {known}")
    if since and until:
        _moments((since, until))
    begin, end = (_moments((text,))[0] if text else None for text in (since, until))
    try:
        folder = event_path(config, prefix) if prefix else ""
    except ValueError as error:
        raise click.UsageError(printable(str(error))) from error
    return Selection(frozenset(classes), reasons, folder, begin, end)


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


# --- rows of a file -----------------------------------------------------------------------------------------------


def _dry_run(csv: Path, selection: Selection) -> int:
    from dcalqr.replay import done_ids, to_do

    done, rows = done_ids(csv), to_do(csv)
    open_rows = [row for row in rows if row.id not in done]
    chosen = [row for row in open_rows if selection.takes(row)]
    for row in chosen:
        click.echo(f"{printable(row.path)}  ({row.error_class}: {printable(row.message)})")
    words = [f"{_rows(len(chosen))} to replay", f"{len(rows) - len(open_rows)} done before"]
    if len(chosen) < len(open_rows):
        words.append(f"{len(open_rows) - len(chosen)} not selected")
    classes = Counter(row.error_class for row in chosen)
    by_class = ", ".join(f"{count} {printable(name)}" for name, count in classes.most_common())
    click.echo(", ".join(words) + (f"; by class: {by_class}" if by_class else ""))
    return errors.EXIT_OK


def _replay(config: Config, path: Path, csv: Path, selection: Selection) -> int:
    from dcalqr.replay import Replay

    click.echo(f"replaying {printable(str(csv))}: {_limit(config)}")
    result = _with_bar(config, lambda show: Replay(config, csv, show, selection).run())
    _say_result(result, csv)
    _say_failures(result, path)
    return errors.EXIT_UNEXPECTED if result.failed or result.unsettled else errors.EXIT_OK


def _say_result(result: Result, csv: Path) -> None:
    if not result.rows:
        click.echo(f"{printable(str(csv))} holds no failed task: nothing to do")
        return
    counts = _counts(result) or ("0 landed" if result.unsettled else "nothing to do")
    again = "; run the same command again for these" if result.unsettled else ""
    others = f"{result.not_selected} not selected, " if result.not_selected else ""
    before = f"{_rows(result.rows)}: {result.done_before} done before, {others}"
    click.echo(f"{before}{counts}, {result.unsettled} not reached{again}")


def _limit(config: Config) -> str:
    return f"up to {config.dcache.maxdownloads} downloads at a time, besides those of a running daemon"


def _counts(result: Progress) -> str:
    return ", ".join(f"{count} {how}" for how, count in sorted(result.settled.items()) if count)


def _say_failures(result: Progress, config: Path) -> None:
    if result.failures is not None:
        click.echo(f"what failed again is in {result.failures}; run: dcalqr replay --config {config} {result.failures}")


def _with_bar(config: Config, work: Callable[[Callable[[Progress], None]], Coroutine[Any, Any, Any]]) -> Any:
    import asyncio

    from dcalqr import log
    from dcalqr.replay.bar import Bar

    async def again() -> Any:
        with Bar() as bar:
            if bar.is_shown:
                log.configure("warning", log_format(config) or "console", bar.log_stream)
            else:
                log.configure(config.log.level, log_format(config))
            return await work(bar.show)

    return asyncio.run(again())


# --- a stretch of the topic ---------------------------------------------------------------------------------------


def _from_topic(config: Config, path: Path, since: float, until: float, *, dry_run: bool) -> int:
    import asyncio

    from dcalqr.replay.topic import TopicReplay

    when = " to ".join(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(each)) for each in (since, until))
    if dry_run:
        return asyncio.run(_count(config, since, until, when))
    click.echo(f"replaying {config.kafka.topic} from {when}: {_limit(config)}")
    result: TopicResult = _with_bar(config, lambda show: TopicReplay(config, since, until, show).run())
    _say_late(result.begins_late)
    again = "; run the same command again for these" if result.unsettled else ""
    click.echo(
        f"{result.records} records: {result.counters.matched} matched, {_counts(result) or 'nothing to do'}, "
        f"{result.lost} deleted unread, {result.unsettled} not reached{again}"
    )
    _say_failures(result, path)
    return errors.EXIT_OK if result.is_well else errors.EXIT_UNEXPECTED


async def _count(config: Config, since: float, until: float, when: str) -> int:
    from io import BytesIO

    from dcalqr import log
    from dcalqr.kafka.stretch import Stretch

    log.configure("warning", stream=BytesIO())  # libraries are heard, not shown: see LastComplaint
    async with Stretch(config.kafka, since, until) as stretch:
        for part in stretch.parts.values():
            click.echo(
                f"partition {part.partition}: {part.end - part.begin} records, from offset {part.begin} to {part.end}"
            )
        _say_late([part.partition for part in stretch.parts.values() if part.at_log_begin])
        click.echo(f"{stretch.records} records of {config.kafka.topic} to read, from {when}")
    return errors.EXIT_OK


def _say_late(partitions: list[int]) -> None:
    if partitions:
        numbers = ", ".join(map(str, partitions))
        click.echo(f"the log of partition {numbers} begins within this time: what was older is deleted")


# --- compaction ---------------------------------------------------------------------------------------------------


def _compact(csv: Path) -> int:
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from dcalqr.local.compaction import compact

    threads = ThreadPoolExecutor(1, thread_name_prefix="rows")
    try:
        result = asyncio.run(compact(str(csv), threads))
    finally:
        threads.shutdown(wait=False)
    size = f"{result.bytes_before} bytes before, {result.bytes_after} now"
    click.echo(f"{printable(str(csv))}: {_rows(result.gone)} done and taken out, {result.kept} left; {size}")
    return errors.EXIT_OK
