from __future__ import annotations

import errno
import gc
import socket
import threading
from collections.abc import Iterator
from unittest.mock import ANY

import psutil
import pytest

from dcalqr.attempt import StopFlag
from dcalqr.dcache import channel
from dcalqr.dcache.channel import NOTHING_YET, Channel
from dcalqr.dcache.http1 import Origin
from tests.support.attempts import SOON_SECONDS, black_hole, connections_to
from tests.support.process import wait_until


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield Channel(ours), theirs
    ours.close()
    theirs.close()


def test_what_comes_is_received_and_its_end_seen(pair: tuple[Channel, socket.socket]) -> None:
    ours, theirs = pair
    block = memoryview(bytearray(9))
    assert ours.receive(block) == NOTHING_YET
    assert ours.is_quiet
    theirs.sendall(b"abc")
    ours.wait(SOON_SECONDS)
    assert not ours.is_quiet
    assert (ours.receive(block), bytes(block[:3])) == (3, b"abc")
    theirs.close()
    ours.wait(SOON_SECONDS)
    assert not ours.is_quiet
    assert ours.receive(block) == 0


def test_a_wait_ends_by_its_limit_and_says_so_as_the_system_does(pair: tuple[Channel, socket.socket]) -> None:
    with pytest.raises(TimeoutError) as caught:
        pair[0].wait(0.01)
    assert caught.value.errno == errno.ETIMEDOUT


def test_past_the_limit_it_counts_for_nothing_that_something_is_there(pair: tuple[Channel, socket.socket]) -> None:
    pair[1].sendall(b"abc")
    pair[0].wait(SOON_SECONDS)
    with pytest.raises(TimeoutError):
        pair[0].wait(-0.001)


def test_more_than_the_system_takes_at_once_is_sent_whole(pair: tuple[Channel, socket.socket]) -> None:
    data = bytes(range(256)) * 20_000
    got = bytearray()

    def read() -> None:
        while len(got) < len(data):
            got.extend(pair[1].recv(65536))

    thread = threading.Thread(target=read)
    thread.start()
    pair[0].send(data, SOON_SECONDS)
    thread.join(SOON_SECONDS)
    assert got == data


def test_a_peer_that_takes_nothing_is_given_up(pair: tuple[Channel, socket.socket]) -> None:
    with pytest.raises(TimeoutError):
        pair[0].send(bytes(20_000_000), 0.05)


def test_sending_to_who_has_gone_is_a_connection_error(pair: tuple[Channel, socket.socket]) -> None:
    pair[1].close()
    with pytest.raises(ConnectionError):
        pair[0].send(b"x", SOON_SECONDS)


def test_the_shutdown_from_another_thread_wakes_a_wait(pair: tuple[Channel, socket.socket]) -> None:
    thread = threading.Thread(target=pair[0].wait, args=(600,))
    thread.start()
    pair[0].shut_down()
    thread.join(SOON_SECONDS)
    assert not thread.is_alive()
    assert pair[0].receive(memoryview(bytearray(1))) == 0


def test_a_closed_channel_is_shut_down_without_harm_to_others(pair: tuple[Channel, socket.socket]) -> None:
    pair[0].close()
    with pytest.raises(OSError):
        pair[0].shut_down()


# --- how it comes about ----------------------------------------------------------------------------------------


def test_a_connection_is_tried_at_each_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        addresses = [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        stop = StopFlag()
        reached = Channel.reach(Origin("http", "two.example", port), SOON_SECONDS, stop)
        assert connections_to(port) == 1
        stop.set()
        assert reached.receive(memoryview(bytearray(1))) == 0
        reached.close()


def test_a_name_with_very_many_addresses_is_soon_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    real = Channel._connect

    def connect(self: Channel, address: object, until: float) -> None:
        tried.append(address)
        real(self, address, until)

    monkeypatch.setattr(Channel, "_connect", connect)
    nobody = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [nobody] * 1000)
    with pytest.raises(ConnectionRefusedError):
        Channel.reach(Origin("http", "many.example", 1), SOON_SECONDS, StopFlag())
    assert len(tried) == channel._MOST_ADDRESSES


def test_a_name_without_address_is_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(socket.gaierror):
        Channel.reach(Origin("http", "nowhere.invalid", 1), SOON_SECONDS, StopFlag())
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    with pytest.raises(OSError, match="no address"):
        Channel.reach(Origin("http", "empty.example", 1), SOON_SECONDS, StopFlag())


def test_a_connection_that_nobody_accepts_ends_by_its_limit_and_leaves_no_descriptor() -> None:
    before = psutil.Process().num_fds()
    with black_hole() as port, pytest.raises(TimeoutError):
        Channel.reach(Origin("http", "127.0.0.1", port), 0.05, StopFlag())
    assert psutil.Process().num_fds() == before


def test_who_was_told_to_stop_connects_to_nobody() -> None:
    stop = StopFlag()
    stop.set()
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(ConnectionAbortedError):
            Channel.reach(Origin("http", "127.0.0.1", server.getsockname()[1]), SOON_SECONDS, stop)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


class _StopAt(StopFlag):
    """Is set when a socket is named, before it connects, or says so only then."""

    def attach(self, shutdown: object) -> None:
        super().attach(shutdown)  # type: ignore[arg-type]
        if shutdown is not None:
            self.set()


def test_a_stop_between_socket_and_connect_is_not_lost() -> None:
    """The shutdown of a socket that is not connected yet is an error, and still ends what comes after it."""
    with black_hole() as port, pytest.raises(ConnectionAbortedError):
        Channel.reach(Origin("http", "127.0.0.1", port), 600, _StopAt())


def test_a_stop_ends_a_connection_attempt() -> None:
    stop, ends = StopFlag(), list[OSError]()
    with black_hole() as port:

        def reach() -> None:
            try:
                Channel.reach(Origin("http", "127.0.0.1", port), 600, stop)
            except OSError as error:
                ends.append(error)

        thread = threading.Thread(target=reach)
        thread.start()
        wait_until(lambda: stop._shutdown is not None, SOON_SECONDS, "a socket")
        stop.set()
        thread.join(SOON_SECONDS)
    assert ends == [ANY]


def test_a_failed_connection_leaves_nothing_for_the_garbage_collector() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            with pytest.raises(ConnectionRefusedError):
                Channel.reach(Origin("http", "localhost", port), SOON_SECONDS, StopFlag())
        left = [each for each in gc.get_objects() if isinstance(each, Channel)]
    finally:
        gc.enable()
    assert left == []
