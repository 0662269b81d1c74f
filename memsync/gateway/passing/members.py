"""The members that requests go to: those of the settings, until the cell itself has told others.

Every process of the cell tells, twice a second, which members it goes by and when that was written.
The newest counts, so that one that lags behind changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection

from memsync.telemetry import logger
from memsync.wire.members import Roster, Told
from memsync.wire.operations import Stamp


class Members:
    """The names of the cell's members, as far as is known here."""

    def __init__(self, configured: Collection[str]) -> None:
        self._names = sorted(configured)
        self._stamp: Stamp | None = None

    def names(self) -> list[str]:
        """In alphabetical order."""
        return self._names

    def hear(self, told: Told) -> None:
        """Take what a process of the cell tells."""
        if not isinstance(told, Roster) or not told.members:
            return
        if self._stamp is not None and told.stamp <= self._stamp:
            return
        self._stamp = told.stamp
        if self._names != sorted(told.members):
            self._names = sorted(told.members)
            logger().info("members.changed", members=self._names)
