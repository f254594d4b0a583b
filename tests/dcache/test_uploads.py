from __future__ import annotations

import msgspec
import pytest

from dcalqr.dcache.uploads import Folder, UploadFilter
from dcalqr.model import LOOK_NOW, MATCH, Skip, StorageEvent

FOLDER = "/pnfs/example.org/data/lsst/lsst/user/j/jane.doe"
PNFSID = "0000A1B2C3D4E5F60718B70D32E51234F385"
UPLOAD = StorageEvent(
    kind="transfer",
    cell_type="pool",
    cell="pool-01",
    path=FOLDER + "/a/b.tar",
    transfer_path=FOLDER + "/a/b.tar",
    pnfsid=PNFSID,
    size_bytes=1000,
    date=1_700_000_000.0,
    code=0,
    write=True,
    p2p=False,
)
COMMIT = msgspec.structs.replace(
    UPLOAD, kind="request", cell_type="door", cell="SrmManager", write=False, transfer_path="/upload/1/uuid/b.tar"
)
REMOVE = msgspec.structs.replace(UPLOAD, kind="remove", cell_type="door", cell="WebDAV-door01", write=False)


def judged(event: StorageEvent, **changes: object) -> object:
    return UploadFilter(FOLDER).judge(msgspec.structs.replace(event, **changes))


def test_a_completed_upload_into_the_folder_matches() -> None:
    assert judged(UPLOAD) is MATCH


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"p2p": True}, "p2p"),
        ({"write": False}, "direction"),
        ({"code": 10004}, "failed_upload"),
        ({"path": "/pnfs/example.org/data/atlas/x"}, "folder"),
        ({"path": FOLDER + "2/x"}, "folder"),
        ({"path": FOLDER}, "folder"),
        ({"cell_type": "door"}, "cell"),
        ({"kind": "store"}, "type"),
    ],
)
def test_one_deviation_from_a_completed_upload_is_enough_to_skip(changes: dict[str, object], reason: str) -> None:
    assert judged(UPLOAD, **changes) == Skip(reason)


def test_a_commit_by_srm_says_look_now() -> None:
    assert judged(COMMIT) is LOOK_NOW
    assert judged(COMMIT, cell="SrmManager-srm02") is LOOK_NOW


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"code": 666}, "aborted"),
        ({"cell": "WebDAV-door01"}, "request"),
        ({"transfer_path": UPLOAD.path}, "request"),
        ({"pnfsid": ""}, "request"),
        ({"path": "/pnfs/example.org/data/atlas/x"}, "folder"),
    ],
)
def test_other_requests_say_nothing(changes: dict[str, object], reason: str) -> None:
    assert judged(COMMIT, **changes) == Skip(reason)


def test_a_remove_by_a_door_says_look_now() -> None:
    assert judged(REMOVE) is LOOK_NOW


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cell_type": "pool"}, "remove"),
        ({"code": 10018}, "remove"),
        ({"pnfsid": ""}, "remove"),
        ({"path": "/pnfs/example.org/data/atlas/x"}, "folder"),
    ],
)
def test_other_removes_say_nothing(changes: dict[str, object], reason: str) -> None:
    assert judged(REMOVE, **changes) == Skip(reason)


@pytest.mark.parametrize("spelled", [FOLDER, FOLDER + "/", FOLDER.replace("/lsst/lsst", "//lsst//lsst") + "//"])
def test_a_folder_may_be_spelled_with_needless_slashes(spelled: str) -> None:
    assert UploadFilter(spelled).judge(UPLOAD) is MATCH
    assert repr(Folder(spelled)) == f"Folder({FOLDER!r})"


def test_the_root_holds_every_file_and_not_itself() -> None:
    assert Folder("/").holds("/x")
    assert not Folder("/").holds("/")


def test_a_glance_excludes_only_what_a_closer_look_would_not_find_inside() -> None:
    folder = Folder("/a/b")
    assert folder.excludes("/a/bc")
    assert folder.excludes("/a")
    for undecided in ("/a/b", "/a/b/c", "/a//b/c", "a/b/c", ""):
        assert not folder.excludes(undecided)
