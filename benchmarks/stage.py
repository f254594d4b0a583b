"""Data, certificates and servers for one run of the benchmarks; as a program it holds them for other tools.

`python -m benchmarks.stage` prepares everything, prints how to run the engine on each set, and waits for Ctrl-C: for
profilers, and for whoever changes the engine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import sets
from benchmarks.bars import FOLDER
from benchmarks.runs import Job
from benchmarks.servers import Servers, running
from dcalqr.testing.pki import Pki, make_pki
from tests.support.process import MissingComponent, require

MEMORY = Path("/dev/shm")
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Stage:
    """What all runs share.

    Parameters
    ----------
    folder
        In memory: data, certificates, and the destinations of most sets.
    disk
        On a disk: the destinations of the others.
    files
        By kind.
    """

    folder: Path
    disk: Path
    files: dict[str, list[sets.File]]
    servers: Servers
    pki: Pki

    @contextlib.contextmanager
    def job(self, fileset: sets.FileSet) -> Iterator[Job]:
        """Give an empty destination and what belongs to it; all is removed at the end."""
        folder = Path(tempfile.mkdtemp(dir=self.disk if fileset.on_disk else self.folder))
        try:
            dest = folder / "dest"
            dest.mkdir()
            files = self.files[fileset.kind]
            manifest = sets.write_manifest(folder / "manifest", files)
            url = self.servers.url(redirect=fileset.redirect)
            yield Job(fileset, files, manifest, url, dest, fileset.on_disk, folder)
        finally:
            shutil.rmtree(folder)
            # What one program left to the disk must not be written while the next one is measured.
            os.sync()


@contextlib.contextmanager
def prepared(sizes: sets.Sizes) -> Iterator[Stage]:
    """Make everything; on exit servers and data go.

    Raises
    ------
    tests.support.process.MissingComponent
        A program is not on this machine.
    """
    build()
    wanted = 2 * sizes.large * sizes.large_bytes + 2 * sizes.medium * sets.MEDIUM_BYTES
    free = shutil.disk_usage(MEMORY).free
    if free < wanted:
        raise MissingComponent("memory", f"{MEMORY} has {free / 1e9:.1f} GB free; {wanted / 1e9:.1f} are needed.")
    disk = FOLDER.absolute() / "disk"
    shutil.rmtree(disk, ignore_errors=True)
    disk.mkdir(parents=True)
    folder = Path(tempfile.mkdtemp(prefix="dcalqr-bench-", dir=MEMORY))
    try:
        files = sets.make(folder / "data", sizes)
        pki = make_pki(folder / "pki", use_rsa=True)
        every = [file for kind in files.values() for file in kind]
        with running(folder / "nginx", folder / "data", every, pki) as servers:
            yield Stage(folder, disk, files, servers, pki)
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(disk)


def build() -> None:
    """Build the two peers that are compiled; takes no time when nothing has changed.

    Raises
    ------
    tests.support.process.MissingComponent
        A compiler is not on this machine.
    """
    how = "benchmarks/prepare.sh installs it."
    os.environ["PATH"] += ":/usr/sbin"  # where nginx is; not every user looks there
    for program in ("nginx", "rclone", "curl"):
        require(program, how)
    FOLDER.mkdir(parents=True, exist_ok=True)
    go, gcc, built = require("go", how), require("gcc", how), FOLDER.absolute()
    local = {**os.environ, "GOTOOLCHAIN": "local"}  # the Go that is here, not one that it would like to download
    subprocess.run([go, "build", "-o", str(built / "gopeer"), "."], cwd=HERE / "peers/gopeer", env=local, check=True)
    floor = ["-o", str(built / "floor"), str(HERE / "peers/floor.c"), "-lssl", "-lcrypto", "-lz", "-lpthread"]
    subprocess.run([gcc, "-O2", "-Wall", *floor], check=True)


def sizes_of(*, quick: bool) -> sets.Sizes:
    return sets.QUICK if quick else sets.FULL


def ended_by_term() -> None:
    """Let SIGTERM end the program as Ctrl-C does, so that nothing is left in memory."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stage", description="hold servers and data")
    parser.add_argument("--quick", action="store_true", help="small sets")
    ended_by_term()
    with prepared(sizes_of(quick=parser.parse_args().quick)) as stage, contextlib.suppress(KeyboardInterrupt):
        servers = stage.servers
        for fileset in sets.SETS:
            manifest = sets.write_manifest(stage.folder / f"{fileset.kind}.manifest", stage.files[fileset.kind])
            url = servers.url(redirect=fileset.redirect)
            print(f"# {fileset.name}")
            print(f"rm -rf DEST; mkdir DEST; python -m benchmarks.engine --url {url} --manifest {manifest} --dest DEST")
            print(f"    --client {servers.client} --capath {servers.capath} --workers 0", flush=True)
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
