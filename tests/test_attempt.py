from __future__ import annotations

import contextlib
import os
import stat
import urllib.parse
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcalqr import errors
from dcalqr.attempt import StopFlag, copy_once
from dcalqr.dcache import connections
from dcalqr.orders import Landed
from dcalqr.testing import samples
from dcalqr.testing.door import Door, Fault
from dcalqr.testing.faults import Headers
from dcalqr.testing.pki import Pki
from tests.support.attempts import (
    SOON_SECONDS,
    Bench,
    Notes,
    RawServer,
    Running,
    black_hole,
    connections_to,
    deaf_port,
    order_of,
    server_context,
    trust_of,
)
from tests.support.process import wait_until

PATH = "/lsst/f.fits"
DATA = samples.content(3_000_001)
# Java's URI leaves these alone in a path: what a client must not touch in a Location.
JAVA_SAFE = "/:@!$&'()*+,;=~"


@pytest.fixture
def door(pki: Pki) -> Iterator[Door]:
    with Door(pki) as door:
        door.put(PATH, DATA)
        yield door


@pytest.fixture
def bench(tmp_path: Path, door: Door, pki: Pki) -> Iterator[Bench]:
    bench = Bench(tmp_path / "download", door, trust_of(pki))
    yield bench
    bench.close()


@pytest.fixture
def revoked_bench(tmp_path: Path, door: Door, pki: Pki) -> Iterator[Bench]:
    bench = Bench(tmp_path / "download", door, trust_of(pki, crl_check=True))
    yield bench
    bench.close()


# --- a copy that succeeds --------------------------------------------------------------------------------------


def test_a_file_lands_complete_verified_and_with_its_mode(bench: Bench) -> None:
    notes = Notes()
    landed = bench.copy(bench.order(PATH, size_bytes=DATA.size_bytes, file_mode=0o640), notes=notes)
    assert landed.size_bytes == DATA.size_bytes
    assert landed.adler32 == DATA.adler32
    assert landed.verified
    assert landed.pool.startswith("localhost:")
    assert bench.files() == {"run/f.fits": bytes(DATA)}
    assert stat.S_IMODE((bench.folder / "run/f.fits").stat().st_mode) == 0o640
    assert notes.phases == ["door_wait", "connect", "first_byte", "body", "sync", "publish"]
    assert notes.received_bytes == DATA.size_bytes
    assert all(getattr(landed.phases, name) > 0 for name in notes.phases)


@pytest.mark.parametrize("size_bytes", [0, 1, 65_536, 1_048_575, 1_048_576, 1_048_577])
def test_a_file_of_any_size_lands(bench: Bench, size_bytes: int) -> None:
    content = samples.content(size_bytes)
    bench.door.put(PATH, content)
    landed = bench.copy(bench.order(PATH, size_bytes=size_bytes))
    assert (landed.size_bytes, landed.adler32) == (size_bytes, zlib.adler32(bytes(content)))
    assert bench.files() == {"run/f.fits": bytes(content)}


def test_a_file_that_landed_while_the_order_waited_costs_no_request(bench: Bench) -> None:
    order = bench.order(PATH)
    (bench.folder / "run").mkdir()
    (bench.folder / "run/f.fits").write_bytes(b"another instance's")
    with pytest.raises(errors.FinalNameChanged):
        bench.copy(order)
    assert bench.files() == {"run/f.fits": b"another instance's"}
    assert not bench.door.requests


def test_the_digest_is_wanted_from_door_and_pool(bench: Bench) -> None:
    bench.copy(bench.order(PATH))
    assert [(request.where, request.wants_digest) for request in bench.door.requests] == [
        ("door", True),
        ("pool", True),
    ]


ODD_NAMES = ["#?;% é", "x;", "x;y=z", "%2e%2e", "...", "a&b=c+d,e@f:g", "~$(x)*'\"\\`|", "-rf", "=cmd|' C'!A0", "ü€😀"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_name_lands_byte_for_byte_and_the_pools_url_goes_out_untouched(bench: Bench, name: str) -> None:
    path = f"/lsst/{name}"
    bench.door.put(path, b"odd")
    bench.copy(bench.order(path))
    assert bench.files() == {f"run/{name}": b"odd"}
    at_door, at_pool = bench.door.requests
    assert at_door.path == path
    target = urllib.parse.quote(path, safe=JAVA_SAFE).encode()
    assert at_pool.target.startswith(target + b"?dcache-http-uuid=")


@pytest.mark.parametrize("target", ["/a/../b;?uuid=1&x=%zz", "/a//./b?", "/;", "/%C3%a9#fragment", "?x=1", ""])
def test_nothing_of_a_location_is_normalised(bench: Bench, target: str) -> None:
    base = f"https://localhost:{bench.door.pool_ports[0]}"
    bench.door.faults.add(Fault("door", redirect=base + target))
    bench.refused(bench.order(PATH), errors.ServerError)
    sent = target.partition("#")[0]
    assert bench.door.requests[-1].target.decode() == (sent if sent.startswith("/") else "/" + sent)


def test_a_relative_location_is_followed_from_where_it_was_given(bench: Bench) -> None:
    bench.door.put("/lsst/other", b"other")
    bench.door.faults.add(Fault("door", path=PATH, redirect="/lsst/other"))
    bench.copy(bench.order(PATH))
    assert bench.files() == {"run/f.fits": b"other"}


def test_each_attempt_starts_at_the_door_because_a_uuid_is_good_once(bench: Bench) -> None:
    bench.door.faults.add(Fault("pool", cut_after=10, times=1))
    bench.refused(bench.order(PATH), errors.ShortBody)
    bench.copy(bench.order(PATH))
    assert [request.where for request in bench.door.requests] == ["door", "pool", "door", "pool"]
    assert bench.door.requests[1].target != bench.door.requests[3].target


def test_the_body_may_come_from_the_door_itself(bench: Bench) -> None:
    bench.door.faults.add(Fault("door", status=200))
    landed = bench.copy(bench.order(PATH))
    assert landed.verified
    assert bench.files() == {"run/f.fits": bytes(DATA)}


def test_the_connection_to_the_door_is_kept_and_that_to_the_pool_is_not(bench: Bench) -> None:
    for _ in range(3):
        bench.copy(bench.order(PATH))
        (bench.folder / "run/f.fits").unlink()
    assert connections_to(bench.door_port) == 1
    assert connections_to(*bench.door.pool_ports) == 0


# --- who gets our credential -----------------------------------------------------------------------------------


def test_no_credential_and_no_cookie_reaches_a_pool_that_asks_for_them(bench: Bench, pki: Pki) -> None:
    greedy = server_context(pki.host)
    greedy.verify_mode = greedy.verify_mode.CERT_OPTIONAL
    greedy.load_verify_locations(pki.ca)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDigest: adler32=00620062\r\nSet-Cookie: a=pool\r\n\r\na"
    cookie: Headers = (("Set-Cookie", "session=canary; Path=/; Domain=localhost"),)
    with RawServer(answer, context=greedy) as canary:
        where = f"https://localhost:{canary.port}/x?dcache-http-uuid=1"
        bench.door.faults.add(Fault("door", redirect=where, headers=cookie))
        for _ in range(2):
            bench.refused(bench.order(PATH), errors.ShortBody)
    assert canary.certificates == [None, None]
    assert all(
        word not in request.lower() for request in canary.requests for word in (b"cookie", b"authorization", b"canary")
    )
    assert all(request.certificate and not request.header("cookie") for request in bench.door.requests)


@pytest.mark.parametrize("redirect", ["other-host", "http", None])
def test_no_request_but_the_doors_bears_a_secret(bench: Bench, redirect: str | None) -> None:
    bench.door.faults.add(Fault("door", redirect=redirect))
    bench.copy(bench.order(PATH, allow_http=True, adler32=DATA.adler32))
    assert [(request.where, request.secrets) for request in bench.door.requests] == [("door", True), ("pool", False)]


def test_the_doors_host_on_another_port_is_another_host(bench: Bench, pki: Pki) -> None:
    greedy = server_context(pki.host)
    greedy.verify_mode = greedy.verify_mode.CERT_OPTIONAL
    greedy.load_verify_locations(pki.ca)
    with RawServer(None, context=greedy) as canary:
        bench.door.faults.add(Fault("door", redirect=f"https://localhost:{canary.port}{PATH}"))
        bench.refused(bench.order(PATH), errors.ConnectionLost)
    assert canary.certificates == [None]


# --- redirects -------------------------------------------------------------------------------------------------


def test_a_redirect_loop_ends_after_five_hops(bench: Bench) -> None:
    bench.door.faults.add(Fault("door", redirect="loop"))
    bench.refused(bench.order(PATH), errors.RedirectRefused)
    assert bench.door.gets[PATH] == 6


@pytest.mark.parametrize(
    "location",
    [
        "http://localhost/x",
        "https://user:secret@localhost/x",
        "ftp://localhost/x",
        "https:///x",
        "https://[::1/x",
        "https://localhost:99999/x",
        "https://localhost:port/x",
        "https://po ol/x",
        "https://pool/é",
        "https://999.999.999.999/x",
        "https://-ü-.example/x",
        "https://pool/a b",
        "",
        "//[",
        "https://" + "a" * 10_000 + "@x/",
    ],
)
def test_a_redirect_that_may_not_or_cannot_be_followed_is_refused(bench: Bench, location: str) -> None:
    bench.door.faults.add(Fault("door", redirect=location))
    with pytest.raises((errors.RedirectRefused, errors.ProtocolBroken)) as caught:
        bench.copy(bench.order(PATH))
    bench.assert_nothing_left()
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".example", "nowhere.invalid"])
def test_a_pool_whose_name_has_no_address_is_unreachable(bench: Bench, host: str) -> None:
    bench.door.faults.add(Fault("door", redirect=f"https://{host}/x"))
    bench.refused(bench.order(PATH), errors.PoolUnreachable)


@pytest.mark.parametrize(
    ("redirect", "words"),
    [
        ("wrong-name", "Hostname mismatch"),
        ("expired", "certificate has expired"),
        ("unknown-ca", "unable to get local issuer"),
        ("revoked", "certificate revoked"),
    ],
)
def test_a_pool_with_a_bad_certificate_is_refused(revoked_bench: Bench, redirect: str, words: str) -> None:
    revoked_bench.door.faults.add(Fault("door", redirect=redirect))
    error = revoked_bench.refused(revoked_bench.order(PATH), errors.PoolRefused)
    assert words in str(error)
    assert [request.where for request in revoked_bench.door.requests] == ["door"]


def test_redirecthosts_names_the_only_pools(bench: Bench) -> None:
    bench.refused(bench.order(PATH, redirect_hosts=frozenset({"pool.example"})), errors.RedirectRefused)
    assert [request.where for request in bench.door.requests] == ["door"]
    bench.copy(bench.order(PATH, redirect_hosts=frozenset({"localhost"})))


def test_a_body_over_plain_http_is_judged_by_the_sum_that_came_by_https(bench: Bench) -> None:
    bench.door.faults.add(Fault("door", redirect="http"))
    bench.refused(bench.order(PATH, allow_http=True), errors.DigestMissing)
    bench.refused(bench.order(PATH, allow_http=True, adler32=DATA.adler32 ^ 1), errors.ChecksumMismatch)
    assert bench.copy(bench.order(PATH, allow_http=True, adler32=DATA.adler32)).verified


# --- what servers answer ---------------------------------------------------------------------------------------

AT_DOOR = {401: errors.CredentialRefused, 403: errors.Forbidden, 404: errors.NotFound}
STATUSES = [103, 199, 201, 204, 206, 304, 305, 400, 401, 403, 404, 416, 429, 500, 503, 507, 999]


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_of_the_door_has_its_class(bench: Bench, status: int) -> None:
    kind = AT_DOOR.get(status, errors.ProtocolBroken if status < 400 else errors.ServerError)
    bench.door.faults.add(Fault("door", status=status))
    error = bench.refused(bench.order(PATH), kind)
    assert error.http_status == status


@pytest.mark.parametrize("status", STATUSES)
def test_whatever_a_pool_answers_is_transient(bench: Bench, status: int) -> None:
    kind = errors.ProtocolBroken if status < 400 else errors.ServerError
    bench.door.faults.add(Fault("pool", status=status))
    assert bench.refused(bench.order(PATH), kind).http_status == status


@pytest.mark.parametrize(
    ("text", "seconds"), [("7", 7), ("Wed, 21 Oct 2026 07:28:00 GMT", 0), ("-1", 0), ("9" * 5000, 0), ("²", 0)]
)
@pytest.mark.parametrize("where", ["door", "pool"])
def test_retry_after_in_seconds_is_heeded_and_nothing_else(bench: Bench, where: Any, text: str, seconds: float) -> None:
    bench.door.faults.add(Fault(where, status=503, headers=(("Retry-After", text),)))
    assert bench.refused(bench.order(PATH), errors.ServerError).minimum_wait_seconds == seconds


def test_another_length_than_expected_is_seen_before_the_body(bench: Bench) -> None:
    notes = Notes()
    error = bench.refused(bench.order(PATH, size_bytes=5), errors.LengthDiffers, notes)
    assert error.facts["offered_bytes"] == DATA.size_bytes
    assert "body" not in notes.phases


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("cut_after", [0, 1, 2_999_999])
@pytest.mark.parametrize("redirect", [None, "http"])
def test_a_short_body_is_never_published(bench: Bench, redirect: str | None, cut_after: int, reset: bool) -> None:
    bench.door.faults.add(Fault("door", redirect=redirect), Fault("pool", cut_after=cut_after, reset=reset))
    with pytest.raises((errors.ShortBody, errors.ConnectionLost)):
        bench.copy(bench.order(PATH, allow_http=True, adler32=DATA.adler32))
    bench.assert_nothing_left()


LENGTHS = [("3000001", "3000000"), ("-1",), (), ("x",), ("+3000001",), ("3000001, 5",), ("9" * 5000,), ("²",), ("1e3",)]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_content_length_that_is_none_breaks_the_protocol(bench: Bench, lengths: tuple[str, ...]) -> None:
    bench.door.faults.add(Fault("pool", lengths=lengths))
    bench.refused(bench.order(PATH), errors.ProtocolBroken)


def test_a_length_said_twice_is_still_one_length(bench: Bench) -> None:
    bench.door.faults.add(Fault("pool", lengths=("3000001", "3000001")))
    bench.copy(bench.order(PATH))
    assert bench.files() == {"run/f.fits": bytes(DATA)}


@pytest.mark.parametrize("lengths", [None, ("3000001",)])
def test_a_chunked_body_breaks_the_protocol(bench: Bench, lengths: tuple[str, ...] | None) -> None:
    bench.door.faults.add(Fault("pool", chunked=True, lengths=lengths))
    bench.refused(bench.order(PATH), errors.ProtocolBroken)


def test_an_odd_length_of_a_redirect_is_no_ones_trouble(bench: Bench) -> None:
    for text in ("²", "9" * 5000, "-1", "x"):
        bench.door.faults.add(Fault("door", lengths=(text,), times=1))
    for _ in range(4):
        bench.copy(bench.order(PATH))
        (bench.folder / "run/f.fits").unlink()


def test_the_body_of_a_redirect_is_not_waited_for_when_it_does_not_come(bench: Bench) -> None:
    bench.door.faults.add(Fault("door", lengths=("60000",)))
    bench.copy(bench.order(PATH, stall_seconds=0.3))
    assert bench.files() == {"run/f.fits": bytes(DATA)}
    assert connections_to(bench.door_port) == 0


# --- sums ------------------------------------------------------------------------------------------------------


def test_a_wrong_sum_is_never_published(bench: Bench) -> None:
    bench.door.faults.add(Fault("pool", digest="adler32=00000001"))
    error = bench.refused(bench.order(PATH), errors.ChecksumMismatch)
    assert error.facts["received"] == f"{DATA.adler32:08x}"
    assert error.facts["expected"] == "00000001"


@pytest.mark.parametrize("digest", ["", "md5=abc==", "adler32=", "adler32=xyz", "adler32=1,adler32=2"])
def test_without_a_usable_digest_the_sum_of_the_order_counts_or_none(bench: Bench, digest: str) -> None:
    bench.door.faults.add(Fault("pool", digest=digest))
    bench.refused(bench.order(PATH), errors.DigestMissing)
    bench.refused(bench.order(PATH, adler32=1), errors.ChecksumMismatch)
    assert bench.copy(bench.order(PATH, adler32=DATA.adler32)).verified
    (bench.folder / "run/f.fits").unlink()
    assert not bench.copy(bench.order(PATH, require_checksum=False)).verified


@pytest.mark.parametrize("form", ["adler32={:x}", "ADLER32={:08X}", "md5=abc==,adler32={:08x}", ' adler32 = "{:08x}" '])
def test_a_digest_in_another_form_is_understood(bench: Bench, form: str) -> None:
    bench.door.faults.add(Fault("pool", digest=form.format(DATA.adler32)))
    assert bench.copy(bench.order(PATH)).verified


# --- headers, silence, trickle ---------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["door", "pool"])
@pytest.mark.parametrize(
    "fault",
    [
        {"headers": (("X", "x" * 70_000),)},
        {"headers": tuple((f"X-{number}", "x" * 60_000) for number in range(20))},
        {"endless_headers": 10_000_000},
        {"informational": 100_000},
    ],
    ids=["line", "size", "endless", "1xx"],
)
def test_a_header_has_an_end(bench: Bench, where: Any, fault: dict[str, Any]) -> None:
    bench.door.faults.add(Fault(where, **fault))
    bench.refused(bench.order(PATH), errors.ProtocolBroken)


def test_a_few_interim_answers_are_passed_over(bench: Bench) -> None:
    bench.door.faults.add(Fault("pool", informational=3))
    bench.copy(bench.order(PATH))


@pytest.mark.parametrize("where", ["door", "pool"])
def test_a_header_that_only_trickles_is_cut(bench: Bench, where: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.3)
    bench.door.faults.add(Fault(where, endless_headers=100))
    bench.refused(bench.order(PATH), errors.ProtocolBroken)


def test_a_silent_door_is_a_door_timeout(bench: Bench) -> None:
    bench.door.faults.add(Fault("door", delay_seconds=SOON_SECONDS))
    error = bench.refused(bench.order(PATH, door_seconds=0.2), errors.DoorTimeout)
    assert error.minimum_wait_seconds == 30
    bench.door.calm()


def test_a_pool_that_does_not_begin_is_cut(bench: Bench) -> None:
    bench.door.faults.add(Fault("pool", delay_seconds=SOON_SECONDS))
    bench.refused(bench.order(PATH, stall_seconds=0.2), errors.ConnectionLost)


@pytest.mark.parametrize("stall_after", [0, 10, 2_000_000])
def test_silence_in_the_body_is_a_stall(bench: Bench, stall_after: int) -> None:
    bench.door.faults.add(Fault("pool", stall_after=stall_after))
    error = bench.refused(bench.order(PATH, stall_seconds=0.3), errors.Stalled)
    assert error.facts["received_bytes"] == stall_after


def test_a_trickle_below_the_least_rate_is_a_stall(bench: Bench) -> None:
    bench.door.faults.add(Fault("pool", bytes_per_second=1000))
    bench.refused(bench.order(PATH, timeout_seconds=1, min_rate=100_000), errors.Stalled)


# --- connections that do not come about ------------------------------------------------------------------------


@pytest.mark.parametrize("accept", ["reset", "garbage"])
def test_a_door_that_cannot_be_connected_is_unreachable(bench: Bench, accept: Any) -> None:
    bench.door.faults.add(Fault("door", accept=accept))
    bench.refused(bench.order(PATH), errors.Unreachable)


@pytest.mark.parametrize(("accept", "kind"), [("reset", errors.PoolUnreachable), ("garbage", errors.PoolRefused)])
def test_a_pool_that_cannot_be_connected_is_one_pools_trouble(bench: Bench, accept: Any, kind: Any) -> None:
    bench.door.faults.add(Fault("pool", accept=accept))
    bench.refused(bench.order(PATH), kind)


def test_a_handshake_that_nobody_answers_ends_by_its_limit(bench: Bench) -> None:
    with deaf_port() as port:
        bench.refused(order_of(f"https://localhost:{port}/f", connect_seconds=0.2), errors.Unreachable)
        bench.door.faults.add(Fault("door", redirect=f"https://localhost:{port}/x"))
        bench.refused(bench.order(PATH, connect_seconds=0.2), errors.PoolUnreachable)
        assert connections_to(port) == 0


def test_a_connection_that_nobody_accepts_ends_by_its_limit(bench: Bench) -> None:
    with black_hole() as port:
        bench.refused(order_of(f"https://127.0.0.1:{port}/f", connect_seconds=0.2), errors.Unreachable)


def test_a_door_that_is_down_is_unreachable_even_if_a_connection_was_kept(bench: Bench) -> None:
    bench.copy(bench.order(PATH))
    (bench.folder / "run/f.fits").unlink()
    (bench.folder / "run").rmdir()
    bench.door.stop("door")
    bench.refused(bench.order(PATH), errors.Unreachable)
    bench.door.start("door")
    bench.copy(bench.order(PATH))


def test_a_pool_that_is_down_is_one_pools_trouble(bench: Bench) -> None:
    bench.door.stop("pool")
    bench.refused(bench.order(PATH), errors.PoolUnreachable)


@pytest.mark.parametrize("pem", ["host_wrong_name", "host_expired", "host_unknown_ca", "host_revoked"])
def test_a_door_with_a_bad_certificate_never_sees_our_credential(revoked_bench: Bench, pki: Pki, pem: str) -> None:
    revoked_bench.door.use_certificate(getattr(pki, pem))
    revoked_bench.refused(revoked_bench.order(PATH), errors.Unreachable)
    assert revoked_bench.door.requests == ()


@pytest.mark.parametrize("proxy", ["proxy_unknown_ca", "proxy_revoked", "proxy_no_chain", "proxy_expired"])
def test_a_credential_that_the_door_refuses_is_said_to_be_refused(
    tmp_path: Path, door: Door, pki: Pki, proxy: str
) -> None:
    bench = Bench(tmp_path / "download", door, trust_of(pki, proxy=getattr(pki, proxy)))
    # Under TLS 1.3 the alert comes after the handshake, and may be overtaken by the connection's end.
    with pytest.raises((errors.CredentialRefused, errors.ConnectionLost)):
        bench.copy(bench.order(PATH))
    bench.assert_nothing_left()
    bench.close()


# --- the destination -------------------------------------------------------------------------------------------


def test_what_another_put_under_the_final_name_meanwhile_stays(bench: Bench) -> None:
    class Racer(Notes):
        def phase(self, name: str) -> None:
            super().phase(name)
            if name == "sync":
                (bench.folder / "run/f.fits").write_bytes(b"another's")

    with pytest.raises(errors.FinalNameChanged):
        copy_once(bench.order(PATH), bench.doors, bench.root_fd, StopFlag(), Racer())
    assert bench.files() == {"run/f.fits": b"another's"}


def test_a_destination_that_cannot_be_written_closes_the_pools_connection(bench: Bench) -> None:
    (bench.folder / "run").write_bytes(b"no directory")
    with pytest.raises(errors.NotAFile):
        bench.copy(bench.order(PATH))
    bench.assert_nothing_open()
    assert bench.files() == {"run": b"no directory"}


# --- told to stop ----------------------------------------------------------------------------------------------


def _stopped(running: Running, bench: Bench) -> None:
    running.stop.set()
    assert isinstance(running.join(), errors.Cancelled), repr(running.end)
    bench.assert_nothing_left()


def test_a_stop_before_anything_asks_the_door_nothing(bench: Bench) -> None:
    stop = StopFlag()
    stop.set()
    with pytest.raises(errors.Cancelled):
        copy_once(bench.order(PATH), bench.doors, bench.root_fd, stop, Notes())
    assert bench.door.requests == ()
    bench.assert_nothing_left()


def test_a_stop_ends_the_wait_for_the_door(bench: Bench) -> None:
    bench.door.faults.add(Fault("door", delay_seconds=600))
    running = Running(bench, bench.order(PATH))
    wait_until(lambda: bench.door.gets[PATH] == 1, SOON_SECONDS, "the GET")
    _stopped(running, bench)
    bench.door.calm()


@pytest.mark.parametrize("where", ["door", "pool"])
def test_a_stop_ends_a_handshake(bench: Bench, where: Any) -> None:
    with deaf_port() as port:
        bench.door.faults.add(Fault("door", redirect=f"https://localhost:{port}/x"))
        order = bench.order(PATH) if where == "pool" else order_of(f"https://localhost:{port}/f")
        running = Running(bench, order)
        wait_until(lambda: connections_to(port) == 1, SOON_SECONDS, "a connection")
        _stopped(running, bench)
        assert connections_to(port) == 0


def test_a_stop_ends_a_connection_attempt_to_a_black_hole(bench: Bench) -> None:
    with black_hole() as port:
        bench.door.faults.add(Fault("door", redirect=f"https://127.0.0.1:{port}/x"))
        running = Running(bench, bench.order(PATH))
        running.wait_phase("connect")
        wait_until(lambda: connections_to(port) > 4, SOON_SECONDS, "the first SYN")
        _stopped(running, bench)


def test_a_stop_ends_the_wait_for_the_first_byte(bench: Bench) -> None:
    bench.door.faults.add(Fault("pool", delay_seconds=600))
    running = Running(bench, bench.order(PATH))
    running.wait_phase("first_byte")
    _stopped(running, bench)


@pytest.mark.parametrize("stall_after", [0, 1_500_000])
def test_a_stop_ends_a_body(bench: Bench, stall_after: int) -> None:
    bench.door.faults.add(Fault("pool", stall_after=stall_after))
    running = Running(bench, bench.order(PATH))
    running.wait_phase("body")
    _stopped(running, bench)


class StopAt(Notes):
    """Sets a stop flag when a phase begins."""

    def __init__(self, stop: StopFlag, name: str) -> None:
        super().__init__()
        self._stop, self._name = stop, name

    def phase(self, name: str) -> None:
        super().phase(name)
        if name == self._name:
            self._stop.set()


@pytest.mark.parametrize("name", ["door_wait", "connect", "first_byte", "body"])
def test_a_stop_up_to_the_last_verification_leaves_nothing(bench: Bench, name: str) -> None:
    stop = StopFlag()
    with pytest.raises(errors.Cancelled):
        copy_once(bench.order(PATH), bench.doors, bench.root_fd, stop, StopAt(stop, name))
    bench.assert_nothing_left()


@pytest.mark.parametrize("name", ["sync", "publish"])
def test_a_stop_past_the_last_verification_lets_the_file_land(bench: Bench, name: str) -> None:
    stop = StopFlag()
    landed = bench.copy(bench.order(PATH), stop, StopAt(stop, name))
    assert isinstance(landed, Landed)
    assert bench.files() == {"run/f.fits": bytes(DATA)}


def test_a_late_stop_of_one_attempt_never_cuts_the_connection_of_the_next(bench: Bench) -> None:
    late = StopFlag()
    bench.copy(bench.order(PATH), late)
    bench.door.faults.add(Fault("door", path="/lsst/slow", delay_seconds=600))
    bench.door.put("/lsst/slow", b"slow")
    running = Running(bench, bench.order("/lsst/slow"))
    wait_until(lambda: bench.door.gets["/lsst/slow"] == 1, SOON_SECONDS, "the second GET, on the kept connection")
    assert connections_to(bench.door_port) == 1
    late.set()
    bench.door.calm()
    assert isinstance(running.join(), Landed), repr(running.end)


# --- nothing is left, ever -------------------------------------------------------------------------------------


def test_two_hundred_failing_attempts_leave_no_descriptor_no_thread_and_no_file(bench: Bench) -> None:
    faults = [
        Fault("pool", cut_after=1000, times=1),
        Fault("pool", cut_after=1000, reset=True, times=1),
        Fault("door", status=503, times=1),
        Fault("door", accept="reset", times=1),
        Fault("pool", accept="garbage", times=1),
        Fault("pool", digest="adler32=00000001", times=1),
        Fault("pool", lengths=("1", "2"), times=1),
        Fault("pool", stall_after=5, times=1),
        Fault("door", redirect="wrong-name", times=1),
        Fault("pool", headers=(("X", "x" * 70_000),), times=1),
    ]
    bench.door.put(PATH, samples.content(10_000))

    def storm(times: int) -> None:
        for number in range(times):
            bench.door.faults.add(faults[number % len(faults)])
            with contextlib.suppress(errors.TryError):
                copy_once(bench.order(PATH, stall_seconds=0.05), bench.doors, bench.root_fd, StopFlag(), Notes())
                (bench.folder / "run/f.fits").unlink()
            bench.door.calm()
            assert bench.files() == {}

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    storm(len(faults))  # a warm-up: the pool with the odd certificate starts
    before = descriptors()
    storm(200)
    wait_until(lambda: descriptors() <= before + 1, SOON_SECONDS, "the server's threads to close their ends")
    bench.assert_nothing_left()


def test_an_order_to_a_door_that_nobody_serves_is_unreachable(bench: Bench) -> None:
    bench.refused(order_of("https://nowhere.invalid/f"), errors.Unreachable)
    bench.refused(order_of("https://localhost:1/f"), errors.Unreachable)
