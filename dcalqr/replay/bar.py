"""What a person at a terminal sees of a replay: a bar, why it stands still, and the log's warnings above it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dcalqr.logtext import show

if TYPE_CHECKING:
    from dcalqr.replay.run import Progress as Replayed

# Of the reason for a hold; the rest of the line is the bar's.
HELD_CHARACTERS = 60


class Bar:
    """A progress bar on standard error if that is a terminal, nothing elsewhere. A context manager."""

    def __init__(self) -> None:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("replayed")
        self.log_stream = _AboveBar(console)

    @property
    def is_shown(self) -> bool:
        return not self._progress.disable

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, result: Replayed) -> None:
        """Draw the state of a replay."""
        self._progress.update(
            self._task,
            description=f"held, {escape(show(result.held, HELD_CHARACTERS))}" if result.held else "replayed",
            total=result.total,
            completed=result.completed,
        )


class _AboveBar(io.BytesIO):
    """Takes the log's lines; a line that bypassed the console would be torn by the bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def write(self, line: object) -> int:
        assert isinstance(line, bytes)
        self._console.out(line.decode("utf-8", "backslashreplace"), end="", highlight=False)
        return len(line)
