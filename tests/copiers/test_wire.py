from __future__ import annotations

import random

import pytest

from dcalqr.copiers import wire
from dcalqr.dcache.tls import Trust
from dcalqr.orders import Landed, Phases, Refused, Seen
from tests.support.attempts import order_of

TRUST = Trust(3, "/proxy", "/certificates", crl_check=True, expires_at=1.5)
DOWN: list[wire.Down] = [
    wire.Root(1),
    wire.Do(order_of("https://door/f", seen=Seen(1, 2, 3), redirect_hosts=frozenset({"a", "b"})), TRUST),
    wire.Do(order_of("https://door/g", b"\xff\xfe", directory=(b"\xe9", b"x")), None),
    wire.End("0123"),
]
REPORT = wire.Report("0123", ("door_wait", "connect"), 10**12)
UP: list[wire.Up] = [
    wire.Ready(),
    wire.Told((REPORT, REPORT)),
    wire.Told(()),
    wire.Answer(REPORT, Landed(size_bytes=1, adler32=2, verified=False, pool="p", phases=Phases(1.5)), None),
    wire.Answer(REPORT, None, Refused("ServerError", {"host": "h", "http_status": 503, "retry_after_seconds": None})),
]


@pytest.mark.parametrize(("kind", "messages"), [(wire.Down, DOWN), (wire.Up, UP)], ids=["down", "up"])
def test_messages_arrive_as_they_were_sent_wherever_the_stream_is_cut(kind: object, messages: list[object]) -> None:
    dice = random.Random(5)
    stream = b"".join(wire.encode(message) for message in messages)  # type: ignore[arg-type]
    for longest in (1, 2, 7, 100, len(stream)):
        reader, at, found = wire.Messages[object](kind), 0, list[object]()
        while at < len(stream):
            size = dice.randint(1, longest)
            found += reader.feed(stream[at : at + size])
            at += size
        assert found == messages


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x01\xc1",
        b"\x00\x00\x00\x01\x90",
        b"\x00\x00\x00\x06\x91\xa4Odds",
        wire.encode(wire.Ready()),
        wire.encode(wire.Root(1)).replace(b"\x01", b"\xa0"),
        b"\x00\x00\x00\x09\x92\xa3End\xa3\xff\xfe\xfd",
    ],
    ids=["long", "no msgpack", "no tag", "unknown", "the other way", "type", "no text"],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(wire.Broken):
        wire.Messages[wire.Down](wire.Down).feed(data)


def test_no_message_is_longer_than_the_other_side_takes() -> None:
    with pytest.raises(ValueError, match="bytes"):
        wire.encode(wire.End("x" * wire.MOST_BYTES))
