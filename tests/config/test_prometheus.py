from __future__ import annotations

from pathlib import Path

import pytest

from dcalqr import config
from dcalqr.config.warnings import warnings_of
from tests.config.test_config import SEED, load, refusal


def test_without_a_port_nothing_is_served(tmp_path: Path) -> None:
    section = load(tmp_path, SEED).prometheus
    assert (section.port, section.address) == (None, "127.0.0.1")


@pytest.mark.parametrize(
    ("written", "address", "is_public"),
    [
        ("127.0.0.1", "127.0.0.1", False),
        ("::1", "::1", False),
        ("[::1]", "::1", False),
        ("0.0.0.0", "0.0.0.0", True),
        ("::", "::", True),
        ("2001:DB8:0:0::1", "2001:db8::1", True),
    ],
)
def test_an_address_is_one_of_this_machine_or_all(tmp_path: Path, written: str, address: str, is_public: bool) -> None:
    loaded = load(tmp_path, f'{SEED}\n[prometheus]\naddress = "{written}"\nport = 9464\n')
    assert (loaded.prometheus.address, loaded.prometheus.is_public) == (address, is_public)
    warned = [words for words in warnings_of(loaded) if words.startswith("prometheus.address")]
    assert bool(warned) == is_public


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('address = "localhost"', "prometheus.address"),
        ('address = "127.0.0.1:9464"', "expected an IP address"),
        ("address = 127", "write it in quotes"),
        ("port = 0", "expected a whole number from 1 to 65535"),
        ("port = 65536", "prometheus.port = 65536"),
        ('port = "9464"', "write it without quotes"),
        ("ports = 9464", "did you mean port?"),
    ],
)
def test_what_is_wrong_is_named_with_what_was_expected(tmp_path: Path, line: str, words: str) -> None:
    assert words in refusal(tmp_path, f"{SEED}\n[prometheus]\n{line}\n")


def test_a_changed_port_waits_for_a_restart(tmp_path: Path) -> None:
    before, after = load(tmp_path, SEED), load(tmp_path, f"{SEED}\n[prometheus]\nport = 9464\n")
    assert before.changed(after) == ["prometheus.port"]
    assert "prometheus.port" not in config.RELOADABLE
