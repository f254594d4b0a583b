"""What can go wrong, grouped by what happens next.

::

    DcalqrError                    worded by its class, carries facts
    ├── StartError                 the program ends before it works; bears its exit code
    │   ├── ConfigError            78: the file itself shows it
    │   ├── CannotCreate           73
    │   ├── NoPermission           77
    │   ├── ServiceUnavailable     69
    │   └── BadData                65
    ├── Unreadable                 a record that could have been ours and cannot be understood
    ├── FatalError                 the daemon stops, nothing further is committed
    ├── TryError                   one try of a Task did not end well
    │   ├── TransientError         wait with back-off; spends the budget `retrytimes`
    │   ├── NotYet                 not visible yet, or no room for this one file; wait, spend nothing
    │   ├── PlanAgain              the world changed under the plan; at once, spend nothing
    │   ├── HeldError              nothing is tried until the hold is released; spend nothing
    │   │   ├── DoorHeld           credential, unreachable, folder
    │   │   └── DestinationHeld    space, mount
    │   └── PermanentError         a row in the failed-tasks file
    └── Cancelled                  the attempt was told to stop and did

A class words its message (`text`, a format of its facts); callers pass values, never sentences. Facts are
flat (str, int, float, bool or None), so that an error crosses a process boundary as its class's name and its facts,
and reaches a log line as fields.
"""

from __future__ import annotations

import string
from typing import ClassVar, TypeAlias

Fact: TypeAlias = str | int | float | bool | None

EXIT_OK = 0
EXIT_UNEXPECTED = 1
EXIT_USAGE = 2
EXIT_BAD_DATA = 65
EXIT_UNAVAILABLE = 69
EXIT_CANNOT_CREATE = 73
EXIT_NO_PERMISSION = 77
EXIT_CONFIG = 78


class _Words(string.Formatter):
    """Formats `text` with what is there: an error that lacks a fact must still be sayable."""

    def get_value(self, key: int | str, args: object, kwargs: object) -> object:
        assert isinstance(kwargs, dict)
        return kwargs.get(key, "unknown")


_words = _Words()


class DcalqrError(Exception):
    """The root of all errors that dcalqr raises itself.

    Parameters
    ----------
    facts
        Named values; those that `text` names appear in the message, all appear as log fields.
    """

    text: ClassVar[str] = "unexpected error"

    def __init__(self, **facts: Fact) -> None:
        self.facts: dict[str, Fact] = facts
        super().__init__(_words.vformat(self.text, (), facts))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.facts)


def _rebuild(cls: type[DcalqrError], facts: dict[str, Fact]) -> DcalqrError:
    return cls(**facts)


# --- before the work starts -----------------------------------------------------------------------------------


class StartError(DcalqrError):
    """The program cannot do what it was started for."""

    exit_code: ClassVar[int] = EXIT_UNEXPECTED


class ConfigError(StartError):
    """The configuration file is refused; `text` is the list of all complaints."""

    text = "{complaints}"
    exit_code = EXIT_CONFIG


class CannotCreate(StartError):
    text = "cannot create {path}: {why}"
    exit_code = EXIT_CANNOT_CREATE


class NoPermission(StartError):
    text = "no permission for {path}: {why}"
    exit_code = EXIT_NO_PERMISSION


class ServiceUnavailable(StartError):
    text = "{service} is not available: {why}"
    exit_code = EXIT_UNAVAILABLE


class BadData(StartError):
    text = "{path}: {why}"
    exit_code = EXIT_BAD_DATA


# --- one record -----------------------------------------------------------------------------------------------


class Unreadable(DcalqrError):
    """A record that could have been ours and cannot be understood.

    `reason` is one word, the label of the metric: empty, encoding, json, shape, too_large, size, path, traversal,
    nul, control, status, not_a_file.
    """

    text = "unreadable record ({reason}): {detail}"


class FatalError(DcalqrError):
    """The daemon stops and commits nothing further: this is a broken filter or a new format, not bad luck."""

    text = "{why}"


# --- one try --------------------------------------------------------------------------------------------------


class TryError(DcalqrError):
    """One try of a Task did not end well.

    `error_class` is the word of the CSV's `class` column and of the metrics; `door_answered` says whether the door must
    have been reached for this to happen.
    """

    error_class: ClassVar[str] = "try"
    door_answered: ClassVar[bool] = True

    @property
    def http_status(self) -> int | None:
        """The HTTP status behind this error, if one was received."""
        status = self.facts.get("http_status")
        return status if isinstance(status, int) else None


class TransientError(TryError):
    """Worth another try, after a back-off of at least `minimum_wait_seconds`; the first time without, if `at_once`."""

    error_class = "transient"
    text = "{why}"
    least_wait_seconds: ClassVar[float] = 0.0
    at_once: ClassVar[bool] = False

    @property
    def minimum_wait_seconds(self) -> float:
        after = self.facts.get("retry_after_seconds")
        asked = float(after) if isinstance(after, int | float) else 0.0
        return max(asked, self.least_wait_seconds)


class DoorTimeout(TransientError):
    """The door did not answer: its mover may still start and wait 300 s, so asking again soon costs slots there."""

    text = "the door did not answer within {seconds} s"
    least_wait_seconds = 30.0


class ServerError(TransientError):
    """5xx, 429, 400 and other answers that another try may cure."""

    text = "{host} answered HTTP {http_status}"


class FileRefused(TransientError):
    """401 for one file, while the folder is served with the same credential."""

    text = "the door refuses this file (HTTP {http_status}) although it serves the folder"


class ConnectionLost(TransientError):
    text = "the connection to {host} was lost in phase {phase}: {why}"


class PoolUnreachable(TransientError):
    """A pool cannot be reached; the door may name another one at the next try."""

    text = "pool {host} cannot be reached: {why}"


class PoolRefused(TransientError):
    """TLS to a pool failed: wrong host name, unknown CA, revoked, expired."""

    text = "pool {host} was refused: {why}"


class RedirectRefused(TransientError):
    """A redirect that the configuration forbids (http, a foreign host, too many hops)."""

    text = "redirect to {target} refused: {why}"


class ShortBody(TransientError):
    text = "{host} sent {received_bytes} of {expected_bytes} bytes"


class Stalled(TransientError):
    text = "{host} sent {received_bytes} of {expected_bytes} bytes, then too little in {seconds} s"


class ProtocolBroken(TransientError):
    """An answer that HTTP does not allow, or that no plain GET may have."""

    text = "{host} broke the protocol: {why}"


class ChecksumMismatch(TransientError):
    """Once may be the network; the same wrong value twice is the file."""

    text = "Adler32 is {received}, {host} promised {expected}"
    at_once = True


class WriteFailed(TransientError):
    """EIO and its like on the destination; the copy starts again from the first byte."""

    door_answered = False
    text = "{operation} failed on the destination: {why}"


class TaskRaised(TransientError):
    """A Task raised what no Task may raise: a mistake in it, which must not stop the other files."""

    door_answered = False
    text = "the task raised {what}"


class WorkerLost(TransientError):
    """The thread or process of an attempt went away; costs nothing of the budget."""

    door_answered = False
    text = "the attempt's worker was lost: {why}"


class NotYet(TryError):
    """Nothing is wrong, it is only too early: look again, holding no slot, spending nothing."""

    error_class = "not_yet"
    text = "not visible yet: {why}"


class NoRoom(NotYet):
    """One file does not fit while others do. It waits until room is made."""

    door_answered = False
    error_class = "space"
    text = "{needed_bytes} bytes do not fit into the download folder: {free_bytes} are free"


class PlanAgain(TryError):
    """What the plan saw has changed meanwhile (final name, length, version)."""

    error_class = "plan_again"
    text = "plan again: {why}"


class NotFound(PlanAgain):
    """404 from the door; the Task decides between not yet, gone and never visible."""

    text = "{host} answered HTTP 404"


class Forbidden(PlanAgain):
    """403 from the door; the Task decides between this file and everything."""

    text = "{host} answered HTTP 403"


class LengthDiffers(PlanAgain):
    """Content-Length is not the event's size; seen before the first byte of the body."""

    text = "{host} offers {offered_bytes} bytes, {expected_bytes} were expected"


class DigestMissing(PlanAgain):
    """No usable Digest in any answer; `requirechecksum` decides."""

    text = "{host} gave no Adler32"


class FinalNameChanged(PlanAgain):
    """The final name is not what the plan saw; publishing would destroy another's work."""

    text = "the final name changed since it was planned"


class HeldError(TryError):
    """Nothing is tried until a probe succeeds; nothing is lost. `hold` is the word of status and metrics."""

    error_class = "held"
    door_answered = False
    hold: ClassVar[str] = ""
    text = "{why}"


class DoorHeld(HeldError):
    pass


class CredentialRefused(DoorHeld):
    error_class = "credential"
    hold = "credential"
    text = "no usable credential: {why}"


class Unreachable(DoorHeld):
    """Refused, DNS, handshake. A few in a row are bad luck (see `holds`), more are a hold."""

    error_class = "unreachable"
    hold = "unreachable"
    text = "the door {host} cannot be reached: {why}"


class FolderMissing(DoorHeld):
    """404 for the configured folder itself: then 404 for a file says nothing about that file."""

    error_class = "folder"
    hold = "folder"
    text = "the door does not show {url} (HTTP 404): are dcache.url, pool and folder right?"


class DestinationHeld(HeldError):
    pass


class NoSpace(DestinationHeld):
    error_class = "space"
    hold = "space"
    text = "no space in the download folder: {why}"


class MountMissing(DestinationHeld):
    error_class = "mount"
    hold = "mount"
    text = "the download folder is not usable: {why}"


class PermanentError(TryError):
    """No further try can help: a row in the failed-tasks file."""

    error_class = "permanent"
    text = "{why}"


class NeverVisible(PermanentError):
    error_class = "never_visible"
    text = "the staged upload was still not visible after {seconds} s"


class ForbiddenFile(PermanentError):
    error_class = "forbidden"
    text = "the door refuses this file (HTTP {http_status}) although it serves the folder"


class NameTooLong(PermanentError):
    error_class = "name_too_long"
    text = "the name or path is too long for this system: {why}"


class ReservedName(PermanentError):
    error_class = "reserved_name"
    text = "the name has the form of our part files"


class NotAFile(PermanentError):
    error_class = "not_a_file"
    text = "the destination {what}"


class ChecksumWrong(PermanentError):
    error_class = "checksum"
    text = "Adler32 is {received} again, the door promises {expected}"


class ChecksumAbsent(PermanentError):
    error_class = "no_checksum"
    text = "the door gives no Adler32 and requirechecksum is true"


class RetriesSpent(PermanentError):
    """The last transient error of a delivery whose budget is gone."""

    error_class = "transient"
    text = "gave up after {attempts} attempts: {why}"


class Cancelled(DcalqrError):
    """The attempt was told to stop and left nothing behind."""

    text = "the attempt was told to stop"


def row_classes() -> tuple[str, ...]:
    """All words that the failed-tasks file may have in its column `class`, sorted."""
    kinds = [kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, PermanentError)]
    return tuple(sorted({kind.error_class for kind in kinds}))


def by_name(name: str, facts: dict[str, Fact]) -> DcalqrError:
    """Rebuild an error from its wire form.

    Raises
    ------
    KeyError
        No class of this module bears the name.
    """
    cls = globals()[name]
    if not (isinstance(cls, type) and issubclass(cls, DcalqrError)):
        raise KeyError(name)
    return cls(**facts)
