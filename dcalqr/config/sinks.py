"""Sections elasticsearch and opensearch of the configuration: where reports of transfers go besides log and file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from dcalqr.config import values
from dcalqr.config.fields import FILE, CredentialPath, Section, Text, number, says, whole
from dcalqr.config.words import Complaint, shown

_DEFAULT_PORT = 9200  # of both servers


def _server(value: object) -> str:
    """The base of a server's URLs with its port, without a slash at its end."""
    url = values.text(value)
    scheme, found, rest = url.partition("://")
    if not found or scheme not in ("http", "https"):
        raise ValueError("each begins with https:// or http://")
    if rest.rstrip("/") != urlsplit(url).netloc:  # the client for httpx leaves paths out without a word
        raise ValueError('each is "https://host:port", without a path')
    if "@" in rest:
        raise ValueError("no user and no password here: see user, passwordfile, apikeyfile")
    base = values.door(f"https://{rest}")
    host = f"[{base.host}]" if ":" in base.host else base.host
    given = urlsplit(url).port is not None
    return f"{scheme}://{host}:{base.port if given else _DEFAULT_PORT}"


Server = Annotated[str, BeforeValidator(_server)]
Servers = Annotated[tuple[Server, ...], Field(strict=False)]  # not strict: TOML has lists only
# What both servers allow at the begin of an index's name, and no wildcard among it.
Prefix = Annotated[str, Field(pattern=r"\A[a-z0-9][a-z0-9_-]{0,63}\z")]


class SearchServer(Section):
    """What both sections have; nothing is sent without `urls`."""

    urls: Servers = says('a list of "https://host:port"', default=())
    prefix: Prefix = says("1 to 64 lower-case letters, digits, _ -, not first _ or -", default="dcalqr")
    user: Annotated[Text, Field(min_length=1)] | None = says("a user name", default=None)
    passwordfile: CredentialPath | None = says(f"{FILE}, of a file that holds the password", default=None)
    cafile: CredentialPath | None = says(FILE, default=None)
    timeout: float = number(1, 300, "seconds", default=10)


class Elasticsearch(SearchServer):
    """An Elasticsearch 8.19 or 9."""

    apikeyfile: CredentialPath | None = says(f"{FILE}, of a file that holds the encoded API key", default=None)
    keepdays: int = whole(0, 36500, default=400)


class Opensearch(SearchServer):
    """An OpenSearch 2 or 3."""


def combinations(data: Mapping[str, Any]) -> Iterator[Complaint]:
    """What single keys of the two sections cannot show; works on the raw file, as `words.combinations` does."""
    for name in ("elasticsearch", "opensearch"):
        section = data.get(name)
        if isinstance(section, dict) and section:
            yield from (Complaint(f"{name}.{key}", problem) for key, problem in _of_one(section))


def _of_one(section: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "urls" not in section:
        yield "urls", " is missing: expected in this section, or nothing is sent"
    for key, other in (("user", "passwordfile"), ("passwordfile", "user")):
        if key in section and other not in section:
            yield other, f" is missing: expected with {key}"
    if not section.get("urls"):
        return  # what follows only matters where something is sent
    if "apikeyfile" in section and "user" in section:
        yield "apikeyfile", f" = {shown('', section['apikeyfile'])}: expected without user and passwordfile"
    if "cafile" in section and not any("https" in str(url) for url in _list(section.get("urls"))):
        yield (
            "cafile",
            f" = {shown('', section['cafile'])}: has no effect; expected with a URL that begins with https://",
        )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def secrets(section: SearchServer) -> Iterator[tuple[str, Path]]:
    """The keys that name files with secrets, each with its path."""
    for key in ("passwordfile", "apikeyfile"):
        if (path := getattr(section, key, None)) is not None:
            yield key, path


def risks(name: str, section: SearchServer) -> Iterator[str]:
    """One line per doubt about a section that is valid, each beginning with the dotted key."""
    if section.user or getattr(section, "apikeyfile", None):
        for url in section.urls:
            if url.startswith("http://"):
                yield f"{name}.urls: {url} gets the login without TLS"
