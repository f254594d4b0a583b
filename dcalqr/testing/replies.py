"""What the door and its pools answer when nothing is wrong with the sending: status, headers, content."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass
from email.utils import formatdate
from xml.sax.saxutils import escape

from dcalqr.testing.connection import Request
from dcalqr.testing.faults import Fault, Headers
from dcalqr.testing.namespace import StoredFile
from dcalqr.testing.samples import Content

# Characters that Java's URI leaves alone in a path, and Python's quote does not: a client that quotes the Location
# again, or normalises it, does not get past the pool.
JAVA_SAFE = "/:@!$&'()*+,;=~"
WORDS = {200: "OK", 204: "No Content", 206: "Partial Content", 207: "Multi-Status", 302: "Found", 304: "Not Modified"}


def quoted(path: str) -> str:
    """Write a path into a URL as Java does."""
    return urllib.parse.quote(path.encode("utf-8", "surrogateescape"), safe=JAVA_SAFE)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Headers = ()
    content: Content | None = None


def refusal(status: int, why: str = "") -> Reply:
    """Answer with an error, and a line of text."""
    text = f"{status} {why or WORDS.get(status, 'Refused')}\n".encode()
    return Reply(status, (("Content-Type", "text/plain"),), Content(text, len(text)))


def page(status: int, text: str, kind: str) -> Reply:
    """Answer with a text of some Content-Type."""
    return Reply(status, (("Content-Type", kind),), Content(text.encode(), len(text.encode())))


def whole(request: Request, file: StoredFile, fault: Fault, *, wanted: bool) -> Reply:
    """Answer with the file itself; pools give neither ETag nor Last-Modified."""
    headers: list[tuple[str, str]] = [("Accept-Ranges", "bytes")]
    if request.where == "door":
        headers += [("ETag", file.etag), ("Last-Modified", formatdate(file.mtime, usegmt=True))]
    digest = file.digest if fault.digest is None else fault.digest
    if wanted and digest:
        headers.append(("Digest", digest))
    if fault.status == 206:
        headers.append(("Content-Range", f"bytes 0-{file.size_bytes - 1}/{file.size_bytes}"))
    return Reply(fault.status or 200, tuple(headers), file.content)


def listing(found: list[tuple[str, StoredFile | None]]) -> Reply:
    """Answer a PROPFIND with paths and what is there; None: a folder."""
    body = "".join(_entry(path, file) for path, file in found)
    text = f'<?xml version="1.0" encoding="utf-8"?>\n<D:multistatus xmlns:D="DAV:">{body}</D:multistatus>\n'
    return page(207, text, "application/xml; charset=utf-8")


def _entry(path: str, file: StoredFile | None) -> str:
    href = escape(quoted(path))
    if file is None:
        properties = "<D:resourcetype><D:collection/></D:resourcetype>"
    else:
        when = formatdate(file.mtime, usegmt=True)
        properties = (
            f"<D:resourcetype/><D:getcontentlength>{file.size_bytes}</D:getcontentlength>"
            f"<D:getlastmodified>{when}</D:getlastmodified><D:getetag>{escape(file.etag)}</D:getetag>"
        )
    status = "<D:status>HTTP/1.1 200 OK</D:status>"
    found = f"<D:propstat><D:prop>{properties}</D:prop>{status}</D:propstat>"
    return f"<D:response><D:href>{href}{'' if file or path == '/' else '/'}</D:href>{found}</D:response>"
