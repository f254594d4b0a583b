"""The run: uploads and strikes until the time is over, audits at each strike, then rest, and the balance."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcalqr.testing.pki import Pki
from tests.ledger.books import Books, Disk, Finding
from tests.ledger.fleet import Fleet, How, Strike, plan
from tests.ledger.source import FOLDER, PARTITIONS, ROOT, UPLOADS_PER_STEP, CountingDoor, Source
from tests.support.kafka import KafkaBroker

# Uploads produced ahead of what is settled: enough that every strike hits copies, waits and queued work. A rebalance
# gives what is queued to another instance while this one still copies it, so this sets how many bodies come twice.
AHEAD = 45
LEAST_KILLS = 5
SECONDS_PER_KILL, SECONDS_PER_TERM = 15.0, 20.0
AUDIT_SECONDS = 2.0
SAY_SECONDS = 10.0
STEP_SECONDS = 0.05
# From the last upload to rest: a session, a few rebalances, a commit after `LONGEST_STAGED_SECONDS` found by a look
# that comes at most 30 s later; twice that, for a busy machine.
REST_SECONDS = 120.0
SWEEP_SECONDS = 40.0  # instances sweep as soon as they have started
COPIES_WITH_KILLS, COPIES_WITHOUT = 1.2, 1.05
EVIDENCE_LINES = 8

_PNFSID = re.compile(r"\b0000[0-9A-F]{32}\b")
_UUID = re.compile(r'"uuid":"([^"]+)"')


@dataclass(frozen=True)
class Options:
    """Of one run. `seconds` is how long uploads and strikes go on; `mutant` names one of `instance.MUTANTS`."""

    seconds: float
    seed: int = 1
    instances: int = 3
    kills: bool = True
    mutant: str = ""


class Ledger:
    """One run.

    Parameters
    ----------
    folder
        Its own; holds the destination, rows, configurations and logs.
    broker
        Where a topic is made for it.
    pki
        Whom the door trusts.
    options
        Of this run.
    say
        Takes a line about what happens.
    """

    def __init__(
        self, folder: Path, broker: KafkaBroker, pki: Pki, options: Options, say: Callable[[str], None]
    ) -> None:
        self._broker, self._options, self._say_line = broker, options, say
        self.topic = self.group = f"ledger-{folder.name}-{options.seed}"
        broker.create_topic(self.topic, PARTITIONS)
        self.door = CountingDoor(pki)
        download = folder / "download"
        download.mkdir()
        self.books = Books(Disk(download, folder))
        self._source = Source(options.seed, self.door, broker.bootstrap, self.topic, self.books)
        environment = {"LEDGER_MUTANT": options.mutant} if options.mutant else {}
        self.fleet = Fleet(options.instances, folder, self._settings(folder, pki), environment)
        self._strikes = self._plan()
        self.struck: dict[How, int] = {"kill": 0, "term": 0, "worker": 0}
        self._begun_at = self._audited_at = self._said_at = time.monotonic()

    def _settings(self, folder: Path, pki: Pki) -> Mapping[str, Mapping[str, Any]]:
        return {
            "kafka": {
                "topic": self.topic,
                "servers": [self._broker.bootstrap],
                "consumergroup": self.group,
                "commitseconds": 0.5,
            },
            "dcache": {
                "url": self.door.url,
                "pool": ROOT,
                "folder": FOLDER,
                "retryseconds": 0.1,
                "retrytimes": 10,
                "maxdownloads": 4,
                # A mutant lives in the instance's own process.
                "workers": 0 if self._options.mutant else 2,
                "delayseconds": 0.2,
                "visibleseconds": 60,
                "stallseconds": 20,
                "timeout": 60,
            },
            "local": {
                "proxy": str(pki.proxy),
                "capath": str(pki.certificates),
                "downloadfolder": str(folder / "download"),
                "failedtasksfile": str(folder / "failed-{instance}.csv"),
                "minfree": 0,
            },
        }

    def _plan(self) -> list[Strike]:
        seconds = self._options.seconds
        kills = max(LEAST_KILLS, round(seconds / SECONDS_PER_KILL)) if self._options.kills else 0
        roll = random.Random(f"strikes {self._options.seed}")
        terms = max(2, round(seconds / SECONDS_PER_TERM))
        workers = 0 if self._options.mutant else kills
        return plan(roll, seconds, {"kill": kills, "term": terms, "worker": workers})

    # --- the whole --------------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Do it all; returns whether nothing was lost, wrong or left over. The first finding ends it: what came after
        would only bury the evidence.
        """
        with self.door:
            try:
                self._work()
                self._come_to_rest()
                if not self.books.findings:
                    self._balance()
            finally:
                self.fleet.kill_all()
        return not self.books.findings

    def _work(self) -> None:
        self._begun_at = time.monotonic()
        while not self.books.findings and (self._elapsed() < self._options.seconds or self._strikes):
            self._source.step(UPLOADS_PER_STEP if len(self.books.open) < AHEAD else 0)
            self._strike_due()
            self._keep_going()

    def _keep_going(self) -> None:
        """What goes on until the end: starts, ends, audits now and then, a word now and then."""
        if self._look_at_ends():
            self._audit("after an end")
        self.fleet.start_due()
        self.books.close_settled()
        if time.monotonic() - self._audited_at > AUDIT_SECONDS:
            self._audit("in passing")
        if time.monotonic() - self._said_at > SAY_SECONDS:
            self._said_at = time.monotonic()
            self._say(f"produced {self.books.produced}, uploads {len(self.books.uploads)}, open {len(self.books.open)}")
        time.sleep(STEP_SECONDS)

    def _strike_due(self) -> None:
        while self._strikes and self._strikes[0].at_seconds <= self._elapsed():
            strike = self._strikes[0]
            victim = self.fleet.choose(strike)
            if victim is None or (strike.how == "worker" and not victim.kill_worker(strike.victim)):
                return  # a little later there is one
            del self._strikes[0]
            self.struck[strike.how] += 1
            if strike.how == "worker":
                self._say(f"kill a worker of {victim.name}")
                continue
            if strike.how == "kill":
                victim.kill(strike.pause_seconds)
                self._audit(f"kill {self.struck['kill']}, of {victim.name}")
            else:
                self._audit(f"before term {self.struck['term']}, of {victim.name}")
                victim.term(strike.pause_seconds)
            self._say(f"{strike.how} {victim.name}, back after {strike.pause_seconds:.1f} s")

    # --- the end ----------------------------------------------------------------------------------------------

    def _come_to_rest(self) -> None:
        """Let the survivors settle and commit all of it; then start all anew, so that they sweep; then end them."""
        self._say("the last upload; now to rest")
        self._until(lambda: not self._source.pending and self._committed_all(), "all offsets to be committed")
        if not self.books.findings:
            self._say("all is committed; now all ends, and starts again to sweep")
        self._tell_all()
        swept_by = time.monotonic() + SWEEP_SECONDS
        self._until(
            lambda: self._all_up() and (not self.books.disk.parts() or time.monotonic() > swept_by),
            "all to be up again",
        )
        self._tell_all()

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        """Go on until the condition holds; if it does not in time, that is a finding."""
        limit = time.monotonic() + REST_SECONDS
        while not self.books.findings and not condition():
            if time.monotonic() > limit:
                self._find("wrong", f"{what}: not within {REST_SECONDS:g} s; {self._backlog()}")
                return
            self._source.step(0)
            self._keep_going()

    def _committed_all(self) -> bool:
        committed = self._broker.committed(self.group, self.topic)
        return all(committed.get(partition) == len(records) for partition, records in self.books.records.items())

    def _all_up(self) -> bool:
        return all(instance.can_be_told for instance in self.fleet)

    def _tell_all(self) -> None:
        """End every instance, and wait for it."""
        self._until(self._all_up, "all instances to run")
        for instance in self.fleet:
            if instance.can_be_told:
                instance.term(0.0)
        while any(instance.running for instance in self.fleet) and not self.books.findings:
            self._look_at_ends()
            time.sleep(STEP_SECONDS)

    def _look_at_ends(self) -> bool:
        """Notice who has ended, and how; returns whether anybody has just now."""
        ended = False
        for instance in self.fleet:
            complaint = instance.look()
            ended |= complaint is not None
            if complaint:
                self._find("wrong", f"{complaint}; log: {instance.log}")
            elif complaint is not None:
                left = [part for part in self.books.disk.parts() if instance.made(part)]
                for part in left:
                    self._find("left", f"{part}, by {instance.name}, which ended well; log: {instance.log}")
        return ended

    def _balance(self) -> None:
        self._audit("in the end")
        self.books.balance()
        if not self._committed_all():
            self._find("wrong", f"not all offsets are committed: {self._backlog()}")
        limit = COPIES_WITH_KILLS if self._options.kills else COPIES_WITHOUT
        if self.copies_per_file > limit:
            self._find("wrong", f"{self.copies_per_file:.3f} copies per file, at most {limit} are allowed")
        for version in self.books.uploads:
            if self.books.standing(version.name) == version.number and not self.door.bodies[version.file.pnfsid]:
                self._find("wrong", f"{version.name} landed, but the door counted no body of it")
        for instance in self.fleet:
            if "TASK_RAISED" in instance.log.read_text():
                self._find("wrong", f"a task raised what is none of our errors; log: {instance.log}")

    # --- looking ----------------------------------------------------------------------------------------------

    def _audit(self, when: str) -> None:
        self._audited_at = time.monotonic()
        # First the offsets, then the disk: what the survivors settle meanwhile is no excuse, but also no fault.
        self.books.audit(self._broker.committed(self.group, self.topic), f"{self._elapsed():.1f} s, {when}")
        self.books.audit_names(f"{self._elapsed():.1f} s, {when}")

    def _backlog(self) -> str:
        committed = self._broker.committed(self.group, self.topic)
        ends = {partition: len(records) for partition, records in sorted(self.books.records.items())}
        return f"committed {dict(sorted(committed.items()))}, ends {ends}"

    def _find(self, kind: str, text: str) -> None:
        self.books.findings.append(Finding(kind, text))

    def _elapsed(self) -> float:
        return time.monotonic() - self._begun_at

    def _say(self, text: str) -> None:
        self._say_line(f"{self._elapsed():6.1f} s  {text}")

    def evidence(self, finding: Finding) -> list[str]:
        """Give the log lines about the uploads that a finding names, the last few of each instance."""
        words = set(_PNFSID.findall(finding.text))
        lines = []
        for instance in self.fleet if words else ():
            log = instance.log.read_text().splitlines()
            words |= {uuid for line in log if any(word in line for word in words) for uuid in _UUID.findall(line)}
            about = [line for line in log if any(word in line for word in words)]
            lines += [f"  {instance.log.name}: {line}" for line in about[-EVIDENCE_LINES:]]
        return lines

    # --- the figures ------------------------------------------------------------------------------------------

    @property
    def copies_per_file(self) -> float:
        """Bodies that the door gave out whole, per upload that it gave out at all."""
        bodies = self.door.bodies
        return sum(bodies.values()) / max(1, len(bodies))

    @property
    def last_line(self) -> str:
        books = self.books
        rows = sum(version.file.pnfsid in books.disk.rows for version in books.uploads)
        landed = sum(books.landed(version) for version in books.uploads)
        found = {kind: sum(each.kind == kind for each in books.findings) for kind in ("lost", "wrong", "left")}
        twice = sum(count > 1 for count in self.door.bodies.values())
        return (
            f"produced {books.produced} matched {len(books.uploads)} landed {landed} rows {rows} twice {twice} "
            f"kills {self.struck['kill']} terms {self.struck['term']} workers {self.struck['worker']} "
            f"lost {found['lost']} wrong {found['wrong']} left {found['left']}"
        )
