"""The layers and the "nevers" of the design, read off the source: imports of every kind count.

Imports inside functions and under TYPE_CHECKING count too: the order is about who may know whom, not about start-up.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "dcalqr"

# From top to bottom. A line may import only from lines below it, and names on one line do not know each other. The
# most specific name counts; it covers what is below it (kafka: kafka.offsets).
LAYERS = (
    ("__main__",),
    ("cli",),
    ("demo",),
    ("daemon", "testing"),
    ("service.board", "service.reload", "looking"),  # what shows how an instance is
    ("replay", "check", "looking.status"),  # what the commands are made of
    ("metrics.setup",),  # what check is made of, too
    ("service.notify", "service.stalls"),  # and the daemon
    ("service.sweeping",),
    ("service.assembly", "delivery.intake"),
    ("dispatcher", "transfer"),
    # what the two and the status are made of
    ("delivery", "service", "local.compaction"),
    ("copiers", "kafka", "local.failures"),
    ("local.appender",),  # what local.failures is made of
    ("attempt",),
    ("",),  # the plug-in author's face, dcalqr/__init__.py
    ("plugins",),
    ("delivery.places", "service.sinks", "looking.asked"),
    ("dcache", "local", "metrics"),
    ("config", "inflight", "holds", "orders", "checksum", "retry", "delivery.window", "delivery.visibility"),
    ("model",),
    ("log", "cancels"),
    ("exits",),  # of the command line; here because it needs no more
    ("log.line", "log.logger"),  # what it is made of
    ("logtext", "log.journal"),
    ("errors",),
)

PURE = (
    *("dcache.dates", "dcache.events", "dcache.fields", "dcache.http1", "dcache.statuses", "dcache.uploads"),
    *("kafka.offsets", "local.paths"),
    *("inflight", "retry", "holds", "orders", "checksum", "model"),
    *("delivery.places", "delivery.visibility", "delivery.window"),
)
SMALL = (
    *("attempt", "copiers.child", "local.landing"),
    *("dcache.channel", "dcache.connections", "dcache.decrypting", "dcache.fetch", "dcache.http1", "dcache.names"),
    *("dcache.secure", "dcache.statuses"),
)
CLOCK_CALLS = {"now", "utcnow", "today"}


class Never(NamedTuple):
    """Modules that must not name certain others, and why."""

    who: tuple[str, ...]
    names: tuple[str, ...]
    reason: str


NEVERS = (
    Never(("kafka",), ("httpx",), "kafka/ talks to Kafka alone"),
    Never(("dcache", "local"), ("aiokafka",), "dcache/ and local/ must work without Kafka: replay, reconcile, workers"),
    Never(("dispatcher",), ("dcalqr.transfer", "Transfer"), "the dispatcher serves every Task and knows none"),
    Never(
        PURE, ("asyncio", "time"), "pure modules get the time as an argument, so that tests need no clock and no loop"
    ),
    Never(SMALL, ("asyncio", "dcalqr.config", "httpx"), "a worker process must start small"),
)

# Modules longer than the house limit, each with the reason why it is still one idea.
MODULE_LINES = 300
LONG_MODULES = {
    "errors": "the tree of all errors is one thing to look up, and its wire form needs them in one place",
}
FUNCTION_LINES = 60


class Import(NamedTuple):
    target: str
    line: int
    at_start: bool  # runs when the module is loaded


@dataclass(frozen=True)
class Module:
    """One source file; `name` is relative to the package, empty for the package itself."""

    name: str
    is_package: bool
    source: str
    tree: ast.Module

    @property
    def full_name(self) -> str:
        return f"dcalqr.{self.name}" if self.name else "dcalqr"


def read_package(top: Path) -> dict[str, Module]:
    """All modules below a folder that stands for dcalqr/, by full name."""
    modules = {}
    for path in sorted(top.rglob("*.py")):
        parts = path.relative_to(top).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        source = path.read_text()
        module = Module(".".join(parts[:-1] if is_package else parts), is_package, source, ast.parse(source))
        modules[module.full_name] = module
    return modules


def imports_of(module: Module, modules: dict[str, Module]) -> Iterator[Import]:
    """What a module imports, by full name; of a name out of one of our packages, the module if it is one."""
    lazy = {id(node) for outer in ast.walk(module.tree) if is_deferred(outer) for node in ast.walk(outer)}
    for node in ast.walk(module.tree):
        for target in targets_of(node, module, modules):
            yield Import(target, getattr(node, "lineno", 0), id(node) not in lazy)


def is_deferred(node: ast.AST) -> bool:
    guard = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    return guard or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def targets_of(node: ast.AST, module: Module, modules: dict[str, Module]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = absolute(node, module)
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            yield inner if inner in modules else base
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in {
        "__import__",
        "import_module",
        "importlib.import_module",
    }:
        yield from (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def absolute(node: ast.ImportFrom, module: Module) -> str:
    if node.level == 0:
        return node.module or ""
    parents = module.full_name.split(".")
    kept = parents[: len(parents) - node.level + (1 if module.is_package else 0)]
    return ".".join([*kept, *([node.module] if node.module else [])])


def covers(name: str, module: str) -> bool:
    """Whether a name of the tables stands for a module."""
    return module == name or module.startswith(f"{name}.") if name else module == ""


def home_of(module: str) -> tuple[int, str] | None:
    """Line and name of a module in LAYERS; None: it has no place there."""
    homes = [(line, name) for line, names in enumerate(LAYERS) for name in names if covers(name, module)]
    return max(homes, key=lambda home: len(home[1]), default=None)


def relative(full_name: str) -> str:
    return full_name.removeprefix("dcalqr").removeprefix(".")


def ours(name: str) -> bool:
    return name.split(".", maxsplit=1)[0] == "dcalqr"


# --- the checks: each lists its complaints --------------------------------------------------------------------


def order_complaints(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        home = home_of(module.name)
        if home is None:
            yield f"{module.full_name} has no place in LAYERS: decide who may know it"
            continue
        for each in imports_of(module, modules):
            other = home_of(relative(each.target)) if ours(each.target) else None
            if other and other[0] <= home[0] and other[1] != home[1]:
                why = "is on the same line" if other[0] == home[0] else "is above it"
                yield f"{module.full_name}:{each.line} imports {each.target}, which {why}: imports go downwards only"


def circle_complaints(modules: dict[str, Module]) -> Iterator[str]:
    graph = {
        name: {each.target for each in imports_of(module, modules) if each.target in modules and each.target != name}
        for name, module in modules.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield f"import circle: {' -> '.join(error.args[1])}"


def never_complaints(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        for never in NEVERS:
            if not any(covers(who, module.name) for who in never.who):
                continue
            for name, line in names_in(module, modules):
                if any(name == bad or name.startswith(f"{bad}.") for bad in never.names):
                    yield f"{module.full_name}:{line} names {name}: {never.reason}"


def names_in(module: Module, modules: dict[str, Module]) -> Iterator[tuple[str, int]]:
    yield from ((each.target, each.line) for each in imports_of(module, modules))
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((alias.name, node.lineno) for alias in node.names)


def clock_complaints(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        if not any(covers(who, module.name) for who in PURE):
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCK_CALLS:
                yield f"{module.full_name}:{node.lineno} reads a clock: in pure modules the time is an argument"


def start_complaints(modules: dict[str, Module]) -> Iterator[str]:
    """What a worker loads on the way: the rule for SMALL is worth nothing if a module they import breaks it."""
    for module in modules.values():
        if not any(covers(who, module.name) for who in SMALL):
            continue
        for loaded in sorted(loaded_with(module.full_name, modules)):
            heavy = [
                each.target for each in imports_of(modules[loaded], modules) if each.at_start and is_heavy(each.target)
            ]
            if heavy:
                yield f"{module.full_name} loads {loaded}, which loads {heavy[0]}: a worker process must start small"


def is_heavy(target: str) -> bool:
    return target in {"asyncio", "dcalqr.config", "httpx"} or target.startswith("asyncio.")


def loaded_with(name: str, modules: dict[str, Module]) -> set[str]:
    """All of our modules that are loaded when one is, parents and itself included."""
    loaded: set[str] = set()
    waiting = [name]
    while waiting:
        parts = waiting.pop().split(".")
        for length in range(1, len(parts) + 1):
            one = ".".join(parts[:length])
            if one in modules and one not in loaded:
                loaded.add(one)
                waiting += [each.target for each in imports_of(modules[one], modules) if each.at_start]
    return loaded


def length_complaints(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        lines = len(module.source.splitlines())
        if lines > MODULE_LINES and module.name not in LONG_MODULES:
            yield f"{module.full_name} has {lines} lines: more than one idea? Split it, or say why not in LONG_MODULES"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    yield f"{module.full_name}:{node.lineno} {node.name} has {length} lines: too many for one glance"


CHECKS = (
    order_complaints,
    circle_complaints,
    never_complaints,
    clock_complaints,
    start_complaints,
    length_complaints,
)


# --- the tests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removesuffix("_complaints"))
def test_the_source_keeps_the_rules_of_the_design(check: object) -> None:
    assert callable(check)
    complaints = list(check(read_package(PACKAGE)))
    assert not complaints, "\n" + "\n".join(complaints)


def test_every_long_module_that_is_excused_exists_and_is_long() -> None:
    modules = read_package(PACKAGE)
    lines = {name: len(modules[f"dcalqr.{name}"].source.splitlines()) for name in LONG_MODULES}
    assert all(count > MODULE_LINES for count in lines.values()), lines


VIOLATIONS = {
    "upwards": (
        {"local/landing.py": "from dcalqr import attempt", "attempt.py": ""},
        "imports dcalqr.attempt, which is above",
    ),
    "upwards in a function": (
        {"model.py": "def f():\n    import dcalqr.cli", "cli.py": ""},
        "dcalqr.cli, which is above",
    ),
    "upwards for types": (
        {
            "retry.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dcalqr.daemon import D",
            "daemon.py": "",
        },
        "dcalqr.daemon, which is above",
    ),
    "upwards and relative": (
        {"dcache/door.py": "from ..plugins import Task", "plugins.py": ""},
        "plugins, which is above",
    ),
    "sideways": (
        {"transfer.py": "import dcalqr.dispatcher", "dispatcher.py": ""},
        "dispatcher, which is on the same line",
    ),
    "sideways over the failures": (
        {"local/failures.py": "from dcalqr.kafka import offsets", "kafka/offsets.py": ""},
        "dcalqr.kafka.offsets, which is on the same line",
    ),
    "failures from below": (
        {"local/state.py": "from dcalqr.local import failures", "local/failures.py": ""},
        "dcalqr.local.failures, which is above",
    ),
    "the face from below": ({"model.py": "from dcalqr import StorageEvent"}, "imports dcalqr, which is above"),
    "without a place": ({"helpers.py": ""}, "dcalqr.helpers has no place in LAYERS"),
    "in a circle": (
        {"local/a.py": "from dcalqr.local import b", "local/b.py": "from dcalqr.local import a"},
        "circle: ",
    ),
    "httpx in kafka": ({"kafka/consumer.py": "import httpx"}, "names httpx: kafka/ talks to Kafka alone"),
    "httpx in kafka by name": ({"kafka/consumer.py": "__import__('httpx')"}, "names httpx"),
    "aiokafka in dcache": ({"dcache/door.py": "from aiokafka.errors import KafkaError"}, "must work without Kafka"),
    "aiokafka in local": ({"local/failures.py": "def f():\n    import aiokafka"}, "must work without Kafka"),
    "the copy task in the dispatcher": (
        {"dispatcher.py": "from dcalqr.plugins import Transfer"},
        "names Transfer: the dispatcher",
    ),
    "asyncio in a pure module": ({"inflight.py": "from asyncio import Event"}, "names asyncio: pure modules"),
    "a clock in a pure module": ({"dcache/events.py": "from time import monotonic"}, "names time: pure modules"),
    "today in a pure module": ({"holds.py": "import datetime as d\nx = d.datetime.now()"}, "reads a clock"),
    "config in an attempt": (
        {"attempt.py": "from dcalqr import config", "config.py": ""},
        "names dcalqr.config: a worker",
    ),
    "asyncio in landing": ({"local/landing.py": "def f():\n    import asyncio"}, "names asyncio: a worker"),
    "asyncio loaded by way of a package": (
        {"copiers/__init__.py": "import asyncio", "copiers/child.py": ""},
        "dcalqr.copiers.child loads dcalqr.copiers, which loads asyncio",
    ),
    "config loaded by way of another": (
        {"dcache/fetch.py": "from dcalqr.dcache import tls", "dcache/tls.py": "import dcalqr.config", "config.py": ""},
        "dcalqr.dcache.fetch loads dcalqr.dcache.tls, which loads dcalqr.config",
    ),
    "a long module": ({"local/paths.py": "x = 1\n" * 301}, "has 301 lines"),
    "a long function": ({"local/paths.py": "def f():\n" + "    x = 1\n" * 60}, "f has 61 lines"),
}


def write_package(top: Path, files: dict[str, str]) -> dict[str, Module]:
    for name, source in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return read_package(top)


@pytest.mark.parametrize(("files", "complaint"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_violation_is_found(files: dict[str, str], complaint: str, tmp_path: Path) -> None:
    modules = write_package(tmp_path, {"__init__.py": "", **files})
    complaints = [each for check in CHECKS for each in check(modules)]
    assert any(complaint in each for each in complaints), complaints


def test_what_the_rules_allow_draws_no_complaint(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dcalqr.model import A",
        "cli.py": "from dcalqr import __version__, daemon",
        "daemon.py": "import asyncio, time\nfrom dcalqr.local import failures, state",
        "local/__init__.py": "",
        "local/failures.py": "from . import state\nfrom ..model import A",
        "local/state.py": "from dcalqr import errors\nx = 'aiokafka'",
        "config/__init__.py": "from dcalqr.config import words",
        "config/words.py": "from dcalqr.errors import ConfigError",
        "dcache/events.py": "import datetime\ndef f(text):\n    return datetime.datetime.fromisoformat(text)",
        "model.py": "def f(now):\n    return now",
        "errors.py": "",
    }
    modules = write_package(tmp_path, files)
    assert [each for check in CHECKS for each in check(modules)] == []
