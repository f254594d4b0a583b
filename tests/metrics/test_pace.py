from __future__ import annotations

from dcalqr.metrics.pace import Pace, Sample


def paced(*samples: Sample) -> Pace:
    pace = Pace()
    for each in samples:
        pace.note(each)
    return pace


def sample(at: float, position: int, end: int, files: int = 0, received_bytes: int = 0) -> Sample:
    return Sample(at, {0: position}, {0: end}, files, received_bytes)


def test_all_is_read_when_nothing_is_unread() -> None:
    pace = paced(sample(0, 5, 5))
    assert (pace.catch_up, pace.catch_up_seconds) == ("done", 0.0)


def test_one_sample_tells_no_pace() -> None:
    pace = paced(sample(0, 0, 5))
    assert (pace.catch_up, pace.catch_up_seconds) == ("unknown", None)


def test_the_time_to_catch_up_is_that_of_reading_faster_than_others_write() -> None:
    pace = paced(sample(0, 0, 1000), sample(100, 300, 1100))
    assert (pace.read_per_second, pace.written_per_second) == (3, 1)
    assert (pace.catch_up, pace.catch_up_seconds) == ("closing", 400)


def test_who_reads_no_faster_than_others_write_never_catches_up() -> None:
    pace = paced(sample(0, 0, 1000), sample(100, 100, 1100))
    assert (pace.catch_up, pace.catch_up_seconds) == ("growing", None)


def test_what_is_older_than_the_window_does_not_count() -> None:
    pace = paced(sample(0, 0, 10_000), sample(1, 9000, 10_000), sample(301, 9300, 10_000), sample(601, 9600, 10_000))
    assert pace.read_per_second == 1


def test_files_and_bytes_are_counted_per_second() -> None:
    pace = paced(sample(0, 0, 0), sample(20, 0, 0, files=10, received_bytes=2000))
    assert (pace.files_per_second, pace.bytes_per_second) == (0.5, 100)


def test_bytes_that_a_failed_attempt_takes_back_are_no_negative_pace() -> None:
    assert paced(sample(0, 0, 0, received_bytes=500), sample(20, 0, 0)).bytes_per_second == 0


def test_a_partition_that_came_meanwhile_has_no_pace_yet() -> None:
    pace = paced(Sample(0, {0: 0}, {0: 100}, 0, 0), Sample(100, {0: 50, 1: 10_000}, {0: 100, 1: 20_000}, 0, 0))
    assert pace.read_per_second == 0.5


def test_a_membership_without_partitions_is_unknown_and_not_done() -> None:
    assert paced(Sample(0, {}, {}, 0, 0), Sample(100, {}, {}, 0, 0)).catch_up == "unknown"


def test_an_end_that_is_not_known_yet_is_no_lag() -> None:
    assert paced(Sample(0, {0: 5, 1: 7}, {0: 5}, 0, 0)).catch_up == "done"


def test_a_first_sample_without_partitions_does_not_hide_what_is_read() -> None:
    pace = paced(Sample(0, {}, {}, 0, 0), sample(10, 0, 1000), sample(110, 300, 1100))
    assert (pace.read_per_second, pace.written_per_second) == (3, 1)
    assert (pace.catch_up, pace.catch_up_seconds) == ("closing", 400)
