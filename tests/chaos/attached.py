"""Whether signals and relations that were acknowledged are kept, each once: from the history alone.

They are elements of memories that nothing ever takes away, and each carries a value that no other
has. So every peer's store holds at the end each acknowledged one exactly once, each unknown one at
most once, and nothing that was refused for certain or that nobody sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.chaos.history import ATTACHES, Attached, History
from tests.chaos.records import Write, attempts_of

STREAM = "stream"  # in the name of the fault that deletes one


def writes_of(history: History) -> list[Write]:
    """All that was to be attached, the attempts of each together."""
    return attempts_of(one for one in history.operations if one.invoke.op in ATTACHES)


def is_log_lost(history: History) -> bool:
    """Whether a stream of the log was deleted: what only the log had is gone with it."""
    return any(STREAM in fault.kind for fault in history.faults)


def wrong(history: History) -> Iterator[tuple[str, str, str, Write | None]]:
    """(kind of anomaly, value, what is wrong, the write) for each peer that could be read."""
    writes = {write.value: write for write in writes_of(history)}
    is_lost = is_log_lost(history)
    for held in _readable(history):
        counts = Counter(held.values)
        for value in counts.keys() - writes.keys():
            yield "phantom", value, f"{held.peer}: attached, and nobody sent it", None
        for value, write in writes.items():
            said = f"{held.peer}: {write.op} {write.n}"
            if write.is_kept(is_log_lost=is_lost) and not counts[value]:
                yield "lost", value, f"{said} was acknowledged, and is not there", write
            elif counts[value] > 1:
                yield "doubled", value, f"{said} is there {counts[value]} times", write
            elif counts[value] and not write.is_possible:
                yield "phantom", value, f"{said} was refused for certain, and is there", write


def unread(history: History) -> list[str]:
    """The peers of the run whose attached values must be known and are not."""
    if history.run is None or not any(write.is_ok for write in writes_of(history)):
        return []
    known = {held.peer for held in _readable(history)}
    unready = {name for note in history.notes for name in note.unready}
    return [peer for peer in history.run.peers if peer not in known | unready]


def _readable(history: History) -> list[Attached]:
    return [held for held in history.attached if not held.problem]
