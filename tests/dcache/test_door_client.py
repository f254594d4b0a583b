from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from dcalqr import errors
from dcalqr.dcache import door as door_module
from dcalqr.dcache import tls
from dcalqr.dcache.door import Door, pnfsid_of
from dcalqr.testing import door as fake
from dcalqr.testing import samples
from dcalqr.testing.door import Fault
from dcalqr.testing.pki import Pki
from tests.support.attempts import SOON_SECONDS, connections_to, deaf_port, trust_of
from tests.support.foreign import HTTPX, made

PATH = "/lsst/f.fits"
URL = f"https://door.example:2880{PATH}"


class Clients:
    """Makes transports that answer by a function, and knows which are closed."""

    def __init__(self, answer: Callable[[httpx.Request], Awaitable[httpx.Response]]) -> None:
        self.answer = answer
        self.made: list[Clients.Transport] = []

    class Transport(httpx.AsyncBaseTransport):
        def __init__(self, clients: Clients) -> None:
            self._clients = clients
            self.closed = False

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            assert not self.closed
            return await self._clients.answer(request)

        async def aclose(self) -> None:
            self.closed = True

    def __call__(self, context: ssl.SSLContext) -> Clients.Transport:
        self.made.append(Clients.Transport(self))
        return self.made[-1]

    @property
    def closed(self) -> list[bool]:
        return [each.closed for each in self.made]


class Trusts:
    """The present credential generation, to be changed."""

    def __init__(self, pki: Pki) -> None:
        self._pki = pki
        self.generation = 1
        self.proxy: Path | None = None

    def __call__(self) -> tls.Trust:
        return tls.Trust(self.generation, str(self.proxy or self._pki.proxy), str(self._pki.certificates), False, 9e9)


def answering(*answers: httpx.Response | Exception) -> Clients:
    left = list(answers)

    async def answer(request: httpx.Request) -> httpx.Response:
        this = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(this, Exception):
            raise this
        return this

    return Clients(answer)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_SECONDS):
        while not condition():  # noqa: ASYNC110 - what it waits for happens in a server's thread or in our own code
            await asyncio.sleep(0.01)


async def refused(pki: Pki, error: httpx.Response | Exception) -> errors.DcalqrError:
    door = Door(URL, Trusts(pki), answering(error))
    with pytest.raises(errors.DcalqrError) as caught:
        await door.head(URL)
    await door.aclose()
    return caught.value


# --- against the fake door -------------------------------------------------------------------------------------


async def test_head_tells_size_sum_and_upload_and_starts_no_mover(pki: Pki) -> None:
    with fake.Door(pki) as served:
        file = served.put(PATH, samples.content(12_345))
        door = Door(served.url, lambda: trust_of(pki))
        shown = await door.head(served.url + PATH)
        await door.aclose()
        assert shown == (12_345, file.adler32, file.pnfsid)
        assert [(request.method, request.where, request.wants_digest) for request in served.requests] == [
            ("HEAD", "door", True)
        ]
        assert served.movers == 0
        assert connections_to(int(served.url.rpartition(":")[2])) == 0


@pytest.mark.parametrize("name", ["%23%3F%3B%25%20%C3%A9", "a;b", "..", "%2e%2e", "x;"])
async def test_the_raw_target_goes_out_as_it_is(pki: Pki, name: str) -> None:
    with fake.Door(pki) as served:
        door = Door(served.url, lambda: trust_of(pki))
        with pytest.raises(errors.NotFound):
            await door.head(f"{served.url}/lsst/{name}")
        await door.aclose()
        assert served.requests[0].target == f"/lsst/{name}".encode()


@pytest.mark.parametrize("proxy", ["proxy_unknown_ca", "proxy_revoked", "proxy_expired"])
async def test_a_credential_that_the_door_refuses_is_said_to_be_refused(pki: Pki, proxy: str) -> None:
    with fake.Door(pki) as served:
        door = Door(served.url, lambda: trust_of(pki, proxy=getattr(pki, proxy)))
        # Under TLS 1.3 the alert comes after the handshake, and may be overtaken by the connection's end.
        with pytest.raises((errors.CredentialRefused, errors.ConnectionLost)):
            await door.head(served.url + PATH)
        await door.aclose()


@pytest.mark.parametrize(
    ("pem", "words"),
    [
        ("host_wrong_name", "Hostname mismatch"),
        ("host_expired", "has expired"),
        ("host_revoked", "revoked"),
        ("host_unknown_ca", "unable to get local issuer"),
    ],
)
async def test_a_door_with_a_bad_certificate_is_unreachable_and_says_why(pki: Pki, pem: str, words: str) -> None:
    with fake.Door(pki) as served:
        served.use_certificate(getattr(pki, pem))
        door = Door(served.url, lambda: trust_of(pki, crl_check=True))
        with pytest.raises(errors.Unreachable, match=words):
            await door.head(served.url + PATH)
        await door.aclose()
        assert served.requests == ()


@pytest.mark.parametrize("accept", ["reset", "garbage"])
async def test_a_door_that_cannot_be_connected_is_unreachable(pki: Pki, accept: Any) -> None:
    with fake.Door(pki) as served:
        served.faults.add(Fault("door", accept=accept))
        door = Door(served.url, lambda: trust_of(pki))
        with pytest.raises(errors.Unreachable):
            await door.head(served.url + PATH)
        await door.aclose()


async def test_a_silent_door_is_unreachable_before_and_timed_out_after_the_handshake(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_module, "CONNECT_SECONDS", 0.3)
    with deaf_port() as port:
        door = Door(f"https://localhost:{port}", lambda: trust_of(pki))
        with pytest.raises(errors.Unreachable, match=r"within 0\.3 s"):
            await door.head(f"https://localhost:{port}/x")
        await door.aclose()
    monkeypatch.setattr(door_module, "CONNECT_SECONDS", SOON_SECONDS)
    monkeypatch.setattr(door_module, "HEAD_SECONDS", 0.5)
    with fake.Door(pki) as served:
        served.faults.add(Fault("door", delay_seconds=SOON_SECONDS))
        door = Door(served.url, lambda: trust_of(pki))
        with pytest.raises(errors.DoorTimeout):
            await door.head(served.url + PATH)
        await door.aclose()


@pytest.mark.parametrize("host", ["nowhere.invalid", "x" * 70 + ".example"])
async def test_a_door_without_an_address_is_unreachable(pki: Pki, host: str) -> None:
    door = Door(f"https://{host}:1", lambda: trust_of(pki))
    with pytest.raises(errors.Unreachable):
        await door.head(f"https://{host}:1/x")
    await door.aclose()


async def test_a_cancelled_head_leaves_no_connection(pki: Pki) -> None:
    with fake.Door(pki) as served:
        served.faults.add(Fault("door", delay_seconds=SOON_SECONDS))
        door = Door(served.url, lambda: trust_of(pki))
        heads = [asyncio.ensure_future(door.head(served.url + PATH)) for _ in range(20)]
        await until(lambda: bool(served.requests))
        for head in heads:
            head.cancel()
        results = await asyncio.gather(*heads, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        await until(lambda: connections_to(int(served.url.rpartition(":")[2])) == 0)
        served.calm()
        served.put(PATH, b"there")
        assert (await door.head(served.url + PATH)).size_bytes == 5
        await door.aclose()


async def test_a_head_that_is_cancelled_within_its_handshake_leaves_no_connection(pki: Pki) -> None:
    with deaf_port() as port:
        door = Door(f"https://localhost:{port}", lambda: trust_of(pki))
        head = asyncio.ensure_future(door.head(f"https://localhost:{port}{PATH}"))
        await until(lambda: connections_to(port) == 1)
        await asyncio.sleep(0)
        head.cancel()
        with pytest.raises(asyncio.CancelledError):
            await head
        await until(lambda: connections_to(port) == 0)
        await door.aclose()


# --- what answers mean -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, errors.CredentialRefused),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (204, errors.ProtocolBroken),
        (302, errors.ProtocolBroken),
        (400, errors.ServerError),
        (429, errors.ServerError),
        (500, errors.ServerError),
        (503, errors.ServerError),
        (507, errors.ServerError),
    ],
)
async def test_every_status_has_its_class(pki: Pki, status: int, kind: Any) -> None:
    error = await refused(pki, httpx.Response(status, headers={"Retry-After": "9", "Location": "https://else/"}))
    assert type(error) is kind
    assert error.facts["http_status"] == status
    if isinstance(error, errors.ServerError):
        assert error.minimum_wait_seconds == 9


# httpx's asynchronous transport is not built on http.client.
@pytest.mark.parametrize(
    "kind",
    HTTPX,
    ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}",
)
async def test_no_foreign_exception_escapes(pki: Pki, kind: type[Exception]) -> None:
    assert isinstance(await refused(pki, made(kind)), errors.TryError)
    trouble = httpx.ConnectError("no")
    trouble.__cause__ = made(kind)
    assert isinstance(await refused(pki, trouble), errors.DoorHeld)


@pytest.mark.parametrize(
    ("length", "size_bytes"), [("0", 0), ("17", 17), ("", None), ("-1", None), ("9" * 5000, None), ("+5", None)]
)
async def test_a_length_that_is_none_is_not_known(pki: Pki, length: str, size_bytes: int | None) -> None:
    door = Door(URL, Trusts(pki), answering(httpx.Response(200, headers={"Content-Length": length})))
    assert (await door.head(URL)).size_bytes == size_bytes
    await door.aclose()


async def test_a_file_whose_door_tells_nothing_is_still_a_file(pki: Pki) -> None:
    door = Door(URL, Trusts(pki), answering(httpx.Response(200, headers={"Set-Cookie": "a=b"})))
    assert await door.head(URL) == (None, None, "")
    await door.aclose()


@pytest.mark.parametrize(
    ("etag", "pnfsid"),
    [
        ('"0000A1B2C3D4E5F60718293A4B5C6D7E8F90_-123"', "0000A1B2C3D4E5F60718293A4B5C6D7E8F90"),
        ('W/"0000A1B2C3D4E5F60718293A4B5C6D7E8F90_1"', "0000A1B2C3D4E5F60718293A4B5C6D7E8F90"),
        ('"000100000000000000001060_5"', "000100000000000000001060"),
        ('"0000a1b2c3d4e5f60718293a4b5c6d7e8f90_1"', ""),
        ('"0000A1B2C3D4E5F60718293A4B5C6D7E8F90"', ""),
        ('"33a64df5_x"', ""),
        ("", ""),
        ('"', ""),
    ],
)
def test_an_etag_of_dcaches_form_begins_with_the_pnfsid(etag: str, pnfsid: str) -> None:
    assert pnfsid_of(etag) == pnfsid


# --- generations, pacing, an exhausted pool --------------------------------------------------------------------


async def test_a_new_generation_gets_a_new_client_and_the_old_one_is_closed(pki: Pki) -> None:
    trusts, clients = Trusts(pki), answering(httpx.Response(200))
    door = Door(URL, trusts, clients)
    await door.head(URL)
    await door.head(URL)
    assert clients.closed == [False]
    trusts.generation = 2
    await door.head(URL)
    assert clients.closed == [True, False]
    await door.aclose()
    assert clients.closed == [True, True]


async def test_an_old_client_is_closed_by_its_last_request(pki: Pki) -> None:
    waiting = asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.extensions["target"] == b"/slow":
            await waiting.wait()
        return httpx.Response(200)

    trusts, clients = Trusts(pki), Clients(answer)
    door = Door(URL, trusts, clients)
    slow = asyncio.ensure_future(door.head("https://door.example:2880/slow"))
    await until(lambda: len(clients.made) == 1)
    for generation in (2, 3):
        trusts.generation = generation
        await door.head(URL)
    assert clients.closed == [False, True, False]
    waiting.set()
    await slow
    assert clients.closed == [True, True, False]
    await door.aclose()
    assert clients.closed == [True, True, True]
    assert len(asyncio.all_tasks()) == 1, "nothing is left behind on the loop"


async def test_closing_closes_every_generation(pki: Pki) -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    trusts, clients = Trusts(pki), Clients(answer)
    door = Door(URL, trusts, clients)
    heads = []
    for generation in (1, 2, 3):
        trusts.generation = generation
        heads.append(asyncio.ensure_future(door.head(URL)))
        await until(lambda: len(clients.made) == len(heads))
    await door.aclose()
    assert clients.closed == [True, True, True]
    for head in heads:
        head.cancel()
    await asyncio.gather(*heads, return_exceptions=True)


async def test_a_generation_that_cannot_be_loaded_keeps_the_old_one(pki: Pki, tmp_path: Path) -> None:
    trusts, clients = Trusts(pki), answering(httpx.Response(200))
    door = Door(URL, trusts, clients)
    trusts.proxy = tmp_path / "gone"
    with pytest.raises(errors.CredentialRefused):
        await door.head(URL)
    trusts.proxy = None
    await door.head(URL)
    trusts.proxy, trusts.generation = tmp_path / "gone", 2
    await door.head(URL)
    assert clients.closed == [False]
    await door.aclose()


async def test_without_a_usable_credential_nobody_is_asked(pki: Pki) -> None:
    def expired() -> tls.Trust:
        raise errors.CredentialRefused(why="expired")

    clients = answering(httpx.Response(200))
    door = Door(URL, expired, clients)
    with pytest.raises(errors.CredentialRefused):
        await door.head(URL)
    assert clients.made == []
    await door.aclose()


async def test_an_exhausted_pool_is_replaced(pki: Pki) -> None:
    clients = answering(httpx.PoolTimeout("no connection"), httpx.Response(200))
    door = Door(URL, Trusts(pki), clients)
    with pytest.raises(errors.DoorTimeout):
        await door.head(URL)
    assert clients.closed == [True]
    await door.head(URL)
    assert clients.closed == [True, False]
    await door.aclose()


async def test_heads_keep_below_the_rate_that_doors_allow(pki: Pki) -> None:
    asked: list[float] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        asked.append(time.monotonic())
        return httpx.Response(200)

    door = Door(URL, Trusts(pki), Clients(answer))
    since = time.monotonic()
    await asyncio.gather(*(door.head(URL) for _ in range(41)))
    await door.aclose()
    # The first goes at once; each further one is due a hundredth of a second after the one before.
    assert max(asked) - since >= 40 / door_module.HEADS_PER_SECOND
