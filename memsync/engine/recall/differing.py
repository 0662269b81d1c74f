"""Which members embed with other models than this one: their settings differ, which is for a person
to mend.

Members tell each other nothing of their settings; but what they write shows it. A memory comes with
a vector of one of the coordinator's models, and one that was embedded again with one of the primary
of whoever did it. So whoever applies a vector of a model that it would not have taken itself knows
that the writer is set otherwise. Of two members whose primaries differ at least one sees it: the
one that lacks the other's, or the one whose memories the other embeds again. One that differs
behind its primary is seen once it falls back on what the others lack.

The settings of a process are for its life. So what was seen of a process counts until it has ended,
and nothing has to be taken back when the settings have been made the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memsync.core.recall.vectors import REGISTER, lacks_vector, last_vector
from memsync.core.records import Record
from memsync.engine.recall.embedding import Embedding
from memsync.ports import Change

SEEN_MAX = 64  # processes that are remembered, the last ones


class Differing:
    """See the module. `apply` is one of the engine's `derived`."""

    def __init__(self, embedding: Embedding) -> None:
        self._embedding = embedding
        self._seen: dict[int, str] = {}  # incarnation of a process -> a model that it embeds with

    def apply(self, changes: Sequence[Change]) -> None:
        """Look at one memory of each writer: one that differs will write another."""
        looked: set[int] = set()
        for change in changes:
            record = change.after
            if record.kind != "memory" or (writer := _writer(record)) in looked:
                continue
            looked.add(writer)
            if self._may_differ(record):
                self._look(record)

    def _look(self, record: Record) -> None:
        if (found := last_vector(record)) is not None:
            stamp, vector, is_again = found
            models = (self._embedding.model,) if is_again else self._embedding.models
            if vector.model not in models:
                self._note(stamp.incarnation, vector.model)

    def _may_differ(self, record: Record) -> bool:
        """Quickly: nearly every memory carries a vector of the primary's model."""
        dimensions = self._embedding.dimensions
        return not dimensions or lacks_vector(record, self._embedding.model, dimensions)

    def _note(self, incarnation: int, model: str) -> None:
        self._seen.pop(incarnation, None)
        self._seen[incarnation] = model
        if len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]

    def said(self, members: Mapping[int, str]) -> str | None:
        """What to do, where one of these processes (incarnation -> name of the member) differs."""
        models = {name: self._seen[one] for one, name in members.items() if one in self._seen}
        if not models:
            return None
        others = ", ".join(f"{name} embeds with {model}" for name, model in sorted(models.items()))
        own = self._embedding.model or "none"
        return (
            f"WARNING: {others}, this peer with {own}: set the same embedder and "
            "embedder_secondary on every peer, or memories are embedded again and again"
        )


def _writer(record: Record) -> int:
    """The process that wrote the vector last; 0 where nobody did."""
    written = record.registers.get(REGISTER)
    stamp = record.origin_stamp if written is None else written.stamp
    return 0 if stamp is None else stamp.incarnation
