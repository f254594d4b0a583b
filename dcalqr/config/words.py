"""How a refused configuration is explained: every complaint names the key, its value, what was expected, and a way out.

Pure. Values are shown escaped, cut and without secrets: complaints end up in the journal.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from dcalqr import logtext

Sections = Mapping[str, Mapping[str, str]]  # section -> key -> what is expected of it

_VALUE_CHARACTERS = 80  # enough to recognise a value, little enough to keep the complaint on one line
_TLS_KEYS = ("cafile", "certfile", "keyfile")
_SASL_KEYS = ("saslmechanism", "sasluser", "saslpasswordfile")
_NUMBER_TYPES = ("int", "float", "finite", "greater", "less")


class Complaint(NamedTuple):
    """One thing that is wrong, with the dotted key it is about."""

    key: str
    problem: str

    def __str__(self) -> str:
        return f"{self.key}{self.problem}"


def expectations(model: type[BaseModel]) -> dict[str, dict[str, str]]:
    """Of each section of the model: its keys, as the file spells them, and what is expected of each."""
    return {
        section: {field.alias or name: field.description or "" for name, field in part.annotation.model_fields.items()}
        for section, part in model.model_fields.items()
        if isinstance(part.annotation, type) and issubclass(part.annotation, BaseModel)
    }


def required(model: type[BaseModel]) -> dict[str, list[str]]:
    """Of each section of the model: the keys without which it is refused."""
    return {
        section: [field.alias or name for name, field in part.annotation.model_fields.items() if field.is_required()]
        for section, part in model.model_fields.items()
        if isinstance(part.annotation, type) and issubclass(part.annotation, BaseModel)
    }


def listing(source: str, complaints: Iterable[Complaint]) -> str:
    """All complaints about one file, a line each."""
    lines = [f"  {complaint}" for complaint in complaints]
    noun = "complaint" if len(lines) == 1 else "complaints"
    return "\n".join([f"{logtext.show(source)}: the configuration is refused, {len(lines)} {noun}:", *lines])


def complaint(error: ErrorDetails, sections: Sections, needed: Mapping[str, list[str]]) -> Complaint | None:
    """What to say about one of pydantic's errors; None: it only follows from another one."""
    kind, where = error["type"], [str(part) for part in error["loc"]]
    if kind == "default_factory_not_called" or (
        kind == "too_short" and error["input"]
    ):  # its items are refused already
        return None
    if len(where) == 1:
        if kind == "missing":
            keys = ", ".join(needed[where[0]])
            return Complaint(f"[{where[0]}]", f" is missing: expected a section with {keys}; see config.example.toml")
        return _about_section(where[0], error["input"], sections)
    section, key = where[0], where[1]
    name = f"{section}.{key}" + "".join(f"[{part}]" for part in where[2:] if part.isdigit())
    if kind == "extra_forbidden":
        return Complaint(name, f" = {shown(key, error['input'])}: unknown key{_home(section, key, sections)}")
    expected = sections[section][key]
    if kind == "missing":
        return Complaint(name, f" is missing: expected {expected}")
    hint = _hint(error, expected)
    return Complaint(name, f" = {shown(key, error['input'])}: expected {expected}{f'; {hint}' if hint else ''}")


def combinations(data: Mapping[str, Any]) -> Iterator[Complaint]:
    """What single keys cannot show. Works on the raw file, so that it is said together with all else."""
    section = {name: part if isinstance(part, dict) else {} for name, part in data.items()}
    kafka = section.get("kafka", {})
    security = kafka.get("security", "plaintext")
    if security in ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl"):
        yield from _security(kafka, security)
    dcache = section.get("dcache", {})
    if all(re.fullmatch("/+", str(dcache.get(key, ""))) for key in ("pool", "folder")):
        yield Complaint("dcache.folder", ' = "/": expected a folder to watch; pool is "/" already')
    rows = section.get("local", {}).get("failedtasksfile")
    for name in ("reports", "log"):
        if rows is not None and rows == section.get(name, {}).get("file"):
            yield Complaint(f"{name}.file", f" = {shown('', rows)}: expected a file other than failedtasksfile")


def _security(kafka: Mapping[str, Any], security: str) -> Iterator[Complaint]:
    for keys, used, wanted in (
        (_TLS_KEYS, security.endswith("ssl"), '"ssl" or "sasl_ssl"'),
        (_SASL_KEYS, security.startswith("sasl"), '"sasl_ssl" or "sasl_plaintext"'),
    ):
        for key in keys:
            if key in kafka and not used:
                problem = f' = {shown(key, kafka[key])}: has no effect with security = "{security}"; expected {wanted}'
                yield Complaint(f"kafka.{key}", problem)
    if security.startswith("sasl"):
        for key in _SASL_KEYS:
            if key not in kafka:
                yield Complaint(f"kafka.{key}", f' is missing: expected with security = "{security}"')
    for key, other in (("certfile", "keyfile"), ("keyfile", "certfile")):
        if key in kafka and other not in kafka and security.endswith("ssl"):
            yield Complaint(f"kafka.{other}", f" is missing: expected with {key} (one PEM file may be both)")


def shown(key: str, value: object) -> str:
    """A value nearly as TOML writes it, without what could be a secret."""
    if isinstance(value, list):
        return "[" + ", ".join(shown(key, item) for item in value[:3]) + (", ...]" if len(value) > 3 else "]")
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return logtext.show(str(value), _VALUE_CHARACTERS)
    bare = not value.startswith(("/", "$"))
    if bare and (logtext.is_secret_name(key) or "password" in key):
        return logtext.HIDDEN
    if bare:  # whatever stands before an @ or behind a ? may be a password or a token
        value = re.sub(r"\A(\w+://)?.*@", rf"\1{logtext.HIDDEN}@", value, flags=re.DOTALL)
        value = re.sub(r"\?.*", "?...", value, flags=re.DOTALL)
    return f'"{logtext.show(value, _VALUE_CHARACTERS)}"'


def _about_section(name: str, value: object, sections: Sections) -> Complaint:
    if name in sections:
        return Complaint(name, f" = {shown(name, value)}: expected a section, [{name}] on a line of its own")
    if isinstance(value, Mapping):
        near = _nearest(name, sections)
        hint = f"did you mean [{near}]?" if near else f"sections are {', '.join(sections)}"
        return Complaint(f"[{name}]", f": unknown section; {hint}")
    return Complaint(name, f" = {shown(name, value)}: a key outside all sections{_home('', name, sections)}")


def _home(section: str, key: str, sections: Sections) -> str:
    """Where a key that is not known here may belong."""
    if logtext.is_secret_name(key):
        return "; secrets never stand in this file, only the files that hold them (saslpasswordfile, keyfile, proxy)"
    if near := _nearest(key, sections.get(section, {})):
        return f"; did you mean {near}?"
    homes = [f"[{other}]" for other, keys in sections.items() if key in keys]
    if homes:
        return f"; it belongs under {' or '.join(homes)}"
    for other, keys in sections.items():
        if near := _nearest(key, keys):
            return f"; did you mean {other}.{near}?"
    return ""


def _nearest(word: str, words: Iterable[str]) -> str | None:
    known = {_letters(each): each for each in words}
    found = difflib.get_close_matches(_letters(word), known, n=1, cutoff=0.75)
    return known[found[0]] if found else None


def _letters(word: str) -> str:
    """What retry_seconds, retrySeconds and retryseconds have in common."""
    return re.sub(r"[^a-z0-9]", "", word.lower())


def _hint(error: ErrorDetails, expected: str) -> str:
    kind, value = error["type"], error["input"]
    context: dict[str, Any] = error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error" and isinstance(value, str):
        near = _nearest(value, re.findall(r'"([^"]+)"', expected))
        return f'did you mean "{near}"?' if near else ""
    if kind.startswith(_NUMBER_TYPES) and isinstance(value, bool):
        return "true and false are no numbers"
    if kind.startswith((*_NUMBER_TYPES, "bool")) and isinstance(value, str):
        return "write it without quotes"
    if kind.startswith(("tuple", "list")) and isinstance(value, str):
        return f"write it in brackets: [{shown('', value)}]"
    if kind.startswith(("string_type", "literal")) and not isinstance(value, list | Mapping | str):
        return "write it in quotes"
    return ""
