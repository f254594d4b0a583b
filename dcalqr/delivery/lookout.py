"""Judging what the door does not show: not yet, gone, never visible, without a sum, refused."""

from __future__ import annotations

import asyncio
import time

from dcalqr import errors
from dcalqr.config import Dcache
from dcalqr.dcache.door import Door
from dcalqr.delivery.places import Places
from dcalqr.delivery.visibility import is_overdue, is_sum_overdue
from dcalqr.model import Outcome, StorageEvent
from dcalqr.plugins import TaskContext

# A folder that the door showed so lately is there: thousands of old events whose files are gone must not ask each.
FOLDER_SEEN_SECONDS = 30.0


class Lookout:
    """What the Task thinks of 404, 401, 403, another file's ETag, and an answer without Digest.

    Whoever waits is looked at by HEAD from then on (`memory["look"]`), which takes no slot. His time counts only while
    the door answers: after a hold or a failure it begins anew, because a door that has just come back may not know yet
    what it will know in a minute.
    """

    def __init__(self, dcache: Dcache, door: Door, places: Places) -> None:
        self._dcache, self._door, self._places = dcache, door, places
        self._folder_seen_at = float("-inf")
        self._asking = asyncio.Lock()

    async def invisible(self, event: StorageEvent, context: TaskContext) -> Outcome:
        """Judge a 404.

        Raises
        ------
        NotYet, NeverVisible, FolderMissing
            Wait; write a row; hold, for the whole folder is missing.
        """
        if not context.removed and not self._is_overdue(event, context):
            raise errors.NotYet(why="HTTP 404", http_status=404)
        if event.staged and not context.removed:
            raise self._never_visible(context, 404)
        if not context.removed:
            await self.folder()
        return Outcome.GONE

    def other_file(self, event: StorageEvent, context: TaskContext) -> errors.NeverVisible:
        """Judge a path that still holds another file than the staged upload; returns the row if it is too late.

        Raises
        ------
        NotYet, NotFound
            Wait; the upload was removed, so for it the path is empty and will stay so.
        """
        if context.removed:
            raise errors.NotFound(host=self._dcache.url)
        if not self._is_overdue(event, context):
            raise errors.NotYet(why="the path still holds another file", http_status=200)
        return self._never_visible(context, 200)

    def without_sum(self, event: StorageEvent, context: TaskContext) -> None:
        """Judge a file for which the door gives no Adler32; returns if it is to be accepted by its size.

        Raises
        ------
        NotYet, ChecksumAbsent
            Wait; write a row, because `requirechecksum` says so.
        """
        context.memory["without_sum"] = True
        looked_seconds = self._looked_seconds(context)
        if not is_sum_overdue(event, looked_seconds, time.time(), self._dcache.visibleseconds):
            raise errors.NotYet(why="the door gives no Adler32")
        if self._dcache.requirechecksum:
            raise errors.ChecksumAbsent

    async def refused(self, error: errors.Forbidden | errors.CredentialRefused) -> errors.TryError:
        """Return what 401 or 403 for one file means: about this file only if the door serves the folder."""
        try:
            await self.folder(asking_anew=True)
        except errors.CredentialRefused as refusal:
            return refusal
        except errors.TryError as trouble:
            # Nothing is known about the folder: after 401 the door may refuse us all for a while.
            return error if isinstance(error, errors.CredentialRefused) else trouble
        if isinstance(error, errors.CredentialRefused):
            # Perhaps the credential was renewed between the two answers: worth another try, and no hold for the others.
            return errors.FileRefused(http_status=error.http_status)
        return errors.ForbiddenFile(http_status=error.http_status)

    async def folder(self, *, asking_anew: bool = False) -> None:
        """Make sure that the door shows the configured folder.

        Raises
        ------
        FolderMissing
            404: wrong `url` or `pool`, an empty export, or the folder was removed with all that was in it.
        CredentialRefused
            401 or 403: for everything, not for one file.
        TryError
            As the door answered.
        """
        async with self._asking:  # one asks for all
            if not asking_anew and time.monotonic() - self._folder_seen_at < FOLDER_SEEN_SECONDS:
                return
            try:
                await self._door.head(self._places.folder_url, wants_sum=False)
            except errors.NotFound as error:
                raise errors.FolderMissing(url=self._places.folder_url) from error
            except errors.Forbidden as error:
                why = "HTTP 403 for the configured folder"
                raise errors.CredentialRefused(why=why, http_status=403) from error
            self._folder_seen_at = time.monotonic()

    def _is_overdue(self, event: StorageEvent, context: TaskContext) -> bool:
        return is_overdue(event, self._looked_seconds(context), time.time(), self._dcache.visibleseconds)

    def _looked_seconds(self, context: TaskContext) -> float:
        context.memory["look"] = True
        now = time.monotonic()
        since = context.memory.get("looked_since")
        if context.looks == 0 or not isinstance(since, float):
            since = context.memory["looked_since"] = now
        return now - since

    def _never_visible(self, context: TaskContext, status: int) -> errors.NeverVisible:
        return errors.NeverVisible(seconds=round(self._looked_seconds(context)), http_status=status)
