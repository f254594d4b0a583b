"""The command line: run, check, replay, status, offsets, demo; exit codes; nothing else.

What a command needs is imported by that command: `dcalqr --version` must not wait for Kafka's client.
"""

from __future__ import annotations

import asyncio
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dcalqr import __version__, errors
from dcalqr.exits import fails_in_words, printable

if TYPE_CHECKING:
    from dcalqr.config import Config
    from dcalqr.kafka.groups import PartitionOffsets
    from dcalqr.replay import Result

# Whether a file can be read is found out by reading it: its complaint and exit code are ours, not click's.
a_file = click.Path(path_type=Path, readable=False)
config_option = click.option("--config", "path", required=True, type=a_file, help="The configuration file (TOML).")


def _load(path: Path) -> Config:
    from dcalqr.config import load

    return load(path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dcalqr", message="%(prog)s %(version)s")
def main() -> None:
    """Copy files from dCache to local storage as soon as they are uploaded.

    dcalqr listens to the billing messages that dCache publishes to Kafka, recognises each finished upload below a
    configured folder, and copies the file by HTTPS, complete and verified, or writes a row to the failed-tasks file.

    Exit codes: 0 well, 1 unexpected or not all done, 2 usage, 65 bad data, 69 service unavailable, 73 cannot create,
    77 no permission, 78 configuration.
    """


@main.command()
@config_option
@fails_in_words
def run(path: Path) -> int:
    """Run the daemon in the foreground.

    TERM or INT drains: running copies end, offsets are committed; a second one stops at once. HUP reloads credentials,
    maxdownloads, minrate and log.level.
    """
    from dcalqr import log
    from dcalqr.daemon import Daemon

    config = _load(path)
    log.configure(config.log.level, config.log.format)

    async def serve() -> None:
        await Daemon(config, path).run()

    asyncio.run(serve())
    return errors.EXIT_OK


@main.command()
@config_option
@click.option("--online", is_flag=True, help="Also ask Kafka, the door and the download folder.")
@fails_in_words
def check(path: Path, online: bool) -> int:  # noqa: FBT001 - click gives flags so
    """Check the configuration file; with --online also what it names.

    Offline, only what the file itself shows is an error; what is missing on this machine now is a warning, because the
    daemon would wait for it.
    """
    from dcalqr import config_warnings

    config = _load(path)
    click.echo(f"{path}: well-formed")
    warnings = config_warnings.warnings_of(config)
    code = errors.EXIT_OK
    if online:
        from dcalqr import log
        from dcalqr.check import look

        log.configure("warning", stream=BytesIO())  # libraries are heard, not shown: see LastComplaint
        findings = asyncio.run(look(config))
        warnings += findings.warnings
        code = findings.exit_code
        for words in findings.good:
            click.echo(f"ok: {printable(words)}")
        for words in findings.bad:
            click.echo(f"wrong: {printable(words)}")
    for words in warnings:
        click.echo(f"warning: {printable(words)}")
    return code


@main.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Only say what would be run again.")
@click.argument("csv", required=False, type=a_file)
@fails_in_words
def replay(path: Path, dry_run: bool, csv: Path | None) -> int:  # noqa: FBT001 - click gives flags so
    """Run the failed tasks of a CSV file again.

    CSV is local.failedtasksfile by default; a running daemon may stay. Rows that are done are noted in CSV.done and not
    run twice; what fails again goes to a new file beside CSV. Exit code 0: every row is done, none failed again.
    """
    from dcalqr import log
    from dcalqr.replay import Replay, done_ids, to_do
    from dcalqr.replay_bar import Bar

    config = _load(path)
    csv = csv or Path(str(config.local.failedtasksfile))
    if dry_run:
        done = done_ids(csv)
        rows = [row for row in to_do(csv) if row.id not in done]
        for row in rows:
            click.echo(f"{printable(row.path)}  ({row.error_class}: {printable(row.message)})")
        click.echo(f"{len(rows)} rows to replay, {len(done)} done before")
        return errors.EXIT_OK
    limit = f"{config.dcache.maxdownloads} downloads at a time, besides those of a running daemon"
    click.echo(f"replaying {printable(str(csv))}: up to {limit}")

    async def again() -> Result:
        with Bar() as bar:
            if bar.is_shown:
                log.configure("warning", config.log.format or "console", bar.log_stream)
            else:
                log.configure(config.log.level, config.log.format)
            return await Replay(config, csv, bar.show).run()

    result = asyncio.run(again())
    _say_result(result, path)
    return errors.EXIT_UNEXPECTED if result.failed or result.unsettled else errors.EXIT_OK


def _say_result(result: Result, config: Path) -> None:
    counts = ", ".join(f"{count} {how}" for how, count in sorted(result.settled.items()))
    counts = counts or ("0 landed" if result.unsettled else "nothing to do")
    again = "; run the same command again for these" if result.unsettled else ""
    click.echo(f"{result.rows} rows: {result.done_before} done before, {counts}, {result.unsettled} not reached{again}")
    if result.failures is not None:
        click.echo(f"what failed again is in {result.failures}; run: dcalqr replay --config {config} {result.failures}")


@main.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print the status file as it is.")
@fails_in_words
def status(path: Path, as_json: bool) -> int:  # noqa: FBT001 - click gives flags so
    """Say how the running instance is. Exit code 0: well, 1: not well, 69: not running."""
    from dcalqr.status import complaints, in_numbers, read

    config = _load(path)
    found = read(str(config.local.statefolder), config.daemon.instance)
    trouble = complaints(found)
    if as_json:
        import json

        click.echo(json.dumps(found, indent=2))
    else:
        click.echo(f"{found['instance']}: {in_numbers(found)}")
        for words in trouble:
            click.echo(f"not well: {printable(words)}")
    return errors.EXIT_UNEXPECTED if trouble else errors.EXIT_OK


@main.command()
@config_option
@click.option("--partition", type=int, help="Set the offset of this partition.")
@click.option("--to", help="earliest, latest, an RFC 3339 time, or an offset.")
@click.option("--yes", is_flag=True, help="Really do it; without, only say what would be done.")
@fails_in_words
def offsets(path: Path, partition: int | None, to: str | None, yes: bool) -> int:  # noqa: FBT001 - click gives flags so
    """Show the group's offsets, or set one (all instances stopped)."""
    from dcalqr import log

    if (partition is None) != (to is None):
        raise click.UsageError("--partition and --to belong together")
    config = _load(path)
    log.configure("warning", stream=BytesIO())  # libraries are heard, not shown: see LastComplaint
    return asyncio.run(_offsets(config, partition, to, yes=yes))


def _table(offsets: list[PartitionOffsets]) -> list[str]:
    rows = [("partition", "begin", "end", "committed", "lag", "deleted unread")]
    for each in offsets:
        committed, lag = ("none", "?") if each.committed is None else (str(each.committed), str(each.lag))
        rows.append((str(each.partition), str(each.begin), str(each.end), committed, lag, str(each.gap)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


async def _offsets(config: Config, partition: int | None, to: str | None, *, yes: bool) -> int:
    from dcalqr.kafka.groups import Group

    async with Group(config.kafka) as group:
        if partition is None or to is None:
            for line in _table(await group.offsets()):
                click.echo(line)
            return errors.EXIT_OK
        try:
            offset = await group.resolve(partition, to)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        members = await group.members()
        if members:
            why = f"the group {config.kafka.consumergroup} has {members} active members: stop all instances first"
            raise errors.ServiceUnavailable(service="the group's offset", why=why)
        if not yes:
            click.echo(f"would set partition {partition} to offset {offset}; do it with --yes")
            return errors.EXIT_OK
        await group.commit(partition, offset)
        click.echo(f"partition {partition}: committed offset {offset}")
    return errors.EXIT_OK


def _servers(_context: click.Context, _parameter: click.Parameter, given: str | None) -> list[str] | None:
    from dcalqr.config_values import server

    try:
        return None if given is None else [server(each) for each in given.split(",")]
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@main.command()
@click.option(
    "--servers",
    metavar="HOST:PORT,...",
    callback=_servers,
    help="Use this Kafka (without TLS), with a topic and a group of the demo's own, which it removes.",
)
@click.option("--keep", is_flag=True, help="Keep the demo's folder: configuration, log, reports, files.")
@click.option("--seed", type=int, default=1, show_default=True, help="Other sizes, contents and noise.")
@fails_in_words
def demo(servers: list[str] | None, keep: bool, seed: int) -> int:  # noqa: FBT001 - click gives flags so
    """Show the real daemon at work on this machine, in 15 seconds.

    A few hundred files are uploaded to a small dCache of its own (a door and two pools over TLS) and announced by a
    Kafka inside this program, or by yours with --servers. Some of them meet trouble. At the end every file is checked;
    the exit code is 0 only if all is as it should be.
    """
    from dcalqr.demo import perform

    return errors.EXIT_OK if perform(servers, seed=seed, keep=keep) else errors.EXIT_UNEXPECTED
