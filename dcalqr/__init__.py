"""dcalqr copies what is uploaded to dCache to local storage: within seconds, nothing lost, nothing half-written.

This is the plug-in author's face; names are loaded on first use, so that a worker process and `--version` start small.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcalqr.errors import HeldError, NotYet, PermanentError, TransientError
    from dcalqr.model import LOOK_NOW, MATCH, Outcome, Skip, StorageEvent, Verdict
    from dcalqr.plugins import Filter, Task, TaskContext

__version__ = "0.1.0"

_HOME = {
    "HeldError": "errors",
    "NotYet": "errors",
    "PermanentError": "errors",
    "TransientError": "errors",
    "LOOK_NOW": "model",
    "MATCH": "model",
    "Outcome": "model",
    "Skip": "model",
    "StorageEvent": "model",
    "Verdict": "model",
    "Filter": "plugins",
    "Task": "plugins",
    "TaskContext": "plugins",
}

__all__ = [
    "LOOK_NOW",
    "MATCH",
    "Filter",
    "HeldError",
    "NotYet",
    "Outcome",
    "PermanentError",
    "Skip",
    "StorageEvent",
    "Task",
    "TaskContext",
    "TransientError",
    "Verdict",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dcalqr' has no attribute {name!r}")
    return getattr(import_module(f"dcalqr.{_HOME[name]}"), name)
