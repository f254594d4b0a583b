from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcalqr.dcache.dates import parse_date
from dcalqr.dcache.events import LIMIT_BYTES, EventReader
from dcalqr.dcache.uploads import UploadFilter
from dcalqr.errors import Unreadable
from dcalqr.model import Skip, StorageEvent, Verdict

ROOT = "/pnfs/example.org/data/lsst"
FOLDER = ROOT + "/lsst/user/j/jane.doe"
SAMPLES = Path(__file__).parent.parent / "data" / "dcache-billing.jsonl"
LINES = SAMPLES.read_bytes().splitlines()
CASES: dict[str, bytes] = {json.loads(line)["_case"]: line for line in LINES}
READER = EventReader(FOLDER)
FILTER = UploadFilter(FOLDER)
UPLOAD: dict[str, Any] = json.loads(CASES["pool_transfer_write_ok_webdav"])
ABSENT = object()
UNHURRIED = settings(deadline=None)  # these tests never judge speed


def changed(base: dict[str, Any], **changes: object) -> bytes:
    fields = {name: value for name, value in (base | changes).items() if value is not ABSENT}
    return json.dumps(fields).encode()


def upload(**changes: object) -> bytes:
    return changed(UPLOAD, **changes)


def at(path: str) -> bytes:
    return upload(billingPath=path, transferPath=path)


def case(name: str, **changes: object) -> bytes:
    return changed(json.loads(CASES[name]), **changes)


def event_of(value: bytes) -> StorageEvent:
    event = READER.read(value)
    assert isinstance(event, StorageEvent)
    return event


def answer(value: bytes | None) -> str:
    """Say what becomes of a record: match, look_now, the reason of a skip, or BAD and the reason."""
    rest, skips = READER.sift([value])
    assert len(rest) + sum(skips.values()) == 1
    return answer_when_read(value) if rest else next(iter(skips)).reason


def answer_when_read(value: bytes | None) -> str:
    """Say the same without the glance."""
    try:
        event = READER.read(value)
    except Unreadable as error:
        detail = error.facts["detail"]
        assert isinstance(detail, str)
        assert detail.isascii()
        assert detail.isprintable()
        return f"BAD {error.facts['reason']}"
    verdict: Verdict = event if isinstance(event, Skip) else FILTER.judge(event)
    return verdict.reason if isinstance(verdict, Skip) else verdict.value


# --- the samples ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_every_sample_gets_the_decision_it_bears(name: str) -> None:
    decision = json.loads(CASES[name])["_decision"]
    said = answer(CASES[name])
    assert (said if said in {"match", "look_now"} else "skip") == decision
    assert not said.startswith("BAD")


def test_the_samples_cover_every_verdict_and_every_kind_of_message() -> None:
    assert {json.loads(line)["_decision"] for line in LINES} == {"match", "skip", "look_now"}
    assert {json.loads(line)["msgType"] for line in LINES} == {
        *("transfer", "request", "remove", "store", "restore", "hit", "warning", "check")
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pool_transfer_read_ok_webdav", "direction"),
        ("pool_transfer_p2p", "p2p"),
        ("pool_transfer_write_failed_checksum", "failed_upload"),
        ("pool_transfer_write_ok_other_folder", "folder"),
        ("pool_transfer_write_ok_sibling_folder", "folder"),
        ("pool_store_to_tape", "type"),
        ("poolmanager_warning", "type"),
        ("door_request_upload_webdav_with_moverInfo", "request"),
        ("srmmanager_request_abort", "aborted"),
        ("srmmanager_request_in_place", "request"),
        ("srmmanager_request_putdone_other_folder", "folder"),
        ("pool_remove", "remove"),
        ("door_remove_nfs", "remove"),
        ("door_remove_other_folder", "folder"),
    ],
)
def test_a_skip_names_its_reason(name: str, reason: str) -> None:
    assert answer(CASES[name]) == reason


def test_an_upload_is_read_field_by_field() -> None:
    path = FOLDER + "/23003/23003691/fits_01188251_10.tar"
    assert event_of(CASES["pool_transfer_write_ok_webdav"]) == StorageEvent(
        kind="transfer",
        cell_type="pool",
        cell="pool-lsst-01a",
        path=path,
        transfer_path=path,
        pnfsid="0000A1B2C3D4E5F60718B70D32E51234F385",
        size_bytes=217055232,
        date=1767950004.02,
        code=0,
        write=True,
        p2p=False,
    )


def test_a_staged_upload_keeps_both_paths() -> None:
    event = event_of(CASES["pool_transfer_write_ok_srm_gridftp_not_yet_committed"])
    assert event.staged
    assert event.transfer_path == "/upload/5/bca4838f-5f55-40d5-9ec1-64a7adedb1b2/fits_01188254_13.tar"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("pool_transfer_write_ok_double_slashes", "/23003/d.tar"),
        ("pool_transfer_write_ok_escaped_slash", "/x</e.tar"),
        ("pool_transfer_write_ok_escaped_characters", "/run 7 \u2013 5\u20ac \u00a0end.tar"),
        ("pool_transfer_write_ok_outside_the_bmp", "/\U0001f52d.tar"),
        ("pool_transfer_write_ok_odd_names", "/été #1/a b%20c+?&;=<é>.tar"),
        ("pool_transfer_write_ok_percent_dots", "/%2e%2e/x"),
    ],
)
def test_a_path_is_read_as_dcache_means_it_and_is_not_staged(name: str, path: str) -> None:
    event = event_of(CASES[name])
    assert event.path == FOLDER + path
    assert not event.staged


# --- reliability, "Bad inputs", events: one test a row, named by its number -------------------------------------


@pytest.mark.parametrize("value", [None, b""])
def test_row_1_a_tombstone_is_unreadable_and_never_a_crash(value: bytes | None) -> None:
    assert answer(value) == "BAD empty"


@pytest.mark.parametrize("value", [b"\xff\xfe", b'{"msgType":"\xff"}', upload().replace(b"fits_", b"fits\xe9")])
def test_row_2_bytes_that_are_no_utf8_are_unreadable(value: bytes) -> None:
    assert answer(value) == "BAD encoding"


@pytest.mark.parametrize(
    "name", ["pool_transfer_write_ok_webdav", "pool_transfer_read_ok_webdav", "door_remove_webdav"]
)
def test_row_3_a_byte_order_mark_changes_nothing(name: str) -> None:
    assert answer(codecs.BOM_UTF8 + CASES[name]) == answer(CASES[name])


@pytest.mark.parametrize("value", [upload()[:-1], upload()[:200], b"{", b" ", b"nonsense", upload() + b"{}", b"'x'"])
def test_row_4_truncated_or_mangled_json_is_unreadable(value: bytes) -> None:
    assert answer(value) == "BAD json"


@pytest.mark.parametrize("value", [b"[]", b'"x"', b"42", b"null", b"true", b"1.5", b'[{"msgType":"transfer"}]'])
def test_row_5_json_that_is_no_object_is_unreadable(value: bytes) -> None:
    assert answer(value) == "BAD shape"


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"msgType":"transfer","x":[', b'{"billingPath":['])
def test_row_6_nested_brackets_are_unreadable_and_never_a_crash(opening: bytes) -> None:
    assert answer(opening + b"[" * 100_000) == "BAD json"
    assert answer(opening + b"[" * 100_000 + b"]" * 100_000) == "BAD json"


def test_row_8_what_is_over_the_limit_is_unreadable_before_parsing_and_what_is_at_it_is_read() -> None:
    value = upload()
    assert answer(value + b" " * (LIMIT_BYTES - len(value))) == "match"
    assert answer(value + b" " * (LIMIT_BYTES + 1 - len(value))) == "BAD too_large"
    assert answer(b"x" * (20 * LIMIT_BYTES)) == "BAD too_large"


@pytest.mark.parametrize(
    "size",
    [
        *("NaN", "Infinity", "-Infinity", "1e400", "1e3", "1.0", "-1", '"5"', "true", "false", "[]", "{}"),
        *("1" + "0" * 23, "9223372036854775808", "9" * 5000),
    ],
)
def test_rows_10_and_11_a_size_that_is_no_size_is_unreadable(size: str) -> None:
    assert answer(upload(fileSize=123454321).replace(b"123454321", size.encode())) == "BAD size"


@pytest.mark.parametrize(
    "base",
    ["pool_transfer_read_ok_webdav", "pool_transfer_write_ok_other_folder", "pool_transfer_p2p", "pool_store_failed"],
)
@pytest.mark.parametrize("size", [b"NaN", b"1e400", b"-1", b'"5"', b"9" * 5000])
def test_row_10_a_bad_size_of_what_is_not_ours_is_nobodys_business(base: str, size: bytes) -> None:
    value = case(base, fileSize=123454321).replace(b"123454321", size)
    assert answer(value) == answer(CASES[base])


def test_row_10_numbers_that_nobody_needs_may_be_anything() -> None:
    for odd in (b"NaN", b"1e400", b"9" * 5000):
        assert answer(upload(meanWriteBandwidth=123454321).replace(b"123454321", odd)) == "match"


@pytest.mark.parametrize(
    ("size", "known"), [(ABSENT, None), (None, None), (0, None), (1, 1), (2**40, 2**40), (2**63 - 1, 2**63 - 1)]
)
def test_row_11_a_missing_or_zero_size_is_unknown_and_others_are_kept(size: object, known: int | None) -> None:
    assert event_of(upload(fileSize=size)).size_bytes == known


@pytest.mark.parametrize("code", [1, -1, 666, 10004, 10**22])
def test_row_12_a_failed_upload_is_skipped(code: int) -> None:
    assert answer(upload(status={"code": code, "msg": ""})) == "failed_upload"


@pytest.mark.parametrize(
    "status",
    [ABSENT, None, "0", 0, [], {}, {"code": "0"}, {"code": None}, {"code": False}, {"code": True}, {"code": 0.0}],
)
def test_row_12_a_status_that_says_nothing_is_unreadable_in_the_folder_only(status: object) -> None:
    assert answer(upload(status=status)) == "BAD status"
    assert answer(case("pool_transfer_write_ok_other_folder", status=status)) == "folder"
    assert answer(case("pool_transfer_read_ok_webdav", status=status)) == "direction"


@pytest.mark.parametrize(
    "kind", ["restore", "store", "hit", "door", "Transfer", "transfer ", "", None, 1, True, [], {}, ABSENT, "\ud800"]
)
def test_row_13_other_types_are_skipped(kind: object) -> None:
    assert answer(upload(msgType=kind)) == "type"
    assert answer(upload(msgType=kind, billingPath=FOLDER + "/../x", fileSize=-1, status="x")) == "type"


@pytest.mark.parametrize("direction", ["read", "", "WRITE", "\ud800"])
def test_row_14_a_download_is_skipped(direction: str) -> None:
    assert answer(upload(isWrite=direction)) == "direction"


def test_the_form_is_said_by_pools_and_doors_each_in_their_spelling() -> None:
    assert event_of(upload(version="2.0")).form == "2.0"
    assert event_of(upload(version=ABSENT, VERSION="3.0")).form == "3.0"


@pytest.mark.parametrize("version", ["2.0", 2, None, ABSENT, []])
def test_row_15_the_version_decides_nothing(version: object) -> None:
    assert answer(upload(version=version)) == "match"
    assert answer(upload(VERSION=version)) == "match"


@pytest.mark.parametrize(
    "date",
    [ABSENT, None, "", "yesterday", 5, True, [], {}, "9999-12-31T23:59:59.999999999Z", "2026-01-09T10:13:24", "\ud800"],
)
def test_row_16_a_date_that_cannot_be_understood_is_no_date(date: object) -> None:
    assert event_of(upload(date=date)).date is None


def test_row_17_of_two_paths_the_billing_path_counts() -> None:
    staged = event_of(upload(transferPath="/upload/1/u/x"))
    assert (staged.path, staged.transfer_path) == (UPLOAD["billingPath"], "/upload/1/u/x")
    assert answer(upload(billingPath="/elsewhere/x")) == "folder"


@pytest.mark.parametrize("path", [ABSENT, None, "", "Unknown", "pnfs/x", FOLDER[1:] + "/x", "./x", 5, True, [], {}])
def test_row_19_a_relative_or_missing_path_is_unreadable(path: object) -> None:
    assert answer(upload(billingPath=path)) == "BAD path"


@pytest.mark.parametrize(
    "rest", ["/../../etc/passwd", "/..", "/.", "/./x", "/x/..", "/a/../b", "//..//x", "/../jane.doe/x", "/../", "/x/./"]
)
def test_row_20_a_path_that_climbs_is_unreadable(rest: str) -> None:
    assert answer(at(FOLDER + rest)) == "BAD traversal"


@pytest.mark.parametrize(
    "path", [f"/elsewhere/..{FOLDER}/x", f"/.{FOLDER}/x", f"/..{FOLDER}/x", f"{ROOT}/lsst/user/j/../j/jane.doe/x"]
)
def test_row_20_a_path_that_leads_into_the_folder_only_by_climbing_never_matches(path: str) -> None:
    assert answer(at(path)) == "folder"


@pytest.mark.parametrize("name", ["%2e%2e", "%2F", "...", "..x", ".x", "x..", "%00", "\\..\\x", "\uff0e\uff0e"])
def test_row_21_names_that_only_resemble_a_climb_are_literal(name: str) -> None:
    assert event_of(at(f"{FOLDER}/{name}/x")).path == f"{FOLDER}/{name}/x"


@pytest.mark.parametrize(
    "path", [FOLDER + "X/file", FOLDER[:-1] + "/x", FOLDER + " /x", FOLDER.upper() + "/x", "/", ROOT]
)
def test_row_22_the_folder_matches_at_component_boundaries(path: str) -> None:
    assert answer(at(path)) == "folder"


@pytest.mark.parametrize("rest", ["", "/", "//"])
def test_row_23_the_folder_itself_is_no_file(rest: str) -> None:
    assert answer(at(FOLDER + rest)) == "not_a_file"


def test_row_23_a_trailing_slash_is_unreadable_and_repeated_slashes_are_one() -> None:
    assert answer(at(FOLDER + "/x/")) == "BAD not_a_file"
    event = event_of(at("/" + FOLDER.replace("/", "//") + "///x"))
    assert event.path == event.transfer_path == FOLDER + "/x"


@pytest.mark.parametrize("name", ["a\0b", "\0", "a/\0/b"])
def test_row_24_a_nul_in_the_path_is_unreadable(name: str) -> None:
    assert answer(at(f"{FOLDER}/{name}")) == "BAD nul"


@pytest.mark.parametrize("control", ["\n", "\r", "\t", "\x1b", "\x01", "\x1f", "\x7f", "\x80", "\x85", "\x9b", "\x9f"])
def test_row_25_a_control_character_in_any_string_of_an_upload_is_unreadable(control: str) -> None:
    assert answer(at(f"{FOLDER}/a{control}b")) == "BAD control"
    for name in ("transferPath", "cellName", "cellType", "pnfsid"):
        assert answer(upload(**{name: f"a{control}b"})) == "BAD control"


@pytest.mark.parametrize("rest", ["n" * 256, "d/" * 3000 + "x", "d/" * 100 + "x", "é" * 200, "x.part"])
def test_rows_27_and_29_long_and_reserved_names_are_for_the_task_to_refuse(rest: str) -> None:
    assert event_of(at(f"{FOLDER}/{rest}")).path == f"{FOLDER}/{rest}"


@pytest.mark.parametrize(
    "name", ["-rf", "~", "*", "$(x)", ";", "'\"", " ", "#", "?", "%", "\\", "=cmd|x", "\u2028", "\u202e"]
)
def test_rows_30_and_32_odd_names_are_kept_to_the_byte(name: str) -> None:
    assert event_of(at(f"{FOLDER}/{name}")).path == f"{FOLDER}/{name}"


def test_rows_34_and_35_the_same_bytes_are_the_same_event_and_a_new_pnfsid_is_a_new_version() -> None:
    assert event_of(upload()) == event_of(upload())
    assert event_of(upload()).version != event_of(upload(pnfsid="F" * 36)).version


def test_row_38_a_long_subject_is_neither_kept_nor_harmful() -> None:
    assert event_of(upload(subject=["P" * 50] * 10_000, owner="O" * 10_000)) == event_of(upload())


# --- beyond the table -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["isP2p", "isWrite", "cellType"])
@pytest.mark.parametrize("value", [ABSENT, None, 0, 1, [], {}])
def test_a_flag_of_a_foreign_form_is_unreadable_in_the_folder_only(name: str, value: object) -> None:
    assert answer(upload(**{name: value})) == "BAD shape"
    assert answer(case("pool_transfer_write_ok_other_folder", **{name: value})) == "folder"


@pytest.mark.parametrize(
    ("name", "value"), [("isP2p", "false"), ("isP2p", "true"), ("isWrite", True), ("isWrite", False)]
)
def test_a_flag_of_the_other_flags_form_proves_nothing(name: str, value: object) -> None:
    assert answer(upload(**{name: value})) == "BAD shape"


@pytest.mark.parametrize("pnfsid", [5, True, [], "../x", 'a"b', "a b", "é", "F" * 65])
def test_a_pnfsid_that_is_no_plain_word_is_unreadable(pnfsid: object) -> None:
    assert answer(upload(pnfsid=pnfsid)) == "BAD shape"


def test_a_missing_pnfsid_is_empty() -> None:
    assert event_of(upload(pnfsid=ABSENT)).pnfsid == ""


@pytest.mark.parametrize("name", ["billingPath", "transferPath", "cellName", "pnfsid"])
def test_half_a_character_is_unreadable(name: str) -> None:
    assert answer(upload(**{name: f"{FOLDER}/\ud800"})) == "BAD encoding"


def test_half_a_character_where_nobody_looks_or_elsewhere_does_not_matter() -> None:
    assert answer(upload(owner="\ud800")) == "match"
    assert answer(at("/elsewhere/\ud800")) == "folder"
    assert answer(case("pool_transfer_read_ok_webdav", billingPath="\udc00")) == "direction"


def test_of_repeated_keys_the_last_one_holds() -> None:
    assert answer(upload()[:-1] + b',"isWrite":"read"}') == "direction"
    assert answer(upload()[:-1] + b',"isWrite":5,"isWrite":"write"}') == "match"
    assert answer(upload(msgType="store")[:-1] + b',"msgType":"transfer"}') == "match"
    assert answer(upload()[:-1] + b',"msgType":"store"}') == "type"


def test_keys_may_be_escaped() -> None:
    assert answer(upload().replace(b'"msgType"', rb'"msgT\u0079pe"').replace(b"/", rb"\/")) == "match"


@pytest.mark.parametrize("path", [ABSENT, None, ""])
def test_without_a_transfer_path_the_upload_was_in_place(path: object) -> None:
    assert not event_of(upload(transferPath=path)).staged


def test_a_transfer_told_by_a_door_is_not_the_pools_word() -> None:
    assert answer(upload(cellType="door")) == "cell"


@pytest.mark.parametrize(
    "changes",
    [
        {"status": None},
        {"fileSize": -1},
        {"pnfsid": "a b"},
        {"billingPath": FOLDER + "/../x"},
        {"billingPath": FOLDER + "/x\n"},
        {"billingPath": "parent:[0000]/x"},
        {"billingPath": 5},
        {"transferPath": "\ud800"},
        {"cellType": 5},
    ],
)
@pytest.mark.parametrize(
    ("name", "reason"), [("srmmanager_request_putdone", "request"), ("door_remove_webdav", "remove")]
)
def test_a_malformed_hint_says_nothing_and_is_never_unreadable(
    name: str, reason: str, changes: dict[str, object]
) -> None:
    assert answer(case(name, **changes)) == reason


def test_a_request_with_mover_info_is_the_doors_copy_of_a_transfer_whoever_sent_it() -> None:
    assert answer(case("srmmanager_request_putdone", moverInfo={})) == "request"
    assert answer(case("srmmanager_request_putdone", cellName=5)) == "request"


def test_the_reader_itself_stops_requests_in_place_and_removes_by_pools() -> None:
    assert READER.read(CASES["srmmanager_request_in_place"]) == Skip("request")
    assert READER.read(case("door_remove_webdav", cellType="pool")) == Skip("remove")


def test_of_a_batch_only_what_may_be_ours_or_cannot_be_told_has_to_be_read() -> None:
    ours, elsewhere, tape, hit = upload(), at("/elsewhere/f"), CASES["pool_store_failed"], CASES["pool_hit"]
    batch = [elsewhere, ours, None, tape, b"", b"{", hit, ours, b" " * (LIMIT_BYTES + 1), upload(msgType="new")]
    rest, skips = READER.sift(batch)
    assert rest == [1, 2, 4, 5, 7, 8, 9]
    assert skips == {Skip("folder"): 1, Skip("type"): 2}
    assert READER.sift([]) == ([], {})


def test_a_read_of_what_the_glance_dismisses_says_the_same() -> None:
    told = [(name, answer(value), answer_when_read(value)) for name, value in CASES.items()]
    assert [each for each in told if each[1] != each[2]] == []


def test_skips_are_made_once() -> None:
    assert READER.read(CASES["pool_store_failed"]) is READER.read(CASES["pool_hit"])


def test_a_folder_with_odd_characters_is_found_however_its_name_is_written() -> None:
    reader = EventReader("/données/<x>/</ü")
    raw = json.dumps(UPLOAD | {"billingPath": "/données/<x>/</ü/f"}, ensure_ascii=False).encode()
    escaped = json.dumps(UPLOAD | {"billingPath": "/données/<x>/</ü/f"}).replace("</", "<\\/").encode()
    for value in (raw, escaped):
        event = reader.read(value)
        assert isinstance(event, StorageEvent)
        assert event.path == "/données/<x>/</ü/f"


def test_an_unreadable_record_shows_its_culprit_in_a_short_line_of_plain_ascii() -> None:
    with pytest.raises(Unreadable, match=r"unreadable record \(control\): .*a\\x1b\[31m\\xe9") as caught:
        READER.read(at(f"{FOLDER}/a\x1b[31mé" + "n" * 10_000))
    assert len(str(caught.value)) < 200


# --- dates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-01-09T10:13:24.02+01:00", 1767950004.02),
        ("2026-01-09T09:13:24Z", 1767950004.0),
        ("2026-01-09T09:13:24.5Z", 1767950004.5),
        ("2026-01-09T09:13:24.123456789Z", 1767950004.123457),
        ("2026-01-09T14:43:24+05:30", 1767950004.0),
        ("2026-01-09T00:13:24-09:00:00", 1767950004.0),
        ("2099-12-31T23:59:59.999999999Z", 4102444800.0),
        ("Mon Oct 01 13:49:00 CEST 2018", 1538394540.0),
        ("Mon Oct 01 12:49:00 CET 2018", 1538394540.0),
        ("Mon Oct 01 11:49:00 UTC 2018", 1538394540.0),
        ("Mon Oct 01 11:49:00 GMT 2018", 1538394540.0),
        ("Mon Oct 01 14:49:00 EEST 2018", 1538394540.0),
    ],
)
def test_a_date_is_read_in_both_forms(text: str, seconds: float) -> None:
    assert parse_date(text) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "Mon Oct 01 13:49:00 EST 2018",
        "Mon Oct 01 13:49:00 IST 2018",
        "Mon Okt 01 13:49:00 CEST 2018",
        "Mon Oct 32 13:49:00 CEST 2018",
        "Mon Oct 01 13:49:00 2018",
        "Mon Oct 01 13:49:00 UTC 9999",
        "2026-02-30T00:00:00Z",
        "2026-01-09T25:00:00Z",
        "2026-01-09T10:13:24+99:00",
        "2026-01-09T10:13:24",
        "2026-01-09 10:13:24Z",
        "2026-01-09",
        "2026-W02-5T10:13:24Z",
        "20260109T101324Z",
        "1969-12-31T23:59:59Z",
        "9999-01-01T00:00:00Z",
        "+12026-01-09T10:13:24Z",
        "\uff12\uff10\uff12\uff16-01-09T10:13:24Z",
        "2026-01-09T10:13:24Z\n",
    ],
)
def test_a_date_without_a_sure_meaning_is_none(text: str) -> None:
    assert parse_date(text) is None


@UNHURRIED
@given(st.text() | st.from_regex(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", fullmatch=True))
def test_no_text_makes_date_parsing_raise(text: str) -> None:
    date = parse_date(text)
    assert date is None or 9e8 < date < 5e9


# --- whatever comes -----------------------------------------------------------------------------------------------

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20)
JUNK = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
COMPONENTS = st.sampled_from(
    ["..", ".", "", "x", "a\0", "\x85", "\ud800", "é", "%2e", FOLDER, FOLDER[1:], "jane.doe", "~", "\n", " "]
)
PATHS = st.tuples(
    st.sampled_from([FOLDER, FOLDER + "/", "/" + FOLDER, "/", "", ROOT, "/pnfs/.."]), st.lists(COMPONENTS, max_size=5)
).map(lambda parts: parts[0] + "/".join(["", *parts[1]]))
NAMES = [*UPLOAD, "moverInfo", "VERSION"]


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Draw a sample with a few fields replaced, some by junk and the paths by hostile ones."""
    fields: dict[str, Any] = json.loads(draw(st.sampled_from(LINES)))
    fields |= draw(st.dictionaries(st.sampled_from(NAMES), JUNK, max_size=2))
    if draw(st.booleans()):
        fields["billingPath"] = draw(PATHS)
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=2)):
        fields.pop(name, None)
    value = json.dumps(fields, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    cut = draw(st.integers(0, 20))
    return value[: len(value) - cut] if cut > 17 else value


def check_read(value: bytes) -> None:
    try:
        event = READER.read(value)
    except Unreadable:
        return
    if isinstance(event, Skip):
        return
    assert event.path.startswith(FOLDER + "/")
    assert not {"", ".", ".."} & set(event.path.removeprefix(FOLDER + "/").split("/"))
    for text in (event.path, event.transfer_path, event.cell, event.cell_type, event.pnfsid):
        assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in text)
        assert text.encode().decode() == text
    assert event.size_bytes is None or 0 < event.size_bytes < 2**63
    FILTER.judge(event)


@UNHURRIED
@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_an_event_a_skip_or_unreadable(value: bytes) -> None:
    check_read(value)


@UNHURRIED
@given(JUNK.map(lambda junk: json.dumps(junk).encode()))
def test_any_json_is_an_event_a_skip_or_unreadable(value: bytes) -> None:
    check_read(value)


@UNHURRIED
@given(messages())
def test_any_message_read_is_inside_the_folder_and_free_of_danger(value: bytes) -> None:
    check_read(value)


@UNHURRIED
@given(PATHS)
def test_any_path_accepted_is_inside_the_folder_and_free_of_danger(path: str) -> None:
    check_read(at(path))


@UNHURRIED
@given(messages())
def test_the_glance_skips_only_what_the_careful_reading_skips_for_the_same_reason(value: bytes) -> None:
    # The glance does not look for foreign bytes in fields that it does not decode.
    assert answer_when_read(value) in {answer(value), "BAD encoding"}
