"""The configuration: what each key means, what it may be, and a refusal that names everything wrong at once.

A section of the file is an attribute, a key is an attribute of that; only `[dcache] pool` is `root` here, as it names
a namespace prefix and no dCache pool. Whether the folders and files that are named exist *now* is not asked while
loading (a late mount must not end the service): see `config.warnings`.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import tomli
from pydantic import Field, ValidationError

from dcalqr import errors
from dcalqr.config import sinks, values, words
from dcalqr.config.fields import (
    FILE,
    FOLDER,
    NAMESPACE,
    CredentialPath,
    DirectoryMode,
    FileMode,
    Hosts,
    LocalFolder,
    LocalPath,
    NamespacePath,
    Section,
    Servers,
    StartPoint,
    Text,
    Url,
    number,
    one_of,
    says,
    whole,
)
from dcalqr.config.prometheus import Prometheus
from dcalqr.config.sinks import Elasticsearch, Opensearch

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


class Kafka(Section):
    """Where the events come from; see config.example.toml for each key."""

    topic: Annotated[str, Field(pattern=r"\A[A-Za-z0-9._-]{1,249}\z")] = says("a topic's name: letters, digits, . _ -")
    servers: Servers = says('a list of "host:port"')
    consumergroup: Annotated[Text, Field(min_length=1, max_length=255)] = says("the consumer group's name")
    startfrom: StartPoint = says('"earliest" or "latest" or an RFC 3339 time', default="earliest")
    onoffsetloss: Literal["halt", "earliest"] = one_of("halt", "earliest", default="halt")
    window: int = whole(1, 100_000, default=1000)
    commitseconds: float = number(0.1, 600, "seconds", default=5)
    security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = one_of(
        "plaintext", "ssl", "sasl_plaintext", "sasl_ssl", default="plaintext"
    )
    cafile: CredentialPath | None = says(FILE, default=None)
    certfile: CredentialPath | None = says(FILE, default=None)
    keyfile: CredentialPath | None = says(FILE, default=None)
    saslmechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = one_of(
        "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", default=None
    )
    sasluser: Annotated[Text, Field(min_length=1)] | None = says("a user name", default=None)
    saslpasswordfile: CredentialPath | None = says(f"{FILE}, of a file that holds the password", default=None)


class Dcache(Section):
    """What is watched and how it is fetched. `root` (the key `pool`) and `folder` bear no slash at their end."""

    url: Url = says('the door\'s "https://host:port/path"')
    root: NamespacePath = says(NAMESPACE, alias="pool")
    folder: NamespacePath = says(f"{NAMESPACE}, below pool")
    retryseconds: float = number(0.1, 300, "seconds", default=1)
    retrytimes: int = whole(0, 1000, default=10)
    maxdownloads: int = whole(1, 1000, default=10)
    workers: int = whole(0, 64, default=2)
    timeout: float = number(1, 86400, "seconds", default=600)
    stallseconds: float = number(1, 86400, "seconds", default_factory=lambda data: min(60, data["timeout"]))
    minrate: float = number(0, 1_000_000_000, "bytes per second", default=10_000)
    doorseconds: float = number(1, 3600, "seconds", default=240)
    delayseconds: float = number(0, 3600, "seconds", default=1)
    visibleseconds: float = number(1, 86400, "seconds", default=600)
    requirechecksum: bool = says("true or false", default=True)
    allowhttpredirect: bool = says("true or false", default=False)
    redirecthosts: Hosts = says("a list of host names", default=())
    crlcheck: bool = says("true or false", default=False)

    @property
    def folder_path(self) -> str:
        """The prefix of the events' paths that are ours, without a slash at its end."""
        return self.root + self.folder

    @property
    def base(self) -> values.Base:
        """The door's URL in parts."""
        return values.door(self.url)


class Local(Section):
    """Where the files go, and what this machine needs. The two permissions are numbers here."""

    proxy: LocalPath = says(FILE)
    capath: LocalPath = says(FOLDER)
    downloadfolder: LocalFolder = says(FOLDER)
    permissions: DirectoryMode = says("an octal mode in quotes, such as '0755' or '2775'", default=0o755)
    failedtasksfile: LocalFolder = says(FILE)
    filepermissions: FileMode = says(
        "an octal mode in quotes, such as '0644', without setuid, setgid and sticky",
        default_factory=lambda data: data["permissions"] & 0o666,
    )
    statefolder: LocalFolder = says(FOLDER, default_factory=lambda data: _state_folder(data["failedtasksfile"]))
    minfree: float = number(0, 99, "per cent", default=1)
    requiremount: bool = says("true or false", default=False)


class Daemon(Section):
    """What concerns the running instance."""

    instance: Annotated[str, Field(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z")] = says(
        "a name of 1 to 64 letters, digits, . _ - that begins with a letter or digit",
        default_factory=socket.gethostname,
        validate_default=True,
    )
    drainseconds: float = number(0, 3600, "seconds", default=60)


class Log(Section):
    """What is said; `format` None: console on a terminal, else JSON; `file` None: to standard error."""

    level: Literal["debug", "info", "warning", "error"] = one_of("debug", "info", "warning", "error", default="info")
    format: Literal["json", "console", "seed"] | None = one_of("json", "console", "seed", default=None)
    file: LocalFolder | None = says(FILE, default=None)


class Reports(Section):
    """Where the reports of transfers go besides the log."""

    file: LocalFolder | None = says(FILE, default=None)


class Config(Section):
    """The whole configuration, as `load` returns it."""

    kafka: Kafka
    dcache: Dcache
    local: Local
    daemon: Daemon = Field(default_factory=cast("Any", dict), validate_default=True)
    log: Log = Field(default_factory=cast("Any", dict), validate_default=True)
    reports: Reports = Field(default_factory=cast("Any", dict), validate_default=True)
    elasticsearch: Elasticsearch = Field(default_factory=cast("Any", dict), validate_default=True)
    opensearch: Opensearch = Field(default_factory=cast("Any", dict), validate_default=True)
    prometheus: Prometheus = Field(default_factory=cast("Any", dict), validate_default=True)

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
    complaints = [*words.combinations(data), *sinks.combinations(data)]
    try:
        config = Config.model_validate(data, context={"instance": _instance(data)})
    except ValidationError as error:
        sections, needed = words.expectations(Config), words.required(Config)
        found = (words.complaint(each, sections, needed) for each in error.errors(include_url=False))
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
