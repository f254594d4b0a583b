"""What the sections of the configuration are made of: types of values, and what each says it expects."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from dcalqr.config import values


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

FOLDER = 'an absolute path on this machine other than "/"'
FILE = "an absolute path on this machine"
NAMESPACE = 'an absolute path in dCache, such as "/lsst/user"'


def number(low: float, high: float, unit: str, **default: Any) -> Any:
    return Field(ge=low, le=high, allow_inf_nan=False, description=f"a number from {low} to {high} ({unit})", **default)


def whole(low: int, high: int, **default: Any) -> Any:
    return Field(ge=low, le=high, description=f"a whole number from {low} to {high}", **default)


def one_of(*choices: str, **default: Any) -> Any:
    return Field(description=" or ".join(f'"{choice}"' for choice in choices), **default)


def says(expected: str, **default: Any) -> Any:
    return Field(description=expected, **default)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
