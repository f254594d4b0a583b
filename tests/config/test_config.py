from __future__ import annotations

import datetime as dt
import os
import re
import socket
from pathlib import Path

import pytest
import tomli
from pydantic_core import PydanticUndefined

from dcalqr import config, errors
from dcalqr.config import Config, words
from dcalqr.config.values import Base
from dcalqr.config.warnings import warnings_of

DATA = Path(__file__).parents[1] / "data" / "configs"
EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
SEED = (DATA / "seed.toml").read_text()


@pytest.fixture(autouse=True)
def _no_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE_DIRECTORY", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


def seed_with(section: str, lines: str) -> str:
    """The seed's file with the keys of `lines` replaced or added in one section."""
    text = SEED if f"[{section}]" in SEED else f"{SEED}\n[{section}]\n"
    head, mark, body = text.partition(f"[{section}]\n")
    own, following, rest = body.partition("\n[")
    for key in tomli.loads(lines):
        own = re.sub(rf"(?m)^{re.escape(key)} *=.*\n?", "", own)
    return f"{head}{mark}{lines}\n{own}{following}{rest}"


def seed_without(key: str) -> str:
    return re.sub(rf"(?m)^{key} *=.*\n", "", SEED)


def load(tmp_path: Path, content: str | bytes) -> Config:
    path = tmp_path / "dcalqr.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return config.load(path)


def refusal(tmp_path: Path, content: str | bytes) -> str:
    with pytest.raises(errors.ConfigError) as caught:
        load(tmp_path, content)
    assert caught.value.exit_code == 78
    return str(caught.value)


# --- what is accepted -----------------------------------------------------------------------------------------


def test_the_first_dcalqrs_file_works_unchanged() -> None:
    loaded = config.load(DATA / "seed.toml")
    assert loaded.kafka.servers == ("172.17.0.37:9092", "172.17.0.111:9092", "172.17.0.63:9092")
    assert loaded.dcache.root == "/pnfs/in2p3.fr/data/lsst"
    assert loaded.dcache.folder_path == "/pnfs/in2p3.fr/data/lsst/lsst/user/j/james.perry"
    assert loaded.dcache.base == Base("https", "ccdcacali236.in2p3.fr", 2880, "/lsst")
    assert (loaded.dcache.retryseconds, loaded.dcache.retrytimes) == (1, 10)
    assert (loaded.dcache.maxdownloads, loaded.dcache.timeout) == (10, 600)
    assert loaded.local.proxy == Path("/pbs/home/l/lsstdata/software/dcalcr/x509_proxy")
    assert loaded.local.downloadfolder == Path("/sps/lssttest/datasets/desc/DC2/Run2.2i/sim/input")
    assert loaded.local.permissions == 0o2755
    assert loaded.local.filepermissions == 0o644
    assert loaded.local.statefolder == Path("/pbs/home/l/lsstdata/software/dcalcr/failed.state")
    assert loaded.daemon.instance == socket.gethostname()


def test_the_four_numbers_and_permissions_have_the_promised_defaults(tmp_path: Path) -> None:
    text = re.sub(r"(?m)^(retryseconds|retrytimes|maxdownloads|timeout|permissions) *=.*\n", "", SEED)
    loaded = load(tmp_path, text)
    numbers = loaded.dcache.retryseconds, loaded.dcache.retrytimes, loaded.dcache.maxdownloads, loaded.dcache.timeout
    assert numbers == (1, 10, 10, 600)
    assert loaded.local.permissions == 0o755


def test_the_example_lists_every_key_with_its_default() -> None:
    text = EXAMPLE.read_text()
    data, loaded = tomli.loads(text), config.load(EXAMPLE)
    commented = {
        (name, key)
        for name, body in re.findall(r"(?ms)^\[(\w+)\](.*?)(?=^\[|\Z)", text)
        for key in re.findall(r"(?m)^# (\w+) = ", body)
    }
    for name in Config.model_fields:
        section = getattr(loaded, name)
        for attribute, field in type(section).model_fields.items():
            key = field.alias or attribute
            if field.is_required():
                assert key in data[name], key
            elif field.default in (None, PydanticUndefined):  # nothing that TOML could say, or it depends on others
                assert (name, key) in commented, key
            else:
                assert key in data[name], key
                without = {other: value for other, value in data[name].items() if other != key}
                default = Config.model_validate(data | {name: without}, context={"instance": "x"})
                assert getattr(section, attribute) == getattr(getattr(default, name), attribute), key
    assert commented <= {(name, key) for name, keys in words.expectations(Config).items() for key in keys}


def test_every_commented_key_of_the_example_is_valid_when_it_is_switched_on(tmp_path: Path) -> None:
    text = re.sub(r"(?m)^# (\w+ = )", r"\1", EXAMPLE.read_text()).replace('"plaintext"  ', '"sasl_ssl"  ')
    loaded = load(tmp_path, text)
    assert loaded.kafka.saslpasswordfile == Path("/etc/dcalqr/kafka-password")
    assert loaded.reports.file == Path("/var/lib/dcalqr/reports-node1.jsonl")


def test_a_full_kafka_login_and_odd_but_legal_spellings_are_understood() -> None:
    loaded = config.load(DATA / "sasl.toml")
    assert loaded.kafka.startfrom == dt.datetime(2026, 1, 31, 11, tzinfo=dt.UTC)
    assert loaded.dcache.base == Base("https", "2001:db8::2", 443, "")
    assert (loaded.dcache.root, loaded.dcache.folder) == ("", "/pnfs/example.org/data")
    assert loaded.local.filepermissions == 0o440
    assert loaded.local.downloadfolder == Path("/data/node-1/incoming")
    assert loaded.local.failedtasksfile == Path("/var/lib/dcalqr/node-1.csv")


GOOD = [
    ("kafka", 'startfrom = "2026-01-31T12:00:00.5+02:00"'),
    ("kafka", 'startfrom = "latest"'),
    ("kafka", 'onoffsetloss = "earliest"'),
    ("kafka", 'servers = ["localhost:1", "[::1]:65535"]'),
    ("kafka", 'security = "ssl"'),
    ("kafka", "commitseconds = 0.5"),
    ("dcache", 'url = "HTTPS://door.example.org"'),
    ("dcache", 'url = "https://door:1/a%20b/"'),
    ("dcache", "maxdownloads = 1000"),
    ("dcache", "retrytimes = 0"),
    ("dcache", "delayseconds = 0"),
    ("dcache", 'redirecthosts = ["pool1.example.org"]'),
    ("dcache", 'folder = "/"'),
    ("local", "permissions = '0777'"),
    ("local", "permissions = '755'"),
    ("local", 'downloadfolder = "/data with spaces/é"'),
    ("local", "minfree = 2.5"),
    ("daemon", "drainseconds = 0"),
    ("log", 'format = "console"'),
    ("reports", 'file = "/var/lib/r.jsonl"'),
]


@pytest.mark.parametrize(("section", "lines"), GOOD, ids=[lines for _, lines in GOOD])
def test_a_good_configuration_is_accepted_offline(tmp_path: Path, section: str, lines: str) -> None:
    key = next(iter(tomli.loads(lines)))
    assert getattr(getattr(load(tmp_path, seed_with(section, lines)), section), key) is not None


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf" + SEED.encode(), SEED.replace("\n", "\r\n").encode()])
def test_a_byte_order_mark_and_crlf_are_accepted(tmp_path: Path, content: bytes) -> None:
    assert load(tmp_path, content).kafka.topic == "billingEGEE"


def test_the_instance_fills_every_local_path(tmp_path: Path) -> None:
    text = seed_with("local", 'proxy = "/{instance}/proxy"\nstatefolder = "/s/{instance}"')
    loaded = load(tmp_path, text + '[daemon]\ninstance = "n2"\n[reports]\nfile = "/r/{instance}.jsonl"\n')
    assert loaded.local.proxy == Path("/n2/proxy")
    assert loaded.local.statefolder == Path("/s/n2")
    assert loaded.reports.file == Path("/r/n2.jsonl")


def test_systemds_state_and_credential_folders_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/dcalqr:/var/lib/other")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/dcalqr.service")
    loaded = config.load(DATA / "sasl.toml")
    assert loaded.local.statefolder == Path("/var/lib/dcalqr")
    assert loaded.kafka.saslpasswordfile == Path("/run/credentials/dcalqr.service/password")


def test_a_short_timeout_shortens_the_stall(tmp_path: Path) -> None:
    assert load(tmp_path, seed_with("dcache", "timeout = 20")).dcache.stallseconds == 20
    assert load(tmp_path, seed_with("dcache", "timeout = 700")).dcache.stallseconds == 60
    assert load(tmp_path, seed_with("dcache", "timeout = 20\nstallseconds = 90")).dcache.stallseconds == 90


def test_a_loaded_configuration_cannot_be_changed() -> None:
    loaded = config.load(DATA / "seed.toml")
    with pytest.raises(ValueError, match="frozen"):
        loaded.dcache.maxdownloads = 3


def test_changed_keys_are_named_as_the_file_spells_them(tmp_path: Path) -> None:
    before = load(tmp_path, SEED)
    after = load(tmp_path, seed_with("dcache", 'maxdownloads = 20\npool = "/pnfs"') + '[log]\nlevel = "debug"\n')
    assert before.changed(after) == ["dcache.pool", "dcache.maxdownloads", "log.level"]
    assert before.changed(before) == []


def test_a_reload_takes_over_only_what_needs_no_restart_and_names_the_rest_again(tmp_path: Path) -> None:
    before = load(tmp_path, SEED)
    fresh = load(tmp_path, seed_with("dcache", 'maxdownloads = 20\npool = "/pnfs"') + '[log]\nlevel = "debug"\n')
    taken = before.taking_over(fresh)
    assert (taken.dcache.maxdownloads, taken.log.level, taken.dcache.root) == (20, "debug", before.dcache.root)
    assert taken.changed(fresh) == ["dcache.pool"]
    assert before.changed(taken) == ["dcache.maxdownloads", "log.level"]


def test_what_a_hup_may_change_are_keys_that_exist() -> None:
    known = {f"{section}.{key}" for section, keys in words.expectations(Config).items() for key in keys}
    assert known >= config.RELOADABLE


# --- what is refused ------------------------------------------------------------------------------------------

BROKEN = [
    ("kafka", 'topic = "a b"', "kafka.topic", "a topic's name"),
    ("kafka", 'topic = ""', "kafka.topic", "a topic's name"),
    ("kafka", "topic = 5", "kafka.topic", "write it in quotes"),
    ("kafka", 'topics = "x"', "kafka.topics", "did you mean topic?"),
    ("kafka", "servers = []", "kafka.servers", 'a list of "host:port"'),
    ("kafka", 'servers = "k:9092"', "kafka.servers", 'write it in brackets: ["k:9092"]'),
    ("kafka", 'servers = ["k:9092", "k"]', "kafka.servers[1]", "host:port"),
    ("kafka", 'servers = ["k:0"]', "kafka.servers[0]", "from 1 to 65535"),
    ("kafka", 'servers = ["k:65536"]', "kafka.servers[0]", "from 1 to 65535"),
    ("kafka", 'servers = ["k:٣"]', "kafka.servers[0]", "from 1 to 65535"),
    ("kafka", 'servers = ["::1:9092"]', "kafka.servers[0]", "host:port"),
    ("kafka", 'servers = ["kafka://k:9092"]', "kafka.servers[0]", "without scheme"),
    ("kafka", "servers = [9092]", "kafka.servers[0]", "write it in quotes"),
    ("kafka", 'consumergroup = ""', "kafka.consumergroup", "name"),
    ("kafka", 'consumergroup = "a\\u0000b"', "kafka.consumergroup", "control"),
    ("kafka", 'startfrom = "yesterday"', "kafka.startfrom", "RFC 3339"),
    ("kafka", "startfrom = 2026-01-31T12:00:00", "kafka.startfrom", "zone"),
    ("kafka", 'startfrom = "2026-02-31T12:00:00Z"', "kafka.startfrom", "RFC 3339"),
    ("kafka", 'onoffsetloss = "latest"', "kafka.onoffsetloss", '"halt" or "earliest"'),
    ("kafka", "window = 0", "kafka.window", "from 1 to 100000"),
    ("kafka", "window = 1.5", "kafka.window", "whole number"),
    ("kafka", "commitseconds = 0", "kafka.commitseconds", "from 0.1 to 600 (seconds)"),
    ("kafka", "commitseconds = inf", "kafka.commitseconds", "from 0.1 to 600 (seconds)"),
    ("kafka", 'security = "SASL_SSL"', "kafka.security", 'did you mean "sasl_ssl"?'),
    ("kafka", 'security = "sasl_ssl"', "kafka.saslmechanism", "is missing"),
    ("kafka", 'security = "sasl_ssl"', "kafka.saslpasswordfile", "is missing"),
    ("kafka", 'saslmechanism = "SCRAM-SHA256"', "kafka.saslmechanism", 'did you mean "SCRAM-SHA-256"?'),
    ("kafka", 'security = "ssl"\ncertfile = "/c"', "kafka.keyfile", "expected with certfile"),
    ("kafka", 'security = "ssl"\nkeyfile = "/k"', "kafka.certfile", "expected with keyfile"),
    ("kafka", 'cafile = "/ca"', "kafka.cafile", 'expected "ssl" or "sasl_ssl"'),
    ("kafka", 'sasluser = "me"', "kafka.sasluser", 'expected "sasl_ssl" or "sasl_plaintext"'),
    ("kafka", 'security = "ssl"\ncafile = "ca.pem"', "kafka.cafile", "does not begin with /"),
    ("dcache", "retrysecond = 1", "dcache.retrysecond", "did you mean retryseconds?"),
    ("dcache", "retry_seconds = 1", "dcache.retry_seconds", "did you mean retryseconds?"),
    ("dcache", 'root = "/x"', "dcache.root", "unknown key"),
    ("dcache", 'proxy = "/x"', "dcache.proxy", "it belongs under [local]"),
    ("dcache", 'url = "http://door:2880/x"', "dcache.url", "it must begin with https://"),
    ("dcache", 'url = "https://u:pw@door/x"', "dcache.url", "no user and no password"),
    ("dcache", 'url = "https://door/x?authz=1"', "dcache.url", "no query"),
    ("dcache", 'url = "https://door/x#y"', "dcache.url", "no fragment"),
    ("dcache", 'url = "https:///x"', "dcache.url", "host is missing"),
    ("dcache", 'url = "door:2880/x"', "dcache.url", "https://"),
    ("dcache", 'url = "https://door:99999/"', "dcache.url", "from 1 to 65535"),
    ("dcache", 'url = "https://door:0/"', "dcache.url", "from 1 to 65535"),
    ("dcache", 'url = "https://[::1/"', "dcache.url", "not valid"),
    ("dcache", 'url = "https://do or/"', "dcache.url", "without spaces"),
    ("dcache", 'url = "https://door/a/../b"', "dcache.url", "without . and .."),
    ("dcache", 'url = "https://door/100%"', "dcache.url", "percent-encoded"),
    ("dcache", 'pool = "pnfs"', "dcache.pool", "does not begin with /"),
    ("dcache", 'folder = "/a/../b"', "dcache.folder", "without . and .."),
    ("dcache", 'folder = "/a/{instance}"', "dcache.folder", "local paths"),
    ("dcache", 'pool = "/"\nfolder = "//"', "dcache.folder", "a folder to watch"),
    ("dcache", "retryseconds = -1", "dcache.retryseconds", "from 0.1 to 300 (seconds)"),
    ("dcache", "retrytimes = true", "dcache.retrytimes", "no numbers"),
    ("dcache", "maxdownloads = 0", "dcache.maxdownloads", "from 1 to 1000"),
    ("dcache", "workers = -1", "dcache.workers", "from 0 to 64"),
    ("dcache", "workers = 65", "dcache.workers", "from 0 to 64"),
    ("dcache", "maxdownloads = -1", "dcache.maxdownloads", "from 1 to 1000"),
    ("dcache", "maxdownloads = 100000", "dcache.maxdownloads", "from 1 to 1000"),
    ("dcache", 'maxdownloads = "10"', "dcache.maxdownloads", "write it without quotes"),
    ("dcache", "maxdownloads = 10.0", "dcache.maxdownloads", "whole number"),
    ("dcache", "timeout = nan", "dcache.timeout", "from 1 to 86400 (seconds)"),
    ("dcache", 'timeout = "10m"', "dcache.timeout", "from 1 to 86400 (seconds)"),
    ("dcache", 'requirechecksum = "true"', "dcache.requirechecksum", "write it without quotes"),
    ("dcache", "crlcheck = 1", "dcache.crlcheck", "true or false"),
    ("local", "permissions = '9999'", "local.permissions", "digits from 0 to 7"),
    ("local", "permissions = 2755", "local.permissions", "write it in quotes"),
    ("local", "permissions = '0555'", "local.permissions", "the owner needs"),
    ("local", "filepermissions = '4755'", "local.filepermissions", "without setuid"),
    ("local", 'downloadfolder = "sps/x"', "local.downloadfolder", "does not begin with /"),
    ("local", 'downloadfolder = "/"', "local.downloadfolder", 'other than "/"'),
    ("local", 'downloadfolder = "//"', "local.downloadfolder", 'other than "/"'),
    ("local", 'downloadfolder = "/x/.."', "local.downloadfolder", "without . and .."),
    ("local", 'downloadfolder = "~/data"', "local.downloadfolder", "not filled in"),
    ("local", 'proxy = "$HOME/proxy"', "local.proxy", "not filled in"),
    ("local", 'failedtasksfile = "/x/{host}.csv"', "local.failedtasksfile", "only {instance}"),
    ("local", 'minfree = "1 %"', "local.minfree", "(per cent)"),
    ("local", "minfree = 100", "local.minfree", "from 0 to 99"),
    ("local", 'requiremount = "yes"', "local.requiremount", "true or false"),
    ("daemon", 'instance = "../x"', "daemon.instance", "letters, digits"),
    ("daemon", 'instance = ""', "daemon.instance", "1 to 64"),
    ("daemon", "drainseconds = -1", "daemon.drainseconds", "from 0 to 3600"),
    ("log", 'level = "INFO"', "log.level", 'did you mean "info"?'),
    ("log", 'format = "xml"', "log.format", '"json" or "console"'),
    ("log", "minfree = 1", "log.minfree", "it belongs under [local]"),
    ("reports", 'file = "reports.jsonl"', "reports.file", "does not begin with /"),
    ("kafkaa", 'topic = "x"', "[kafkaa]", "did you mean [kafka]?"),
    ("graphite", 'url = "x"', "[graphite]", "sections are kafka, dcache, local"),
]


@pytest.mark.parametrize(
    ("section", "lines", "key", "expected"), BROKEN, ids=[f"{case[0]}: {case[1]}" for case in BROKEN]
)
def test_a_broken_key_is_refused_by_its_name_with_what_was_expected(
    tmp_path: Path, section: str, lines: str, key: str, expected: str
) -> None:
    said = refusal(tmp_path, seed_with(section, lines))
    complaints = [line for line in said.splitlines() if line.startswith(f"  {key}")]
    assert any(expected in line for line in complaints), said


@pytest.mark.parametrize(
    "key",
    [
        "topic",
        "servers",
        "consumergroup",
        "url",
        "pool",
        "folder",
        "proxy",
        "capath",
        "downloadfolder",
        "failedtasksfile",
    ],
)
def test_a_missing_required_key_is_named_and_is_the_only_complaint(tmp_path: Path, key: str) -> None:
    said = refusal(tmp_path, seed_without(key))
    assert "1 complaint:" in said
    assert re.search(rf"(?m)^  (kafka|dcache|local)\.{key} is missing: expected \S", said)


def test_a_missing_section_and_an_empty_file_are_explained(tmp_path: Path) -> None:
    said = refusal(tmp_path, "")
    assert "3 complaints:" in said
    assert "[kafka] is missing: expected a section with topic, servers" in said


def test_keys_outside_their_section_are_sent_home(tmp_path: Path) -> None:
    said = refusal(tmp_path, 'topic = "x"\nkafka = 3\n')
    assert '  topic = "x": a key outside all sections; it belongs under [kafka]' in said
    assert "  kafka = 3: expected a section, [kafka] on a line of its own" in said


def test_all_complaints_come_at_once() -> None:
    with pytest.raises(errors.ConfigError) as caught:
        config.load(DATA / "many-faults.toml")
    said = str(caught.value)
    assert caught.value.facts["count"] == 23
    assert "23 complaints:" in said
    keys = ["kafka.topic", "kafka.security", "dcache.url", "dcache.retry_seconds", "local.proxy", "[graphite]"]
    assert [key for key in keys if f"\n  {key}" not in said] == []


def test_a_combination_is_complained_about_together_with_single_keys(tmp_path: Path) -> None:
    said = refusal(tmp_path, seed_with("kafka", 'security = "ssl"\nwindow = 0\nsasluser = "me"'))
    assert "kafka.window" in said
    assert "kafka.sasluser" in said


def test_rows_and_reports_cannot_share_a_file(tmp_path: Path) -> None:
    text = seed_with("local", 'failedtasksfile = "/x/f"') + '[reports]\nfile = "/x/f"\n'
    assert "reports.file" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("syntax.toml", "line 3, column 11"),
        ("duplicate-key.toml", "line 3, column"),
        ("latin1.toml", "not UTF-8 at line 2, column 13"),
    ],
)
def test_what_is_not_toml_is_refused_with_line_and_column(name: str, expected: str) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        config.load(DATA / name)
    assert expected in str(caught.value)
    assert name in str(caught.value)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x7fELF\x02\x01\x01\x00", "line 1, column"),
        (b"a = " + b"[" * 100_000, "not to be understood"),
        (b"a = " + b"9" * 5000, "not to be understood"),
        (b"# " + b"x" * (10 * 1024 * 1024), "larger than 1048576 bytes"),
        (b"a = 2026-13-45", "line 1, column"),
    ],
    ids=["binary", "nested", "digits", "10 MiB", "date"],
)
def test_hostile_files_are_refused_and_never_crash(tmp_path: Path, content: bytes, expected: str) -> None:
    assert expected in refusal(tmp_path, content)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "absent.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(errors.ConfigError) as caught:
            config.load(path)
        assert str(path) in str(caught.value)
        assert why in str(caught.value)


def test_secrets_that_were_put_into_the_file_are_not_repeated(tmp_path: Path) -> None:
    lines = 'saslpassword = "hunter2"\nsaslpasswordfile = "hunter2"\nservers = ["me:hunter2@k:9092"]'
    said = refusal(tmp_path, seed_with("kafka", lines).replace("https://", "https://me:hun/ter2@"))
    said += refusal(tmp_path, seed_with("dcache", 'url = "https://door/?authz=hunter2"'))
    said += refusal(tmp_path, seed_with("local", "proxy = '''-----BEGIN PRIVATE KEY-----\nhunter2'''"))
    assert "kafka.saslpassword = [redacted]: unknown key; secrets never stand in this file" in said
    assert "hunter2" not in said
    assert "ter2" not in said


def test_a_value_cannot_forge_a_line_of_the_listing(tmp_path: Path) -> None:
    said = refusal(tmp_path, seed_with("dcache", 'folder = "x\\n  kafka.topic = fine\\u001b[31m"'))
    assert len(said.splitlines()) == 2
    assert "\x1b" not in said


# --- what is only warned about --------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with everything the configuration of `site_text` names."""
    for name in ("ca", "data", "state"):
        (tmp_path / name).mkdir()
    (tmp_path / "proxy").touch(mode=0o600)
    return tmp_path


def site_text(site: Path, more: str = "") -> str:
    local = (
        f'proxy = "{site}/proxy"\ncapath = "{site}/ca"\ndownloadfolder = "{site}/data"\n'
        f'failedtasksfile = "{site}/state/failed.csv"\nstatefolder = "{site}/state"\n'
    )
    return seed_with("local", local) + more


def test_a_site_in_order_has_no_warnings(site: Path) -> None:
    assert warnings_of(load(site, site_text(site))) == []


def test_what_is_not_there_now_is_warned_about_and_not_refused() -> None:
    said = "\n".join(warnings_of(config.load(DATA / "seed.toml")))
    for key in ("local.proxy", "local.capath", "local.downloadfolder", "local.failedtasksfile"):
        assert f"{key}" in said


def test_a_download_folder_behind_a_link_is_shown_resolved(site: Path) -> None:
    (site / "data").rename(site / "real")
    (site / "data").symlink_to(site / "real")
    (said,) = warnings_of(load(site, site_text(site)))
    assert said.startswith("local.downloadfolder: ")
    assert said.endswith(str(site / "real"))


def test_a_secret_that_everybody_can_read_is_warned_about(site: Path) -> None:
    (site / "proxy").chmod(0o644)
    (said,) = warnings_of(load(site, site_text(site)))
    assert said.startswith("local.proxy: ")
    assert "0644" in said


def test_a_missing_credential_tells_that_systemd_gave_no_folder() -> None:
    said = [line for line in warnings_of(config.load(DATA / "sasl.toml")) if line.startswith("kafka.saslpasswordfile")]
    assert len(said) == 1
    assert "$CREDENTIALS_DIRECTORY is not set" in said[0]


def test_files_in_place_of_folders_and_folders_in_place_of_files_are_warned_about(site: Path) -> None:
    (site / "state" / "failed.csv").mkdir()
    (site / "ca").rmdir()
    (site / "ca").touch()
    said = warnings_of(load(site, site_text(site)))
    assert [line.split(":")[0] for line in said] == ["local.capath", "local.failedtasksfile"]


def test_a_folder_that_this_user_may_not_write_is_warned_about(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "data").chmod(0o555)
    # The super-user may write everywhere; the tests may run as that.
    monkeypatch.setattr(os, "access", lambda path, mode: bool(Path(path).stat().st_mode & 0o200) or not mode & os.W_OK)
    (said,) = warnings_of(load(site, site_text(site)))
    assert said == f"local.downloadfolder: {site}/data is not writable for this user"


@pytest.mark.parametrize(
    ("section", "lines", "key"),
    [
        ("local", "permissions = '0777'", "local.permissions"),
        ("local", "filepermissions = '0666'", "local.filepermissions"),
        ("daemon", "drainseconds = 90", "daemon.drainseconds"),
        ("dcache", 'pool = "/lsst"', "dcache.folder"),
        ("dcache", "requirechecksum = false", "dcache.requirechecksum"),
        ("dcache", "allowhttpredirect = true", "dcache.allowhttpredirect"),
        (
            "kafka",
            'security = "sasl_plaintext"\nsaslmechanism = "PLAIN"\nsasluser = "a"\nsaslpasswordfile = "/x"',
            "kafka.security",
        ),
    ],
)
def test_a_risky_value_is_warned_about(tmp_path: Path, section: str, lines: str, key: str) -> None:
    before = [line.split(":")[0] for line in warnings_of(load(tmp_path, SEED))]
    after = [line.split(":")[0] for line in warnings_of(load(tmp_path, seed_with(section, lines)))]
    assert key not in before
    assert key in after
