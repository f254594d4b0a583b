"""What it takes to talk to a search server: the login out of its files, and the TLS context."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

from dcalqr.config.sinks import SearchServer
from dcalqr.metrics.answers import RequestFailed


class Access(NamedTuple):
    """`login`: user and password; `context`: None without an https URL."""

    urls: tuple[str, ...]
    login: tuple[str, str] | None
    api_key: str | None
    context: ssl.SSLContext | None


def read_access(section: SearchServer) -> Access:
    """Read the files of the section as they are now. Blocks: not for the event loop.

    Raises
    ------
    RequestFailed
        A file cannot be read.
    """
    login = None
    if section.user is not None and section.passwordfile is not None:
        login = section.user, _secret(section.passwordfile)
    key_file: Path | None = getattr(section, "apikeyfile", None)
    tls = any(url.startswith("https://") for url in section.urls)
    return Access(section.urls, login, _secret(key_file) if key_file else None, _context(section) if tls else None)


def _secret(path: Path) -> str:
    try:
        secret = path.read_text(encoding="utf-8").strip("\r\n")
    except OSError as error:
        raise RequestFailed("credential", f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:  # its own words would show what is in the file
        raise RequestFailed("credential", f"{path} is not UTF-8") from None
    if not secret:
        raise RequestFailed("credential", f"{path} is empty")
    return secret


def _context(section: SearchServer) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if section.cafile is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cafile=section.cafile)
    except OSError as error:
        raise RequestFailed("tls", f"{section.cafile} cannot be loaded: {error}") from None
    return context
