from __future__ import annotations

import pytest

from dcalqr import errors
from dcalqr.dcache.statuses import door_refusal, server_error


@pytest.mark.parametrize(
    ("status", "kind"), [(401, errors.CredentialRefused), (403, errors.Forbidden), (404, errors.NotFound)]
)
def test_a_refusal_of_the_door_has_its_class_and_names_status_and_host(
    status: int, kind: type[errors.TryError]
) -> None:
    error = door_refusal(status, "door.example:2880")
    assert type(error) is kind
    assert error.facts["http_status"] == status
    assert "door.example:2880" in str(error)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("0", 0.0), ("5", 5.0), (" 5 ", 5.0), ("999999999", 999999999.0)),
        *(("", None), ("-5", None), ("1.5", None), ("1e3", None), ("²", None), ("٣", None), ("9" * 10, None)),
        *(("Wed, 21 Oct 2026 07:28:00 GMT", None), ("5, 5", None), ("5;x", None)),
    ],
)
def test_retry_after_is_whole_seconds_or_nothing(text: str, seconds: float | None) -> None:
    error = server_error(503, "pool.example:1", text)
    assert error.facts.get("retry_after_seconds") == seconds
    assert error.facts["http_status"] == 503
    assert isinstance(error, errors.TransientError)
