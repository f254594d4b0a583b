from __future__ import annotations

import pytest

from dcalqr.inflight import Inflight, Job
from dcalqr.model import Delivery, Origin, Outcome, Settled, StorageEvent, Version

KEY = "/a"


def upload(pnfsid: str, *, size_bytes: int | None = 100, staged: bool = False) -> Delivery:
    event = StorageEvent(
        kind="transfer",
        cell_type="pool",
        cell="pool1",
        path=KEY,
        transfer_path="/upload/1/a" if staged else KEY,
        pnfsid=pnfsid,
        size_bytes=size_bytes,
        date=None,
        code=0,
        write=True,
        p2p=False,
    )
    return Delivery(event, Origin("billing", 0, 0), b"{}", lambda how: None)


@pytest.fixture
def inflight() -> Inflight:
    return Inflight()


def joined(inflight: Inflight, *deliveries: Delivery) -> Job:
    jobs = [inflight.join(KEY, delivery)[0] for delivery in deliveries]
    return jobs[-1]


# --- joining --------------------------------------------------------------------------------------------------


def test_the_first_delivery_of_a_key_makes_its_job_and_the_next_joins_it(inflight: Inflight) -> None:
    one, two, other = upload("P1"), upload("P2"), upload("P3")
    job, new = inflight.join(KEY, one)
    assert new
    assert inflight.join(KEY, two) == (job, False)
    assert inflight.join("/b", other)[1]
    assert repr(inflight) == "<Inflight jobs=2 landed=0>"
    assert repr(job) == "<Job '/a' deliveries=2 versions=2>"


def test_all_deliveries_of_a_job_bear_its_identity(inflight: Inflight) -> None:
    one, two = upload("P1"), upload("P1")
    job = joined(inflight, one, two)
    assert one.identity == two.identity == job.identity != ""


def test_a_job_knows_the_versions_between_which_the_door_must_decide(inflight: Inflight) -> None:
    job = joined(inflight, upload("P1"), upload("P1"), upload("P2"), upload("P2", size_bytes=7))
    assert job.versions == {Version("P1", 100), Version("P2", 100), Version("P2", 7)}


def test_a_job_without_deliveries_cannot_begin() -> None:
    with pytest.raises(LookupError):
        Job(KEY).begin()


def test_a_job_that_has_not_begun_tries_nothing(inflight: Inflight) -> None:
    with pytest.raises(LookupError):
        _ = joined(inflight, upload("P1")).tried


# --- which delivery a try is about, and which ones it settles -------------------------------------------------


def test_a_try_is_about_the_newest_plain_upload(inflight: Inflight) -> None:
    old, new, staged = upload("P1"), upload("P2"), upload("P3", staged=True)
    assert joined(inflight, old, new, staged).begin() is new


def test_without_a_plain_upload_a_try_is_about_the_oldest_staged_one(inflight: Inflight) -> None:
    old, new = upload("P1", staged=True), upload("P2", staged=True)
    assert joined(inflight, old, new).begin() is old


def test_what_joined_before_the_try_is_settled_by_it(inflight: Inflight) -> None:
    old, new = upload("P1"), upload("P2")
    job = joined(inflight, old, new)
    job.begin()
    assert job.covered() == [old, new]


def test_what_joins_during_the_try_is_settled_by_it_only_as_the_same_version(inflight: Inflight) -> None:
    first = upload("P1")
    job = joined(inflight, first)
    job.begin()
    again, other, longer = upload("P1"), upload("P2"), upload("P1", size_bytes=200)
    joined(inflight, again, other, longer)
    assert job.covered() == [first, again]


def test_uploads_without_a_pnfsid_are_never_the_same_version(inflight: Inflight) -> None:
    before, first = upload(""), upload("")
    job = joined(inflight, before, first)
    job.begin()
    joined(inflight, upload(""))
    assert job.covered() == [before, first]


def test_a_staged_upload_without_a_pnfsid_is_settled_by_its_own_try_alone(inflight: Inflight) -> None:
    first, second = upload("", staged=True), upload("", staged=True)
    job = joined(inflight, first, second)
    assert job.begin() is first
    assert job.covered() == [first]


def test_a_staged_upload_is_not_settled_by_the_try_of_a_plain_one(inflight: Inflight) -> None:
    staged, plain = upload("P1", staged=True), upload("P2")
    job = joined(inflight, staged, plain)
    job.begin()
    assert job.covered() == [plain]


def test_a_plain_upload_is_not_settled_by_the_try_of_a_staged_one(inflight: Inflight) -> None:
    staged, again = upload("P1", staged=True), upload("P1", staged=True)
    job = joined(inflight, staged)
    job.begin()
    joined(inflight, upload("P2"), again)
    assert job.covered() == [staged, again]


def test_the_next_try_settles_what_came_during_the_last(inflight: Inflight) -> None:
    job = joined(inflight, upload("P1"))
    job.begin()
    joined(inflight, upload("P2"))
    job.begin()
    assert len(job.covered()) == 2


def test_releasing_one_delivery_during_a_try_does_not_make_a_late_one_early(inflight: Inflight) -> None:
    gone, tried = upload("P1"), upload("P2")
    job = joined(inflight, gone, tried)
    job.begin()
    joined(inflight, upload("P3"))
    job.release([gone])
    assert job.covered() == [tried]


def test_releasing_a_late_delivery_during_a_try_leaves_the_early_ones_covered(inflight: Inflight) -> None:
    early, tried, late = upload("P1"), upload("P2"), upload("P3")
    job = joined(inflight, early, tried)
    job.begin()
    joined(inflight, late)
    job.release([late])
    assert job.covered() == [early, tried]


def test_what_was_spent_is_counted_by_version(inflight: Inflight) -> None:
    job = joined(inflight, upload("P1"))
    job.begin()
    job.begin()
    job.effort.failures += 1
    joined(inflight, upload("P2"))
    job.begin()
    assert (job.effort.tries, job.effort.failures) == (1, 0)
    assert job.efforts[Version("P1", 100)].tries == 2


# --- verdicts -------------------------------------------------------------------------------------------------


def verdicts(inflight: Inflight, job: Job, outcome: Outcome, found: Version | None = None) -> list[Settled]:
    job.begin()
    return [how for _, how in inflight.verdicts(job, outcome, found)]


def test_one_file_is_one_landed_and_its_duplicates_were_there_already(inflight: Inflight) -> None:
    job = joined(inflight, *[upload("P1") for _ in range(3)])
    assert verdicts(inflight, job, Outcome.LANDED) == [Settled.LANDED, Settled.ALREADY, Settled.ALREADY]


def test_older_versions_are_replaced_by_the_one_that_landed(inflight: Inflight) -> None:
    job = joined(inflight, upload("P1"), upload("P2"), upload("P1"), upload("P2"))
    ends = [Settled.REPLACED, Settled.LANDED, Settled.REPLACED, Settled.ALREADY]
    assert verdicts(inflight, job, Outcome.LANDED) == ends


def test_the_door_decides_which_version_landed_not_the_order_of_messages(inflight: Inflight) -> None:
    job = joined(inflight, upload("P2"), upload("P1"), upload("P2"))
    ends = [Settled.LANDED, Settled.REPLACED, Settled.ALREADY]
    assert verdicts(inflight, job, Outcome.REPLACED, Version("P2", 100)) == ends


def test_what_was_replaced_by_an_unknown_version_did_not_land(inflight: Inflight) -> None:
    job = joined(inflight, upload("P1"), upload("P2"))
    assert verdicts(inflight, job, Outcome.REPLACED) == [Settled.REPLACED] * 2
    assert verdicts(inflight, job, Outcome.REPLACED, Version("P9", 100)) == [Settled.REPLACED] * 2


def test_what_is_already_there_may_be_another_version_than_the_one_tried(inflight: Inflight) -> None:
    job = joined(inflight, upload("P2"), upload("P1"))
    ends = [Settled.ALREADY, Settled.REPLACED]
    assert verdicts(inflight, job, Outcome.ALREADY, Version("P2", 100)) == ends


@pytest.mark.parametrize(("outcome", "how"), [(Outcome.GONE, Settled.GONE), (Outcome.ALREADY, Settled.ALREADY)])
def test_duplicates_end_as_the_one_that_was_tried(inflight: Inflight, outcome: Outcome, how: Settled) -> None:
    job = joined(inflight, upload("P1"), upload("P1"))
    assert verdicts(inflight, job, outcome) == [how, how]


def test_a_path_that_is_empty_lost_all_its_plain_versions(inflight: Inflight) -> None:
    job = joined(inflight, upload("P1"), upload("P2"), upload("P3", staged=True))
    assert verdicts(inflight, job, Outcome.GONE) == [Settled.GONE, Settled.GONE]


def test_a_task_that_copies_nothing_is_done(inflight: Inflight) -> None:
    job = joined(inflight, upload("P1"), upload("P1"))
    assert verdicts(inflight, job, Outcome.DONE) == [Settled.DONE, Settled.DONE]


# --- the end --------------------------------------------------------------------------------------------------


def ended(inflight: Inflight, how: Settled, *deliveries: Delivery) -> bool:
    job = joined(inflight, *deliveries)
    return inflight.end(job, [(delivery, how) for delivery in deliveries])


def test_a_job_ends_with_its_last_delivery(inflight: Inflight) -> None:
    one, two = upload("P1"), upload("P2")
    job = joined(inflight, one, two)
    assert not inflight.end(job, [(one, Settled.REPLACED)])
    assert inflight.jobs == {KEY: job}
    assert inflight.end(job, [(two, Settled.LANDED)])
    assert inflight.jobs == {}


def test_the_delivery_after_a_job_ended_starts_a_new_one(inflight: Inflight) -> None:
    first = upload("P1")
    job = joined(inflight, first)
    inflight.end(job, [(first, Settled.FAILED)])
    later, new = inflight.join(KEY, upload("P1"))
    assert new
    assert later.identity != job.identity


@pytest.mark.parametrize("how", [Settled.LANDED, Settled.ALREADY, Settled.DONE])
def test_what_landed_is_remembered_under_its_key(inflight: Inflight, how: Settled) -> None:
    ended(inflight, how, upload("P1"))
    assert inflight.landed_before(KEY, upload("P1").event)
    assert not inflight.landed_before("/b", upload("P1").event)
    assert not inflight.landed_before(KEY, upload("P2").event)
    assert not inflight.landed_before(KEY, upload("P1", size_bytes=200).event)


@pytest.mark.parametrize("how", [Settled.FAILED, Settled.GONE, Settled.REPLACED])
def test_what_did_not_land_is_not_remembered(inflight: Inflight, how: Settled) -> None:
    ended(inflight, how, upload("P1"))
    assert not inflight.landed_before(KEY, upload("P1").event)


def test_an_upload_without_a_pnfsid_is_not_remembered(inflight: Inflight) -> None:
    ended(inflight, Settled.LANDED, upload(""))
    assert not inflight.landed_before(KEY, upload("").event)


def test_the_memory_is_bounded_and_forgets_what_it_heard_of_least_lately() -> None:
    inflight = Inflight(remember=2)
    for pnfsid in ("P1", "P2", "P1", "P3"):
        ended(inflight, Settled.LANDED, upload(pnfsid))
    remembered = [inflight.landed_before(KEY, upload(pnfsid).event) for pnfsid in ("P1", "P2", "P3")]
    assert remembered == [True, False, True]


def test_an_event_wakes_the_jobs_that_wait_for_its_pnfsid(inflight: Inflight) -> None:
    job = joined(inflight, upload("P1", staged=True))
    inflight.join("/b", upload("P2"))
    inflight.join("/c", upload(""))
    assert inflight.waiting_for(upload("P1").event) == [job]
    assert inflight.waiting_for(upload("").event) == []


# --- deliveries -----------------------------------------------------------------------------------------------


def test_a_delivery_is_acked_once_and_says_how_it_ended() -> None:
    ends: list[Settled] = []
    delivery = Delivery(upload("P1").event, Origin("billing", 2, 7), b"{}", ends.append)
    assert repr(delivery) == "<Delivery billing:2:7 open>"
    delivery.settle(Settled.LANDED)
    assert (ends, repr(delivery)) == ([Settled.LANDED], "<Delivery billing:2:7 landed>")
    with pytest.raises(RuntimeError, match="billing"):
        delivery.settle(Settled.ALREADY)
    assert ends == [Settled.LANDED]
