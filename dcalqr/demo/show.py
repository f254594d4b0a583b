"""The whole demo: set up, play, stop, check, tell, clean up."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

from dcalqr import errors
from dcalqr.demo import scenario as scenarios
from dcalqr.demo import verdict
from dcalqr.demo.broker import Broker
from dcalqr.demo.child import Child
from dcalqr.demo.journal import Journal
from dcalqr.demo.play import DaemonEnded, Play
from dcalqr.demo.scenario import Scenario
from dcalqr.demo.site import Site, new_site
from dcalqr.demo.storage import FOLDER, ROOT, Storage
from dcalqr.demo.story import Story


class Show:
    """One demo.

    Parameters
    ----------
    servers
        "host:port" of brokers of a real Kafka; None: the embedded one.
    seed
        Of sizes, contents and noise.
    keep
        Whether the folder stays; it also does when something is wrong.
    """

    def __init__(self, servers: Sequence[str] | None, *, seed: int, keep: bool) -> None:
        self._servers, self._seed, self._keep = servers, seed, keep
        self._checks: list[verdict.Check] = []
        self._troubles: list[str] = []

    def run(self) -> bool:
        """Show it; returns whether all is as it should be.

        Raises
        ------
        StartError
            Kafka, or a temporary folder, cannot be had.
        """
        rng = random.Random(self._seed)  # noqa: S311 - data to send, no secret
        scenario = scenarios.make(rng)
        with _ended_by_signals(), Story() as story, self._folder(story) as site:
            story.plain(
                f"{len(scenario.uploads)} files are uploaded to a small dCache; the real daemon copies them here. "
                "About 15 s; Ctrl-C ends it.\n"
            )
            with Broker(self._servers) as broker, Storage(site.certificates, rng, broker.publish) as storage:
                story.surroundings(broker, storage)
                site.write_config(broker.servers, broker.topic, broker.group, storage.door.url, storage.pki)
                self._act(scenario, site, storage, broker, story)
                self._tell(scenario, site, story)
        return self._good

    @property
    def _good(self) -> bool:
        return bool(self._checks) and not self._troubles and all(check.good for check in self._checks)

    # --- the acts ---------------------------------------------------------------------------------------------

    def _act(self, scenario: Scenario, site: Site, storage: Storage, broker: Broker, story: Story) -> None:
        journal = Journal(ROOT + FOLDER)
        play = Play(scenario, storage, broker, journal, story)
        story.say("dCache", f"{len(scenario.backlog)} files are uploaded before the daemon runs, among other messages")
        play.before()
        child = Child(site.config, site.log)
        with contextlib.closing(child):
            story.say("daemon", f"starts: dcalqr run --config {site.config}")
            if broker.embedded:
                story.say("Kafka", "waits 3 s for other members of the daemon's group, as real brokers do")
            try:
                play.during(child)
            except (DaemonEnded, TimeoutError) as error:
                self._troubles.append(str(error))
            story.still()
            story.say("daemon", "is sent SIGTERM")
            exit_code = child.drain()
            play.listen(child)
        ended = "none" if exit_code is None else f"{exit_code}"
        story.say("daemon", f"has ended, exit code {ended}")
        story.say("check", f"{len(storage.truth)} files, {storage.size_bytes / 1e6:.0f} MB, against the source")
        self._checks = [
            *verdict.of_events(scenario, storage, broker),
            *verdict.of_deliveries(scenario, site, journal, storage),
            *verdict.of_rows(scenario, site),
            *verdict.of_files(scenario, site, storage),
            verdict.Check("the daemon's exit code", "0", ended, exit_code == 0),
        ]

    def _tell(self, scenario: Scenario, site: Site, story: Story) -> None:
        story.plain()
        story.table(self._checks)
        story.plain()
        for row in verdict.rows_of(site.failed):
            story.plain(
                f"The row in {site.failed.name}: class {row.error_class}, attempts {row.attempts}, path {row.path},"
            )
            story.plain(f"  message: {row.message}")
        for trouble in self._troubles:
            story.plain(trouble, "bold red")
        if self._good:
            story.plain(f"All is as it should be, after {story.seconds:.0f} s.", "bold green")
        else:
            story.plain("Not all is as it should be: the folder stays.", "bold red")

    # --- the folder -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _folder(self, story: Story) -> Iterator[Site]:
        """Give a temporary folder; it goes at the end unless it is to stay, or something is wrong."""
        site = new_site()
        stays = True
        try:
            yield site
            stays = self._keep or not self._good
        except (KeyboardInterrupt, SystemExit):
            stays = self._keep
            story.still()
            story.plain("Stopped.")
            raise
        except errors.StartError:
            stays = site.log.exists()
            raise
        finally:
            story.still()
            if stays:
                story.folder(site)
            else:
                shutil.rmtree(site.folder)
                story.plain("Nothing is left of it; with --keep its folder stays, to be looked at.")
        if self._good:
            _say_next(story)


def _say_next(story: Story) -> None:
    story.plain("Next: 1. write a dcalqr.toml for your site, and try it: dcalqr check --online --config dcalqr.toml")
    story.plain("      2. dcalqr run --config dcalqr.toml")


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the demo as Ctrl-C does: nothing is left behind."""

    def end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
