"""What an answer of a search server means for a report. Pure.

A report is stored; or refused for now, which somebody may cure (a read-only index, a missing right, a full server); or
refused for good, because of what stands in it. `reason` is one word, the label of log lines and metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

# The document says what its index does not allow.
_MAPPING = frozenset(
    {
        "document_parsing_exception",  # Elasticsearch's name for it
        "mapper_parsing_exception",  # OpenSearch's
        "strict_dynamic_mapping_exception",
        "illegal_argument_exception",  # more fields than an index may have, a term too long
    }
)
# Reasons for which a report is lost; all others are a matter of time.
REFUSED_FOR_GOOD = ("mapping", "rejected", "too_large")
_REASONS = {401: "login", 403: "forbidden", 404: "missing", 413: "too_large", 429: "overload"}


class RequestFailed(Exception):
    """A whole request did not succeed: nothing is known of any of its reports.

    Parameters
    ----------
    reason
        One word: unreachable, timeout, tls, credential, login, forbidden, missing, overload, too_large, server,
        product, template, answer, request, unsupported.
    why
        A sentence for the operator.
    """

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(why)
        self.reason = reason


class Verdict(NamedTuple):
    """Of one document. `again`: worth another try."""

    reason: str
    why: str
    again: bool


def judge(item: Mapping[str, Any]) -> Verdict | None:
    """Judge one item of a bulk answer; None: the report is stored, now or since an earlier try (409)."""
    status, error = int(item["status"]), item.get("error") or {}
    if status in (200, 201, 409):
        return None
    kind, why = str(error.get("type", "")), f"{error.get('type')}: {error.get('reason')}"
    if kind == "cluster_block_exception":  # 403: an operator's or a policy's block; 429: the disk is nearly full
        return Verdict("read_only", why, again=True)
    if kind == "index_closed_exception":
        return Verdict("closed", why, again=True)
    if status in _REASONS or status >= 500:
        return Verdict(reason_of(status), why, again=True)
    return Verdict("mapping" if kind in _MAPPING else "rejected", why, again=False)


def reason_of(status: int) -> str:
    """Return the word for a whole request that was answered with this HTTP status."""
    return _REASONS.get(status, "server" if status >= 500 else "request")
