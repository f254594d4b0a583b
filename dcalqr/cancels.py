"""Telling a cancel that was asked for from one that nobody sent: libraries let such ones escape now and then."""

from __future__ import annotations

import asyncio


def was_asked_to_end() -> bool:
    """Whether somebody has cancelled the present asyncio.Task; to be asked where CancelledError is caught."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
