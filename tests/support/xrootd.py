"""A real XRootD that serves files by HTTPS to who has a proxy: a second opinion beside our own fake door.

Where it differs from dCache: it does not redirect, sends no ETag, answers 500 to a GET with Want-Digest of a missing
file (HEAD: 404), and lets a revoked user in.

Releases before 5.9.2 have a race of their own (xrootd/xrootd#2602): where a GET asks for a sum that is not kept beside
the file yet, a job computes it, and if that ends at once, as for small files, two threads go on with the one request.
About one in 200 such GETs gets a header without its body, a 404, or takes the server down, whoever asks: Python's
`http.client` on a single connection is enough. So `put` keeps the sum. Of the HEADs that ask for the sum of a folder
two in five are never answered.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import string
import struct
import zlib
from pathlib import Path
from typing import Self

from dcalqr.testing.certificates import ORGANIZATION
from dcalqr.testing.pki import Pki
from tests.support.ports import free_ports
from tests.support.process import ServerProcess, require

START_SECONDS = 30.0  # 0.3 s on an idle machine
PACKAGES = "xrootd-server xrootd-server-plugins xrootd-voms-plugins"

_TEMPLATE = Path(__file__).parent / "xrootd" / "xrootd.cfg"
_USER = "xrootd"  # made by the Debian package; XRootD refuses to be root
# Its XrdCksData: name, modification time of the file, seconds from that to the sum, two unused, length of the sum, sum.
_KEPT_SUM = struct.Struct(">16sqihbb64s")


class XrootdServer:
    """One server; a second `start` has the same port and files.

    Parameters
    ----------
    folder
        Its own. Every folder above must let the user xrootd pass, which those of `tmp_path` do not, and its name must
        be short, for the sake of the sockets in it.
    pki
        Whose good host it is and whose users it lets in.
    """

    def __init__(self, folder: Path, pki: Pki) -> None:
        self.folder = folder
        http_port, xroot_port = free_ports(2)
        self.port = http_port
        self.url = f"https://localhost:{http_port}/data"
        self.files = folder / "root" / "data"
        self.files.mkdir(parents=True)
        shutil.copytree(pki.certificates, folder / "ca")
        shutil.copy(pki.host_certificate, folder / "host-certificate.pem")
        shutil.copy(pki.host_key, folder / "host-key.pem")
        (folder / "gridmap").write_text(f'"{ORGANIZATION}/CN=Test User" dcalqr\n')
        (folder / "authdb").write_text("u dcalqr /data a\n")
        template = string.Template(_TEMPLATE.read_text())
        ports = {"http_port": http_port, "xroot_port": xroot_port}
        (folder / "xrootd.cfg").write_text(template.substitute(folder=folder, **ports))
        self._process: ServerProcess | None = None

    @property
    def process(self) -> ServerProcess:
        """The server's process: `kill`, `suspend` and `resume` it, or read its `output`."""
        assert self._process is not None, "not started"
        return self._process

    def start(self) -> Self:
        """Start it, and return when it accepts connections.

        Raises
        ------
        MissingComponent
            XRootD.
        """
        if self._process is None:
            program = require("xrootd", f"apt-get install --no-install-recommends {PACKAGES}")
            command = [program, "-c", str(self.folder / "xrootd.cfg"), "-n", "door", "-I", "v4"]
            environment = {"PATH": os.defpath, "HOME": str(self.folder)}
            as_user = _USER if os.geteuid() == 0 else ""
            self._process = ServerProcess(command, self.folder / "xrootd.log", environment, as_user)
            self._own(self.folder)
        self.process.start(self._accepts, START_SECONDS)
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def put(self, name: str, content: bytes, *, keep_sum: bool = True) -> str:
        """Place a file, making folders as needed.

        Parameters
        ----------
        name
            Relative to what is served.
        content
            Of the file; replaces what is there.
        keep_sum
            Whether its Adler32 is kept beside it, as if XRootD had been asked for it before. Else it computes the sum
            for the first GET, which is safe with large files only.

        Returns
        -------
        str
            Its URL, if `name` needs no escapes in one.
        """
        path = self.files / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if keep_sum:
            adler32 = zlib.adler32(content).to_bytes(4, "big")
            kept = _KEPT_SUM.pack(b"adler32", int(path.stat().st_mtime), 0, 0, 0, len(adler32), adler32)
            os.setxattr(path, "user.XrdCks.adler32", kept)
        self._own(self.files)
        return f"{self.url}/{name}"

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @staticmethod
    def _own(top: Path) -> None:
        """Give a tree to the user that the server runs as."""
        if os.geteuid() != 0:
            return
        user = pwd.getpwnam(_USER)
        for path in [top, *top.rglob("*")]:
            os.chown(path, user.pw_uid, user.pw_gid)
