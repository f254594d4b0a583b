"""The ledger, short: it balances, and it would notice if it did not."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from dcalqr.testing import samples
from dcalqr.testing.door import StoredFile
from dcalqr.testing.pki import Pki
from tests.ledger.books import Books, Disk, Other, Version
from tests.ledger.run import LEAST_KILLS, Ledger, Options
from tests.support.kafka import KafkaBroker


@pytest.mark.timeout(400)  # uploads and kills for half a minute, then rest: a session, some rebalances, a new start
def test_nothing_is_lost_wrong_or_left_although_instances_are_killed_at_random(
    tmp_path: Path, kafka: KafkaBroker, pki: Pki
) -> None:
    ledger = Ledger(tmp_path, kafka, pki, Options(seconds=25), print)
    ledger.run()
    assert [str(finding) for finding in ledger.books.findings] == []
    assert ledger.struck["kill"] >= LEAST_KILLS
    assert ledger.last_line.endswith("lost 0 wrong 0 left 0")


@pytest.mark.timeout(400)  # it ends with the first finding; without one it would come to rest first
def test_a_tracker_that_commits_the_highest_done_offset_is_caught(tmp_path: Path, kafka: KafkaBroker, pki: Pki) -> None:
    ledger = Ledger(tmp_path, kafka, pki, Options(seconds=25, mutant="highest-done"), print)
    assert not ledger.run()
    assert {finding.kind for finding in ledger.books.findings} == {"lost"}


class Shelf:
    """Books of one path, whose uploads land by a plain write."""

    def __init__(self, folder: Path) -> None:
        self.download = folder / "download"
        self.download.mkdir()
        self.books = Books(Disk(self.download, folder))
        self.random = random.Random(1)

    def upload(self, name: str = "a.tar", *, refused: bool = False) -> Version:
        """Enter an upload and its record, the next of partition 0."""
        content = self.random.randbytes(100)
        file = StoredFile(name, samples.Content(content, 100), samples.new_pnfsid(self.random), time.time())
        version = Version(name, len(self.books.versions.get(name, [])), file, refused)
        self.books.enter(version)
        self.publish(version)
        return version

    def publish(self, record: Version | Other) -> None:
        self.books.publish(0, self.books.produced, record)

    def land(self, version: Version) -> None:
        (self.download / version.name).write_bytes(bytes(version.file.content))

    def found(self) -> list[str]:
        return [finding.kind for finding in self.books.findings]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_books_find_an_upload_below_the_committed_offset_that_is_not_here(shelf: Shelf) -> None:
    shelf.publish(Other.NOISE)
    shelf.upload()
    shelf.books.audit({0: 1}, "now")
    assert shelf.found() == []
    shelf.books.audit({0: 2}, "now")
    assert shelf.found() == ["lost"]


def test_books_count_an_upload_as_settled_by_a_later_one_and_never_by_an_earlier_one(shelf: Shelf) -> None:
    first, second = shelf.upload(), shelf.upload()
    shelf.land(second)
    shelf.books.audit({0: 1}, "now")
    assert shelf.found() == []
    shelf.land(first)
    shelf.books.audit({0: 2}, "now")
    assert shelf.found() == ["lost"]


def test_books_find_an_unreadable_record_that_nobody_kept(shelf: Shelf, tmp_path: Path) -> None:
    shelf.publish(Other.BROKEN)
    shelf.publish(Other.BROKEN)
    (tmp_path / "failed-one.unreadable").write_text('{"partition": 0, "offset": 1}\n')
    shelf.books.audit({0: 2}, "now")
    assert [str(finding) for finding in shelf.books.findings if "offset 0" in str(finding)] != []
    assert shelf.found() == ["lost"]


def test_books_find_half_a_file_under_a_final_name(shelf: Shelf) -> None:
    version = shelf.upload()
    (shelf.download / version.name).write_bytes(bytes(version.file.content)[:50])
    shelf.books.audit_names("now")
    assert shelf.found() == ["wrong"]


def test_books_find_an_offset_committed_beyond_the_end(shelf: Shelf) -> None:
    shelf.publish(Other.NOISE)
    shelf.books.audit({0: 2}, "now")
    assert shelf.found() == ["wrong"]


def test_the_balance_finds_a_part_that_is_left(shelf: Shelf) -> None:
    shelf.land(shelf.upload())
    (shelf.download / "a.tar.01234567-01234567.part").write_bytes(b"x")
    shelf.books.balance()
    assert shelf.found() == ["left"]


def test_the_balance_finds_an_older_upload_under_a_final_name(shelf: Shelf) -> None:
    older = shelf.upload()
    newer = shelf.upload()
    shelf.land(newer)
    shelf.books.balance()
    assert shelf.found() == []
    shelf.land(older)
    shelf.books.balance()
    assert set(shelf.found()) == {"lost", "wrong"}


def test_the_balance_finds_a_row_for_a_file_that_was_not_meant_to_fail(shelf: Shelf) -> None:
    good, refused = shelf.upload("a.tar"), shelf.upload("b.tar", refused=True)
    shelf.land(good)
    shelf.books.disk.rows[refused.file.pnfsid] = "failed-one.csv"
    shelf.books.balance()
    assert shelf.found() == []
    shelf.books.disk.rows[good.file.pnfsid] = "failed-one.csv"
    shelf.books.balance()
    assert shelf.found() == ["wrong"]
