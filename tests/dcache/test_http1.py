from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dcalqr.dcache.http1 import BadHead, Head, Origin, length_of, lengths_of, parse_head, request, target_of

# --- who is asked ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://door.example/x", ("https", "door.example", 443)),
        ("http://Pool.Example/x", ("http", "pool.example", 80)),
        ("HTTPS://pool_1.example?x", ("https", "pool_1.example", 443)),
        ("https://[2001:DB8::1]:2880/x", ("https", "2001:db8::1", 2880)),
        ("https://[::ffff:192.0.2.1]/x", ("https", "::ffff:192.0.2.1", 443)),
        ("https://192.0.2.1:1/x?y#z", ("https", "192.0.2.1", 1)),
        ("https://host:65535", ("https", "host", 65535)),
        ("https://host:/x", ("https", "host", 443)),
        ("https://host:0080#x@y", ("https", "host", 80)),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: tuple[str, str, int]) -> None:
    assert Origin.of(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "/x",
            "https://",
            "https:///x",
            "https://:1/",
            "ftp://host/",
            "httpss://host/",
            "//host/x",
            "https:/host",
        ),
        *("https://u@h/", "https://u:p@h/", "https://good.example@evil.example/", "https://@h/"),
        *("https://h:0x1/", "https://h:-1/", "https://h:+1/", "https://h:1:2/", "https://h:65536/", "https://h:0/"),
        *("https://h h/", "https://é/", "https://h/\n", "https://h\t/", "https://h/\0", " https://h/", "https://h/é"),
        *("https://good.example\\.evil.example/", "https://h%2e/", "https://h;x/", "https://h,i/", "https://h*/"),
        *("https://good.example[::1]/", "https://[::1]good.example/", "https://[::1", "https://::1/", "https://[]/"),
        *("https://[1.2.3.4]/", "https://[g::1]/", "https://[::1%25eth0]/", "https://[::1%eth0]/", "https://[[::1]]/"),
        *("https://1.2.3/", "https://1.2.3.4.5/", "https://999.1.1.1/", "https://01.2.3.4/", "https://3221225985/"),
        *("https://" + "a" * 254 + "/", "https://h:" + "9" * 5000 + "/"),
    ],
)
def test_what_names_no_host_has_no_origin(url: str) -> None:
    with pytest.raises(ValueError):
        Origin.of(url)


def test_why_a_url_is_refused_quotes_nothing_of_it() -> None:
    for url in ("ftp://user:secret@host/", "https://user:secret@host/", "secret", "https://ho st/secret", "x" * 999):
        with pytest.raises(ValueError) as caught:
            Origin.of(url)
        assert "secret" not in str(caught.value)
        assert len(str(caught.value)) < 100


_HOSTS = st.one_of(
    st.from_regex(r"[a-z][a-z0-9._-]{0,60}", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)


@given(
    st.sampled_from(["http", "https", "HTTP", "Https"]),
    _HOSTS,
    st.none() | st.integers(1, 65535),
    st.from_regex(r"[/?#][!-~]*", fullmatch=True) | st.just(""),
)
def test_what_was_meant_is_what_is_understood(scheme: str, host: str, port: int | None, rest: str) -> None:
    url = f"{scheme}://{host}{'' if port is None else f':{port}'}{rest}"
    origin = Origin.of(url)
    assert origin == (scheme.lower(), host.strip("[]"), port or (443 if scheme.lower() == "https" else 80))
    assert origin.netloc == f"{host}:{origin.port}"
    assert Origin.of(f"{origin.scheme}://{origin.netloc}{rest}") == origin
    target = target_of(url)
    assert target.startswith("/")
    assert target in (rest.partition("#")[0], "/" + rest.partition("#")[0])


_ODD = st.text(alphabet="https:/@[]?#%.\\-_ \t\r\n\0aé1٣²", max_size=40)


@given(st.text() | _ODD | st.builds("https://{}/x".format, _ODD))
@example("https://٣/")
def test_any_text_has_an_origin_that_can_be_asked_or_none(text: str) -> None:
    try:
        origin = Origin.of(text)
    except ValueError:
        return
    sent = request(origin, target_of(text))
    assert re.fullmatch(
        rb"GET /[!-~]* HTTP/1\.1\r\nHost: [^\s@/?#\\,]+:[1-9][0-9]*\r\n(?:[!-~]+: [ -~]+\r\n)+\r\n", sent
    )
    if ":" in origin.host:
        ipaddress.IPv6Address(origin.host)
    assert 0 < origin.port < 65536


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://h", "/"),
        ("https://h/", "/"),
        ("https://h?x", "/?x"),
        ("https://h#x", "/"),
        ("https://h/a/../b;?%zz=/#c", "/a/../b;?%zz=/"),
        ("https://h//a", "//a"),
        ("https://h/https://i/", "/https://i/"),
    ],
)
def test_a_target_is_the_urls_untouched_without_its_fragment(url: str, target: str) -> None:
    assert target_of(url) == target


# --- what was answered -----------------------------------------------------------------------------------------


def test_a_header_is_taken_apart() -> None:
    head = parse_head(
        b"HTTP/1.1 302 Moved Temporarily\r\nLOCATION: https://h/x:y \r\nX-Any: \xff\r\nretry-after:\t5\r\n"
        b"Digest: adler32=1\r\ndigest: md5=2\r\nContent-Length: 7\r\nX-Empty:"
    )
    assert (head.status, head.keeps) == (302, True)
    assert head.value("location") == "https://h/x:y"
    assert head.value("digest") == "adler32=1, md5=2"
    assert head.value("retry-after") == "5"
    assert lengths_of(head) == {"7"}
    assert head.value("transfer-encoding") == ""


@pytest.mark.parametrize(
    ("lines", "keeps"),
    [
        (b"HTTP/1.1 200 OK", True),
        (b"HTTP/1.1 200", True),
        (b"HTTP/1.1 200 ", True),
        (b"HTTP/1.0 200 OK", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive", False),
        (b"HTTP/1.1 200 OK\r\nConnection: x, Close", False),
        (b"HTTP/1.1 200 OK\r\nConnection: x\r\nconnection: CLOSE", False),
    ],
)
def test_a_connection_is_kept_if_the_server_means_to(lines: bytes, keeps: bool) -> None:
    assert parse_head(lines) == Head(200, parse_head(lines).fields, keeps)


@pytest.mark.parametrize(
    "head",
    [
        *(b"", b"HTTP", b"\r\nHTTP/1.1 200 OK", b" HTTP/1.1 200 OK", b"http/1.1 200 OK", b"HTTP/2 200 OK"),
        *(b"HTTP/1.2 200 OK", b"HTTP/11.1 200 OK", b"HTTP/1.1  200 OK", b"HTTP/1.1\t200 OK", b"HTTP/1.1 200\tOK"),
        *(b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 020 OK", b"HTTP/1.1 -20 OK", b"HTTP/1.1 200OK"),
        *(b"HTTP/1.1 200 OK\n", b"HTTP/1.1 200 OK\0", b"HTTP/1.1 200 OK\rX: y", b"ICY 200 OK", b"<html>"),
    ],
)
def test_a_status_line_is_http_1_to_the_letter(head: bytes) -> None:
    with pytest.raises(BadHead):
        parse_head(head)


@pytest.mark.parametrize(
    "line",
    [
        b" Content-Length: 5",
        b"\tfolded",
        b"",
        b"no colon",
        b": no name",
        b"two words: x",
        b"Content-Length\0: 5",
        b"Content-Length\x0b: 5",
        b"Content-Length:\n5",
        b"X: y\nContent-Length: 5",
        b"X: y\rContent-Length: 5",
        b"X: y\r",
        b"X: y\0z",
        b"X: y\r\r\n",
        b"(comment): x",
        b"\xe9: x",
    ],
)
def test_a_line_that_others_may_read_otherwise_is_refused(line: bytes) -> None:
    for after in (b"", b"\r\nX: y"):
        with pytest.raises(BadHead):
            parse_head(b"HTTP/1.1 200 OK\r\nX: y\r\n" + line + after)


def test_a_blank_before_the_colon_hides_no_field() -> None:
    head = parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length : 6\r\nTransfer-Encoding\t: chunked")
    assert lengths_of(head) == {"5", "6"}
    assert "transfer-encoding" in head.fields


def test_why_a_header_is_refused_quotes_little_of_it() -> None:
    for head in (b"x" * 60_000, b"HTTP/1.1 200 OK\r\n" + b"x" * 60_000):
        with pytest.raises(BadHead) as caught:
            parse_head(head)
        assert len(str(caught.value)) < 120


_LINES = st.lists(
    st.tuples(
        st.sampled_from(["Content-Length", "content-LENGTH", "Digest", "Location", "X-Content-Length", "Server"]),
        st.sampled_from(["", " ", "\t "]),
        st.from_regex(r"[!-~]([ -~]*[!-~])?", fullmatch=True) | st.just(""),
    ),
    max_size=8,
)


@given(st.integers(100, 999), _LINES)
def test_of_a_well_made_header_each_value_is_found_once_and_in_its_order(
    status: int, lines: list[tuple[str, str, str]]
) -> None:
    text = "".join(f"\r\n{name}:{blank}{value}{blank}" for name, blank, value in lines)
    head = parse_head(f"HTTP/1.1 {status} Any words".encode() + text.encode())
    assert head.status == status
    for name in ("content-length", "digest", "location"):
        assert head.fields.get(name, []) == [value for each, _, value in lines if each.lower() == name]
    assert "server" not in head.fields


_PIECES = st.lists(
    st.sampled_from(
        [
            b"HTTP/1.1 200 OK",
            b"\r\n",
            b"\r",
            b"\n",
            b" ",
            b"\t",
            b"\0",
            b":",
            b"Content-Length",
            b"5",
            b"Digest",
            b"\xff",
        ]
    ),
    max_size=20,
).map(b"".join)


@given(st.binary() | _PIECES | st.builds(b"HTTP/1.1 200 OK".__add__, _PIECES))
def test_any_bytes_are_a_header_or_a_bad_one(data: bytes) -> None:
    try:
        head = parse_head(data)
    except BadHead:
        return
    first, *lines = data.split(b"\r\n")
    assert int(first.split()[1]) == head.status
    assert not any(odd in part for part in (first, *lines) for odd in (b"\r", b"\n", b"\0"))
    assert all(line.partition(b":")[0].strip(b" \t") and line[:1] not in b" \t:" for line in lines)
    wanted = [line for line in lines if line.partition(b":")[0].rstrip(b" \t").lower() == b"content-length"]
    assert len(head.fields.get("content-length", [])) == len(wanted)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        *(("0", 0), ("12", 12), ("007", 7), ("9" * 18, 10**18 - 1)),
        *(("9" * 19, None), ("9" * 5000, None), ("²", None), ("٣", None), ("", None)),
        *(("-1", None), ("+1", None), ("1_0", None), ("0x1", None), ("1.0", None), (" 1", None)),
    ],
)
def test_a_length_is_a_number_that_a_file_can_have(text: str, length: int | None) -> None:
    assert length_of(text) == length


@pytest.mark.parametrize(
    ("values", "lengths"),
    [
        ((), set()),
        (("5",), {"5"}),
        (("5", "5"), {"5"}),
        (("5, 5",), {"5"}),
        (("5, 6",), {"5", "6"}),
        (("5", "05"), {"5", "05"}),
        (("5,",), {"5", ""}),
        (("",), {""}),
    ],
)
def test_all_lengths_of_an_answer_count(values: tuple[str, ...], lengths: set[str]) -> None:
    text = "".join(f"\r\nContent-Length: {value}" for value in values)
    assert lengths_of(parse_head(b"HTTP/1.1 200 OK" + text.encode())) == lengths
