"""What a daemon shows by HTTP, asked as Prometheus and people ask."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families


class Shown:
    """The pages of one daemon on this machine.

    Parameters
    ----------
    port
        `prometheus.port`.
    """

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str) -> httpx.Response:
        """Ask once; raises httpx.TransportError when nobody listens."""
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=20, trust_env=False)

    def answers(self, path: str, status: int, words: str = "") -> bool:
        """Whether a page says so now; False too when nobody listens."""
        try:
            answer = self.get(path)
        except httpx.TransportError:
            return False
        return answer.status_code == status and words in answer.text

    def scrape(self) -> dict[tuple[str, ...], float]:
        """All samples: (name without dcalqr_, label values in the labels' alphabetical order) -> value."""
        return {
            (sample.name.removeprefix("dcalqr_"), *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.get("/metrics").text)
            for sample in family.samples
        }
