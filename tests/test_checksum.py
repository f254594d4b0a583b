from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcalqr.checksum import Adler32, hex8, parse_digest


@given(st.lists(st.binary(max_size=300)))
def test_blocks_one_after_another_give_the_sum_of_the_whole(blocks: list[bytes]) -> None:
    summed = Adler32()
    for block in blocks:
        summed.update(memoryview(block))
    assert summed.value == zlib.adler32(b"".join(blocks))


def test_hex8_always_has_eight_digits() -> None:
    assert hex8(0x0AA503DD) == "0aa503dd"
    assert hex8(1) == "00000001"


@pytest.mark.parametrize(
    "header",
    [
        "adler32=0aa503dd",
        "ADLER32=0AA503DD",
        "adler32=aa503dd",
        " adler32 = AA503DD ",
        "md5=Q2hlY2sgSW50ZWdyaXR5IQ==,adler32=0aa503dd",
        "adler32=0aa503dd, sha-256=X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=",
        'adler32="0aa503dd"',
        "adler32=CqUD3Q==",
        "adler32=:CqUD3Q==:",
        "adler32=0aa503dd,adler32=CqUD3Q==",
    ],
)
def test_every_form_servers_write_is_understood(header: str) -> None:
    assert parse_digest(header) == 0x0AA503DD


@pytest.mark.parametrize(
    "header",
    [
        "",
        "adler32",
        "adler32=",
        "adler32=0aa503ddd",
        "adler32=-1",
        "adler32=0x1",
        "adler32=zzzzzzzz",
        "adler32=CqUD3Q",
        "adler32=CqUD3R==",
        "adler32=\u0661",
        "md5=0aa503dd",
        "xadler32=0aa503dd",
        "adler32=00000001,adler32=00000002",
        "adler32=00000001,adler32=nonsense",
    ],
)
def test_what_is_unknown_or_contradicts_itself_is_no_sum(header: str) -> None:
    assert parse_digest(header) is None


@given(st.integers(0, 2**32 - 1))
def test_every_sum_comes_back_from_each_form(value: int) -> None:
    encoded = base64.b64encode(value.to_bytes(4, "big")).decode()
    forms = [hex8(value), hex8(value).upper(), f"{value:x}", encoded]
    assert {parse_digest(f"adler32={form}") for form in forms} == {value}
