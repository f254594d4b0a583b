"""The configuration: what each key means, what it may be, and a refusal that names everything wrong at once.

A section of the file is an attribute, a key is an attribute of that; only `[dcache] pool` is `root` here, as it names
a namespace prefix and no dCache pool. Whether the folders and files that are named exist *now* is not asked while
loading (a late mount must not end the service): see `config_warnings`.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import tomli
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from dcalqr import config_values as values
from dcalqr import config_words as words
from dcalqr import errors

# A hundred times the longest honest file; more is a mix-up, for example a log or a core dump.
MAX_FILE_BYTES = 1024 * 1024

# What a HUP may change in a running daemon; every other key waits for a restart.
RELOADABLE = frozenset(
    {
        "dcache.maxdownloads",
        "dcache.minrate",
        "kafka.cafile",
        "kafka.certfile",
        "kafka.keyfile",
        "kafka.saslpasswordfile",
        "local.capath",
        "local.proxy",
        "log.level",
    }
)


def _instance_of(info: ValidationInfo) -> str:
    assert info.context is not None, "load gives the instance's name as context"
    return str(info.context["instance"])


def _local_path(value: object, info: ValidationInfo) -> Path:
    return values.local_path(value, _instance_of(info))


def _local_folder(value: object, info: ValidationInfo) -> Path:
    return values.local_folder(value, _instance_of(info))


def _credential_path(value: object, info: ValidationInfo) -> Path:
    return values.credential_path(value, _instance_of(info), os.environ.get("CREDENTIALS_DIRECTORY"))


def _directory_mode(value: object) -> int:
    return values.mode(value, required=0o700, allowed=0o7777)


def _file_mode(value: object) -> int:
    return values.mode(value, required=0o400, allowed=0o777)


def _url(value: object) -> str:
    url = values.text(value)
    values.door(url)
    return url


Text = Annotated[str, BeforeValidator(values.text)]
Server = Annotated[str, BeforeValidator(values.server)]
Servers = Annotated[tuple[Server, ...], Field(strict=False, min_length=1)]  # not strict: TOML has lists only
Hosts = Annotated[tuple[Text, ...], Field(strict=False)]
LocalPath = Annotated[Path, BeforeValidator(_local_path)]
LocalFolder = Annotated[Path, BeforeValidator(_local_folder)]
CredentialPath = Annotated[Path, BeforeValidator(_credential_path)]
NamespacePath = Annotated[str, BeforeValidator(values.namespace)]
Url = Annotated[str, BeforeValidator(_url)]
StartPoint = Annotated[values.StartPoint, BeforeValidator(values.start_point)]
DirectoryMode = Annotated[int, BeforeValidator(_directory_mode)]
FileMode = Annotated[int, BeforeValidator(_file_mode)]

_FOLDER = 'an absolute path on this machine other than "/"'
_FILE = "an absolute path on this machine"
_NAMESPACE = 'an absolute path in dCache, such as "/lsst/user"'


def _number(low: float, high: float, unit: str, **default: Any) -> Any:
    return Field(ge=low, le=high, allow_inf_nan=False, description=f"a number from {low} to {high} ({unit})", **default)


def _whole(low: int, high: int, **default: Any) -> Any:
    return Field(ge=low, le=high, description=f"a whole number from {low} to {high}", **default)


def _one_of(*choices: str, **default: Any) -> Any:
    return Field(description=" or ".join(f'"{choice}"' for choice in choices), **default)


def _says(expected: str, **default: Any) -> Any:
    return Field(description=expected, **default)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Kafka(_Section):
    """Where the events come from; see config.example.toml for each key."""

    topic: Annotated[str, Field(pattern=r"\A[A-Za-z0-9._-]{1,249}\z")] = _says("a topic's name: letters, digits, . _ -")
    servers: Servers = _says('a list of "host:port"')
    consumergroup: Annotated[Text, Field(min_length=1, max_length=255)] = _says("the consumer group's name")
    startfrom: StartPoint = _says('"earliest" or "latest" or an RFC 3339 time', default="earliest")
    onoffsetloss: Literal["halt", "earliest"] = _one_of("halt", "earliest", default="halt")
    window: int = _whole(1, 100_000, default=1000)
    commitseconds: float = _number(0.1, 600, "seconds", default=5)
    security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = _one_of(
        "plaintext", "ssl", "sasl_plaintext", "sasl_ssl", default="plaintext"
    )
    cafile: CredentialPath | None = _says(_FILE, default=None)
    certfile: CredentialPath | None = _says(_FILE, default=None)
    keyfile: CredentialPath | None = _says(_FILE, default=None)
    saslmechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = _one_of(
        "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", default=None
    )
    sasluser: Annotated[Text, Field(min_length=1)] | None = _says("a user name", default=None)
    saslpasswordfile: CredentialPath | None = _says(f"{_FILE}, of a file that holds the password", default=None)


class Dcache(_Section):
    """What is watched and how it is fetched. `root` (the key `pool`) and `folder` bear no slash at their end."""

    url: Url = _says('the door\'s "https://host:port/path"')
    root: NamespacePath = _says(_NAMESPACE, alias="pool")
    folder: NamespacePath = _says(f"{_NAMESPACE}, below pool")
    retryseconds: float = _number(0.1, 300, "seconds", default=1)
    retrytimes: int = _whole(0, 1000, default=10)
    maxdownloads: int = _whole(1, 1000, default=10)
    timeout: float = _number(1, 86400, "seconds", default=600)
    stallseconds: float = _number(1, 86400, "seconds", default_factory=lambda data: min(60, data["timeout"]))
    minrate: float = _number(0, 1_000_000_000, "bytes per second", default=10_000)
    doorseconds: float = _number(1, 3600, "seconds", default=240)
    delayseconds: float = _number(0, 3600, "seconds", default=1)
    visibleseconds: float = _number(1, 86400, "seconds", default=600)
    requirechecksum: bool = _says("true or false", default=True)
    allowhttpredirect: bool = _says("true or false", default=False)
    redirecthosts: Hosts = _says("a list of host names", default=())
    crlcheck: bool = _says("true or false", default=False)

    @property
    def folder_path(self) -> str:
        """The prefix of the events' paths that are ours, without a slash at its end."""
        return self.root + self.folder

    @property
    def base(self) -> values.Base:
        """The door's URL in parts."""
        return values.door(self.url)


class Local(_Section):
    """Where the files go, and what this machine needs. The two permissions are numbers here."""

    proxy: LocalPath = _says(_FILE)
    capath: LocalPath = _says(_FOLDER)
    downloadfolder: LocalFolder = _says(_FOLDER)
    permissions: DirectoryMode = _says("an octal mode in quotes, such as '0755' or '2775'", default=0o755)
    failedtasksfile: LocalFolder = _says(_FILE)
    filepermissions: FileMode = _says(
        "an octal mode in quotes, such as '0644', without setuid, setgid and sticky",
        default_factory=lambda data: data["permissions"] & 0o666,
    )
    statefolder: LocalFolder = _says(_FOLDER, default_factory=lambda data: _state_folder(data["failedtasksfile"]))
    minfree: float = _number(0, 99, "per cent", default=1)
    requiremount: bool = _says("true or false", default=False)


class Daemon(_Section):
    """What concerns the running instance."""

    instance: Annotated[str, Field(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z")] = _says(
        "a name of 1 to 64 letters, digits, . _ - that begins with a letter or digit",
        default_factory=socket.gethostname,
        validate_default=True,
    )
    drainseconds: float = _number(0, 3600, "seconds", default=60)


class Log(_Section):
    """What is said; `format` None: console on a terminal, else JSON."""

    level: Literal["debug", "info", "warning", "error"] = _one_of("debug", "info", "warning", "error", default="info")
    format: Literal["json", "console"] | None = _one_of("json", "console", default=None)


class Reports(_Section):
    """Where the reports of transfers go besides the log."""

    file: LocalFolder | None = _says(_FILE, default=None)


class Config(_Section):
    """The whole configuration, as `load` returns it."""

    kafka: Kafka
    dcache: Dcache
    local: Local
    daemon: Daemon = Field(default_factory=cast("Any", dict), validate_default=True)
    log: Log = Field(default_factory=cast("Any", dict), validate_default=True)
    reports: Reports = Field(default_factory=cast("Any", dict), validate_default=True)

    def changed(self, other: Config) -> list[str]:
        """The dotted keys, as the file spells them, in which the two differ, for example "dcache.maxdownloads"."""
        return [
            f"{section}.{field.alias or key}"
            for section in Config.model_fields
            for key, field in type(getattr(self, section)).model_fields.items()
            if getattr(getattr(self, section), key) != getattr(getattr(other, section), key)
        ]

    def taking_over(self, fresh: Config) -> Config:
        """Return this configuration with those values of a fresh one that need no restart."""
        sections: dict[str, dict[str, Any]] = {}
        for key in RELOADABLE:
            section, _, name = key.partition(".")
            sections.setdefault(section, {})[name] = getattr(getattr(fresh, section), name)
        return self.model_copy(
            update={name: getattr(self, name).model_copy(update=values) for name, values in sections.items()}
        )


def load(path: Path) -> Config:
    """Read and judge a configuration file; works offline and looks at no other file.

    Raises
    ------
    errors.ConfigError
        The file is refused; the message lists every complaint. Also when it cannot be read.
    """
    data = _parse(path, _read(path))
    complaints = list(words.combinations(data))
    try:
        config = Config.model_validate(data, context={"instance": _instance(data)})
    except ValidationError as error:
        sections = words.expectations(Config)
        found = (words.complaint(each, sections) for each in error.errors(include_url=False))
        complaints = [each for each in found if each] + complaints
        raise _refused(path, complaints) from None  # the original shows values that may be secret
    if complaints:
        raise _refused(path, complaints)
    return config


def _refused(path: Path, complaints: list[words.Complaint]) -> errors.ConfigError:
    return errors.ConfigError(complaints=words.listing(str(path), complaints), path=str(path), count=len(complaints))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = getattr(error, "strerror", None) or str(error)
        raise _refused(path, [words.Complaint("the file", f" cannot be read: {why}")]) from None
    if len(content) > MAX_FILE_BYTES:
        raise _refused(path, [words.Complaint("the file", f" is larger than {MAX_FILE_BYTES} bytes: is it TOML?")])
    try:
        return content.decode("utf-8-sig")  # accepts the mark that some editors write first
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        problem = f" is not UTF-8 at line {line}, column {column}: expected TOML, saved as UTF-8"
        raise _refused(path, [words.Complaint("the file", problem)]) from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        problem = f" {error.lineno}, column {error.colno}: not TOML: {error.msg}"
        raise _refused(path, [words.Complaint("line", problem)]) from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, hundreds of brackets
        raise _refused(path, [words.Complaint("the file", f" is not to be understood: {error}")]) from None


def _instance(data: dict[str, Any]) -> str:
    """What fills `{instance}`; a name that is refused is complained about as daemon.instance."""
    daemon = data.get("daemon")
    name = daemon.get("instance") if isinstance(daemon, dict) else None
    return name if isinstance(name, str) else socket.gethostname()


def _state_folder(failedtasksfile: Path) -> Path:
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]  # systemd joins several with colons
    return Path(given) if given else failedtasksfile.with_suffix(".state")
