"""Reports in Elasticsearch, 8.19 and 9. Its library is loaded in a thread when the first report is there."""

from __future__ import annotations

import importlib
import logging
import ssl
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import httpx

from dcalqr.config.sinks import Elasticsearch
from dcalqr.metrics.access import Access
from dcalqr.metrics.answers import RequestFailed, reason_of
from dcalqr.metrics.bulk import ANSWERED, BulkSink, Client

if TYPE_CHECKING:
    from elastic_transport import HttpxAsyncHttpNode

NAME = "elasticsearch"
# One request at a time, and one more while a connection is being given up.
_CONNECTIONS = 2


def sink(section: Elasticsearch) -> BulkSink:
    """Make the sink."""
    return BulkSink(NAME, section, lambda access: connect(access, section.timeout), prepare)


def prepare() -> None:
    """Load the client's library. Blocks for 0.2 s and more."""
    library = importlib.import_module("elasticsearch")
    # What it has to say reaches us as exceptions; its own lines would be several for each try.
    logging.getLogger("elastic_transport").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=library.ElasticsearchWarning)


def connect(access: Access, timeout_seconds: float) -> Client:
    """Make a client; nothing is sent yet."""
    from elasticsearch import AsyncElasticsearch

    return _Client(
        AsyncElasticsearch(
            list(access.urls),
            node_class=_node_class(),
            basic_auth=access.login,
            api_key=access.api_key,
            ssl_context=access.context,
            request_timeout=timeout_seconds,
            # Each server is asked once at most; waiting and trying again is the channel's business.
            max_retries=len(access.urls) - 1,
            retry_on_status=(),
        )
    )


def _node_class() -> type[HttpxAsyncHttpNode]:
    from elastic_transport import HttpxAsyncHttpNode, NodeConfig

    class Node(HttpxAsyncHttpNode):
        """The library's node for httpx, without proxies out of the environment: they would be shown the login."""

        def __init__(self, config: NodeConfig) -> None:
            super().__init__(config)
            self.client = httpx.AsyncClient(
                base_url=f"{config.scheme}://{config.host}:{config.port}",
                limits=httpx.Limits(max_connections=_CONNECTIONS),
                # http needs none: one that trusts nobody spares the time that the system's CAs take to load
                verify=config.ssl_context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
                timeout=config.request_timeout,
                trust_env=False,
            )

    return Node


class _Client:
    def __init__(self, client: Any) -> None:
        self._client = client

    async def version(self) -> str:
        answer = await self._asked(self._client.info())
        return f"Elasticsearch {answer['version']['number']}"

    async def bulk(self, lines: Sequence[bytes]) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = await self._asked(self._client.bulk(operations=lines, filter_path=ANSWERED))
        return answer

    async def template(self, name: str) -> Mapping[str, Any] | None:
        found = await self._found(self._client.indices.get_index_template(name=name))
        return found["index_templates"][0]["index_template"] if found else None

    async def put_template(self, name: str, body: Mapping[str, Any]) -> None:
        await self._asked(self._client.indices.put_index_template(name=name, body=body))

    async def policy(self, name: str) -> Mapping[str, Any] | None:
        found = await self._found(self._client.ilm.get_lifecycle(name=name))
        return found[name]["policy"] if found else None

    async def put_policy(self, name: str, policy: Mapping[str, Any]) -> None:
        await self._asked(self._client.ilm.put_lifecycle(name=name, policy=policy))

    async def _found(self, request: Any) -> Any:
        try:
            return await self._asked(request)
        except RequestFailed as error:
            if error.reason == "missing":
                return None
            raise

    async def _asked(self, request: Any) -> Any:
        import elasticsearch

        try:
            return (await request).body
        except elasticsearch.ApiError as error:
            raise RequestFailed(_refusal(error), str(error)) from None
        except elasticsearch.UnsupportedProductError:
            raise RequestFailed("product", "this is no Elasticsearch; for OpenSearch there is [opensearch]") from None
        except elasticsearch.TransportError as error:
            raise RequestFailed(_trouble(error), error.message) from None

    async def aclose(self) -> None:
        await self._client.close()


def _refusal(error: Any) -> str:
    if "no handler found" in str(error):  # status 400: the server lacks that module
        return "unsupported"
    # The library looks at who answers only when the answer is good.
    is_elasticsearch = error.meta.headers.get("x-elastic-product") == "Elasticsearch"
    return "product" if error.status_code == 404 and not is_elasticsearch else reason_of(error.status_code)


def _trouble(error: Exception) -> str:
    import elasticsearch
    from elastic_transport import TlsError

    if isinstance(error, TlsError):
        return "tls"
    if isinstance(error, elasticsearch.SerializationError):
        return "answer"
    return "timeout" if isinstance(error, elasticsearch.ConnectionTimeout) else "unreachable"
