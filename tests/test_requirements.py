"""The locked dependencies of image and pyz are those that pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[1]
_ASKED = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
_EXTRAS = _ASKED["optional-dependencies"]
_LOCKED = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (PROJECT / "requirements.txt").read_text(), re.MULTILINE))


@pytest.mark.parametrize("asked", [*_ASKED["dependencies"], *_EXTRAS["elasticsearch"], *_EXTRAS["opensearch"]])
def test_the_lock_has_what_is_asked_for(asked: str) -> None:
    wanted = Requirement(asked)
    locked = _LOCKED.get(re.sub(r"[-_.]+", "-", wanted.name).lower())
    assert locked is not None, "make lock"
    assert locked in wanted.specifier, "make lock"
