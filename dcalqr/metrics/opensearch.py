"""Reports in OpenSearch, by its own client: Elasticsearch's refuses to talk to it. Loaded as in `elastic`."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from dcalqr.config.sinks import Opensearch
from dcalqr.metrics.access import Access
from dcalqr.metrics.answers import RequestFailed, reason_of
from dcalqr.metrics.bulk import ANSWERED, BulkSink, Client

NAME = "opensearch"


def sink(section: Opensearch) -> BulkSink:
    """Make the sink."""
    return BulkSink(NAME, section, lambda access: connect(access, section.timeout), prepare)


def prepare() -> None:
    """Load the client's library. Blocks for 0.2 s and more."""
    importlib.import_module("opensearchpy")
    # What it has to say reaches us as exceptions; its own lines would be several for each try.
    logging.getLogger("opensearch").setLevel(logging.CRITICAL)


def connect(access: Access, timeout_seconds: float) -> Client:
    """Make a client; nothing is sent yet."""
    from opensearchpy import AsyncOpenSearch

    tls: dict[str, Any] = {"ssl_context": access.context} if access.context else {}
    return _Client(
        AsyncOpenSearch(
            list(access.urls),
            http_auth=access.login,
            timeout=timeout_seconds,
            # Each server is asked once at most; waiting and trying again is the channel's business.
            max_retries=len(access.urls) - 1,
            retry_on_status=(),
            **tls,
        )
    )


class _Client:
    def __init__(self, client: Any) -> None:
        self._client = client

    async def version(self) -> str:
        answer = await self._asked(self._client.info())
        return f"OpenSearch {answer['version']['number']}"

    async def bulk(self, lines: Sequence[bytes]) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = await self._asked(self._client.bulk(body=b"\n".join(lines), filter_path=ANSWERED))
        return answer

    async def template(self, name: str) -> Mapping[str, Any] | None:
        try:
            found = await self._asked(self._client.indices.get_index_template(name=name))
        except RequestFailed as error:
            if error.reason == "missing":
                return None
            raise
        template: Mapping[str, Any] = found["index_templates"][0]["index_template"]
        return template

    async def put_template(self, name: str, body: Mapping[str, Any]) -> None:
        await self._asked(self._client.indices.put_index_template(name=name, body=body))

    async def policy(self, name: str) -> Mapping[str, Any] | None:
        raise RequestFailed("unsupported", "index state management is a plug-in with a language of its own")

    async def put_policy(self, name: str, policy: Mapping[str, Any]) -> None:
        raise RequestFailed("unsupported", "as above")

    async def _asked(self, request: Any) -> Any:
        from aiohttp import ClientSSLError
        from opensearchpy import exceptions

        try:
            return await request
        except exceptions.ConnectionTimeout as error:
            raise RequestFailed("timeout", str(error.error)) from None
        except exceptions.SerializationError as error:
            raise RequestFailed("answer", f"not an answer of OpenSearch: {error}") from None
        except exceptions.TransportError as error:
            if isinstance(error.status_code, int):
                raise RequestFailed(reason_of(error.status_code), str(error)) from None
            reason = "tls" if isinstance(error.info, ClientSSLError) else "unreachable"
            raise RequestFailed(reason, str(error.error)) from None

    async def aclose(self) -> None:
        await self._client.close()
