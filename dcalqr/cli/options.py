"""What the commands' arguments have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dcalqr.config import Config
    from dcalqr.log import Render

# Whether a file can be read is found out by reading it: its complaint and exit code are ours, not click's.
a_file = click.Path(path_type=Path, readable=False)
config_option = click.option("--config", "path", required=True, type=a_file, help="The configuration file (TOML).")


def load_config(path: Path) -> Config:
    from dcalqr.config import load

    return load(path)


def log_format(config: Config) -> str | Render | None:
    """What `log.configure` takes for the configured format."""
    if config.log.format != "seed":
        return config.log.format
    from dcalqr.log.seed import SeedLines

    watched, download = config.dcache.folder_path, str(config.local.downloadfolder)
    return SeedLines(lambda path: download + path.removeprefix(watched) if path.startswith(watched) else path)
