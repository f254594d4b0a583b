from __future__ import annotations

import collections
import http.client
import itertools
import select
import socket
import ssl
import threading
import time
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from dcalqr.testing import samples
from dcalqr.testing.door import Door, Fault
from dcalqr.testing.pki import Pki, make_pki

PATH = "/lsst/user/fits_1.tar"
WANT = {"Want-Digest": "adler32"}
# A dead man's limit for what ought to happen at once.
SOON_SECONDS = 30


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("door") / "pki")


@pytest.fixture
def door(pki: Pki) -> Iterator[Door]:
    with Door(pki) as door:
        yield door


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Client:
    """A plain client: no retries, no redirects of its own, nothing but http.client and ssl."""

    def __init__(self, pki: Pki, proxy: Path | None = None, *, crl: bool = False) -> None:
        self._door = self._context(pki, crl=crl)
        self._pool = self._context(pki, crl=crl)
        self._door.load_cert_chain(proxy or pki.proxy)

    @staticmethod
    def _context(pki: Pki, *, crl: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(capath=pki.certificates)
        if crl:
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return context

    def connect(self, url: str, *, at_door: bool = False) -> http.client.HTTPConnection:
        parts = urllib.parse.urlsplit(url)
        assert parts.hostname is not None
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, parts.port, timeout=SOON_SECONDS)
        context = self._door if at_door else self._pool
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=SOON_SECONDS, context=context)

    def ask(self, method: str, url: str, headers: dict[str, str] | None = None, *, at_door: bool = False) -> Answer:
        connection = self.connect(url, at_door=at_door)
        try:
            target = url.split("/", 3)[3] if url.count("/") > 2 else ""
            connection.request(method, f"/{target}", headers=headers or {})
            with connection.getresponse() as response:
                return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def door(self, door: Door, method: str = "GET", path: str = PATH, headers: dict[str, str] | None = None) -> Answer:
        return self.ask(method, door.url + urllib.parse.quote(path), headers, at_door=True)

    def location(self, door: Door, headers: dict[str, str] | None = None, path: str = PATH) -> str:
        answer = self.door(door, path=path, headers=headers)
        assert answer.status == 302
        return answer.headers["Location"]

    def get(self, door: Door, path: str = PATH, headers: dict[str, str] | None = None) -> Answer:
        return self.ask("GET", self.location(door, headers, path), headers)


@pytest.fixture
def client(pki: Pki) -> Client:
    return Client(pki)


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(SOON_SECONDS * 100):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def open_body(client: Client, door: Door) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """Begin a download and read nothing of its body."""
    location = client.location(door)
    connection = client.connect(location)
    connection.request("GET", "/" + location.split("/", 3)[3])
    return connection, connection.getresponse()


def raw_answer(client: Client, door: Door) -> Iterator[bytes]:
    """Give what a pool sends, byte for byte as it comes."""
    location = client.location(door)
    connection = client.connect(location)
    connection.connect()
    with connection.sock as sock:
        sock.sendall(b"GET /" + location.split("/", 3)[3].encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        while block := sock.recv(65536):
            yield block


# --- calm -----------------------------------------------------------------------------------------------------


def test_a_get_is_redirected_to_a_pool_that_sends_the_file(door: Door, client: Client) -> None:
    door.put(PATH, b"some bytes")
    assert client.get(door).body == b"some bytes"
    at_door, at_pool = door.requests
    assert (at_door.where, at_pool.where) == ("door", "pool")
    assert at_pool.port in door.pool_ports


def test_the_pools_take_turns(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    ports = {urllib.parse.urlsplit(client.location(door)).port for _ in range(2)}
    assert ports == set(door.pool_ports)


def test_the_uuid_is_good_for_one_request(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    location = client.location(door)
    assert client.ask("GET", location).status == 200
    again = client.ask("GET", location)
    assert again.status == 400
    assert b"no longer valid" in again.body


def test_the_uuid_is_good_for_one_file(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    assert client.ask("GET", client.location(door).replace("fits_1", "fits_2")).status == 400


def test_odd_names_pass_the_pool_if_the_location_is_left_alone(door: Door, client: Client) -> None:
    path = "/lsst/été #1/a b%20c+?&;=<é>.tar"
    door.put(path, b"odd")
    assert client.get(door, path).body == b"odd"
    assert door.requests[0].target == urllib.parse.quote(path).encode()
    assert {request.path for request in door.requests} == {path}


def test_the_digest_comes_only_if_door_and_pool_were_asked(door: Door, client: Client) -> None:
    file = door.put(PATH, b"\0" * 7)
    assert file.digest == "adler32=00070001"
    assert client.get(door, headers=WANT).headers["Digest"] == file.digest
    assert client.ask("GET", client.location(door, WANT)).headers["Digest"] is None
    assert client.ask("GET", client.location(door), WANT).headers["Digest"] is None


def test_a_head_is_answered_by_the_door_and_starts_no_mover(door: Door, client: Client) -> None:
    file = door.put(PATH, b"12345")
    answer = client.door(door, "HEAD", headers=WANT)
    assert (answer.status, answer.headers["Content-Length"], answer.headers["Digest"]) == (200, "5", file.digest)
    assert answer.headers["ETag"].startswith(f'"{file.pnfsid}_')
    assert client.door(door, "HEAD").headers["Digest"] is None
    assert door.movers == 0


def test_a_missing_path_is_404_for_every_method(door: Door, client: Client) -> None:
    assert {client.door(door, method).status for method in ("GET", "HEAD", "DELETE", "PROPFIND")} == {404}


def test_delete_removes_the_file(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    assert client.door(door, "DELETE").status == 204
    assert not door.holds(PATH)
    assert client.door(door, "DELETE").status == 404


def test_other_methods_are_405(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    assert client.door(door, "POST").status == 405


@pytest.mark.parametrize("path", ["/", "/lsst", "/lsst/user/", "/made/by/hand"])
def test_a_folder_is_200(door: Door, client: Client, path: str) -> None:
    door.put(PATH, b"x")
    door.make_folder("/made/by/hand")
    assert client.door(door, "GET", path).status == 200
    assert client.door(door, "HEAD", path).status == 200


def test_propfind_lists_a_folder_and_its_children_only(door: Door, client: Client) -> None:
    file = door.put(PATH, b"12345")
    door.put("/lsst/user/deeper/x", b"")
    listing = client.door(door, "PROPFIND", "/lsst/user", {"Depth": "1"})
    assert listing.status == 207
    hrefs = [part.split(b"</D:href>")[0] for part in listing.body.split(b"<D:href>")[1:]]
    assert hrefs == [b"/lsst/user/", b"/lsst/user/deeper/", PATH.encode()]
    assert b"<D:getcontentlength>5<" in listing.body
    assert file.pnfsid.encode() in listing.body
    assert client.door(door, "PROPFIND", PATH).body.count(b"<D:response>") == 1


def test_an_overwrite_has_a_new_pnfsid(door: Door, client: Client) -> None:
    first, second = door.put(PATH, b"1"), door.put(PATH, b"22")
    assert first.pnfsid != second.pnfsid
    assert client.get(door).body == b"22"


def test_a_staged_overwrite_shows_the_old_file_until_its_commit(door: Door, client: Client) -> None:
    old = door.put(PATH, b"old")
    new = door.put(PATH, b"new", staged=True)
    assert old.pnfsid in client.door(door, "HEAD").headers["ETag"]
    assert client.get(door).body == b"old"
    door.commit(PATH)
    assert new.pnfsid in client.door(door, "HEAD").headers["ETag"]
    assert client.get(door).body == b"new"


def test_a_staged_upload_of_a_new_file_is_404_until_its_commit(door: Door, client: Client) -> None:
    door.put(PATH, b"new", staged=True)
    assert client.door(door, "HEAD").status == 404
    door.commit(PATH)
    assert client.door(door, "HEAD").status == 200


def test_an_invisible_upload_hides_even_the_old_file(door: Door, client: Client) -> None:
    door.put(PATH, b"old")
    door.put(PATH, b"new", visible=False)
    assert client.door(door).status == 404
    door.commit(PATH)
    assert client.get(door).body == b"new"


def test_a_removed_file_is_404(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    door.remove(PATH)
    assert client.door(door).status == 404
    with pytest.raises(KeyError):
        door.remove(PATH)


def test_generated_content_arrives_whole(door: Door, client: Client) -> None:
    size_bytes = 5 * samples.BLOCK_BYTES + 12345
    file = door.put(PATH, samples.content(size_bytes, seed=7))
    answer = client.get(door, headers=WANT)
    assert len(answer.body) == size_bytes
    assert zlib.adler32(answer.body) == file.adler32
    assert answer.headers["Digest"] == f"adler32={file.adler32:08x}"


def test_an_empty_file_arrives(door: Door, client: Client) -> None:
    door.put(PATH, b"")
    answer = client.get(door, headers=WANT)
    assert (answer.body, answer.headers["Digest"], answer.headers["Content-Length"]) == (b"", "adler32=00000001", "0")


def test_connections_are_kept_alive_unless_the_client_closes(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    connection = client.connect(door.url, at_door=True)
    for _ in range(3):
        connection.request("HEAD", PATH)
        connection.getresponse().read()
    kept = connection.sock
    assert kept is not None
    connection.request("HEAD", PATH, headers={"Connection": "close"})
    assert connection.getresponse().headers["Connection"] == "close"
    connection.close()


def test_pools_without_tls_are_named_by_address(pki: Pki, client: Client) -> None:
    with Door(pki, http_pools=True) as door:
        door.put(PATH, b"plain")
        assert client.location(door).startswith("http://127.0.0.1:")
        assert client.get(door, headers=WANT).body == b"plain"


# --- who may come ---------------------------------------------------------------------------------------------


def test_proxies_are_accepted_and_recorded_at_the_door_alone(door: Door, pki: Pki) -> None:
    door.put(PATH, b"x")
    for proxy in (pki.proxy, pki.proxy_limited):
        assert Client(pki, proxy).get(door).status == 200
    at_door, at_pool = door.requests[:2]
    assert at_door.certificate.startswith("/DC=org/DC=dcalqr-test/CN=Test User/CN=")
    assert (at_door.secrets, at_pool.secrets) == (True, False)


def test_tokens_and_cookies_that_reach_a_pool_are_seen(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    for header in ("Authorization", "Cookie"):
        client.ask("GET", client.location(door), {header: "secret"})
        assert door.requests[-1].where == "pool"
        assert door.requests[-1].secrets


@pytest.mark.parametrize("name", ["proxy_expired", "proxy_unknown_ca", "proxy_revoked", "proxy_no_chain"])
def test_a_bad_proxy_is_refused_by_the_handshake(door: Door, pki: Pki, name: str) -> None:
    door.put(PATH, b"x")
    with pytest.raises((OSError, http.client.RemoteDisconnected)):
        Client(pki, getattr(pki, name)).door(door)
    assert door.requests == ()


def test_a_client_without_a_certificate_is_refused_at_the_door(door: Door, client: Client) -> None:
    with pytest.raises((OSError, http.client.RemoteDisconnected)):
        client.ask("GET", door.url + PATH, at_door=False)
    assert door.requests == ()


def test_only_proxies_made_after_the_switch_are_accepted(door: Door, pki: Pki, tmp_path: Path) -> None:
    door.put(PATH, b"x")
    old = pki.new_proxy(tmp_path / "old.pem")
    door.accept_only_after(time.time_ns())
    assert Client(pki, old).door(door, "HEAD").status == 401
    assert Client(pki, pki.new_proxy(tmp_path / "new.pem")).door(door, "HEAD").status == 200
    door.accept_only_after(0)
    assert Client(pki, old).door(door, "HEAD").status == 200


def test_the_doors_certificate_can_be_swapped_while_it_runs(door: Door, pki: Pki) -> None:
    door.put(PATH, b"x")
    for pem, words in ((pki.host_expired, "expired"), (pki.host_revoked, "revoked"), (pki.host_wrong_name, "mismatch")):
        door.use_certificate(pem)
        with pytest.raises(ssl.SSLCertVerificationError, match=words):
            Client(pki, crl=True).door(door)
    door.use_certificate(pki.host)
    assert Client(pki, crl=True).door(door).status == 302


def test_the_pools_certificate_can_be_swapped_while_they_run(door: Door, pki: Pki, client: Client) -> None:
    door.put(PATH, b"x")
    door.use_certificate(pki.host_unknown_ca, "pool")
    location = client.location(door)
    with pytest.raises(ssl.SSLCertVerificationError, match="local issuer"):
        client.ask("GET", location)


# --- faults ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["door", "pool"])
@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503, 507])
def test_a_status_is_answered_as_often_as_told(door: Door, client: Client, where: str, status: int) -> None:
    door.put(PATH, b"x")
    retry = (("Retry-After", "7"),)
    door.faults.add(Fault("door" if where == "door" else "pool", status=status, headers=retry, times=2))
    ask = client.door if where == "door" else client.get
    answers = [ask(door) for _ in range(3)]
    assert [answer.status == status for answer in answers] == [True, True, False]
    assert answers[0].headers["Retry-After"] == "7"


def test_faults_are_chosen_by_path_method_and_place(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    door.put("/other/[x]", b"x")
    door.faults.add(Fault("door", path="/other/[x]", method="HEAD", status=500))
    door.faults.add(Fault("door", path="/lsst/*", method="GET", status=503))
    assert client.door(door, "HEAD", "/other/[x]").status == 500
    assert client.door(door, "GET", "/other/[x]").status == 302
    assert client.door(door, "HEAD").status == 200
    assert client.door(door).status == 503


def test_calm_removes_all_faults(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    door.faults.add(Fault("door", status=500), Fault("pool", status=500))
    assert client.door(door).status == 500
    door.calm()
    assert client.get(door).status == 200


@pytest.mark.parametrize("where", ["door", "pool"])
def test_a_late_answer_comes_after_its_delay(door: Door, client: Client, where: str) -> None:
    door.put(PATH, b"x")
    door.faults.add(Fault("door" if where == "door" else "pool", delay_seconds=0.2))
    began = time.monotonic()
    assert client.get(door).status == 200
    assert time.monotonic() - began >= 0.2


def test_calm_ends_a_delay(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    door.faults.add(Fault("door", delay_seconds=3600))
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(client.door(door).status))
    asking.start()
    wait_for(lambda: door.running == 1)
    door.calm()
    asking.join(SOON_SECONDS)
    assert answers == [302]


def test_a_client_that_leaves_a_waiting_door_leaves_an_orphan_mover(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    door.faults.add(Fault("door", delay_seconds=3600))
    connection = client.connect(door.url, at_door=True)
    connection.request("GET", PATH)
    wait_for(lambda: door.running == 1)
    connection.close()
    wait_for(lambda: door.running == 0)
    door.calm()
    wait_for(lambda: door.movers == 1)


@pytest.mark.parametrize("text", ["adler32=deadbeef", "ADLER32=ABC", "md5=abc, adler32=1", ""])
def test_the_digest_can_be_any_text_or_none(door: Door, client: Client, text: str) -> None:
    door.put(PATH, b"x")
    door.faults.add(Fault("pool", digest=text), Fault("door", method="HEAD", digest=text))
    assert client.get(door, headers=WANT).headers["Digest"] == (text or None)
    assert client.door(door, "HEAD", headers=WANT).headers["Digest"] == (text or None)


def test_a_digest_can_be_late(door: Door, client: Client) -> None:
    file = door.put(PATH, b"x")
    door.faults.add(Fault("door", method="HEAD", digest="", times=2))
    digests = [client.door(door, "HEAD", headers=WANT).headers["Digest"] for _ in range(3)]
    assert digests == [None, None, file.digest]


def test_a_body_can_be_cut_by_fin(door: Door, client: Client) -> None:
    door.put(PATH, samples.content(3_000_000))
    door.faults.add(Fault("pool", cut_after=2_000_000))
    with pytest.raises(http.client.IncompleteRead) as caught:
        client.get(door)
    assert len(caught.value.partial) == 2_000_000


def test_a_body_can_be_cut_by_rst(pki: Pki, client: Client) -> None:
    # Without TLS: Python's ssl gives the same empty read for RST as for FIN.
    with Door(pki, http_pools=True) as door:
        door.put(PATH, samples.content(3_000_000))
        door.faults.add(Fault("pool", cut_after=2_000_000, reset=True))
        with pytest.raises(ConnectionResetError):
            collections.deque(raw_answer(client, door), maxlen=0)


def test_a_stalled_body_goes_on_at_calm(door: Door, client: Client) -> None:
    content = samples.content(3_000_000)
    door.put(PATH, content)
    door.faults.add(Fault("pool", stall_after=1_000_000))
    connection, response = open_body(client, door)
    assert len(response.read(1_000_000)) == 1_000_000
    assert not select.select([connection.sock], [], [], 0.2)[0]
    door.calm()
    assert zlib.adler32(response.read(), zlib.adler32(bytes(content)[:1_000_000])) == content.adler32
    connection.close()


def test_a_stall_ends_when_the_client_leaves(door: Door, client: Client) -> None:
    door.put(PATH, samples.content(100))
    door.faults.add(Fault("pool", stall_after=10))
    connection, response = open_body(client, door)
    assert door.movers == 1
    response.close()
    connection.close()
    wait_for(lambda: door.movers == 0)


def test_a_body_can_trickle(door: Door, client: Client) -> None:
    door.put(PATH, samples.content(300))
    door.faults.add(Fault("pool", bytes_per_second=1000))
    began = time.monotonic()
    assert client.get(door).body == bytes(samples.content(300))
    assert time.monotonic() - began >= 0.25


def test_content_lengths_can_be_two_negative_or_none(door: Door, client: Client) -> None:
    door.put(PATH, b"12345")
    for lengths in (("5", "6"), ("-1",), ()):
        door.faults.add(Fault("pool", lengths=lengths, times=1))
        connection, response = open_body(client, door)
        assert tuple(response.headers.get_all("Content-Length") or ()) == lengths
        response.close()
        connection.close()


@pytest.mark.parametrize("where", ["door", "pool"])
@pytest.mark.parametrize(("status", "body"), [(200, b"12345"), (206, b"12345"), (204, b""), (304, b"")])
def test_successes_that_no_plain_get_may_have(door: Door, client: Client, where: str, status: int, body: bytes) -> None:
    door.put(PATH, b"12345")
    door.faults.add(Fault("door" if where == "door" else "pool", status=status))
    answer = client.door(door) if where == "door" else client.get(door)
    assert (answer.status, answer.body) == (status, body)
    assert answer.headers["Content-Range"] == ("bytes 0-4/5" if status == 206 else None)


@pytest.mark.parametrize("lengths", [None, ("7",)])
def test_a_body_can_come_in_chunks(door: Door, client: Client, lengths: tuple[str, ...] | None) -> None:
    content = samples.content(2_500_000)
    door.put(PATH, content)
    door.faults.add(Fault("pool", chunked=True, lengths=lengths))
    answer = client.get(door)
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert answer.headers.get_all("Content-Length") == (None if lengths is None else ["7"])
    assert answer.body == bytes(content)


def test_a_redirect_can_loop(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    door.faults.add(Fault("door", redirect="loop"))
    assert client.location(door) == door.url + PATH


def test_a_redirect_can_leave_tls(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    door.faults.add(Fault("door", redirect="http"))
    assert client.location(door).startswith("http://")
    assert client.get(door).body == b"x"


def test_a_redirect_can_name_another_host(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    door.faults.add(Fault("door", redirect="other-host"))
    assert urllib.parse.urlsplit(client.location(door)).hostname == "127.0.0.1"
    assert client.get(door).body == b"x"


@pytest.mark.parametrize(
    ("oddity", "words"),
    [("wrong-name", "mismatch"), ("revoked", "revoked"), ("expired", "expired"), ("unknown-ca", "local issuer")],
)
def test_a_redirect_can_lead_to_a_host_with_a_bad_certificate(door: Door, pki: Pki, oddity: str, words: str) -> None:
    door.put(PATH, b"x")
    door.faults.add(Fault("door", redirect=oddity))
    client = Client(pki, crl=True)
    location = client.location(door)
    with pytest.raises(ssl.SSLCertVerificationError, match=words):
        client.ask("GET", location)
    assert [request.where for request in door.requests] == ["door"]


def test_a_redirect_can_be_any_text(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    door.faults.add(Fault("door", redirect="https://nowhere.invalid/x"))
    assert client.location(door) == "https://nowhere.invalid/x"


def test_headers_can_be_added_and_huge(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    door.faults.add(Fault("door", headers=(("Set-Cookie", "JSESSIONID=1"), ("X-Huge", "a" * 100_000)), times=1))
    with pytest.raises(http.client.LineTooLong):
        client.door(door)
    door.faults.add(Fault("pool", headers=(("Set-Cookie", "JSESSIONID=1"),)))
    assert client.get(door).headers["Set-Cookie"] == "JSESSIONID=1"


def test_interim_answers_can_storm(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    door.faults.add(Fault("pool", informational=1000))
    text = b""
    for block in raw_answer(client, door):
        text += block
        if text.endswith(b"\r\n\r\nx"):
            break
    assert text.count(b"HTTP/1.1 100 Continue\r\n\r\n") == 1000
    assert text.count(b"HTTP/1.1 200 OK") == 1


def test_headers_can_go_on_for_ever(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    door.faults.add(Fault("pool", endless_headers=10_000_000))
    arrived = 0
    for block in raw_answer(client, door):
        arrived += len(block)
        assert b"\r\n\r\n" not in block
        if arrived > 200_000:
            break
    assert arrived > 200_000
    wait_for(lambda: door.movers == 0)


@pytest.mark.parametrize(("accept", "error"), [("reset", ConnectionResetError), ("garbage", ssl.SSLError)])
def test_connections_can_fail_as_they_are_made(door: Door, client: Client, accept: str, error: type[OSError]) -> None:
    door.put(PATH, b"x")
    door.faults.add(Fault("door", accept="reset" if accept == "reset" else "garbage", times=1))
    with pytest.raises(error):
        client.door(door)
    assert client.door(door).status == 302


def test_a_connection_can_be_left_without_a_handshake_until_calm(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    door.faults.add(Fault("pool", accept="silent", times=1))
    location = client.location(door)
    port = urllib.parse.urlsplit(location).port
    with socket.create_connection(("localhost", port)) as waiting:
        assert not select.select([waiting], [], [], 0.1)[0]
        door.calm()
        assert client.ask("GET", location).body == b"x"


# --- starting, stopping, counting -----------------------------------------------------------------------------


def test_a_stopped_door_refuses_connections_and_comes_back_on_its_port(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    url = door.url
    for _ in range(3):
        door.stop()
        with pytest.raises(ConnectionRefusedError):
            client.door(door)
        door.start()
        assert door.url == url
        assert client.get(door).body == b"x"


def test_nobody_else_is_given_the_port_of_a_stopped_door(door: Door) -> None:
    door.stop()
    port = int(door.url.rpartition(":")[2])
    with socket.socket() as other, pytest.raises(OSError):
        other.bind(("127.0.0.1", port))


def test_a_pool_can_be_stopped_alone(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    door.stop("pool")
    location = client.location(door)
    with pytest.raises(ConnectionRefusedError):
        client.ask("GET", location)
    door.start("pool")
    assert client.get(door).body == b"x"


def test_stopping_the_pools_forgets_their_movers(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    location = client.location(door)
    door.stop("pool")
    door.start("pool")
    assert client.ask("GET", location).status == 400


def test_no_thread_is_left_whatever_hangs(pki: Pki, client: Client) -> None:
    before = set(threading.enumerate())
    connections: list[http.client.HTTPConnection] = []
    with Door(pki) as door:
        door.put(PATH, samples.content(50_000_000))
        hangs = itertools.chain(
            [Fault("pool", stall_after=10), Fault("pool", bytes_per_second=10), Fault("door", delay_seconds=3600)],
            [Fault("door", accept="silent")],
        )
        connections += [client.connect(door.url, at_door=True), open_body(client, door)[0]]
        for fault in hangs:
            door.calm()
            door.faults.add(fault)
            if fault.where == "pool":
                connections.append(open_body(client, door)[0])
            elif fault.accept is None:
                connections.append(client.connect(door.url, at_door=True))
                connections[-1].request("GET", PATH)
                wait_for(lambda: door.gets[PATH] == 4)
        plain = socket.create_connection(("localhost", int(door.url.rpartition(":")[2])))
        assert set(threading.enumerate()) - before
        door.stop()
        assert set(threading.enumerate()) == before
    plain.close()
    for connection in connections:
        connection.close()


def test_gets_are_counted_by_path(door: Door, client: Client) -> None:
    door.put(PATH, b"x")
    client.get(door)
    client.get(door)
    client.door(door, "HEAD")
    client.door(door, path="/missing")
    assert door.gets == {PATH: 2, "/missing": 1}


def test_running_max_is_the_number_of_downloads_at_one_time(door: Door, client: Client) -> None:
    door.put(PATH, samples.content(100))
    door.faults.add(Fault("pool", stall_after=50))
    opened = [open_body(client, door) for _ in range(3)]
    assert door.running == 3
    assert door.movers == 3
    for connection, response in opened:
        response.close()
        connection.close()
    assert door.running == 0
    door.calm()
    client.get(door)
    assert door.running_max == 3


def test_running_max_does_not_count_who_has_left(door: Door, client: Client) -> None:
    door.put(PATH, samples.content(20_000_000))
    for _ in range(30):
        connection, response = open_body(client, door)
        response.close()
        connection.close()
    assert door.running_max == 1


def test_many_clients_at_once_get_what_they_asked_for(door: Door, pki: Pki) -> None:
    files = [door.put(f"/many/{number}", samples.content(200_000 + number, seed=number)) for number in range(8)]
    wrong: list[str] = []

    def fetch(number: int) -> None:
        client = Client(pki)
        mine = files[number:] + files[:number]
        wrong.extend(file.path for file in mine if zlib.adler32(client.get(door, file.path).body) != file.adler32)

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(door.gets.values()) == 64
    assert 1 <= door.running_max <= 8
    wait_for(lambda: door.movers == 0)
