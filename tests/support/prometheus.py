"""A real Prometheus that scrapes one daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from tests.support.ports import free_ports
from tests.support.process import ServerProcess, require, wait_until

START_SECONDS = 30.0
# It hands over its targets every 5 s, so the first scrape comes that late whatever is configured.
SCRAPE_SECONDS = 40.0

CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: dcalqr
    static_configs: [{{targets: ["127.0.0.1:{target}"]}}]
"""


class Prometheus:
    """One server, with the rules of this repository.

    Parameters
    ----------
    folder
        Its own.
    target
        The daemon's port.
    rules
        The file of alert rules.
    """

    def __init__(self, folder: Path, target: int, rules: Path) -> None:
        [self._port] = free_ports(1)
        folder.mkdir()
        config = folder / "prometheus.yml"
        config.write_text(CONFIG.format(target=target, rules=rules))
        self._process = ServerProcess(
            [
                require("prometheus", "apt-get install prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            folder / "prometheus.log",
        )

    def start(self) -> None:
        self._process.start(self._is_ready, START_SECONDS)

    def stop(self) -> None:
        self._process.stop()

    def _is_ready(self) -> bool:
        try:
            return self._get("/-/ready").is_success
        except httpx.TransportError:
            return False

    def _get(self, path: str, **parameters: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self._port}{path}", params=parameters, timeout=20, trust_env=False)

    def wait_scraped(self, times: int) -> None:
        """Wait until the daemon has been scraped so often, without an error."""

        def scraped() -> bool:
            found = self.query('count_over_time(up{job="dcalqr"}[10m]) and up == 1')
            return bool(found) and float(found[0]["value"][1]) >= times

        wait_until(scraped, SCRAPE_SECONDS, f"{times} scrapes")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Ask for the values of an expression now.

        Raises
        ------
        ValueError
            It is refused; the message says why.
        """
        answer = self._get("/api/v1/query", query=expression).json()
        if answer["status"] != "success":
            raise ValueError(answer["error"])
        return list(answer["data"]["result"])

    def rules(self) -> list[dict[str, Any]]:
        """Return all rules with their health."""
        return [rule for group in self._get("/api/v1/rules").json()["data"]["groups"] for rule in group["rules"]]
