"""The trial site: a Kafka and a dCache that stay, with uploads now and then, for a daemon that you start yourself."""

from __future__ import annotations

import contextlib
import itertools
import random
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from dcalqr import errors
from dcalqr.demo.broker import Broker
from dcalqr.demo.scenario import Upload, size_bytes
from dcalqr.demo.site import Site, new_site
from dcalqr.demo.storage import FOLDER, ROOT, Storage
from dcalqr.demo.story import Story
from dcalqr.local.state import State
from dcalqr.testing.door import Fault

# Often enough to see it work, seldom enough to read what it says.
UPLOAD_SECONDS = 3.0
# There before the daemon is: what a first start finds in a topic.
BACKLOG_UPLOADS = 20
# Then each of them gets a new version, so that a site that stays for days fills no disk: 250 MB at most.
NAMES = 100
# One in ten is large, and slow enough to be watched: 10 s of each half a minute.
LARGE_EVERY = 10
LARGE_BYTES = 20_000_000
LARGE_BYTES_PER_SECOND = 2_000_000
# The embedded broker keeps 5 MB of each partition, the newest: that is some four hours of these.
NOISE_PER_UPLOAD = 2
# Renewed now and then, as a site does: once in 50 minutes, of the 12 hours that a proxy lives.
RENEW_EVERY = 1000
METRICS_PORT = 9464
# The door refuses it once: a row for `dcalqr replay`.
REFUSED = "00000/refused_once.fits"
# What `dcalqr where` finds as soon as the daemon has run.
FIRST = "00000/image_0001.fits"


class Trial:
    """One trial site.

    Parameters
    ----------
    servers
        "host:port" of brokers of a real Kafka; None: the embedded one.
    seed
        Of sizes, contents and noise.
    keep
        Whether the folder stays afterwards.
    """

    def __init__(self, servers: Sequence[str] | None, *, seed: int, keep: bool) -> None:
        self._servers, self._keep = servers, keep
        self._rng = random.Random(seed)  # noqa: S311 - data to send, no secret

    def run(self) -> None:
        """Set it up, and let it stand until a signal ends it.

        Raises
        ------
        StartError
            Kafka, or a temporary folder, cannot be had.
        """
        with contextlib.suppress(_Ended):
            _end_by_signals()
            with (
                Story() as story,
                self._folder(story) as site,
                Broker(self._servers) as broker,
                Storage(site.certificates, self._rng, broker.publish) as storage,
            ):
                story.surroundings(broker, storage)
                port = free_port()
                others: dict[str, dict[str, Any]] = {"log": {"level": "info"}, "prometheus": {"port": port}}
                site.write_config(broker.servers, broker.topic, broker.group, storage.door.url, storage.pki, others)
                _tell(site, port, broker, story)
                self._serve(broker, storage, story)

    def _serve(self, broker: Broker, storage: Storage, story: Story) -> None:
        storage.door.faults.add(
            Fault("door", f"{FOLDER}/{REFUSED}", method="GET", times=1, status=403),
            Fault("pool", f"{FOLDER}/*/large_*", bytes_per_second=LARGE_BYTES_PER_SECOND),
        )
        storage.upload(Upload(REFUSED, size_bytes(self._rng)))
        for number in itertools.count(1):
            storage.upload(upload(number, self._rng))
            storage.make_noise(NOISE_PER_UPLOAD)
            if number % RENEW_EVERY == 0:
                storage.pki.new_proxy(storage.pki.proxy)
            if number >= BACKLOG_UPLOADS:
                broker.flush()
                story.counts(f"uploads {number + 1}, downloads {sum(storage.door.gets.values())}; Ctrl-C ends the site")
                time.sleep(UPLOAD_SECONDS)

    @contextlib.contextmanager
    def _folder(self, story: Story) -> Iterator[Site]:
        """Give a temporary folder; it goes at the end, unless it is to stay or a daemon still runs in it."""
        site = new_site()
        try:
            yield site
        finally:
            # First what must not be left undone when the terminal is gone and nothing can be said any more.
            in_use = _in_use(site)
            stays = self._keep or in_use
            if not stays:
                shutil.rmtree(site.folder)
            story.still()
            if in_use:
                words = "A daemon still runs here, and finds no Kafka now: end it with Ctrl-C in its terminal."
                story.plain(words, "bold yellow")
            if stays:
                story.folder(site)
            else:
                story.plain("The trial site is gone, with its folder; with --keep the folder stays.")


def upload(number: int, rng: random.Random) -> Upload:
    """Return the upload that comes as so many-th, from 1 on; after NAMES of them the names come again."""
    file = (number - 1) % NAMES + 1
    if file % LARGE_EVERY == 0:
        return Upload(f"{file // 50:05d}/large_{file:04d}.fits", LARGE_BYTES)
    return Upload(f"{file // 50:05d}/image_{file:04d}.fits", size_bytes(rng))


# --- what to do there ---------------------------------------------------------------------------------------------


def commands(config: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return what to type, by terminal: what each command is for, and itself, to be pasted as it stands."""

    def line(*words: str) -> str:
        return shlex.join([*_program(), words[0], "--config", str(config), *words[1:]])

    return [
        (
            "In a second terminal:",
            [
                ("Is there what the configuration names?", line("check", "--online")),
                ("The daemon, with its log, until Ctrl-C:", line("run")),
            ],
        ),
        (
            "In a third one, while it runs:",
            [
                ("Is it well?", line("status")),
                ("The same live; q ends it:", line("top")),
                ("Where is this file?", line("where", f"{ROOT}{FOLDER}/{FIRST}")),
                ("And this one, which the door refused once? (Exit code 1: it is not here.)", line("where", REFUSED)),
                ("Run again what was given up:", line("replay")),
            ],
        ),
    ]


def _program() -> list[str]:
    """Say how to call this very installation from any terminal: its environment may not be active there."""
    script = Path(sys.executable).with_name("dcalqr")
    return [str(script)] if script.exists() else [sys.executable, "-m", "dcalqr"]


def _tell(site: Site, port: int, broker: Broker, story: Story) -> None:
    story.plain(f"\nThe trial site stands, with its configuration in {site.config}.")
    for terminal, lines in commands(site.config):
        story.plain(f"\n{terminal}", "bold")
        for what, line in lines:
            story.plain(f"  {what}", "dim")
            story.plain(f"    {line}")
    story.plain(f"\nWhile it runs, http://127.0.0.1:{port}/ is its status page, and /metrics is for Prometheus.")
    story.plain(f"Files land in {site.download}. An upload comes every {UPLOAD_SECONDS:.0f} s, some are large.")
    if broker.embedded:
        story.plain("The embedded Kafka lets a daemon read after 3 s, and one that is started again after 15 s.")
    story.plain("Ctrl-C ends the daemon there, and the site here.\n")


def free_port() -> int:
    """Return a port for the daemon's metrics: the one of the documentation, or any other when that is in use."""
    try:
        return _listened(METRICS_PORT)
    except OSError:
        return _listened(0)


def _listened(port: int) -> int:
    with socket.create_server(("127.0.0.1", port)) as found:
        return int(found.getsockname()[1])


def _in_use(site: Site) -> bool:
    """Whether a daemon runs on the site: it holds the lock of its state folder."""
    if not site.state.exists():
        return False
    state = State(str(site.state))
    try:
        state.open()
    except errors.CannotCreate:
        return True
    state.close()
    return False


# --- its end ------------------------------------------------------------------------------------------------------


class _Ended(BaseException):
    """Somebody asked for the end."""


def _end_by_signals() -> None:
    """Let Ctrl-C, SIGTERM and a closed terminal end the site; further ones cannot cut the clean-up."""

    def end(_number: int, _frame: FrameType | None) -> None:
        for each in ends:
            signal.signal(each, signal.SIG_IGN)
        raise _Ended

    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for each in ends:
        signal.signal(each, end)
