from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcalqr import errors
from dcalqr.local import paths

FOLDER = "/pnfs/data/lsst"
OURS = paths.instance8("node1")


def below(rest: str) -> tuple[bytes, ...]:
    return paths.relative(f"{FOLDER}/{rest}", FOLDER)


def test_a_path_becomes_its_components_below_the_folder() -> None:
    assert below("a/b.fits") == (b"a", b"b.fits")
    assert paths.relative(f"{FOLDER}/a", FOLDER + "/") == (b"a",)
    assert paths.relative("/a", "/") == (b"a",)


@pytest.mark.parametrize("rest", ["", "a/", "a//b", ".", "a/.", "..", "a/../b", "../x", "a/..", "/etc/passwd"])
def test_dots_and_empty_components_are_refused(rest: str) -> None:
    with pytest.raises(errors.PermanentError):
        below(rest)


@pytest.mark.parametrize("sign", ["\0", "\n", "\r", "\x1b", "\x7f", "\x85", "\x9b"])
def test_nul_and_control_characters_are_refused(sign: str) -> None:
    with pytest.raises(errors.PermanentError):
        below(f"a{sign}b")


def test_half_a_character_is_refused() -> None:
    with pytest.raises(errors.PermanentError):
        below("a\udc80")


@pytest.mark.parametrize("path", [FOLDER, FOLDER + "2/x", "/other/x", "pnfs/data/lsst/x"])
def test_only_what_is_below_the_folder_at_a_component_boundary_is_taken(path: str) -> None:
    with pytest.raises(errors.PermanentError):
        paths.relative(path, FOLDER)


def test_a_component_of_255_bytes_is_taken_and_of_256_is_too_long() -> None:
    assert below("é" * 127 + "x")
    with pytest.raises(errors.NameTooLong):
        below("é" * 128)


def test_a_path_of_4095_bytes_is_taken_and_of_4096_is_too_long() -> None:
    rest = "/".join(["x" * 200] * 20)
    path = f"{FOLDER}/{rest}"
    path += "/" + "y" * (4095 - len(path) - 1)
    assert paths.relative(path, FOLDER)
    with pytest.raises(errors.NameTooLong):
        paths.relative(path + "y", FOLDER)


def test_a_hundred_components_are_no_reason_to_refuse() -> None:
    assert len(below("/".join("d" * 100))) == 100


@pytest.mark.parametrize(
    "name", ["-rf", "~", "*", "$(x)", "a;b", "'\"", " a b ", "#", "?", "%2e%2e", "\\", "=cmd|x", "...", "x.part"]
)
def test_odd_names_are_taken_byte_for_byte(name: str) -> None:
    assert below(name) == (name.encode(),)


def test_a_name_of_our_parts_form_is_reserved_whoever_made_it() -> None:
    with pytest.raises(errors.ReservedName):
        below("a/x.0123abcd-89abcdef.part")
    assert below("x.0123abcd-89abcdef.part/y")


def test_a_part_is_known_again_by_its_instance_only() -> None:
    name = paths.part_name(b"b.fits", OURS, "0123abcd")
    assert name == b"b.fits." + OURS.encode() + b"-0123abcd.part"
    assert paths.is_part(name)
    assert paths.is_part_of(name, OURS)
    assert not paths.is_part_of(name, paths.instance8("node2"))
    assert not paths.is_part(b"b.fits.part")
    assert not paths.is_part(name + b"\n")


@given(st.binary(min_size=1, max_size=255))
def test_every_part_name_fits_and_is_known_again(final: bytes) -> None:
    name = paths.part_name(final, OURS, "0123abcd")
    assert len(name) <= 255
    assert paths.is_part_of(name, OURS)


def test_two_long_names_have_two_parts() -> None:
    one, two = (paths.part_name(sign * 250, OURS, "0123abcd") for sign in (b"a", b"b"))
    assert one != two


@pytest.mark.parametrize("order8", ["0123ABCD", "0123abc", "0123abcde", "xyz01234", "../../ab"])
def test_a_part_name_that_no_sweep_would_know_is_never_made(order8: str) -> None:
    with pytest.raises(ValueError):
        paths.part_name(b"x", OURS, order8)


@pytest.mark.parametrize(
    ("raw", "quoted"),
    [
        (b"/a b/%2e%2e", "/a%20b/%252e%252e"),
        (b"a#b?c;d=e", "a%23b%3Fc%3Bd%3De"),
        ("é".encode(), "%C3%A9"),
        (b"\\~_.-", "%5C~_.-"),
    ],
)
def test_nothing_in_a_name_is_read_as_syntax_of_a_url(raw: bytes, quoted: str) -> None:
    assert paths.quote_path(raw) == quoted


@given(st.binary())
def test_quoting_loses_no_byte(raw: bytes) -> None:
    quoted = paths.quote_path(raw)
    assert unquote_to_bytes(quoted) == raw
    assert quoted.isascii()


def test_a_source_is_the_base_and_the_quoted_components() -> None:
    expected = "https://door:2880/lsst/a%20b/c%23"
    assert paths.source_target("https://door:2880/lsst", (b"a b", b"c#")) == expected
    assert paths.source_target("https://door:2880/lsst/", (b"a b", b"c#")) == expected
    assert paths.source_target("/", (b"a",)) == "/a"
