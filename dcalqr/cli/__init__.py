"""The command line: run, check, replay, status, top, where, offsets, elastic, demo; exit codes; nothing else.

What a command needs is imported by that command: `dcalqr --version` must not wait for Kafka's client, nor for asyncio.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dcalqr import __version__, errors
from dcalqr.cli import looking, replay
from dcalqr.cli.options import config_option, load_config, log_format
from dcalqr.exits import fails_in_words, printable

if TYPE_CHECKING:
    from dcalqr.config import Config
    from dcalqr.kafka.groups import PartitionOffsets


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dcalqr", message="%(prog)s %(version)s")
def main() -> None:
    """Copy files from dCache to local storage as soon as they are uploaded.

    dcalqr listens to the billing messages that dCache publishes to Kafka, recognises each finished upload below a
    configured folder, and copies the file by HTTPS, complete and verified, or writes a row to the failed-tasks file.

    Exit codes: 0 well, 1 unexpected or not all done, 2 usage, 65 bad data, 69 service unavailable, 73 cannot create,
    77 no permission, 78 configuration.
    """


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Load what the daemon needs, without two things that cost a seventh of the start and give it nothing.

    Modules and classes are no garbage, so nobody looks for any. And httpx and structlog bring rich, for a command line
    and for tracebacks that the daemon does not use, wherever it can be imported.
    """
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # to Python: there is no such module
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@main.command()
@config_option
@fails_in_words
def run(path: Path) -> int:
    """Run the daemon in the foreground.

    TERM or INT drains: running copies end, offsets are committed; a second one stops at once. HUP reloads credentials,
    maxdownloads, minrate and log.level, and reopens log.file.
    """
    with _starting():
        import asyncio

        from dcalqr import log
        from dcalqr.daemon import Daemon
        from dcalqr.log.file import LogFile

        config = load_config(path)
    log_file = None if config.log.file is None else LogFile(config.log.file)
    log.configure(config.log.level, log_format(config), None if log_file is None else log_file.stream)

    async def serve() -> None:
        await Daemon(config, path, log_file=log_file).run()

    asyncio.run(serve())
    return errors.EXIT_OK


@main.command()
@config_option
@click.option("--online", is_flag=True, help="Also ask Kafka, the door, the download folder and the sinks.")
@fails_in_words
def check(path: Path, online: bool) -> int:  # noqa: FBT001 - click gives flags so
    """Check the configuration file; with --online also what it names.

    Offline, only what the file itself shows is an error; what is missing on this machine now is a warning, because the
    daemon would wait for it.
    """
    from dcalqr.cli.rows import foreign_rows
    from dcalqr.config.warnings import warnings_of

    config = load_config(path)
    click.echo(f"{path}: well-formed")
    warnings = warnings_of(config)
    foreign = foreign_rows(config.local.failedtasksfile)
    code = errors.EXIT_CANNOT_CREATE if foreign and online else errors.EXIT_OK
    if online:
        import asyncio

        from dcalqr import log
        from dcalqr.check import look

        log.configure("warning", stream=BytesIO())  # libraries are heard, not shown: see LastComplaint
        findings = asyncio.run(look(config))
        warnings += findings.warnings
        code = code or findings.exit_code
        for words in findings.good:
            click.echo(f"ok: {printable(words)}")
        for words in findings.bad:
            click.echo(f"wrong: {printable(words)}")
    if foreign:
        click.echo(f"{'wrong' if online else 'warning'}: {printable(foreign)}")
    for words in warnings:
        click.echo(f"warning: {printable(words)}")
    return code


for each in (replay.replay, looking.status, looking.top, looking.where):
    main.add_command(each)


@main.command()
@config_option
@click.option("--partition", type=int, help="Set the offset of this partition.")
@click.option("--to", help="earliest, latest, an RFC 3339 time, or an offset.")
@click.option("--yes", is_flag=True, help="Really do it; without, only say what would be done.")
@fails_in_words
def offsets(path: Path, partition: int | None, to: str | None, yes: bool) -> int:  # noqa: FBT001 - click gives flags so
    """Show the group's offsets, or set one (all instances stopped)."""
    import asyncio

    from dcalqr import log

    if (partition is None) != (to is None):
        raise click.UsageError("--partition and --to belong together")
    config = load_config(path)
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


@main.group()
def elastic() -> None:
    """Prepare Elasticsearch or OpenSearch for the reports of transfers."""


@elastic.command()
@config_option
@fails_in_words
def setup(path: Path) -> int:
    """Make the index template on each server of [elasticsearch] and [opensearch]; may be repeated.

    Run it once before the daemon first writes there, and after an upgrade. Where the server has index lifecycle
    management, indices older than keepdays will be deleted.
    """
    from dcalqr import log
    from dcalqr.metrics import setup

    log.configure("error", stream=BytesIO())  # libraries are heard, not shown
    setup.run(load_config(path), lambda words: click.echo(printable(words)))
    return errors.EXIT_OK


def _servers(_context: click.Context, _parameter: click.Parameter, given: str | None) -> list[str] | None:
    from dcalqr.config.values import server

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
@click.option(
    "--stay", is_flag=True, help="A trial site instead: Kafka and dCache alone, until Ctrl-C, for a daemon of yours."
)
@click.option("--keep", is_flag=True, help="Keep the demo's folder: configuration, log, reports, files.")
@click.option("--seed", type=int, default=1, show_default=True, help="Other sizes, contents and noise.")
@fails_in_words
def demo(servers: list[str] | None, stay: bool, keep: bool, seed: int) -> int:  # noqa: FBT001 - click gives flags so
    """Show the real daemon at work on this machine, in 15 seconds.

    A few hundred files are uploaded to a small dCache of its own (a door and two pools over TLS) and announced by a
    Kafka inside this program, or by yours with --servers. Some of them meet trouble. At the end every file is checked;
    the exit code is 0 only if all is as it should be.

    With --stay there is no daemon: Kafka and dCache stay until Ctrl-C, with an upload every few seconds and a
    configuration for them, and the commands to try in a second terminal are shown.
    """
    from dcalqr import demo as demos

    if stay:
        demos.stay(servers, seed=seed, keep=keep)
        return errors.EXIT_OK
    return errors.EXIT_OK if demos.perform(servers, seed=seed, keep=keep) else errors.EXIT_UNEXPECTED
