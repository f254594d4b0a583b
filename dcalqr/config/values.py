"""What single values of the configuration mean: text in, value out, ValueError with the reason. Pure."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from dcalqr import logtext

StartPoint = Literal["earliest", "latest"] | dt.datetime

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?")
_URL_PATH = re.compile(r"([A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_CREDENTIALS = "$CREDENTIALS_DIRECTORY/"


class Base(NamedTuple):
    """Where the door is: the source's URL is this and the path below the root.

    `prefix` is the URL's own path, percent-encoded as configured, without a slash at its end; "" for none. `host` is
    without the brackets of an IPv6 address.
    """

    scheme: str
    host: str
    port: int
    prefix: str


def text(value: object) -> str:
    """The value, if it is a text without control characters."""
    if isinstance(value, str):
        if logtext.escape(value) != value:
            raise ValueError("it holds a control or invisible character")
        return value
    raise ValueError("write it in quotes")


def components(path: str) -> list[str]:
    """The names in an absolute path; repeated and trailing slashes mean nothing."""
    if not path.startswith("/"):
        raise ValueError("it does not begin with /")
    names = [name for name in path.split("/") if name]
    if "." in names or ".." in names:
        raise ValueError("write it without . and ..")
    return names


def namespace(value: object) -> str:
    """A path in dCache's namespace, without a slash at its end; "" for "/"."""
    path = text(value)
    if "{instance}" in path:
        raise ValueError("{instance} is for local paths: all members of a group must watch the same folder")
    return "".join(f"/{name}" for name in components(path))


def local_path(value: object, instance: str) -> Path:
    """A path on this machine, with `{instance}` filled in."""
    path = text(value)
    for name in _PLACEHOLDER.findall(path):
        if name != "instance":
            raise ValueError(f"{{{name}}} is unknown; only {{instance}} is filled in")
    if path.startswith(("$", "~")):
        raise ValueError("variables and ~ are not filled in here")
    return Path("/", *components(path.replace("{instance}", instance)))


def local_folder(value: object, instance: str) -> Path:
    """A path on this machine that is not the root folder."""
    path = local_path(value, instance)
    if path == Path("/"):
        raise ValueError("files are never copied into / itself")
    return path


def credential_path(value: object, instance: str, directory: str | None) -> Path:
    """The place of a secret; `$CREDENTIALS_DIRECTORY/NAME` is filled in when systemd gave that `directory`.

    Without one the path stays as it is written: `check` on a command line is no reason to refuse the file.
    """
    path = text(value)
    if not path.startswith(_CREDENTIALS):
        return local_path(path, instance)
    if directory is None:
        return Path(path)
    return local_path(f"{directory}/{path.removeprefix(_CREDENTIALS)}", instance)


def mode(value: object, required: int, allowed: int) -> int:
    """Permission bits out of an octal text; `required` bits must be there, others than `allowed` must not."""
    digits = text(value)
    if not re.fullmatch(r"[0-7]{3,4}", digits):
        raise ValueError("three or four digits from 0 to 7")
    bits = int(digits, 8)
    if bits & required != required:
        raise ValueError(f"the owner needs at least {required:04o}, or nothing could be written and read here")
    if bits & ~allowed:
        raise ValueError(f"no bits beyond {allowed:04o} on a file")
    return bits


def start_point(value: object) -> StartPoint:
    """Where a new group starts; a time comes back in UTC."""
    if isinstance(value, str) and _TIME.fullmatch(value):
        value = dt.datetime.fromisoformat(value.upper())
    if isinstance(value, dt.datetime):
        if value.tzinfo is None:
            raise ValueError("the time needs its zone, Z for UTC")
        return value.astimezone(dt.UTC)
    if value == "earliest":
        return "earliest"
    if value == "latest":
        return "latest"
    raise ValueError("a time looks like 2026-01-31T12:00:00Z")


def _host(name: str) -> str:
    if ":" in name:
        return str(ipaddress.IPv6Address(name))
    if len(name) > 253 or not _HOST.fullmatch(name):  # RFC 1035's limit
        raise ValueError("it names no valid host")
    return name


def server(value: object) -> str:
    """One Kafka server as host:port."""
    name = text(value)
    if "://" in name or "@" in name:
        raise ValueError('each is "host:port", without scheme and user')
    host, colon, port = name.rpartition(":")
    if not colon or (host.startswith("[") != host.endswith("]")) or (":" in host and not host.startswith("[")):
        raise ValueError('each is "host:port", for example "kafka.example.org:9092"')
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ValueError("the port is a number from 1 to 65535")
    _host(host.removeprefix("[").removesuffix("]"))
    return name


def door(url: str) -> Base:
    """The parts of the door's URL."""
    if not url.isascii() or re.search(r"[\s\\]", text(url)):
        raise ValueError("write it in ASCII, without spaces and backslashes")
    scheme, colon, _ = url.partition("://")
    if scheme.lower() != "https" or not colon:
        hint = ": the proxy would travel unprotected" if scheme.lower() == "http" else ""
        raise ValueError(f"it must begin with https://{hint}")
    if "?" in url or "#" in url:
        raise ValueError("no query and no fragment")
    try:
        parts = urlsplit(url)
        port = 443 if parts.port is None else parts.port
    except ValueError:
        raise ValueError("its host or port is not valid; a port is a number from 1 to 65535") from None
    if "@" in parts.netloc:
        raise ValueError("no user and no password; the proxy is the credential")
    if not parts.hostname:
        raise ValueError("the host is missing")
    if port == 0:
        raise ValueError("a port is a number from 1 to 65535")
    return Base("https", _host(parts.hostname), port, _prefix(parts.path))


def _prefix(path: str) -> str:
    if not _URL_PATH.fullmatch(path):
        raise ValueError("its path must be percent-encoded")
    return "".join(f"/{name}" for name in components(path or "/"))
