"""The documentation names what there is, all of it and nothing else, and its links lead somewhere."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import click
import pytest
from pydantic.fields import FieldInfo

from dcalqr.cli import main
from dcalqr.config import RELOADABLE, Config
from dcalqr.metrics.series import HOLDS, SERIES
from tests.support.documents import DOCS, DOCUMENTS, TOP, anchors, links, rows, shell_commands, without_blocks

CONFIGURE = (DOCS / "configure.md").read_text()
MONITORING = (DOCS / "monitoring.md").read_text()
RUNBOOK = (DOCS / "runbook.md").read_text()

# Rows of the matrix of faults that dcalqr is built against, and where the runbook has each.
FAULTS = {
    1: "brokers away when it starts",
    2: "brokers away for hours",
    3: "all brokers moved, their names lead to others",
    4: "one broker is silent",
    5: "the group's coordinator moves",
    6: "a commit is refused",
    7: "a rebalance during copies",
    8: "a partition goes to another node in the middle of a copy",
    9: "the daemon stands still for too long",
    10: "retention deleted records unread",
    11: "the group's offsets are gone",
    12: "the topic is missing, or was made anew",
    13: "partitions were added",
    14: "rights or login withdrawn",
    15: "a batch in the topic cannot be decoded",
    16: "a password or certificate for Kafka was changed",
    18: "Kafka's client is silent though there are records",
    19: "door refuses connections, name does not resolve",
    20: "404 right after the message",
    21: "503 or 429, with Retry-After",
    22: "401, or a TLS alert",
    23: "the proxy has expired",
    25: "a revocation list is missing or expired (`dcache.crlcheck`)",
    26: "a certificate for another host, or expired, or of an unknown CA",
    27: "a redirect to http, or to a host outside `dcache.redirecthosts`",
    28: "redirects in a circle",
    29: "the body is short, the connection breaks",
    31: "a wrong Adler32",
    32: "the door has no Adler32",
    33: "the body trickles or stops",
    34: "an answer that is not HTTP, endless headers",
    36: "disk full while writing",
    37: "quota used up",
    38: "read or write errors of the disk",
    39: "read-only, stale, or the mount is gone",
    40: "the file system hangs",
    43: "the final name exists",
    44: "too many open files",
    45: "killed, out of memory, power cut",
    46: "the failed-tasks file cannot be written",
    47: "Elasticsearch or OpenSearch away, slow, refusing",
    48: "the clock jumps",
}


# --- links --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP)))
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(document: Path) -> None:
    for path, anchor in links(document):
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_the_index_names_every_document_and_the_readme_names_the_index() -> None:
    named = {path for path, _ in links(DOCS / "README.md")}
    assert {path.name for path in DOCS.glob("*.md")} - named == {"README.md"}
    assert "docs/README.md" in {path for path, _ in links(TOP / "README.md")}


# --- keys ---------------------------------------------------------------------------------------------------------


def keys() -> list[tuple[str, str, FieldInfo]]:
    return [
        (section, field.alias or name, field)
        for section, outer in Config.model_fields.items()
        for name, field in outer.annotation.model_fields.items()  # type: ignore[union-attr]
    ]


@pytest.mark.parametrize("section", list(Config.model_fields))
def test_configure_has_every_key_of_a_section_and_no_other(section: str) -> None:
    found = [cells[0] for cells in rows(CONFIGURE, f"## [{section}]")]
    assert sorted(found) == sorted(f"`{key}`" for its, key, _ in keys() if its == section)


def literal(value: Any, key: str) -> str:
    """Return a default as the file spells it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if "permissions" in key:
        return f"'{value:04o}'"
    return "[]" if value == () else f"{value:g}"


@pytest.mark.parametrize(("section", "key", "field"), keys(), ids=lambda value: value if isinstance(value, str) else "")
def test_configure_says_a_keys_default_and_what_it_may_be(section: str, key: str, field: FieldInfo) -> None:
    (cells,) = (each for each in rows(CONFIGURE, f"## [{section}]") if each[0] == f"`{key}`")
    _, values, default, meaning = cells
    if field.is_required():
        assert default == "required"
    elif field.default_factory is not None or field.default is None:
        assert default
        assert not default.startswith("`") or field.default_factory, "there is none that the file could spell"
    else:
        assert default == f"`{literal(field.default, key)}`"
    limits = {name: getattr(each, name) for each in field.metadata for name in ("ge", "le") if hasattr(each, name)}
    if limits:
        assert f"{limits['ge']} to {limits['le']}" in values
        assert ("(seconds)" in str(field.description)) == values.endswith(" s")
    for choice in choices(field.annotation):
        assert f'"{choice}"' in values
    assert (f"{section}.{key}" in RELOADABLE) == meaning.startswith("HUP")


def choices(annotation: Any) -> list[str]:
    """Return the words of a key that takes one of a few."""
    if "Literal" in str(get_origin(annotation)):
        return [str(each) for each in get_args(annotation)]
    return [choice for each in get_args(annotation) for choice in choices(each)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP)))
def test_every_key_that_a_document_names_exists(document: Path) -> None:
    known = {f"{section}.{key}" for section, key, _ in keys()}
    named = re.findall(rf"`((?:{'|'.join(Config.model_fields)})\.[a-z]+)`", document.read_text())
    assert set(named) <= known


# --- log events ---------------------------------------------------------------------------------------------------


def names(expression: ast.expr) -> Iterator[str]:
    if isinstance(expression, ast.IfExp):
        yield from names(expression.body)
        yield from names(expression.orelse)
    elif isinstance(expression, ast.Constant) and isinstance(expression.value, str):
        yield expression.value


def logged_events() -> set[str]:
    """Return the events of all lines that the program can log; the demo and the testing tools log none of their own."""
    found: set[str] = set()
    for path in (TOP / "dcalqr").rglob("*.py"):
        if path.relative_to(TOP).parts[1] in ("demo", "testing"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            if name.lstrip("_") in ("debug", "info", "warning", "error", "critical", "log", "say"):
                found.update(event for each in node.args[:2] for event in names(each) if re.fullmatch("[A-Z_]+", event))
    return found


def test_monitoring_has_every_log_event_and_no_other() -> None:
    assert {"UPLOAD", "LOST_RANGE", "START_POINTS", "LIBRARY", "COPY_RUN"} <= logged_events()
    documented = [cells[0] for cells in rows(MONITORING, "## Log")]
    assert sorted(documented) == sorted(f"`{event}`" for event in logged_events())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP)))
def test_every_event_that_a_document_names_exists(document: Path) -> None:
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", document.read_text()))
    assert named <= logged_events()


# --- metrics, holds, faults ---------------------------------------------------------------------------------------


def test_monitoring_has_every_metric_with_its_labels_and_no_other() -> None:
    found = {(cells[0].strip("`"), cells[1]) for cells in rows(MONITORING, "## Metrics")}
    assert found == {(series.name, ", ".join(series.labels)) for series in SERIES}


def test_monitoring_has_every_hold() -> None:
    assert {cells[0].strip("`") for cells in rows(MONITORING, "## Holds")} == set(HOLDS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP)))
def test_every_metric_that_a_document_names_exists(document: Path) -> None:
    known = {
        f"dcalqr_{series.name}{suffix}"
        for series in SERIES
        for suffix in (("_bucket", "_sum", "_count") if series.kind == "histogram" else ("",))
    }
    assert set(re.findall(r"`(dcalqr_[a-z_]+)`", document.read_text())) <= known


@pytest.mark.parametrize(("number", "fault"), list(FAULTS.items()))
def test_the_runbook_has_every_fault_with_event_metric_and_what_to_do(number: int, fault: str) -> None:
    (cells,) = (each for each in rows(RUNBOOK, "## By symptom") if each[0] == fault)
    _, log, metric, meaning, to_do = cells
    events = set(re.findall(r"`([A-Z_]{4,})`", log))
    # A hung disk and a clock say nothing in the log: they show in metrics alone.
    assert events or number in (40, 48)
    assert events <= logged_events()
    assert re.search(r"`(dcalqr|process)_", metric)
    assert meaning
    assert to_do


# --- commands -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP)))
def test_every_option_of_ours_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    lines = [each.text for each in shell_commands(document) if each.text.startswith("dcalqr ")]
    lines += re.findall(r"`(dcalqr [a-z][^`\n]*)`", without_blocks(text))
    for line in lines:
        words = line.partition("|")[0].split()[1:]
        command: click.Command = main
        while words and isinstance(command, click.Group) and not words[0].startswith("-"):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known | {"--help", "--version"}, line


# --- installation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "extra"),
    [("README.md", "demo"), ("docs/install.md", "demo"), ("docs/monitoring-elasticsearch.md", "elasticsearch")],
)
def test_a_document_says_how_an_extra_comes_from_an_index_and_from_a_checkout(document: str, extra: str) -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"]
    text = " ".join((TOP / document).read_text().split())
    assert f"pip install '{project['name']}[{extra}]'" in text
    assert f"pip install '.[{extra}]'" in text


def test_the_installation_makes_the_folders_that_the_example_names_and_the_unit_may_write() -> None:
    local = tomllib.loads((TOP / "config.example.toml").read_text())["local"]
    download, state = local["downloadfolder"], str(Path(local["failedtasksfile"]).parent)
    commands = [each.text for each in shell_commands(DOCS / "install.md")]
    made = {text.split()[-1] for text in commands if text.startswith("install -d") and "-o dcalqr -g dcalqr" in text}
    assert made == {download, state}
    for name in ("dcalqr.service", "dcalqr@.service"):
        unit = (TOP / "systemd" / name).read_text()
        assert f"\nReadWritePaths=-{download}\n" in unit
        assert re.search(rf"\nStateDirectory={Path(state).name}(/%i)?\n", unit)


def test_the_installation_makes_the_user_before_what_belongs_to_it_and_checks_before_it_starts() -> None:
    commands = [each.text for each in shell_commands(DOCS / "install.md")]
    order = ["pip install .", "systemd-sysusers", "-o dcalqr", "check --config", "daemon-reload", "enable --now dcalqr"]
    found = [next(number for number, text in enumerate(commands) if words in text) for words in order]
    assert found == sorted(found)
