"""Sections elasticsearch and opensearch of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcalqr import config, errors
from dcalqr.config import Config
from dcalqr.config.warnings import warnings_of

SEED = (Path(__file__).parents[1] / "data" / "configs" / "seed.toml").read_text()


def load(tmp_path: Path, lines: str) -> Config:
    path = tmp_path / "dcalqr.toml"
    path.write_text(f"{SEED}\n{lines}\n")
    return config.load(path)


def test_without_the_sections_nothing_is_sent(tmp_path: Path) -> None:
    loaded = load(tmp_path, "")
    assert loaded.elasticsearch.urls == loaded.opensearch.urls == ()


def test_urls_come_back_with_their_port(tmp_path: Path) -> None:
    lines = '[elasticsearch]\nurls = ["https://es1.example.org", "http://[::1]:9201/", "https://es2.example.org:443"]'
    assert load(tmp_path, lines).elasticsearch.urls == (
        "https://es1.example.org:9200",
        "http://[::1]:9201",
        "https://es2.example.org:443",
    )


def test_all_keys_are_understood(tmp_path: Path) -> None:
    common = 'urls = ["https://x"]\nprefix = "site-1"\ncafile = "/ca"\ntimeout = 2.5\n'
    loaded = load(
        tmp_path,
        f'[elasticsearch]\n{common}apikeyfile = "/key"\nkeepdays = 30\n'
        f'[opensearch]\n{common}user = "dcalqr"\npasswordfile = "/secret-{{instance}}"\n[daemon]\ninstance = "n1"',
    )
    elastic, opensearch = loaded.elasticsearch, loaded.opensearch
    assert (elastic.prefix, elastic.timeout, elastic.keepdays) == ("site-1", 2.5, 30)
    assert (elastic.apikeyfile, elastic.cafile) == (Path("/key"), Path("/ca"))
    assert (opensearch.user, opensearch.passwordfile) == ("dcalqr", Path("/secret-n1"))


@pytest.mark.parametrize("section", ["elasticsearch", "opensearch"])
@pytest.mark.parametrize(
    ("lines", "key", "expected"),
    [
        ('urls = ["es1.example.org:9200"]', "urls[0]", "each begins with https:// or http://"),
        ('urls = ["https://es1.example.org:9200/search"]', "urls[0]", "without a path"),
        ('urls = ["https://es1.example.org?x"]', "urls[0]", "without a path"),
        ('urls = ["https://es1.example.org:0"]', "urls[0]", "1 to 65535"),
        ('urls = ["https://es 1"]', "urls[0]", "without spaces"),
        ('urls = ["https://u:geheim@es1"]', "urls[0]", "no user and no password"),
        ('urls = "https://es1"', "urls", 'write it in brackets: ["https://es1"]'),
        ('prefix = "x"', "urls", "is missing"),
        ('urls = []\nprefix = "Dcalqr"', "prefix", "lower-case"),
        ('urls = []\nprefix = "_x"', "prefix", "lower-case"),
        ('urls = []\nprefix = "x*"', "prefix", "lower-case"),
        ("urls = []\ntimeout = 0", "timeout", "from 1 to 300"),
        ('urls = []\nuser = "x"', "passwordfile", "is missing: expected with user"),
        ('urls = []\npasswordfile = "/x"', "user", "is missing: expected with passwordfile"),
        ('urls = []\npassword = "geheim"', "password", "secrets never stand in this file"),
        ('urls = ["http://x"]\ncafile = "/x"', "cafile", "has no effect"),
        ('urls = []\nurl = "x"', "url", "did you mean urls?"),
    ],
)
def test_a_broken_section_is_refused_by_key_with_what_was_expected(
    tmp_path: Path, section: str, lines: str, key: str, expected: str
) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        load(tmp_path, f"[{section}]\n{lines}")
    complaints = [line for line in str(caught.value).splitlines() if line.startswith(f"  {section}.{key}")]
    assert any(expected in line for line in complaints), str(caught.value)
    assert "geheim" not in str(caught.value)


def test_a_key_and_a_user_together_are_refused_and_only_elasticsearch_has_keys(tmp_path: Path) -> None:
    keys = 'urls = ["https://x"]\nuser = "x"\npasswordfile = "/x"\napikeyfile = "/y"'
    for section, expected in (
        ("elasticsearch", "without user and passwordfile"),
        ("opensearch", "it belongs under [elasticsearch]"),
    ):
        with pytest.raises(errors.ConfigError, match=f"(?m)^  {section}.apikeyfile.*") as caught:
            load(tmp_path, f"[{section}]\n{keys}")
        assert expected in str(caught.value)


def test_a_login_without_tls_and_files_that_are_missing_or_open_are_warned_of(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("x")
    password.chmod(0o644)
    loaded = load(
        tmp_path,
        f'[opensearch]\nurls = ["http://x", "https://y"]\nuser = "x"\npasswordfile = "{password}"\ncafile = "/nowhere"',
    )
    warnings = [line for line in warnings_of(loaded) if line.startswith("opensearch")]
    assert warnings == [
        "opensearch.urls: http://x:9200 gets the login without TLS",
        "opensearch.cafile: /nowhere: No such file or directory",
        f"opensearch.passwordfile: {password} can be read by every user of this machine (mode 0644)",
    ]
