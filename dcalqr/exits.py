"""How a command ends: expected failures in words, mistakes of ours with a traceback, and always at all."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn

import click

from dcalqr import errors

# Idle threads end at once; one that hangs on a dead disk never does.
THREADS_SECONDS = 5.0


def fails_in_words(command: Callable[..., int]) -> Callable[..., None]:
    """Turn expected failures into a line on standard error and their exit code; never a traceback for them."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            code = command(*args, **kwargs)
        except errors.StartError as error:
            code = _complain("", error, error.exit_code)
        except errors.FatalError as error:
            code = _complain("stopped: ", error, errors.EXIT_BAD_DATA)
        except click.ClickException:
            raise
        except KeyboardInterrupt:
            code = 130
        except Exception:  # noqa: BLE001 - a mistake of ours: said in full, and no hung thread may keep us here
            traceback.print_exc()
            code = errors.EXIT_UNEXPECTED
        _leave(code)

    return run


def _complain(what: str, error: Exception, code: int) -> int:
    lines = [printable(line) for line in str(error).split("\n")]
    click.echo(f"dcalqr: {what}" + "\n".join(lines), err=True)
    return code


def _leave(code: int) -> NoReturn:
    """End the process, also when a thread hangs on a dead mount: the interpreter would wait for it for ever."""
    limit = time.monotonic() + THREADS_SECONDS
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, limit - time.monotonic()))
            if thread.is_alive():
                sys.stdout.flush()
                os._exit(code)
    sys.exit(code)


def printable(text: str) -> str:
    """Return a text that can do a terminal no harm."""
    from dcalqr.logtext import show

    return show(text)
