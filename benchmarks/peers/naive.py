"""The obvious Python: httpx.AsyncClient and aiofiles, as most would write it; says what `benchmarks.engine` says."""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import ssl
import sys
import time
import zlib
from collections.abc import Iterable
from pathlib import Path

import aiofiles
import aiofiles.os
import httpx

from benchmarks.sets import File, read_manifest


async def fetch(client: httpx.AsyncClient, url: str, file: File, dest: Path) -> None:
    final = dest / file.path
    await aiofiles.os.makedirs(final.parent, exist_ok=True)
    part = final.with_suffix(".part")
    adler32 = 1
    async with client.stream("GET", f"{url}/{file.path}") as answer, aiofiles.open(part, "wb") as out:
        answer.raise_for_status()
        async for chunk in answer.aiter_bytes():
            adler32 = zlib.adler32(chunk, adler32)
            await out.write(chunk)
    if adler32 != file.adler32:
        raise ValueError(f"{file.path}: wrong content")
    await aiofiles.os.rename(part, final)


async def copied(options: argparse.Namespace, files: Iterable[File]) -> None:
    context = ssl.create_default_context(cafile=str(options.ca))
    context.load_cert_chain(str(options.client))
    slots = asyncio.Semaphore(options.slots)
    async with httpx.AsyncClient(verify=context, follow_redirects=True, timeout=600.0) as client:

        async def one(file: File) -> None:
            async with slots:
                await fetch(client, options.url, file, options.dest)

        await asyncio.gather(*(one(file) for file in files))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.naive")
    parser.add_argument("--url", required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--dest", type=Path, required=True)
    parser.add_argument("--client", type=Path, required=True)
    parser.add_argument("--ca", type=Path, required=True)
    parser.add_argument("--slots", type=int, default=10)
    options = parser.parse_args()
    files = read_manifest(options.manifest)
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    asyncio.run(copied(options, files))
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF)
    spent = {"user": after.ru_utime - before.ru_utime, "sys": after.ru_stime - before.ru_stime}
    print(json.dumps({"wall": wall, **spent, "files": len(files), "bytes": sum(file.size_bytes for file in files)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
