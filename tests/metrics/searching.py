"""One prefix on a search server, and sinks that write there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from dcalqr.config.sinks import Elasticsearch, Opensearch
from dcalqr.metrics import elastic, opensearch
from dcalqr.metrics.bulk import BulkSink
from dcalqr.metrics.template import flat_object, flattened, template
from tests.support.search import SearchServer

# Generous: two busy cores are slow, and no promise is about speed.
SECONDS = 60.0


class Search:
    """A prefix of one test on a server."""

    def __init__(self, server: SearchServer, prefix: str) -> None:
        self.server, self.prefix = server, prefix

    def prepared(self) -> Search:
        """Give the server the template; returns itself."""
        extra = flattened() if self.server.kind.product == "elasticsearch" else flat_object()
        self.server.do("PUT", f"/_index_template/{self.prefix}", template(self.prefix, extra, None))
        return self

    def sink(self, **settings: Any) -> BulkSink:
        """Make a sink with further keys of its section."""
        return make_sink(self.server.kind.product, {"urls": [self.server.url], "prefix": self.prefix, **settings})

    def documents(self) -> list[dict[str, Any]]:
        return self.server.documents(self.prefix)

    def offsets(self) -> list[int]:
        return [each["offset"] for each in self.documents()]

    async def holds(self, offsets: list[int]) -> None:
        """Wait until the documents are those of these offsets, each once."""
        await until(lambda: self.offsets() == offsets, f"the documents {offsets}", self.offsets)


def make_sink(product: str, keys: dict[str, Any]) -> BulkSink:
    """Make a sink of a section with these keys."""
    if product == "elasticsearch":
        return elastic.sink(Elasticsearch.model_validate(keys, context={"instance": "one"}))
    return opensearch.sink(Opensearch.model_validate(keys, context={"instance": "one"}))


async def until(condition: Callable[[], object], what: str, seen: Callable[[], object] = lambda: "") -> None:
    """Wait for a condition, looking at it in a thread: the sinks of the test work meanwhile.

    Raises
    ------
    TimeoutError
        It did not come true; says what was seen at last.
    """
    limit = time.monotonic() + SECONDS
    while not await asyncio.to_thread(condition):
        if time.monotonic() > limit:
            raise TimeoutError(f"{what}: not within {SECONDS:g} s, but {seen()}")
        await asyncio.sleep(0.05)
