"""The command line of what only looks: where, status, top."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import click

from dcalqr import errors
from dcalqr.cli.options import config_option, load_config
from dcalqr.exits import fails_in_words, printable


@click.command()
@config_option
@click.option("--online", is_flag=True, help="Also ask the door, and compare.")
@click.option("--json", "as_json", is_flag=True, help="Say it as JSON.")
@click.argument("file", metavar="PATH")
@fails_in_words
def where(path: Path, file: str, online: bool, as_json: bool) -> int:  # noqa: FBT001 - click gives flags so
    """Say whether a file is here, since when, with which sum, and if not, why not.

    PATH is the file's path in dCache, or here, or below the watched folder.

    Exit code 0: it is here (with --online: and the same as at the door), 1: it is not here, 3: it is here, but the door
    has another one or none, or a newer upload is on its way, 69: the download folder is away or the door gives no
    answer, 77: they do not let us look, 78: the configuration is refused.
    """
    import asyncio
    from io import BytesIO

    from dcalqr import log
    from dcalqr.looking.asked import event_path
    from dcalqr.looking.where import look
    from dcalqr.looking.words import in_words

    config = load_config(path)
    try:
        asked = event_path(config, file, os.getcwd())
    except ValueError as error:
        raise click.UsageError(printable(str(error))) from error
    log.configure("error", stream=BytesIO())  # libraries are heard, not shown
    found = asyncio.run(look(config, asked, online=online))
    if as_json:
        click.echo(json.dumps({**found.as_json(), "exit_code": found.exit_code}, indent=2))
    else:
        for line in in_words(found, str(path), time.time()):
            click.echo(printable(line))
    return found.exit_code


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="All that is known, with `well` and `complaints`, as JSON.")
@fails_in_words
def status(path: Path, as_json: bool) -> int:  # noqa: FBT001 - click gives flags so
    """Say how the running instance is, and what is not well.

    lag counts the records that it is not done with, unread those of them that it has not read.

    Exit code 0: well, 1: not well, 69: not running, 77: not for you to see, 78: the configuration is refused.
    """
    from dcalqr.looking.status import complaints, in_numbers, read

    config = load_config(path)
    try:
        found = read(str(config.local.statefolder), config.daemon.instance)
    except errors.StartError as error:
        if as_json:
            why = {"instance": config.daemon.instance, "running_now": False, "well": False, "complaints": [str(error)]}
            click.echo(json.dumps(why, indent=2))
        raise
    trouble = complaints(found)
    if as_json:
        click.echo(json.dumps({**found, "running_now": True, "well": not trouble, "complaints": trouble}, indent=2))
    else:
        click.echo(f"{found['instance']}: {in_numbers(found)}")
        for words in trouble:
            click.echo(f"not well: {printable(words)}")
    return errors.EXIT_UNEXPECTED if trouble else errors.EXIT_OK


@click.command()
@config_option
@fails_in_words
def top(path: Path) -> int:
    """Show the running instance live: copies, rates, lag, holds, what failed last. Ends with q.

    Into a pipe it writes one frame.
    """
    from dcalqr.looking.top import run

    run(load_config(path))
    return errors.EXIT_OK
