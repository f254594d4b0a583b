"""The scenario, played: uploads before and while the daemon runs, each further step when the last one has shown."""

from __future__ import annotations

import time
from collections.abc import Callable

from dcalqr.demo.broker import Broker
from dcalqr.demo.child import Child
from dcalqr.demo.journal import Journal
from dcalqr.demo.scenario import BECOME_VISIBLE, LIVE_UPLOADS_PER_SECOND, NOISE_PER_UPLOAD, Kind, Scenario, Upload
from dcalqr.demo.storage import Storage
from dcalqr.demo.story import Story

TURN_SECONDS = 0.05
# How long a file stays invisible after the daemon has met that: long enough for it to look again.
HIDDEN_SECONDS = 1.5
# Twenty times what an idle machine needs: a slow disk or a busy machine is no failure.
PATIENCE_SECONDS = 120.0

FAULTS = {
    Kind.WRONG_SUM: "its first copy will not have the checksum that the pool promises",
    Kind.STALLED: "its pool will fall silent in the middle of the first copy",
    Kind.LATE: "is announced now, and the door will answer 404 for a while",
    Kind.FORBIDDEN: "the door will answer 403 for ever",
}


class DaemonEnded(Exception):
    """The daemon ended although nobody asked it to."""


class Play:
    """Plays a scenario.

    Parameters
    ----------
    scenario
        What happens.
    storage, broker
        Where it happens.
    journal, story
        What is known of the daemon, and who tells it.
    """

    def __init__(self, scenario: Scenario, storage: Storage, broker: Broker, journal: Journal, story: Story) -> None:
        self._scenario, self._storage, self._broker = scenario, storage, broker
        self._journal, self._story = journal, story
        self._child: Child | None = None
        self._kinds = {upload.name: upload.kind for upload in scenario.uploads}
        self._hidden = set(scenario.named(*BECOME_VISIBLE))
        self._due: dict[str, float] = {}
        self._announced = 0

    def before(self) -> None:
        """Upload what is there before the daemon is."""
        for upload in self._scenario.backlog:
            self._upload(upload)
        self._broker.flush()

    def during(self, child: Child) -> None:
        """Upload the rest while the daemon works; returns when it has settled and committed everything.

        Raises
        ------
        DaemonEnded
            It did.
        TimeoutError
            It does not come to an end; the message says what was waited for.
        """
        self._child = child
        self.until(lambda: self._journal.joined, "the daemon to join its consumer group")
        begin = time.monotonic()
        for number, upload in enumerate(self._scenario.live):
            while time.monotonic() < begin + number / LIVE_UPLOADS_PER_SECOND:
                self.turn()
            self._tell(upload)
            self._upload(upload)
        self._again()
        self._broker.flush()
        self.until(lambda: self._journal.settled >= self._scenario.matched, "every upload to be settled")
        self.until(lambda: self._broker.committed() >= self._broker.ends(), "the offsets to be committed")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Go on until a condition holds."""
        limit = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > limit:
                raise TimeoutError(f"waited {PATIENCE_SECONDS:.0f} s for {what}, in vain")
            self.turn()

    def turn(self) -> None:
        """Hear what the daemon says, let appear what is due, show the counts, and wait a little."""
        assert self._child is not None
        ended = not self._child.running
        self.listen(self._child)
        if ended:
            raise DaemonEnded(f"the daemon ended by itself, with code {self._child.process.returncode}")
        for name in self._hidden & self._journal.invisible:
            self._due.setdefault(name, time.monotonic() + HIDDEN_SECONDS)
        for name in [name for name, due in self._due.items() if due <= time.monotonic() and name in self._hidden]:
            self._hidden.remove(name)
            self._reveal(name)
        self._story.counts(self._in_words())
        time.sleep(TURN_SECONDS)

    def listen(self, child: Child) -> None:
        """Take what the daemon's log has new, and tell it."""
        for line in child.new_lines():
            if told := self._journal.take(line):
                self._story.say("daemon", told)

    # --- what happens -----------------------------------------------------------------------------------------

    def _upload(self, upload: Upload) -> None:
        self._storage.upload(upload)
        self._announced += 1
        self._storage.make_noise(NOISE_PER_UPLOAD)

    def _tell(self, upload: Upload) -> None:
        if fault := FAULTS.get(upload.kind):
            self._story.say("fault", f"{upload.name}: {fault}")

    def _reveal(self, name: str) -> None:
        staged = self._kinds[name] is Kind.STAGED
        self._storage.reveal(name, staged=staged)
        self._story.say("dCache", f"{name} is visible now" + (", SRM says" if staged else ""))

    def _again(self) -> None:
        """Announce some files that landed a second time, and give some a new content."""
        scenario = self._scenario
        self.until(lambda: self._journal.landed.issuperset(scenario.repeated), "files to land")
        self._story.say("Kafka", f"delivers the messages of {len(scenario.repeated)} files again that landed before")
        for name in scenario.repeated:
            self._storage.announce(name)
        self.until(lambda: self._journal.landed.issuperset(scenario.overwritten), "files to land")
        self._story.say("dCache", f"{len(scenario.overwritten)} files that landed are overwritten by new versions")
        for name in scenario.overwritten:
            self._upload(Upload(name, self._storage.truth[name].size_bytes))

    def _in_words(self) -> str:
        journal, outcomes = self._journal, self._journal.outcomes
        total = len(self._scenario.uploads) + len(self._scenario.overwritten)
        parts = [f"uploads {self._announced}/{total}", f"landed {outcomes['landed']}"]
        parts += [f"not visible yet {journal.waiting}", f"retried {journal.retries.total()}"]
        return ", ".join([*parts, f"failed {outcomes['failed']}"])
