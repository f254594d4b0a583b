"""How a foreign text is shown: what could forge a line is escaped, what is secret is hidden, what is long is cut.

Names in events, answers of servers and values in the configuration are written by others. Pure.
"""

from __future__ import annotations

import functools
import re

# Nobody reads more of one value on a line; a path has at most 4 095 bytes, real ones have below 300.
VALUE_CHARACTERS = 2048
# Looked at before cutting, so that a secret that begins in the shown part is recognised whole.
_LOOK_CHARACTERS = 8 * VALUE_CHARACTERS

HIDDEN = "[redacted]"

# C0, DEL and C1 controls; zero-width and bidi characters; the Unicode line and paragraph separators; lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")

# Printable ASCII, and nothing in which `redact` could find anything: its patterns need a space, "=", "%" or "@".
_PLAIN = re.compile(rf"[!-$&-<>?A-~]{{0,{VALUE_CHARACTERS}}}")
# As that, in JSON: a backslash there may stand for anything.
_PLAIN_JSON = bytes(set(range(0x21, 0x7F)) - set(b"%=@\\"))

_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL)
_PARAMETER = re.compile(r"(authz|dcache-http-uuid)(=|%3D)[^&;\s\"'#]+", re.IGNORECASE)
_BEARER = re.compile(r"\b(bearer)\s+[\w.~+/=-]+", re.IGNORECASE)
_USERINFO = re.compile(r"://[^\s\"'/?#]*@")

_SECRET_WORDS = (
    "password",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "authz",
    "cookie",
    "macaroon",
    "private_key",
)
_NAMES_A_PLACE = ("file", "path", "folder", "seconds")


# The names of fields are few, and every line bears some of them; names of foreign mappings must not fill the memory.
@functools.lru_cache(maxsize=1000)
def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret itself, not the place of one (`saslpasswordfile`)."""
    word = name.lower().replace("-", "_")
    if word.endswith(_NAMES_A_PLACE):
        return False
    return word == "pem" or word.endswith("_pem") or any(secret in word for secret in _SECRET_WORDS)


def redact(text: str) -> str:
    """The text without PEM blocks, bearer tokens, `authz=` and `dcache-http-uuid=` values and a URL's user."""
    text = _PEM.sub("[redacted PEM]", text)
    text = _PARAMETER.sub(rf"\1\2{HIDDEN}", text)
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    return _USERINFO.sub(f"://{HIDDEN}@", text)


def escape(text: str) -> str:
    r"""The text on one line: controls, bidi overrides and lone surrogates as `\n`, `\x1b`, `\u202e`.

    A backslash stays as it is: this is for eyes, not for decoding.
    """
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def is_plain(text: str) -> bool:
    """Whether a text can be shown as it is; the patterns above cost 8 us a value, this one 0.4."""
    return _PLAIN.fullmatch(text) is not None


def is_plain_json(text: bytes) -> bool:
    """Whether each text in a JSON object can be shown as it is; 0.3 us for a whole line."""
    return len(text) <= VALUE_CHARACTERS and not text.translate(None, _PLAIN_JSON)


def show(value: str | bytes, limit: int = VALUE_CHARACTERS) -> str:
    r"""The value redacted, escaped, and cut with a mark at `limit` characters; bytes that are not UTF-8 as `\xNN`."""
    # A character has at most four bytes.
    text = value[: 4 * _LOOK_CHARACTERS].decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    if len(text) <= limit and is_plain(text):
        return text
    shown = escape(redact(text[:_LOOK_CHARACTERS]))
    if len(shown) <= limit and len(text) <= _LOOK_CHARACTERS:
        return shown
    return f"{shown[:limit]}...[cut, {len(value)} {'bytes' if isinstance(value, bytes) else 'characters'}]"
