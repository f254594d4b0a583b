"""Alerts, runbook and dashboard: each names what there is, and a real Prometheus understands it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from dcalqr.cli import main
from dcalqr.config import Config
from dcalqr.metrics.series import CLASSES, HOLDS, SERIES
from dcalqr.testing.door import Fault
from tests.support.ports import free_ports
from tests.support.process import require
from tests.support.prometheus import Prometheus
from tests.support.site import Site
from tests.support.web import Shown

TOP = Path(__file__).parents[1]
RULES = TOP / "monitoring" / "dcalqr.rules.yml"
DASHBOARD = TOP / "monitoring" / "dcalqr.grafana.json"
RUNBOOK = (TOP / "docs" / "runbook.md").read_text()

# What prometheus-client adds of itself, as far as we use it.
PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = require("promtool", "apt-get install prometheus")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, cwd=RULES.parent)


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub and others make of headings."""
    titles = re.findall(r"(?m)^#+ (.+)$", text)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def alerts() -> list[str]:
    """Return the text of each alert."""
    return re.split(r"(?m)^ +- alert: ", RULES.read_text())[1:]


# --- rules --------------------------------------------------------------------------------------------------------


def test_the_rules_are_well_formed() -> None:
    done = promtool("check", "rules", RULES.name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_when_it_must_and_only_then() -> None:
    done = promtool("test", "rules", "dcalqr.rules.test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: str(alert).split("\n", maxsplit=1)[0])
def test_an_alert_has_all_that_who_is_woken_needs(alert: str) -> None:
    name = alert.split("\n", maxsplit=1)[0]
    assert re.search(r"severity: (page|warning)", alert)
    assert "summary:" in alert
    [runbook] = re.findall(r"runbook: \"?docs/runbook\.md#([^\"\n]+)", alert)
    reasons = HOLDS if "{{" in runbook else ("",)
    for reason in reasons:
        assert re.sub(r"\{\{.*?\}\}", reason, runbook) in anchors(RUNBOOK)
    tests = (RULES.parent / "dcalqr.rules.test.yml").read_text()
    assert re.search(rf"alertname: {name}\n +exp_alerts:\n", tests), "no test in which it fires"
    assert re.search(rf"alertname: {name}, exp_alerts: \[\]", tests), "no test in which it does not fire"


def named_metrics(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:dcalqr|process)_[a-z_]+", expression))


def existing_metrics() -> set[str]:
    suffixes = {"histogram": ("_bucket", "_sum", "_count")}
    return PROCESS | {
        f"dcalqr_{series.name}{suffix}" for series in SERIES for suffix in suffixes.get(series.kind, ("",))
    }


def test_every_metric_that_an_alert_asks_for_exists() -> None:
    for alert in alerts():
        expression = alert.partition("expr:")[2].partition("labels:")[0]
        assert named_metrics(expression) <= existing_metrics()


# --- runbook ------------------------------------------------------------------------------------------------------


def commands() -> list[str]:
    """Return every command line of ours in the runbook, those in running text too."""
    found = re.findall(r"(?m)^    (dcalqr .+?)(?: +#.*)?$", RUNBOOK)
    return [*found, *re.findall(r"`(dcalqr [^`]+)`", RUNBOOK)]


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_every_command_of_the_runbook_exists_with_its_options(line: str) -> None:
    _, name, *words = line.split()
    command = main.commands[name]
    options = {
        option for parameter in command.params for option in parameter.opts if isinstance(parameter, click.Option)
    }
    assert {word for word in words if word.startswith("--")} <= options | {"--help"}


def test_every_key_that_the_runbook_names_exists() -> None:
    sections = Config.model_fields
    for section, key in re.findall(rf"`({'|'.join(sections)})\.([a-z]+)`", RUNBOOK):
        fields = sections[section].annotation.model_fields  # type: ignore[union-attr]
        assert key in {field.alias or name for name, field in fields.items()}, f"{section}.{key}"


def test_every_metric_and_every_event_that_the_runbook_names_exists() -> None:
    assert named_metrics(RUNBOOK) <= existing_metrics()
    source = "".join(path.read_text() for path in (TOP / "dcalqr").rglob("*.py"))
    events = set(re.findall(r"`([A-Z]+_[A-Z_]+|[A-Z]{3,})`", RUNBOOK))
    assert events >= {"HOLD", "LOST_RANGE", "ROW_NOT_WRITTEN"}
    assert {event for event in events if f'"{event}"' not in source} <= {"READ", "DESCRIBE"}


def test_every_class_of_failure_is_explained() -> None:
    table = RUNBOOK.partition("| class | means |")[2].partition("\n\n")[0]
    assert {word for word in CLASSES if not re.search(rf"\b{word}\b", table)} == set()


def test_every_link_inside_the_runbook_leads_somewhere() -> None:
    assert set(re.findall(r"\]\(#([^)]+)\)", RUNBOOK)) <= anchors(RUNBOOK)


# --- dashboard ----------------------------------------------------------------------------------------------------


def panels() -> Iterator[dict[str, Any]]:
    yield from json.loads(DASHBOARD.read_text())["panels"]


def expressions() -> list[tuple[str, str]]:
    return [(panel["title"], target["expr"]) for panel in panels() for target in panel.get("targets", ())]


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in panels()]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    numbers = [panel["id"] for panel in panels()]
    assert len(numbers) == len(set(numbers))


def test_every_query_keeps_to_the_chosen_instances_and_to_metrics_that_exist() -> None:
    assert len(expressions()) > 40
    for title, expression in expressions():
        assert named_metrics(expression) <= existing_metrics(), title
        selectors = re.findall(r"\b(?:up|(?:dcalqr|process)_[a-z_]+)(\{[^}]*\})?", expression)
        assert all('job="dcalqr", instance=~"$instance"' in selector for selector in selectors), title


def test_a_real_prometheus_scrapes_a_daemon_and_answers_every_query(site: Site, tmp_path: Path) -> None:
    [port] = free_ports(1)
    shown, server = Shown(port), Prometheus(tmp_path / "prometheus", port, RULES)
    # The copy that waits is to be under way, and no retry, for as long as a busy machine needs.
    config = site.write_config(prometheus={"port": port}, dcache={"stallseconds": 50, "timeout": 50})
    with site.daemon(config) as daemon:
        daemon.wait_for("WEB")
        server.start()
        try:
            server.wait_scraped(2)
            site.door.faults.add(Fault("pool", stall_after=1000, path="*/waits"))
            for number in range(5):
                site.upload(f"file_{number}", b"x" * 1000)
            site.upload("waits", b"x" * 5000)
            daemon.wait_for("COPY_REPORT", count=5, outcome="landed")
            server.wait_scraped(int(float(server.query('count_over_time(up{job="dcalqr"}[10m])')[0]["value"][1])) + 3)
            without = [
                (title, expression)
                for title, expression in expressions()
                if not server.query(expression.replace("$__rate_interval", "1m").replace("$instance", ".*"))
            ]
            assert without == []
            assert server.query("sum(dcalqr_transfers_running)")[0]["value"][1] == "1"
            landed = server.query('dcalqr_transfers_total{result="landed"}')[0]["value"][1]
            assert float(landed) == shown.scrape()["transfers_total", "landed"] == 5
            unhealthy = [rule["name"] for rule in server.rules() if rule["health"] != "ok"]
            assert (len(server.rules()), unhealthy) == (len(alerts()), [])
            site.door.calm()
        finally:
            server.stop()
