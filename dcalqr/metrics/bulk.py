"""The sink of both search servers: bounded bulk requests, and what becomes of each report of them.

Who writes is `Reports`, which holds what cannot be stored now and tries again. A client that failed is closed, and the
next try makes a new one: so renewed passwords, keys and CA files are taken up, and no broken connection is kept.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from dcalqr.config.sinks import SearchServer
from dcalqr.metrics.access import Access, read_access
from dcalqr.metrics.answers import RequestFailed, Verdict, judge
from dcalqr.metrics.documents import lines_of
from dcalqr.metrics.reports import TransferReport, Undelivered

# Half of the least limit on the way: a proxy before the server may refuse bodies above 1 MiB (nginx does by default).
BULK_BYTES = 512 * 1024
# A document has 1 kB: more in one request would only make the server's answer late.
BULK_REPORTS = 500
# All that is looked at in the answer to a bulk request; the rest is ten times as long, and as dear to parse.
ANSWERED = "items.*.status,items.*.error"
# A request costs as much as thirty documents, and none of them is seen before the server's own refresh, each second.
GATHER_SECONDS = 1.0


class Client(Protocol):
    """A search server as sink and setup need it. Every method raises RequestFailed and no other error."""

    async def version(self) -> str: ...

    async def bulk(self, lines: Sequence[bytes]) -> Mapping[str, Any]:
        """Send the lines of a bulk request; the answer has the `status` and `error` of each item."""
        ...

    async def template(self, name: str) -> Mapping[str, Any] | None:
        """Return an index template; None: there is none."""
        ...

    async def put_template(self, name: str, body: Mapping[str, Any]) -> None: ...

    async def policy(self, name: str) -> Mapping[str, Any] | None:
        """Return a lifecycle policy; None: there is none of that name. Reason "unsupported": none at all."""
        ...

    async def put_policy(self, name: str, policy: Mapping[str, Any]) -> None: ...

    async def aclose(self) -> None: ...


class _Entry(NamedTuple):
    report: TransferReport
    lines: tuple[bytes, bytes]


class _Tally:
    """What became of the reports of one batch that were not stored."""

    def __init__(self) -> None:
        self.later: list[TransferReport] = []
        self.refused: Counter[str] = Counter()
        self.problems: dict[str, str] = {}

    def take(self, report: TransferReport, verdict: Verdict) -> None:
        self.problems.setdefault(verdict.reason, verdict.why)
        if verdict.again:
            self.later.append(report)
        else:
            self.refused[verdict.reason] += 1

    def undelivered(self, unsent: Iterable[TransferReport] = ()) -> Undelivered:
        return Undelivered(self.problems, unsent=list(unsent), later=self.later, refused=self.refused)


class BulkSink:
    """Stores reports in a search server.

    Parameters
    ----------
    name
        The word for log lines and metrics.
    section
        Where the server is.
    connect
        Makes a client; called in the event loop, after `prepare`.
    prepare
        Loads the client's library: blocks, and is called in a thread.
    """

    def __init__(
        self, name: str, section: SearchServer, connect: Callable[[Access], Client], prepare: Callable[[], object]
    ) -> None:
        self.name, self.gather_seconds = name, GATHER_SECONDS
        self._section, self._connect, self._prepare = section, connect, prepare
        self._client: Client | None = None
        # Not the loop's own threads: a hung disk there would stop name resolution.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def write(self, reports: Sequence[TransferReport]) -> None:
        """Store reports.

        Raises
        ------
        Undelivered
            Some were not stored.
        """
        tally = _Tally()
        waiting = deque(_chunks(reports, self._section.prefix))
        while waiting:
            chunk = waiting.popleft()
            try:
                await self._store(chunk, tally)
            except RequestFailed as error:
                if error.reason != "too_large":
                    tally.problems[error.reason] = str(error)
                    unsent = (entry.report for part in (chunk, *waiting) for entry in part)
                    raise tally.undelivered(unsent) from error
                if len(chunk) == 1:
                    tally.take(chunk[0].report, Verdict(error.reason, str(error), again=False))
                else:
                    waiting.extendleft((chunk[len(chunk) // 2 :], chunk[: len(chunk) // 2]))
        if tally.problems:
            raise tally.undelivered()

    async def _store(self, chunk: Sequence[_Entry], tally: _Tally) -> None:
        try:
            client = self._client or await self._open()
            async with asyncio.timeout(self._section.timeout):
                answer = await client.bulk([line for entry in chunk for line in entry.lines])
            verdicts = _verdicts(answer, len(chunk))
        except TimeoutError:
            await self._drop_client()
            raise RequestFailed("timeout", f"no answer within {self._section.timeout:g} s") from None
        except (RequestFailed, asyncio.CancelledError) as error:
            if getattr(error, "reason", "") != "too_large":
                await self._drop_client()
            raise
        for entry, verdict in zip(chunk, verdicts, strict=True):
            if verdict is not None:
                tally.take(entry.report, verdict)
        if "forbidden" in tally.problems:  # the next try may find another key in the file
            await self._drop_client()

    async def _open(self) -> Client:
        """Make a client, and see to it that the server knows our template: without it, it would guess types."""
        client = await connected(self._section, self._connect, self._prepare, self._thread)
        self._client = client
        async with asyncio.timeout(self._section.timeout):
            try:
                known = await client.template(self._section.prefix) is not None
            except RequestFailed as error:
                if error.reason != "forbidden":
                    raise
                known = True  # a key that may only write may not look; whoever made it has run the setup
        if not known:
            why = f"there is no index template {self._section.prefix}: run dcalqr elastic setup"
            raise RequestFailed("template", why)
        return client

    async def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def aclose(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        await self._drop_client()


async def connected(
    section: SearchServer,
    connect: Callable[[Access], Client],
    prepare: Callable[[], object],
    thread: ThreadPoolExecutor,
) -> Client:
    """Make a client with the login and CA file as they are now.

    Raises
    ------
    RequestFailed
        A file cannot be read.
    """

    def read() -> Access:
        prepare()
        return read_access(section)

    return connect(await asyncio.get_running_loop().run_in_executor(thread, read))


def _chunks(reports: Iterable[TransferReport], prefix: str) -> Iterator[list[_Entry]]:
    chunk: list[_Entry] = []
    size = 0
    for report in reports:
        entry = _Entry(report, lines_of(report, prefix))
        length = sum(len(line) + 1 for line in entry.lines)
        if chunk and (size + length > BULK_BYTES or len(chunk) >= BULK_REPORTS):
            yield chunk
            chunk, size = [], 0
        chunk.append(entry)
        size += length
    if chunk:
        yield chunk


def _verdicts(answer: Mapping[str, Any], count: int) -> list[Verdict | None]:
    """Judge each item of a bulk answer, which may come from anything that answers 200 on that port."""
    try:
        items = [judge(item["create"]) for item in answer["items"]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RequestFailed("answer", f"not the answer of a bulk request: {error!r}") from None
    if len(items) != count:
        raise RequestFailed("answer", f"{len(items)} items in the answer to {count}")
    return items
