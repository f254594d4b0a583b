"""The bundled Task: one file copied from the door to its destination; the dispatcher decides about further tries."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import NamedTuple, ParamSpec, TypeVar

import msgspec

from dcalqr import errors
from dcalqr.config import Config
from dcalqr.copiers.contract import Copier
from dcalqr.dcache.door import Door, DoorFile
from dcalqr.delivery.lookout import Lookout
from dcalqr.delivery.openparts import OpenParts
from dcalqr.delivery.places import Place, Places
from dcalqr.delivery.running import Running, Watch, report_landed
from dcalqr.delivery.surveys import Surveys
from dcalqr.delivery.visibility import is_shown, version_shown
from dcalqr.holds import DOOR
from dcalqr.local import paths, standing
from dcalqr.local.destination import Destination, Room
from dcalqr.local.state import State
from dcalqr.model import Outcome, StorageEvent, Version
from dcalqr.orders import CopyOrder, Deadlines
from dcalqr.plugins import TaskContext

CONNECT_SECONDS = 30.0
# A GET that surprises costs a HEAD and a second GET; more surprises in one try are somebody writing, so start anew.
_ORDERS_PER_TRY = 3

P = ParamSpec("P")
R = TypeVar("R")


class Plan(NamedTuple):
    """What one try found before its order. `late` is the row to write although the copy succeeds."""

    place: Place
    existing: standing.Existing | None
    shown: DoorFile | None
    late: errors.NeverVisible | None = None


class Wanted(NamedTuple):
    """A file that is to be planned: where it belongs, and its size."""

    place: Place
    size_bytes: int


class Transfer:
    """The bundled Task.

    Parameters
    ----------
    config
        Of which it obeys the sections dcache and local.
    door, copier, destination, state
        The parts it works with.
    threads
        For blocking work on the destination, and nothing else.
    instance
        Goes into the names of part files.
    """

    name = "transfer"

    def __init__(
        self,
        config: Config,
        door: Door,
        copier: Copier,
        destination: Destination,
        state: State,
        threads: Executor,
        instance: str,
    ) -> None:
        self._dcache, self._local = config.dcache, config.local
        self._door, self._copier, self._destination = door, copier, destination
        self._threads = threads
        self._surveys = Surveys(self._survey, threads)
        self.parts = OpenParts(state, threads)
        self._places = Places(config.dcache.url, config.dcache.root, config.dcache.folder)
        self._lookout = Lookout(config.dcache, door, self._places)
        self._instance8 = paths.instance8(instance)
        self._deadlines = Deadlines(
            door_seconds=config.dcache.doorseconds,
            connect_seconds=CONNECT_SECONDS,
            stall_seconds=config.dcache.stallseconds,
            timeout_seconds=config.dcache.timeout,
            min_rate=config.dcache.minrate,
        )
        self.running: dict[str, Running] = {}

    def use_min_rate(self, min_rate: float) -> None:
        """Take another least rate (bytes per second) for the orders to come."""
        self._deadlines = msgspec.structs.replace(self._deadlines, min_rate=min_rate)

    @property
    def part_names(self) -> set[bytes]:
        """The part files of the orders outstanding; safe to read from any thread."""
        return {running.part_name for running in list(self.running.values())}

    def key(self, event: StorageEvent) -> str:
        return event.path

    async def run(self, event: StorageEvent, context: TaskContext) -> Outcome:
        try:
            return await self._try(event, context)
        except errors.NotFound:
            return await self._lookout.invisible(event, context)
        except errors.Forbidden as error:
            raise await self._lookout.refused(error) from error
        except errors.CredentialRefused as error:
            if error.http_status is None:  # said by TLS, or by our own look at the proxy: no file is to blame
                raise
            raise await self._lookout.refused(error) from error
        except errors.ChecksumMismatch as error:
            if context.memory.get("wrong_adler32") == error.facts["received"]:
                raise errors.ChecksumWrong(**error.facts) from error
            context.memory["wrong_adler32"] = error.facts["received"]
            raise

    async def probe(self, domain: str) -> None:
        if domain != DOOR:
            await self._probe_destination()
            return
        try:
            await self._lookout.folder(asking_anew=True)
        except (errors.ConnectionLost, errors.DoorTimeout) as error:
            raise errors.Unreachable(host=self._dcache.url, why=str(error)) from error
        except errors.TransientError:
            return  # it answers: what it answers to a file is that file's matter

    async def _probe_destination(self) -> None:
        try:
            await self._blocking(self._destination.check)
        except errors.TransientError as error:  # EIO and its like: nobody should go on
            raise errors.MountMissing(why=str(error)) from error

    # --- one try ------------------------------------------------------------------------------------------------

    async def _try(self, event: StorageEvent, context: TaskContext) -> Outcome:
        plan = await self._plan(event, context)
        if self._is_ours(plan, event, context):
            return Outcome.ALREADY
        if plan.shown is not None and await self._same_bytes(plan):
            self._found(plan.shown, event, context)
            return self._ended(plan, Outcome.ALREADY)
        for _ in range(_ORDERS_PER_TRY):
            try:
                return self._ended(plan, await self._copy(plan, event, context, require=True))
            except errors.LengthDiffers as error:
                plan = await self._look_again(plan, event, error)
            except errors.DigestMissing:
                plan = plan._replace(shown=await self._door.head(plan.place.url))
                if plan.shown is not None and plan.shown.adler32 is None:
                    self._lookout.without_sum(event, context)
                    return self._ended(plan, await self._copy(plan, event, context, require=False))
        raise errors.TransientError(why="the door changed its mind about this file again and again")

    async def _plan(self, event: StorageEvent, context: TaskContext) -> Plan:
        place = self._places.of(event.path)
        existing = await self._surveys.ask(Wanted(place, event.size_bytes or 0))
        plan = Plan(place, existing, None)
        must_look = event.staged or existing is not None or len(context.versions) > 1 or "look" in context.memory
        if not must_look or self._is_ours(plan, event, context):
            return plan
        shown = await self._door.head(place.url)
        if event.staged and not is_shown(shown.pnfsid, shown.size_bytes, event):
            return Plan(place, existing, shown, self._lookout.other_file(event, context))
        if shown.adler32 is None and "without_sum" in context.memory:
            self._lookout.without_sum(event, context)  # a GET would take a slot to learn the same
        return plan._replace(shown=shown)

    def _survey(self, asked: Sequence[Wanted]) -> list[standing.Found]:
        """Look at the destination: is it usable, has it room, what stands there; one look at the folder serves all."""
        try:
            room = self._destination.check()
        except errors.TryError as error:
            if len(asked) == 1:
                return [error]
            return [answer for wanted in asked for answer in self._survey([wanted])]  # each gets an error of his own
        claimed_bytes = sum(running.missing_bytes for running in list(self.running.values()))
        files = [(wanted.place.directory, wanted.place.name) for wanted in asked]
        found = standing.looks(self._destination.root_fd, files, sync=True)
        return [_judged(each, room, claimed_bytes + size) for each, (_, size) in zip(found, asked, strict=True)]

    # --- who is who -----------------------------------------------------------------------------------------------

    def _is_ours(self, plan: Plan, event: StorageEvent, context: TaskContext) -> bool:
        """Whether the file here is known to be this upload, without asking anyone."""
        existing = plan.existing
        return (
            existing is not None
            and existing.is_durable
            and bool(event.pnfsid)
            and existing.pnfsid == event.pnfsid
            and event.size_bytes in (None, existing.size_bytes)
            and len(context.versions) == 1
        )

    async def _same_bytes(self, plan: Plan) -> bool:
        """Whether the file here has the Adler32 that the door names; equal size never counts."""
        existing, shown = plan.existing, plan.shown
        if existing is None or shown is None or shown.adler32 is None or shown.size_bytes != existing.size_bytes:
            return False
        if not existing.is_durable:
            return False
        adler32 = existing.adler32
        if adler32 is None:
            place = plan.place
            root_fd = self._destination.root_fd
            adler32, seen = await self._blocking(standing.sum_of, root_fd, place.directory, place.name)
            if seen != existing.seen:
                raise errors.FinalNameChanged
        return adler32 == shown.adler32

    def _found(self, shown: DoorFile | None, event: StorageEvent, context: TaskContext) -> Version:
        """Take note of which version the source holds."""
        version = event.version if shown is None else version_shown(shown.pnfsid, shown.size_bytes, event)
        if version != event.version:
            context.source_holds(version)
        return version

    async def _look_again(self, plan: Plan, event: StorageEvent, error: errors.LengthDiffers) -> Plan:
        """Ask the door after a Content-Length that is not the expected one."""
        shown = await self._door.head(plan.place.url)
        known = error.facts["expected_bytes"]
        if shown.size_bytes == known:
            raise errors.TransientError(why=f"{error}, and the door says the same as before") from error
        late = None if is_shown(shown.pnfsid, shown.size_bytes, event) else plan.late
        return plan._replace(shown=shown, late=late)

    # --- the order ------------------------------------------------------------------------------------------------

    async def _copy(self, plan: Plan, event: StorageEvent, context: TaskContext, *, require: bool) -> Outcome:
        order = self._order(plan, event, require=require)
        context.say("CURRENTLY_RUNNING", running=len(self.running), path=event.path)
        context.say("COPY_INIT", part=order.part_name.decode(), path=event.path, order=order.order_id[:8])
        live = Running(event.path, order.part_name, order.size_bytes, time.monotonic())
        self.running[order.order_id] = live
        try:
            await self.parts.open(order.directory)
            try:
                landed = await self._copier.copy(order, Watch(live, order, context.say))
            finally:
                self.parts.close(order.directory)
        finally:
            del self.running[order.order_id]
        report_landed(landed, order, context)
        found = self._found(plan.shown, event, context)
        return Outcome.LANDED if found == event.version else Outcome.REPLACED

    def _order(self, plan: Plan, event: StorageEvent, *, require: bool) -> CopyOrder:
        order_id = os.urandom(16).hex()
        shown, place = plan.shown, plan.place
        return CopyOrder(
            order_id=order_id,
            url=place.url,
            directory=place.directory,
            final_name=place.name,
            part_name=paths.part_name(place.name, self._instance8, order_id[:8]),
            size_bytes=event.size_bytes if shown is None or shown.size_bytes is None else shown.size_bytes,
            adler32=None if shown is None else shown.adler32,
            pnfsid=event.pnfsid if shown is None or not shown.pnfsid else shown.pnfsid,
            seen=None if plan.existing is None else plan.existing.seen,
            directory_mode=self._local.permissions,
            file_mode=self._local.filepermissions,
            require_checksum=require,
            allow_http=self._dcache.allowhttpredirect,
            redirect_hosts=frozenset(self._dcache.redirecthosts),
            deadlines=self._deadlines,
        )

    def _ended(self, plan: Plan, outcome: Outcome) -> Outcome:
        """End a try; one that came too late for its own upload leaves a row although a file was copied."""
        if plan.late is not None:
            raise plan.late
        return outcome

    async def _blocking(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run blocking work on the destination in its own threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: call(*args, **kwargs))


def _judged(found: standing.Found, room: Room, needed_bytes: int) -> standing.Found:
    """Judge what stands under a name that is wanted."""
    if room.free_bytes - needed_bytes < room.least_bytes:
        # Wait apart, rather than hold everything, when only this file is too large for what is free.
        return errors.NoRoom(needed_bytes=needed_bytes, free_bytes=room.free_bytes)
    if isinstance(found, standing.Existing) and not found.is_file:
        return errors.NotAFile(what="exists and is no regular file")
    return found
