"""What a search server must know before the first report: the index template, and how long indices are kept. Pure.

Without the template a server makes each index silently with guessed types, and nothing could be summed or grouped.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

# Tells what dcalqr made from what an operator made under the same name.
MADE_BY = "dcalqr"
# Above the templates that a server brings for wide patterns (100 and 200), so that no name falls to one of those.
_PRIORITY = 500
# Lucene's longest term is 32766 bytes and a character has up to 4: a longer path is kept and found by other fields.
_KEYWORD_CHARACTERS = 8191

_KEYWORDS = ("outcome", "pnfsid", "pool", "error_class", "adler32", "instance", "task", "topic", "replay", "identity")
_SECONDS = ("latency", "total", "door_wait", "connect", "first_byte", "body", "sync", "publish")
_DATES = ("@timestamp", "event_date", "received_at")


def template(prefix: str, extra: dict[str, Any], policy: str | None) -> dict[str, Any]:
    """Return the index template.

    Parameters
    ----------
    prefix
        Of the indices' names.
    extra
        The mapping of the field `extra`, which the two servers name differently.
    policy
        Name of the lifecycle policy that indices obey; None: the server knows none.
    """
    settings: dict[str, Any] = {
        "number_of_shards": 1,  # a day's reports are some megabytes
        "auto_expand_replicas": "0-1",  # a copy where a second node can hold it; one node alone stays green
    }
    if policy is not None:
        settings["lifecycle"] = {"name": policy}
    body = {
        "index_patterns": [f"{prefix}-*"],
        "priority": _PRIORITY,
        "template": {"settings": {"index": settings}, "mappings": {"dynamic": False, "properties": _fields(extra)}},
    }
    return body | {"_meta": {"made_by": MADE_BY, "digest": _digest(body)}}


def keep_policy(days: int) -> dict[str, Any]:
    """Return the lifecycle policy that removes an index so many days after it was made."""
    return {
        "phases": {"hot": {"actions": {}}, "delete": {"min_age": f"{days}d", "actions": {"delete": {}}}},
        "_meta": {"made_by": MADE_BY, "keepdays": days},
    }


def _fields(extra: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {name: {"type": "date"} for name in _DATES}
    fields |= {name: {"type": "keyword", "ignore_above": _KEYWORD_CHARACTERS} for name in ("path", *_KEYWORDS)}
    fields |= {f"{name}_seconds": {"type": "double"} for name in _SECONDS}
    fields |= {name: {"type": "long"} for name in ("size_bytes", "offset")}
    fields |= {name: {"type": "integer"} for name in ("partition", "attempts", "http_status")}
    fields |= {
        "rate_mbit_per_s": {"type": "double"},
        "verified": {"type": "boolean"},
        "message": {"type": "text"},
        "extra": extra,
    }
    return fields


def flattened() -> dict[str, Any]:
    """Return the mapping of `extra` for Elasticsearch: one field for whatever names Tasks invent."""
    return {"type": "flattened"}


def flat_object() -> dict[str, Any]:
    """Return the mapping of `extra` for OpenSearch."""
    return {"type": "flat_object"}


def _digest(body: dict[str, Any]) -> str:
    """Tells two versions of the template apart: a server gives it back in another form than it got it."""
    return hashlib.sha256(msgspec.json.encode(body, order="sorted")).hexdigest()[:16]
