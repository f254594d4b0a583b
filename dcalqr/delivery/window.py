"""How much unsettled work an instance takes from Kafka before it pauses. Pure."""

from __future__ import annotations

# As many invisible uploads as ten windows: they cost a HEAD now and then, and no slot.
INVISIBLE_WINDOWS = 10


class Window:
    """Counts unsettled deliveries; never a bound on offset distance, so one waiting upload does not stop the topic.

    Parameters
    ----------
    limit
        Deliveries (count) at which intake pauses; those that only wait for visibility count in a second window.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open = 0
        self.invisible = 0

    @property
    def is_full(self) -> bool:
        """Whether intake must pause."""
        return self.open - self.invisible >= self.limit or self.invisible >= INVISIBLE_WINDOWS * self.limit

    @property
    def has_room(self) -> bool:
        """Whether intake may resume: at half of both windows, so that it does not flap."""
        return 2 * (self.open - self.invisible) <= self.limit and 2 * self.invisible <= INVISIBLE_WINDOWS * self.limit

    def __repr__(self) -> str:
        return f"<Window open={self.open} invisible={self.invisible} limit={self.limit}>"
