"""Samples: billing messages as dCache's serialisers write them, and content of any size."""

from __future__ import annotations

import datetime as dt
import functools
import json
import random
import time
import zlib
from collections.abc import Callable, Iterator
from typing import TypeAlias

Json: TypeAlias = dict[str, object]

# What a door sends at once; also the period of generated content.
BLOCK_BYTES = 1 << 20
# dCache's CacheException for a size or checksum mismatch: the usual failed upload.
CORRUPTED = 10004

SUBJECT = [
    "UserNamePrincipal[lsstprod]",
    "UidPrincipal[4321]",
    "LoAPrincipal[IGTF-AP:Classic]",
    "EntityDefinitionPrincipal[Person]",
    "FQANPrincipal[/lsst/Role=production,primary]",
    "FQANPrincipal[/lsst]",
    "GidPrincipal[4300,primary]",
    "GroupNamePrincipal[lsst,primary]",
    "/C=XX/O=Example Grid/OU=people/CN=Jane Doe",
    "Origin[192.0.2.17]",
    "EmailAddressPrincipal[jane.doe@example.org]",
]


class Content:
    """What a file holds: given bytes, or a block repeated until the size is reached, so that 1 GB costs 1 MiB.

    Parameters
    ----------
    block
        Not empty, unless `size_bytes` is 0.
    size_bytes
        Of the whole content.
    """

    def __init__(self, block: bytes, size_bytes: int) -> None:
        self._block = memoryview(block)
        self.size_bytes = size_bytes

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """Yield the bytes from `start` to before `stop` (None: the end) in pieces of at most 1 MiB."""
        end = self.size_bytes if stop is None else min(stop, self.size_bytes)
        while start < end:
            offset = start % len(self._block)
            piece = self._block[offset : offset + min(BLOCK_BYTES, end - start)]
            yield piece
            start += len(piece)

    @functools.cached_property
    def adler32(self) -> int:
        """The checksum, by the standard library: not by the code that is to be tested with it."""
        value = 1
        for piece in self.pieces():
            value = zlib.adler32(piece, value)
        return value

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces())


def content(size_bytes: int, seed: int = 0) -> Content:
    """Give content of any size: the same for the same seed."""
    return Content(_block(seed), size_bytes)


@functools.lru_cache(maxsize=16)
def _block(seed: int) -> bytes:
    # Sixteen of them stay: 16 MiB at most, whatever the number of files.
    return random.Random(seed).randbytes(BLOCK_BYTES)  # noqa: S311 - data to send, no secret


def new_pnfsid(rng: random.Random) -> str:
    """Give a pnfsid as dCache makes them: 36 hexadecimal digits in upper case."""
    return f"0000{rng.getrandbits(128):032X}"


def java_date(seconds: float, offset_hours: int = 1) -> str:
    """Print a time as Java's ISO_OFFSET_DATE_TIME does: milliseconds without trailing zeros, or none at all.

    Parameters
    ----------
    seconds
        Since the epoch.
    offset_hours
        Of the zone the message is printed in; 0 prints "Z".
    """
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    zone = dt.timezone(dt.timedelta(hours=offset_hours))
    text = dt.datetime.fromtimestamp(whole, zone).isoformat()
    fraction = f".{milliseconds:03d}".rstrip("0") if milliseconds else ""
    return text[:19] + fraction + (text[19:] if offset_hours else "Z")


def upload(
    path: str,
    size_bytes: int,
    pnfsid: str,
    *,
    date: str | None = None,
    transfer_path: str | None = None,
    code: int = 0,
    pool: str = "pool-lsst-01a",
) -> bytes:
    """Build the pool's message at the end of an upload.

    Parameters
    ----------
    path, size_bytes, pnfsid
        What was uploaded.
    date
        As dCache prints it (`java_date`); None: now.
    transfer_path
        Where the bytes were written, when that is not `path`: a staged upload (by SRM).
    code
        Not 0: the upload failed.
    pool
        Name of the pool.
    """
    return to_bytes(_transfer(path, size_bytes, pnfsid, "write", date, transfer_path, code, pool))


def srm_commit(path: str, size_bytes: int, pnfsid: str, transfer_path: str, *, date: str | None = None) -> bytes:
    """Build SrmManager's message (dCache 10.1 and newer) that a staged upload is now at `path`."""
    message = _request("request", "SrmManager", "srmDomain", date, transfer_path)
    return to_bytes(message | _file(path, size_bytes, pnfsid) | {"storageInfo": "lsst:imsim@osm"})


def remove(path: str, size_bytes: int, pnfsid: str, *, date: str | None = None) -> bytes:
    """Build a WebDAV door's message that a file was deleted."""
    message = _request("remove", "WebDAV-door01", "webdav-door01Domain", date, path)
    return to_bytes(message | _file(path, size_bytes, pnfsid))


def noise(rng: random.Random, root: str, folder: str) -> bytes:
    """Build one message of the kinds that share the topic and ask for no copy.

    Reads, copies between pools, tape, door requests, removals, failed uploads, uploads elsewhere; in equal shares,
    with pnfsids of their own.

    Parameters
    ----------
    rng
        The same state gives the same message, but for its date.
    root, folder
        As configured (`dcache.pool`, `dcache.folder`).
    """
    path = f"{root}{folder}/{rng.randrange(10**5):05d}/noise_{rng.getrandbits(32):08x}.tar"
    elsewhere = f"{root}/elsewhere{folder}/{rng.getrandbits(32):08x}.tar"
    make: Callable[[str, str, int, str], Json] = rng.choice((_read, _p2p, _store, _asked, _removed, _failed, _foreign))
    return to_bytes(make(path, elsewhere, rng.randrange(1, 10**9), new_pnfsid(rng)))


def to_bytes(message: Json) -> bytes:
    """Serialise as org.json does, which escapes `</`."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/").encode()


def _read(path: str, _elsewhere: str, size_bytes: int, pnfsid: str) -> Json:
    return _transfer(path, size_bytes, pnfsid, "read")


def _p2p(_path: str, _elsewhere: str, size_bytes: int, pnfsid: str) -> Json:
    nobody = {"subject": ["UidPrincipal[0]", "GidPrincipal[0,primary]"]}
    between = {"isP2p": True, "initiator": "pool:pool-lsst-03c@pool-lsst-03cDomain"}
    return _transfer("Unknown", size_bytes, pnfsid, "read") | nobody | between


def _store(path: str, _elsewhere: str, size_bytes: int, pnfsid: str) -> Json:
    session = "pool:pool-tape-01@pool-tape-01Domain:1767951100000-77"
    tape = {"hsm": {"type": "osm", "instance": "osm", "provider": "script"}, "transaction": session}
    where = {"locations": ["osm://osm/?store=lsst&group=raw&bfid=1234.5678"], "storageInfo": "lsst:raw@osm"}
    sender = _sender("version", "store", "pool", "pool-tape-01", "pool-tape-01Domain", None)
    told = {"session": session, "transferTime": 65412} | tape | where
    return sender | told | _file(path, size_bytes, pnfsid)


def _asked(path: str, _elsewhere: str, size_bytes: int, pnfsid: str) -> Json:
    message = _request("request", "WebDAV-door01", "webdav-door01Domain", None, path)
    return message | _file(path, size_bytes, pnfsid) | {"storageInfo": "lsst:imsim@osm"}


def _removed(path: str, _elsewhere: str, size_bytes: int, pnfsid: str) -> Json:
    return _request("remove", "WebDAV-door01", "webdav-door01Domain", None, path) | _file(path, size_bytes, pnfsid)


def _failed(path: str, _elsewhere: str, size_bytes: int, pnfsid: str) -> Json:
    return _transfer(path, size_bytes, pnfsid, "write", code=CORRUPTED)


def _foreign(_path: str, elsewhere: str, size_bytes: int, pnfsid: str) -> Json:
    return _transfer(elsewhere, size_bytes, pnfsid, "write")


def _transfer(
    path: str,
    size_bytes: int,
    pnfsid: str,
    direction: str,
    date: str | None = None,
    transfer_path: str | None = None,
    code: int = 0,
    pool: str = "pool-lsst-01a",
) -> Json:
    domain = f"{pool}Domain"
    status = {"status": {"code": code, "msg": "Connection lost before end of file." if code else ""}}
    verb = direction.capitalize()
    return (
        _sender("version", "transfer", "pool", pool, domain, date)
        | status
        | {"session": f"pool:{pool}@{domain}:1767950004020-4045", "subject": SUBJECT}
        | _file(path, size_bytes, pnfsid)
        | {
            "storageInfo": "lsst:imsim@osm",
            "transferSize": size_bytes,
            "transferTime": 3120,
            "isWrite": direction,
            "protocolInfo": {
                "protocol": "Https",
                "versionMajor": 1,
                "versionMinor": 1,
                "port": 40122,
                "host": "192.0.2.17",
                "transferTag": "",
            },
            "initiator": "door:WebDAV-door01@webdav-door01Domain:AAYyRk9LmZA:1767950000123000",
            "isP2p": False,
            "transferPath": transfer_path or path,
            "localEndpoint": "198.51.100.31:24125",
            f"mean{verb}Bandwidth": 455282123.4775509,
            f"{direction}Idle": "PT0.851732864S",
            f"{direction}Active": "PT0.254562479S",
        }
    )


def _request(kind: str, cell: str, domain: str, date: str | None, transfer_path: str) -> Json:
    return _sender("VERSION", kind, "door", cell, domain, date) | {
        "session": f"door:{cell}@{domain}:AAYyRnFFFFF",
        "sessionDuration": 0,
        "transferPath": transfer_path,
        "subject": SUBJECT,
        "client": "192.0.2.17",
        "clientChain": "unknown",
        "mappedUID": 4321,
        "mappedGID": 4300,
        "owner": "/C=XX/O=Example Grid/OU=people/CN=Jane Doe",
    }


def _sender(version_key: str, kind: str, cell_type: str, cell: str, domain: str, date: str | None) -> Json:
    """Give what every message begins with; doors spell the version's key in upper case."""
    return {
        version_key: "1.0",
        "msgType": kind,
        "date": java_date(time.time()) if date is None else date,
        "queuingTime": 0,
        "cellName": cell,
        "cellType": cell_type,
        "cellDomain": domain,
        "status": {"code": 0, "msg": ""},
    }


def _file(path: str, size_bytes: int, pnfsid: str) -> Json:
    return {"pnfsid": pnfsid, "billingPath": path, "fileSize": size_bytes}
