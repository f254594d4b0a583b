"""A little Elasticsearch with a fault switch, for the answers that a real one does not give at will."""

from __future__ import annotations

import contextlib
import gzip
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class FakeSearch:
    """Keeps documents, templates and policies.

    Attributes
    ----------
    faults
        What the next bulk requests are answered with, each once: a status, or a body that is sent with 200.
    largest_bytes
        A longer bulk request gets 413; None: none.
    documents
        What was stored, by `_id`.
    refusals
        Statuses that paths are answered with whenever they are asked for.
    kept
        Bodies that were put, by path.
    requests
        Method and path of each.
    bulk_bytes
        Sizes of the bulk requests.
    """

    def __init__(self, certificate: Path | None = None, product: str = "Elasticsearch") -> None:
        self.faults: list[int | bytes] = []
        self.largest_bytes: int | None = None
        self.documents: dict[str, dict[str, Any]] = {}
        self.refusals: dict[str, int] = {}
        self.kept: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        self.logins: list[str] = []
        self.bulk_bytes: list[int] = []
        self.product = product
        fake = self

        class Handler(_Handler):
            search = fake

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://localhost:{self._server.server_address[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeSearch]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    # --- answers ----------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        self.requests.append((method, path))
        if path in self.refusals:
            status = self.refusals[path]
            return status, _json({"error": {"type": "x"}, "status": status})
        if path == "/_bulk":
            return self._bulk(body)
        if path == "/":
            return 200, _json({"version": {"number": "8.19.0"}, "tagline": "You Know, for Search"})
        if method == "PUT":
            self.kept[path] = json.loads(body)
            return 200, _json({"acknowledged": True})
        if path not in self.kept:
            return 404, _json({"error": {"root_cause": [], "type": "resource_not_found_exception"}, "status": 404})
        name, kept = path.rpartition("/")[2], self.kept[path]
        if path.startswith("/_index_template"):
            return 200, _json({"index_templates": [{"name": name, "index_template": kept}]})
        # As the real one does, the policy comes back with defaults filled in.
        kept["policy"]["phases"]["hot"]["min_age"] = "0ms"
        return 200, _json({name: {"version": 1, **kept}})

    def _bulk(self, body: bytes) -> tuple[int, bytes]:
        self.bulk_bytes.append(len(body))
        if self.largest_bytes is not None and len(body) > self.largest_bytes:
            return 413, b""
        if self.faults:
            fault = self.faults.pop(0)
            return (
                (200, fault) if isinstance(fault, bytes) else (fault, _json({"error": {"type": "x"}, "status": fault}))
            )
        lines = [json.loads(line) for line in body.splitlines()]
        items = []
        for action, document in zip(lines[::2], lines[1::2], strict=True):
            new = action["create"]["_id"] not in self.documents
            self.documents.setdefault(action["create"]["_id"], document)
            items.append({"create": {"status": 201 if new else 409}})
        return 200, _json({"errors": False, "items": items})


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    search: FakeSearch

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.search.logins.append(self.headers.get("Authorization", ""))
        status, answer = self.search.answer(self.command, self.path.split("?")[0], body)
        self.send_response(status)
        self.send_header("X-Elastic-Product", self.search.product)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815 - the standard library's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""
