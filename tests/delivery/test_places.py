from __future__ import annotations

import pytest

from dcalqr import errors
from dcalqr.delivery.places import Places


def test_the_example_of_the_first_dcalqr_comes_out_the_same() -> None:
    places = Places("https://ccdcacali236.in2p3.fr:2880/lsst", "/pnfs/in2p3.fr/data/lsst", "/lsst/user/j/james.perry")
    place = places.of("/pnfs/in2p3.fr/data/lsst/lsst/user/j/james.perry/23003/23003691/fits_01188251_10.tar")
    assert place.url == (
        "https://ccdcacali236.in2p3.fr:2880/lsst/lsst/user/j/james.perry/23003/23003691/fits_01188251_10.tar"
    )
    assert place.directory == (b"23003", b"23003691")
    assert place.name == b"fits_01188251_10.tar"


def test_a_file_in_the_folder_itself_has_no_directory() -> None:
    place = Places("https://door", "/root", "/folder").of("/root/folder/file")
    assert place == ("https://door/folder/file", (), b"file")


def test_names_are_bytes_here_and_percent_encoded_at_the_door() -> None:
    place = Places("https://door", "/root", "/folder").of("/root/folder/été #1/a b%20c?.tar")
    assert place.url == "https://door/folder/%C3%A9t%C3%A9%20%231/a%20b%2520c%3F.tar"
    assert place.directory == ("été #1".encode(),)
    assert place.name == b"a b%20c?.tar"


def test_encoded_dots_are_a_name_and_no_way_up() -> None:
    place = Places("https://door", "/root", "/folder").of("/root/folder/%2e%2e/x")
    assert place == ("https://door/folder/%252e%252e/x", (b"%2e%2e",), b"x")


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/root/folder/../secret", errors.PermanentError),
        ("/root/folder2/file", errors.PermanentError),
        ("/root/folder/" + "n" * 256, errors.NameTooLong),
        ("/root/folder/file.0123abcd-0123abcd.part", errors.ReservedName),
    ],
)
def test_a_path_that_cannot_be_a_file_here_is_refused(path: str, error: type[errors.TryError]) -> None:
    with pytest.raises(error):
        Places("https://door", "/root", "/folder").of(path)


@pytest.mark.parametrize(
    ("folder", "url"),
    [
        ("/folder/of ours", "https://door/base/folder/of%20ours"),
        ("", "https://door/base"),
        ("/x.1234abcd-1234abcd.part", "https://door/base/x.1234abcd-1234abcd.part"),
        ("/" + 300 * "long", "https://door/base/" + 300 * "long"),
    ],
)
def test_the_watched_folder_has_a_url_too(folder: str, url: str) -> None:
    assert Places("https://door/base", "/root", folder).folder_url == url
