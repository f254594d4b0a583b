"""Real Elasticsearch and OpenSearch servers for tests, on loopback, without containers.

A start takes 6 to 15 s; share one per test run, with a prefix of its own for each test.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from tests.support.ports import free_ports
from tests.support.process import MissingComponent, ServerProcess, wait_until

START_SECONDS = 110.0  # 30 s were seen with both cores busy
REQUEST_SECONDS = 30.0

_HERE = Path(__file__).parent


class Kind(NamedTuple):
    """A server that is published: its version, and the first Java that runs it."""

    product: Literal["elasticsearch", "opensearch"]
    version: str
    java: int

    def __str__(self) -> str:
        return f"{self.product}-{self.version}"


def _published() -> list[Kind]:
    lines = [line.split() for line in (_HERE / "search-servers.txt").read_text().splitlines() if line[0] != "#"]
    return [
        Kind("opensearch" if name[0] == "o" else "elasticsearch", version, int(java)) for name, version, java in lines
    ]


ELASTICSEARCH_8, ELASTICSEARCH_9, OPENSEARCH = _published()


@functools.cache
def find_jdk(version: int) -> Path | None:
    """Return the home of the oldest JDK on this machine that is new enough."""
    found = subprocess.run([_HERE / "jdk.sh", str(version)], capture_output=True, text=True, check=False)
    return Path(found.stdout.strip()) if found.returncode == 0 else None


def kinds() -> list[Kind]:
    """Return the servers that this machine has a JDK for; Elasticsearch 8 always, so that its absence is a failure."""
    return [ELASTICSEARCH_8, *(kind for kind in (ELASTICSEARCH_9, OPENSEARCH) if find_jdk(kind.java))]


class SearchServer:
    """One server; a second `start` has the same port and data.

    Parameters
    ----------
    folder
        Its own; all its state and its log live there.
    kind
        Which server.
    password
        Elasticsearch only: not empty: security is on, and user `elastic` has it.
    certificate, key
        PEM files; with a password: HTTPS.
    settings
        Further lines of its configuration.
    """

    def __init__(
        self,
        folder: Path,
        kind: Kind,
        password: str = "",
        certificate: Path | None = None,
        key: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        port, transport = free_ports(2)
        self.folder, self.kind, self.password = folder, kind, password
        self.url = f"{'https' if certificate else 'http'}://localhost:{port}"
        (folder / "config").mkdir(parents=True)
        lines = {
            "cluster.name": "dcalqr-test",
            "node.name": "n1",
            "discovery.type": "single-node",
            "network.host": "127.0.0.1",
            "http.port": str(port),
            "transport.port": str(transport),
            "path.data": str(folder / "data"),
            "path.logs": str(folder / "logs"),
            "cluster.routing.allocation.disk.threshold_enabled": "false",
            **(settings or {}),
        }
        if certificate and key:
            (folder / "config" / "http.crt").write_bytes(certificate.read_bytes())
            (folder / "config" / "http.key").write_bytes(key.read_bytes())
            lines["xpack.security.http.ssl"] = "{enabled: true, certificate: http.crt, key: http.key}"
        text = "".join(f"{name}: {value}\n" for name, value in lines.items())
        (folder / "config" / f"{kind.product}.yml").write_text(text)
        (folder / "tmp").mkdir()
        self._process: ServerProcess | None = None

    @property
    def process(self) -> ServerProcess:
        """The server's process: `kill`, `suspend` and `resume` it, or read its `output`."""
        assert self._process is not None, "not started"
        return self._process

    def start(self) -> Self:
        """Start it, and return when it serves.

        Raises
        ------
        MissingComponent
            A JDK, or the server's jars and the Maven that would fetch them.
        """
        if self._process is None:
            java = find_jdk(self.kind.java)
            if java is None:
                how = "apt-get install openjdk-17-jdk-headless, or set JAVA_HOME."
                raise MissingComponent(f"A JDK {self.kind.java} or newer", how)
            home = fetched(self.kind, java)
            log = self.folder / f"{self.kind.product}.log"
            environment = {**os.environ, "ES_PASSWORD": self.password}
            self._process = ServerProcess(_command(self.kind, java, home, self.folder), log, environment)
        process = self._process
        process.start(lambda: "READY" in process.output(), START_SECONDS)
        # Until the shards of an earlier run are back it answers 503, to a right password too.
        wait_until(self._serves, START_SECONDS, f"the shards of {self.kind}")
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def _serves(self) -> bool:
        try:
            status, _ = self.ask("GET", "/_cluster/health?wait_for_status=yellow&timeout=1s")
        except OSError:
            return False
        return status == 200

    # --- requests ---------------------------------------------------------------------------------------------

    def ask(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        """Send a request as the user of all rights; returns status and answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + target, data, {"Content-Type": "application/json"}, method=method)
        if self.password:
            login = base64.b64encode(f"elastic:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {login}")
        context = ssl._create_unverified_context() if self.url.startswith("https") else None
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if context:
            handlers.append(urllib.request.HTTPSHandler(context=context))
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=REQUEST_SECONDS) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")

    def do(self, method: str, target: str, body: object = None) -> Any:
        """Send a request that must succeed; returns the answer."""
        status, answer = self.ask(method, target, body)
        assert status < 300, (method, target, status, answer)
        return answer

    def documents(self, prefix: str) -> list[dict[str, Any]]:
        """Return all documents of a prefix, by offset, as they were sent."""
        self.do("POST", f"/{prefix}-*/_refresh")
        query = {"size": 10_000, "sort": [{"offset": {"order": "asc", "unmapped_type": "long"}}]}
        status, found = self.ask("POST", f"/{prefix}-*/_search", query)
        if status == 503:  # an index that is just being made has no shard to ask yet
            return []
        assert status == 200, found
        return [hit["_source"] for hit in found["hits"]["hits"]]

    def indices(self, prefix: str) -> set[str]:
        return set(self.do("GET", f"/{prefix}-*/_mapping"))


def fetched(kind: Kind, java: Path) -> Path:
    """Return the folder of a server's jars, filled if it has to be."""
    script = _HERE / kind.product / "fetch-server.sh"
    environment = {**os.environ, "JAVA_HOME": str(java)}
    fetch = subprocess.run([script, kind.version], capture_output=True, text=True, check=False, env=environment)
    if fetch.returncode != 0:
        raise MissingComponent(str(kind), f"{script.relative_to(_HERE.parents[1])} said: {fetch.stderr.strip()}")
    return Path(fetch.stdout.strip())


def _command(kind: Kind, java: Path, home: Path, folder: Path) -> list[str]:
    jvm = [str(java / "bin" / "java"), "-Xms256m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    jvm.append(f"-Djava.io.tmpdir={folder / 'tmp'}")
    native = "ALL-UNNAMED"
    paths = ["-cp", f"{home}/launcher"]
    if kind.product == "elasticsearch":
        native += ",org.elasticsearch.nativeaccess,org.apache.lucene.core"
        jvm += ["-XX:+UnlockDiagnosticVMOptions", "-XX:-BytecodeVerificationRemote", "-Des.distribution.type=tar"]
        jvm += [f"-Des.path.home={home}", "--add-opens=java.base/java.io=ALL-UNNAMED"]
        jvm += ["--module-path", f"{home}/lib", "--add-modules=jdk.net,jdk.management.agent,ALL-MODULE-PATH"]
    else:
        paths = ["-cp", f"{home}/lib/*:{home}/launcher"]
    return [*jvm, f"--enable-native-access={native}", *paths, "SearchServer", str(home), str(folder / "config")]
