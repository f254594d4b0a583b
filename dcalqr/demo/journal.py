"""What the daemon's log has told so far: counts, and the lines that a person wants to hear of, in words. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

_LOUD = ("error", "critical")


class Journal:
    """Takes log lines one by one.

    Parameters
    ----------
    folder
        Root + folder: what is left out of names.

    Attributes
    ----------
    joined : bool
        Whether it is a member of its consumer group.
    partitions : int
        How many it reads.
    outcomes : Counter[str]
        Settled deliveries by outcome.
    landed : set[str]
        Names that landed.
    invisible : set[str]
        Names that were found not to be visible yet, ever.
    retries : Counter[tuple[str, str]]
        Retries by name and error.
    """

    def __init__(self, folder: str) -> None:
        self._prefix = folder + "/"
        self._names: dict[str, str] = {}
        self.joined = False
        self.partitions = 0
        self.outcomes: Counter[str] = Counter()
        self.landed: set[str] = set()
        self.invisible: set[str] = set()
        self.retries: Counter[tuple[str, str]] = Counter()

    @property
    def settled(self) -> int:
        """Settled deliveries (count)."""
        return self.outcomes.total()

    @property
    def waiting(self) -> int:
        """Names that are not visible yet (count)."""
        return len(self.invisible - self.landed)

    def take(self, line: Mapping[str, Any]) -> str:
        """Take a log line; returns what is to be told of it, empty for nothing."""
        name = self._name(line)
        match line["event"]:
            case "REBALANCE":
                self.joined, self.partitions = True, len(line["partitions"])
                return f"is a member of its consumer group and reads {self.partitions} partitions"
            case "WAIT_VISIBLE":
                self.invisible.add(name)
                return f"{name} is announced, but not visible yet: waits, without a download slot"
            case "COPY_RETRY":
                self.retries[name, line["error"]] += 1
                return f"{name}: {line['message']}; tries again"
            case "COPY_FAILED":
                return f"{name}: {line['message']}; gives up, with a row in the failed-tasks file"
            case "COPY_REPORT":
                return self._report(name, line)
            case "DRAIN":
                return "drains: takes nothing more, ends what it has begun, commits"
            case "OUTPUT":
                message = str(line["message"])  # of a traceback the last line is enough, the log has the rest
                return "" if message.startswith((" ", "Traceback")) else message
            case event if line.get("level") in _LOUD:
                return f"{event}: {line.get('message', '')}"
            case _:
                return ""

    def _name(self, line: Mapping[str, Any]) -> str:
        """Say which file a line is about; lines between the first and the last of a job bear its uuid only."""
        uuid = line.get("uuid", "")
        if "path" in line:
            self._names[uuid] = line["path"].removeprefix(self._prefix)
        return self._names.get(uuid, "")

    def _report(self, name: str, line: Mapping[str, Any]) -> str:
        self.outcomes[line["outcome"]] += 1
        if line["outcome"] != "landed":
            return ""
        first = name not in self.landed
        self.landed.add(name)
        remarkable = first and (name in self.invisible or any(name == retried for retried, _ in self.retries))
        return f"{name} landed, complete and verified" if remarkable else ""
