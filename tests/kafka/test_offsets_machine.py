"""Promise P1: no event is lost. `DCALQR_LONG=1` runs 10 000 histories of 100 steps, which takes about five minutes."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.kafka import mutants
from tests.kafka.instance import Implementation
from tests.kafka.machine import PartitionMachine
from tests.kafka.world import Fell, Lost, Miscounted, Stale, Stuck, Violation

LONG = os.environ.get("DCALQR_LONG") == "1"

ordinary = settings(deadline=None, suppress_health_check=list(HealthCheck), report_multiple_bugs=False)


@pytest.mark.timeout(0 if LONG else 240)
def test_no_history_of_a_partition_loses_a_record() -> None:
    run_state_machine_as_test(
        PartitionMachine,
        settings=settings(
            ordinary, max_examples=10_000 if LONG else 1_000, stateful_step_count=100 if LONG else 50, print_blob=True
        ),
    )


# Derandomized, so that a kill is not a matter of luck; not shrunk, for nobody reads these histories.
hunt = settings(
    ordinary,
    max_examples=3_000,
    stateful_step_count=50,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("mutant", "counted", "violations"),
    [
        (mutants.HighestDone, True, Lost),
        (mutants.CountPlusOne, True, Stuck),
        (mutants.DoneBeforeFsync, True, Lost),
        (mutants.NoEpoch, False, (Lost, Fell)),
        (mutants.LookedUpAtAck, True, Miscounted),
        (mutants.OldBatchTracked, True, (Lost, Stuck)),
        (mutants.LateVersionsCovered, True, Lost),
    ],
)
def test_the_machine_finds_the_mutant(
    mutant: type[Implementation], counted: bool, violations: type[Violation] | tuple[type[Violation], ...]
) -> None:
    class Mutated(PartitionMachine):
        def __init__(self) -> None:
            super().__init__(mutant(), counted=counted)

    with pytest.raises(violations):
        run_state_machine_as_test(Mutated, settings=hunt)


def an_orphan_copies_while_the_new_owner_lands_the_next_version(machine: PartitionMachine) -> None:
    """Play the interleaving that rule 1 of design.md closes: the source's v1 is under way when v2 lands elsewhere."""
    machine.an_upload("/a", "plain", "job")
    machine.a_try(0, "begins and is answered")
    machine.trouble("rebalance", owner=1, commits=True, count=1)
    machine.an_upload("/a", "plain", "job")
    orphan = machine.instances[0].tries["/a"]
    owner = machine.instances[1]
    attempt = owner.begin("/a")
    owner.ask(attempt, deadline=False, learns=True)
    owner.finish(attempt)
    machine.instances[0].finish(orphan)


def test_an_orphan_never_replaces_what_landed_after_its_plan() -> None:
    machine = PartitionMachine()
    an_orphan_copies_while_the_new_owner_lands_the_next_version(machine)
    machine.teardown()


def test_the_oracle_sees_an_orphan_that_replaces_a_newer_file() -> None:
    machine = PartitionMachine(mutants.PublishedBlindly())
    an_orphan_copies_while_the_new_owner_lands_the_next_version(machine)
    with pytest.raises(Stale):
        machine.teardown()


def an_orphan_ends_after_the_topic_was_made_anew(machine: PartitionMachine) -> None:
    """The late ack names offset 0, at which the new topic holds another record, tracked and unfinished."""
    machine.an_upload("/a", "plain", "job")
    machine.a_try(0, "begins and is answered")
    machine.trouble("topic made anew", owner=0, commits=False, count=1)
    machine.an_upload("/b", "plain", "job")
    machine.a_durable_end(0)
    machine.a_commit()


def test_a_late_ack_never_closes_the_same_offset_of_another_assignment() -> None:
    machine = PartitionMachine()
    an_orphan_ends_after_the_topic_was_made_anew(machine)
    assert machine.world.committed == 0
    machine.teardown()


def test_the_oracle_sees_a_late_ack_that_closes_another_record() -> None:
    with pytest.raises(Lost):
        an_orphan_ends_after_the_topic_was_made_anew(PartitionMachine(mutants.LookedUpAtAck()))
