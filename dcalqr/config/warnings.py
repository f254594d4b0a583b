"""What is risky in a configuration that is valid, and what it names that is not there now.

`check` prints these; none of them refuses the file. What a proxy or certificate says is `dcache.tls`'s to judge.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from dcalqr import logtext
from dcalqr.config import Config, sinks

# systemd kills after TimeoutStopSec=90; the final commit and the report of what was cancelled need the last 5 s.
LONGEST_DRAIN_SECONDS = 85


def warnings_of(config: Config) -> list[str]:
    """One line per doubt, each beginning with the dotted key. Blocks on the file system: not for the event loop."""
    return [*_risks(config), *_places(config)]


def _risks(config: Config) -> Iterator[str]:
    local, dcache = config.local, config.dcache
    for key, bits in (("permissions", local.permissions), ("filepermissions", local.filepermissions)):
        if bits & stat.S_IWOTH:
            yield f"local.{key}: {bits:04o} lets every user of this machine change what was copied"
    if config.daemon.drainseconds > LONGEST_DRAIN_SECONDS:
        yield (
            f"daemon.drainseconds: {config.daemon.drainseconds:g} s and 5 s for the last commit exceed the 90 s after"
            " which systemd kills (TimeoutStopSec)"
        )
    if dcache.root and f"{dcache.folder}/".startswith(f"{dcache.root}/"):
        yield f"dcache.folder: begins with pool again, so that only {dcache.folder_path} is watched"
    if not dcache.requirechecksum:
        yield "dcache.requirechecksum: false accepts files by their size alone"
    if dcache.allowhttpredirect:
        yield "dcache.allowhttpredirect: true lets pools send files unprotected over http"
    if config.kafka.security == "sasl_plaintext":
        yield "kafka.security: sasl_plaintext sends the login without TLS"
    for name, section in (("elasticsearch", config.elasticsearch), ("opensearch", config.opensearch)):
        yield from sinks.risks(name, section)
    if config.prometheus.port and config.prometheus.is_public:
        yield f"prometheus.address: whoever reaches {config.prometheus.address} sees names of files, without a login"


def _places(config: Config) -> Iterator[str]:
    kafka, local = config.kafka, config.local
    yield from _secret("local.proxy", local.proxy)
    yield from _folder("local.capath", local.capath, os.R_OK | os.X_OK)
    yield from _folder("local.downloadfolder", local.downloadfolder, os.W_OK | os.X_OK)
    yield from _writable_file("local.failedtasksfile", local.failedtasksfile)
    yield from _state_folder(local.statefolder)
    for key, path in (("cafile", kafka.cafile), ("certfile", kafka.certfile)):
        if path:
            yield from _readable(f"kafka.{key}", path)
    for key, path in (("keyfile", kafka.keyfile), ("saslpasswordfile", kafka.saslpasswordfile)):
        if path:
            yield from _secret(f"kafka.{key}", path)
    for name, search in (("elasticsearch", config.elasticsearch), ("opensearch", config.opensearch)):
        if search.cafile:
            yield from _readable(f"{name}.cafile", search.cafile)
        for key, path in sinks.secrets(search):
            yield from _secret(f"{name}.{key}", path)
    for key, path in (("reports.file", config.reports.file), ("log.file", config.log.file)):
        if path:
            yield from _writable_file(key, path)


def _look(key: str, path: Path) -> os.stat_result | str:
    """What the path is now, links followed, or the warning that says why not."""
    try:
        return path.stat()
    except OSError as error:
        unset = "; $CREDENTIALS_DIRECTORY is not set" if not path.is_absolute() else ""
        return f"{key}: {_name(path)}: {error.strerror}{unset}"


def _name(path: Path) -> str:
    return logtext.show(os.fsencode(path))


def _folder(key: str, path: Path, access: int) -> Iterator[str]:
    found = _look(key, path)
    if isinstance(found, str):
        yield found
        return
    resolved = path.resolve()
    if resolved != path:
        yield f"{key}: {_name(path)} is reached through a symbolic link and is {_name(resolved)}"
    if not stat.S_ISDIR(found.st_mode):
        yield f"{key}: {_name(path)} is not a folder"
    elif not os.access(path, access):
        yield f"{key}: {_name(path)} is not {'writable' if access & os.W_OK else 'readable'} for this user"


def _readable(key: str, path: Path) -> Iterator[str]:
    found = _look(key, path)
    if isinstance(found, str):
        yield found
    elif not stat.S_ISREG(found.st_mode):
        yield f"{key}: {_name(path)} is not a file"
    elif not os.access(path, os.R_OK):
        yield f"{key}: {_name(path)} is not readable for this user"


def _secret(key: str, path: Path) -> Iterator[str]:
    yield from _readable(key, path)
    found = _look(key, path)
    if not isinstance(found, str) and found.st_mode & stat.S_IROTH:
        yield f"{key}: {_name(path)} can be read by every user of this machine (mode {stat.S_IMODE(found.st_mode):04o})"


def _writable_file(key: str, path: Path) -> Iterator[str]:
    yield from _folder(f"{key}'s folder", path.parent, os.W_OK | os.X_OK)
    found = _look(key, path)
    if isinstance(found, str):
        return  # made when it is first needed
    if not stat.S_ISREG(found.st_mode):
        yield f"{key}: {_name(path)} is not a file"
    elif not os.access(path, os.W_OK):
        yield f"{key}: {_name(path)} is not writable for this user"


def _state_folder(path: Path) -> Iterator[str]:
    # os.path's, because Path.exists raises what a folder above refuses.
    if os.path.exists(path):
        yield from _folder("local.statefolder", path, os.W_OK | os.X_OK)
        return
    above = next(each for each in path.parents if os.path.exists(each))
    if not os.access(above, os.W_OK | os.X_OK):
        yield f"local.statefolder: {_name(path)} cannot be made in {_name(above)}; the daemon does not start without it"
