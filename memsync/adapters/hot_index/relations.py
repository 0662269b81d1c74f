"""The relations of one scope in both directions, by record key: rows may come, go and be
renumbered, and either end may come first.
"""

from __future__ import annotations

from collections.abc import Mapping

from memsync.ids import RecordKey

RELATION_BYTES = 360  # both directions of one, with their share of the dictionaries (measured)


class Relations:
    """Which memory names which, and how strongly."""

    def __init__(self) -> None:
        self.total = 0
        self._from: dict[RecordKey, Mapping[RecordKey, float]] = {}
        self._to: dict[RecordKey, dict[RecordKey, float]] = {}

    def put(self, key: RecordKey, strengths: Mapping[RecordKey, float]) -> None:
        """Make these the relations that begin at a memory; none where it is gone."""
        before = self._from.get(key, {})
        if before == strengths:
            return
        for end in before:
            del self._to[end][key]
            if not self._to[end]:
                del self._to[end]
        for end, strength in strengths.items():
            self._to.setdefault(end, {})[key] = strength
        self.total += len(strengths) - len(before)
        if strengths:
            self._from[key] = strengths
        else:
            del self._from[key]

    def beside(self, key: RecordKey) -> dict[RecordKey, float]:
        """What is related to a memory, whichever names the other; of both ways the stronger. Not
        all of them need be in the scope."""
        found = dict(self._from.get(key, {}))
        for start, strength in self._to.get(key, {}).items():
            found[start] = max(strength, found.get(start, 0.0))
        return found

    def keys(self) -> set[RecordKey]:
        """Everything that begins or ends a relation."""
        return self._from.keys() | self._to.keys()
