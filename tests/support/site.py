"""A whole site for tests: door and pools, a topic on a real broker, a download folder, and daemons as processes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from dcalqr.testing import samples
from dcalqr.testing.door import Door, StoredFile
from dcalqr.testing.pki import Pki
from tests.support.kafka import KafkaBroker
from tests.support.process import wait_until

ROOT = "/pnfs/example.org/data/lsst"
FOLDER = "/lsst/user/j/jane.doe"
# Generous: two busy cores are slow, and no promise is about speed.
SETTLE_SECONDS = 60.0

Sections: TypeAlias = Mapping[str, Mapping[str, Any]]


def settings(folder: Path, url: str, pki: Pki) -> dict[str, dict[str, Any]]:
    """Give the configuration of an instance that works in `folder`, by section: quick to retry, quick to give up."""
    return {
        "kafka": {"topic": "billing", "servers": ["localhost:9092"], "consumergroup": "dcalqr", "commitseconds": 0.2},
        "dcache": {
            "url": url,
            "pool": ROOT,
            "folder": FOLDER,
            "retryseconds": 0.1,
            "retrytimes": 3,
            "delayseconds": 0,
            "visibleseconds": 4,
            "stallseconds": 2,
            "timeout": 10,
        },
        "local": {
            "proxy": str(pki.proxy),
            "capath": str(pki.certificates),
            "downloadfolder": str(folder / "download"),
            "permissions": "2755",
            "failedtasksfile": str(folder / "failed.csv"),
            "minfree": 0,
        },
        "log": {"level": "debug"},
        "daemon": {"instance": "one", "drainseconds": 10},
        "reports": {"file": str(folder / "reports.jsonl")},
    }


def merged(sections: Sections, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Apply changes, by section, to a configuration."""
    return {name: {**sections.get(name, {}), **changes.get(name, {})} for name in {**sections, **changes}}


def write_toml(path: Path, sections: Sections) -> None:
    lines = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    path.write_text("\n".join(lines) + "\n")


class Site:
    """What one test needs of the world.

    Parameters
    ----------
    folder
        Its own.
    kafka, topic, group
        Where the events come from.
    pki
        Whom the door trusts.
    """

    def __init__(self, folder: Path, kafka: KafkaBroker, topic: str, group: str, pki: Pki) -> None:
        self.folder, self.kafka, self.topic, self.group, self.pki = folder, kafka, topic, group, pki
        self.door = Door(pki)
        self.door.start()
        self.door.make_folder(FOLDER)
        self.download = folder / "download"
        self.download.mkdir()
        self.random = random.Random(1)
        self.settings = settings(folder, self.door.url, pki)
        self.settings["kafka"] |= {"topic": topic, "servers": [kafka.bootstrap], "consumergroup": group}

    def write_config(self, name: str = "dcalqr.toml", **changes: dict[str, Any]) -> Path:
        """Write the configuration, with changes by section."""
        path = self.folder / name
        write_toml(path, merged(self.settings, changes))
        return path

    def upload(self, name: str, content: bytes | samples.Content, **how: Any) -> StoredFile:
        """Put a file at the door and announce it; `how` goes to `Door.put`."""
        path = f"{FOLDER}/{name}"
        file = self.door.put(path, content, pnfsid=samples.new_pnfsid(self.random), **how)
        self.announce(name, file, transfer_path=f"/upload/1/{file.pnfsid}/{name}" if how.get("staged") else None)
        return file

    def announce(self, name: str, file: StoredFile, **how: Any) -> None:
        """Publish the pool's message of an upload; `how` goes to `samples.upload`."""
        how.setdefault("date", samples.java_date(time.time()))
        self.publish(samples.upload(f"{ROOT}{FOLDER}/{name}", file.size_bytes, file.pnfsid, **how))

    def publish(self, *values: bytes | None) -> None:
        self.kafka.produce(self.topic, values)

    @contextlib.contextmanager
    def daemon(self, config: Path | None = None, module: str = "dcalqr", **environment: str) -> Iterator[DaemonProcess]:
        """Run `dcalqr run`; on exit it is told to end, and killed if it does not. `module` may stand in for dcalqr."""
        process = DaemonProcess(config or self.write_config(), self.folder, environment, module)
        try:
            yield process
        finally:
            process.end()

    def landed(self, name: str) -> bytes | None:
        """Return what is under a final name here."""
        try:
            return (self.download / name).read_bytes()
        except FileNotFoundError:
            return None

    def parts(self) -> list[Path]:
        return [path for path in self.download.rglob("*.part") if path.is_file()]

    def rows(self, name: str = "failed.csv") -> list[str]:
        """Return the rows of a failed-tasks file, without its header."""
        path = self.folder / name
        return path.read_text().splitlines()[1:] if path.exists() else []

    def reports(self) -> list[dict[str, Any]]:
        path = self.folder / "reports.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def committed_all(self) -> bool:
        """Whether the group has committed the end of every partition."""
        committed, ends = self.kafka.committed(self.group, self.topic), self.kafka.end_offsets(self.topic)
        return all(committed.get(partition, 0) == end for partition, end in ends.items())

    def wait_settled(self) -> None:
        """Wait until everything announced so far is settled and committed."""
        wait_until(self.committed_all, SETTLE_SECONDS, "the group to commit the end of every partition")

    def close(self) -> None:
        self.door.close()


class DaemonProcess:
    """`dcalqr run` as a process; its log is read as JSON lines."""

    def __init__(self, config: Path, folder: Path, environment: dict[str, str], module: str = "dcalqr") -> None:
        self.log_path = folder / f"{config.stem}.log"
        self._log = self.log_path.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, "run", "--config", str(config)],
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, **environment},
        )

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the log lines, or those of one event; every line must be JSON."""
        found = [json.loads(line) for line in self.log_path.read_text().splitlines()]
        return [line for line in found if event in (None, line["event"])]

    def wait_for(self, event: str, count: int = 1, **fields: object) -> dict[str, Any]:
        """Wait for a log line; returns the last of those found."""

        def matching() -> list[dict[str, Any]]:
            return [line for line in self.lines(event) if all(line.get(key) == value for key, value in fields.items())]

        wait_until(lambda: len(matching()) >= count, SETTLE_SECONDS, f"the log line {event} {fields}")
        return matching()[-1]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def reload(self) -> None:
        """Send SIGHUP, and wait until it says what came of it."""
        before = len(self.lines("RELOAD"))
        self.signal(signal.SIGHUP)
        self.wait_for("RELOAD", count=before + 1)

    def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        return self.process.wait(SETTLE_SECONDS)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(SETTLE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()
