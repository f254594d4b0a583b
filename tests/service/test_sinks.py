"""Which sinks a configuration makes, and what the log says of them."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import pytest

from dcalqr import config, errors, log
from dcalqr.config import Config
from dcalqr.metrics.reports import Undelivered
from dcalqr.service import sinks
from dcalqr.testing.pki import Pki
from tests.support.site import merged, settings, write_toml


@pytest.fixture
def make(tmp_path: Path, pki: Pki) -> Any:
    def load(**sections: dict[str, Any]) -> Config:
        path = tmp_path / "dcalqr.toml"
        write_toml(path, merged(settings(tmp_path, "https://localhost:1", pki), sections))
        return config.load(path)

    return load


@pytest.fixture
def lines() -> Any:
    stream = io.BytesIO()
    log.configure("info", "json", stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


async def test_each_section_makes_its_sink(make: Any) -> None:
    url = "http://localhost:1"
    for sections, names in (
        ({"reports": {}}, {"file"}),
        ({"elasticsearch": {"urls": [url]}}, {"file", "elasticsearch"}),
        ({"elasticsearch": {"urls": [url]}, "opensearch": {"urls": [url]}}, {"file", "elasticsearch", "opensearch"}),
    ):
        reports = sinks.start(make(**sections))
        assert set(reports.queued) == names
        await sinks.stop(reports)


@pytest.mark.parametrize("section", ["elasticsearch", "opensearch"])
async def test_a_library_that_is_missing_is_said_at_the_start(
    make: Any, section: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = make(**{section: {"urls": ["http://localhost:1"]}})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.ConfigError, match=rf"pip install 'dcalqr\[{section}\]'"):
        sinks.start(asked)


def test_each_reason_is_said_once_a_minute_with_what_was_lost(lines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("dcalqr.service.sinks.time.monotonic", lambda: now)
    complain = sinks.Complaints()
    for _ in range(3):
        complain("elasticsearch", Undelivered({"timeout": "no answer within 10 s"}))
    complain("elasticsearch", Undelivered({"timeout": "no answer", "mapping": "wrong field"}))
    complain("opensearch", Undelivered({"timeout": "no answer"}))
    complain("file", OSError("disk full"))
    now += 61
    complain("elasticsearch", Undelivered({"timeout": "still no answer"}))
    assert [(line["sink"], line["reason"], line["message"]) for line in lines()] == [
        ("elasticsearch", "timeout", "no answer within 10 s"),
        ("elasticsearch", "mapping", "wrong field"),
        ("opensearch", "timeout", "no answer"),
        ("file", "OSError", "disk full"),
        ("elasticsearch", "timeout", "still no answer"),
    ]
    assert all({"queued", "dropped"} <= set(line) for line in lines())
