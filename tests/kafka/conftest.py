"""What every test of the consumer checks besides: nothing of a consumer lives on, and no exception gets lost."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dcalqr.kafka import consumer, settings


@pytest.fixture
async def nothing_left() -> AsyncIterator[None]:
    """Fail a test that leaves asyncio.Tasks behind, or exceptions that nobody has seen."""
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context))
    before = asyncio.all_tasks()
    yield
    leftover = asyncio.all_tasks() - before - {asyncio.current_task()}
    if leftover:
        await asyncio.wait(leftover, timeout=2)
    gc.collect()
    await asyncio.sleep(0)
    alive = [task for task in leftover if not task.done()]
    assert not alive, "\n".join(map(repr, alive))
    assert not seen


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten what a test would only wait for."""
    monkeypatch.setattr(consumer, "FIRST_REBUILD_SECONDS", 0.1)
    monkeypatch.setattr(consumer, "LONGEST_REBUILD_SECONDS", 1.0)
    monkeypatch.setattr(settings, "METADATA_SECONDS", 1.0)
    monkeypatch.setattr(settings, "REBALANCE_SECONDS", 4.0)
    monkeypatch.setattr(settings, "REQUEST_SECONDS", 5.0)
