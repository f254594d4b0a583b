"""nginx as the other side: one server that keeps connections alive, a door that redirects, a pool that closes.

TLS 1.3 only; direct server and door require a client certificate (a plain one: nginx refuses RFC 3820 proxies), the
pool asks for none, as dCache's pools do, which know the transfer by its uuid. Session tickets are on and there is no
session cache: nginx's defaults. Every answer with a body names its Adler32, so that all checks of dcalqr run.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.sets import File
from dcalqr.testing.pki import Pki
from tests.support.ports import free_ports
from tests.support.process import ServerProcess, require

HOST = "127.0.0.1"
# As many as the machine that performance figures are known for has cores.
WORKERS = 2
START_SECONDS = 20.0

_CONFIG = """\
{user}
worker_processes {workers};
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  default_type application/octet-stream;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;     # a set is copied over as many connections as a client opens
  map_hash_max_size 65536;
  map_hash_bucket_size 128;
  map $uri $digest {{ include {folder}/digests.map; }}
  # Only the first GET of each connection is written down, so that it costs nothing: when it ended, how long it took.
  log_format moments '$msec $request_time';
  map "$request_method $connection_requests" $opening {{ "GET 1" 1; default 0; }}
  access_log {folder}/moments.log moments if=$opening;
  ssl_protocols TLSv1.3;
  ssl_certificate {host_certificate};
  ssl_certificate_key {host_key};
  ssl_client_certificate {ca};
  root "{data}";

  server {{     # direct
    listen {host}:{direct} ssl backlog=1024;
    ssl_verify_client on;
    autoindex on;       # rclone learns from it what there is
    add_header Digest $digest;
  }}
  server {{     # the door
    listen {host}:{door} ssl backlog=1024;
    ssl_verify_client on;
    location ~ /$ {{ autoindex on; }}
    location / {{ return 302 https://{host}:{pool}$request_uri?dcache-http-uuid=$request_id; }}
  }}
  server {{     # the pool
    access_log off;
    listen {host}:{pool} ssl backlog=1024;
    keepalive_timeout 0;
    add_header Digest $digest;
  }}
}}
"""


@dataclass(frozen=True)
class Servers:
    """Where they are, as URLs without a slash at the end, and what a client needs.

    Parameters
    ----------
    direct, door
        The keep-alive server; the door.
    client
        PEM: the client's certificate, then its key.
    client_certificate, client_key
        The same in two files.
    ca, capath
        Who signed: as one PEM file, and as a directory by hash.
    moments
        nginx's log: for the first GET of each connection to direct server and door, when it ended and how long it
        took, both in seconds.
    """

    direct: str
    door: str
    client: Path
    client_certificate: Path
    client_key: Path
    ca: Path
    capath: Path
    moments: Path

    def first_get(self, since: float) -> float | None:
        """Give the time when the first GET after a moment reached a server, in seconds since the epoch; None: no such.

        A GET is written down when it has ended.
        """
        rows = (line.split() for line in self.moments.read_text().splitlines())
        starts = (float(ended) - float(took) for ended, took in rows)
        return min((start for start in starts if start >= since), default=None)

    def url(self, *, redirect: bool) -> str:
        return self.door if redirect else self.direct


@contextlib.contextmanager
def running(folder: Path, data: Path, files: Iterable[File], pki: Pki) -> Iterator[Servers]:
    """Serve `data` while the context lasts.

    Parameters
    ----------
    folder
        For configuration and logs; is made.
    data, files
        What is served.
    pki
        Whom both sides trust.

    Raises
    ------
    tests.support.process.MissingComponent
        nginx is not on this machine.
    """
    folder.mkdir()
    nginx = require("nginx", "benchmarks/prepare.sh installs it.")
    ports = free_ports(3)
    direct, door, pool = ports
    (folder / "digests.map").write_text("".join(f"/{file.path} adler32={file.adler32:08x};\n" for file in files))
    config = folder / "nginx.conf"
    config.write_text(
        _CONFIG.format(
            user="user root;" if os.geteuid() == 0 else "",
            workers=WORKERS,
            folder=folder,
            data=data,
            host=HOST,
            host_certificate=pki.host_certificate,
            host_key=pki.host_key,
            ca=pki.ca,
            direct=direct,
            door=door,
            pool=pool,
        )
    )
    client = folder / "client.pem"
    client.write_bytes(pki.user_certificate.read_bytes() + pki.user_key.read_bytes())
    client.chmod(0o600)
    command = [nginx, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config), "-g", "daemon off;"]
    server = ServerProcess(command, folder / "nginx.out")
    server.start(lambda: all(_answers(port) for port in ports), START_SECONDS)
    try:
        yield Servers(
            direct=f"https://{HOST}:{direct}",
            door=f"https://{HOST}:{door}",
            client=client,
            client_certificate=pki.user_certificate,
            client_key=pki.user_key,
            ca=pki.ca,
            capath=pki.certificates,
            moments=folder / "moments.log",
        )
    finally:
        server.stop()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
        return True
    return False
