"""What happened in a run, one JSON line per event, and how events become operations.

Every operation has an `invoke` and one end: `ok` (answered), `fail` (for certain nothing was done)
or `unknown`. An operation that repeats another with the same key names that one as `first`: both
are attempts of one write. Times are seconds since the run began, of one steady clock; ids, refs and
values are the driver's own, so that whatever a read shows can be traced to who wrote it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TypeAlias

import msgspec

CREATES = ("add", "bulk")
CHANGES = ("update", "swap")
WRITES = (*CREATES, *CHANGES, "forget")
READS = ("get", "list", "recall")
KEYS = ("key", "revoke", "use")  # an API key is made, taken back, or a read is made with it
ATTACHES = ("relate", "feedback")  # what is attached to a memory and stays
NOTHING = "NOTHING"  # the code of a forget that found nothing to forget


class HistoryError(Exception):
    """A file that is no history, or a history that cannot be."""


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """A memory as a read showed it. `value` and `side` are two fields that every write sets to the
    same; `made` is what its create wrote into the text; `count` is a counter's."""

    id: int
    ref: str
    made: str
    value: str
    side: str
    version: str
    count: int = -1


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    at: float


class Run(_Event, frozen=True, kw_only=True, tag="run"):
    """How the run was made; the first line."""

    seed: int
    options: dict[str, str]
    peers: list[str]


class Invoke(_Event, frozen=True, kw_only=True, tag="invoke"):
    """An operation begins. `refs` are the records that it means; `key` is its `Idempotency-Key`;
    `after` are operations whose positions a read names; `final` says of which peer's own state it
    is, and when ("healed", "settled"). `ack` and `consistency` are what it asked for, "" for the
    default."""

    n: int
    process: str
    op: str
    user: str
    way: str = "http"
    refs: list[str] = []
    value: str = ""
    count: int = -1
    key: str = ""
    first: int = 0
    after: list[int] = []
    final: tuple[str, str] | None = None
    ack: str = ""
    consistency: str = ""


class _End(_Event, frozen=True, kw_only=True):
    n: int
    status: int = 0
    code: str = ""
    ids: list[int] = []
    seen: list[Seen] = []
    tags: list[str] = []
    is_whole: bool = False  # a list that shows all that the user has
    at_gateway: str = ""  # the connection was open at this gateway while it was harmed
    stripe: int = -1  # of a conditional update that was answered: where it lies, its home


class Ok(_End, frozen=True, kw_only=True, tag="ok"):
    """It was answered: a write is acknowledged, a read has its answer."""


class Fail(_End, frozen=True, kw_only=True, tag="fail"):
    """It was refused, and nothing of it was done."""


class Unknown(_End, frozen=True, kw_only=True, tag="unknown"):
    """Nobody said what became of it."""


class Fault(_Event, frozen=True, kw_only=True, tag="fault"):
    """A fault of the nemesis, written when it is over. `began` to `taken_back` it was there;
    `ready` is when all processes were ready again, None if not in time; `skipped` says why it
    could not be made here, `without_effect` why it is taken for one that did nothing."""

    kind: str
    targets: list[str]
    began: float
    taken_back: float = 0.0
    ready: float | None = None
    note: str = ""
    skipped: str = ""
    without_effect: str = ""


class Elected(_Event, frozen=True, kw_only=True, tag="elected"):
    """The servers have elected a leader for a stripe's stream, and said so."""

    stripe: int
    leader: str


class Digest(_Event, frozen=True, kw_only=True, tag="digest"):
    """A peer's store after the run: the sums of its buckets at these positions, and how many rows
    do not have the hash that is stored with them. `problem` says why it could not be read."""

    peer: str
    positions: dict[str, int] = {}
    sums: dict[str, int] = {}
    damaged: int = 0
    problem: str = ""


class Attached(_Event, frozen=True, kw_only=True, tag="attached"):
    """What is attached to the memories of a peer's store after the run: the value of each signal
    and relation, as often as it is there. `problem` says why it could not be read."""

    peer: str
    values: list[str] = []
    problem: str = ""


class Crashed(_Event, frozen=True, kw_only=True, tag="crashed"):
    """A process, or a request of it, failed by a fault inside memsync, as its log says."""

    process: str
    line: str


class Note(_Event, frozen=True, kw_only=True, tag="note"):
    """What else a reader must know, for instance that something could not be read at the end.
    `unready` are processes that did not come back: what they hold at the end proves nothing."""

    text: str
    is_blocking: bool = False  # because of it the run cannot be judged
    unready: list[str] = []


Event: TypeAlias = (
    Run | Invoke | Ok | Fail | Unknown | Fault | Elected | Digest | Attached | Crashed | Note
)
End: TypeAlias = Ok | Fail | Unknown


class Operation(msgspec.Struct, frozen=True):
    """An operation with its end; without one it is `unknown` and never ends."""

    invoke: Invoke
    end: End

    @property
    def n(self) -> int:
        """Its number."""
        return self.invoke.n

    @property
    def began(self) -> float:
        """When it was sent."""
        return self.invoke.at

    @property
    def ended(self) -> float:
        """When its end was known; infinite where there was none."""
        return self.end.at

    @property
    def is_ok(self) -> bool:
        """Whether it was answered."""
        return isinstance(self.end, Ok)

    @property
    def is_fail(self) -> bool:
        """Whether it certainly did nothing."""
        return isinstance(self.end, Fail)


class History(msgspec.Struct, frozen=True):
    """A whole run."""

    operations: list[Operation]
    faults: list[Fault] = []
    digests: list[Digest] = []
    attached: list[Attached] = []
    notes: list[Note] = []
    elections: list[Elected] = []
    crashes: list[Crashed] = []
    run: Run | None = None


def of_events(events: Iterable[Event]) -> History:
    """Pair invocations with their ends; raises `HistoryError` where they do not fit."""
    invoked: dict[int, Invoke] = {}
    ended: dict[int, End] = {}
    history = History([], [], [], [], [], [], [])
    run: Run | None = None
    for event in events:
        match event:
            case Run():
                run = event
            case Invoke():
                if event.n in invoked:
                    raise HistoryError(f"operation {event.n} is invoked twice")
                invoked[event.n] = event
            case Ok() | Fail() | Unknown():
                if event.n not in invoked or event.n in ended:
                    raise HistoryError(f"operation {event.n} ends twice or without an invocation")
                ended[event.n] = event
            case Fault():
                history.faults.append(event)
            case Digest():
                history.digests.append(event)
            case Attached():
                history.attached.append(event)
            case Crashed():
                history.crashes.append(event)
            case Note():
                history.notes.append(event)
            case Elected():
                history.elections.append(event)
    for n, invoke in sorted(invoked.items()):
        end = ended.get(n) or Unknown(at=math.inf, n=n, code="NO_END")
        history.operations.append(Operation(invoke, end))
    return msgspec.structs.replace(history, run=run)


_decoder = msgspec.json.Decoder(Event)
_encoder = msgspec.json.Encoder()


def read(path: Path) -> History:
    """A saved history; raises `HistoryError` with the line that is none of ours."""
    return of_events(_events(path))


def _events(path: Path) -> Iterator[Event]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield _decoder.decode(line)
                except msgspec.MsgspecError as error:
                    raise HistoryError(f"{path}:{number}: {error}") from error
    except OSError as error:
        raise HistoryError(f"{path}: {error.strerror}") from error


class Recorder:
    """Takes the events of a running run, and writes them to a file as they come."""

    def __init__(self, file: IO[bytes] | None = None) -> None:
        self.events: list[Event] = []
        self._file = file
        self.last = 0

    def next_number(self) -> int:
        """A number for an operation, from 1."""
        self.last += 1
        return self.last

    def add(self, event: Event) -> None:
        """Note an event."""
        self.events.append(event)
        if self._file is not None:
            self._file.write(_encoder.encode(event) + b"\n")

    def history(self) -> History:
        """All of it so far, paired."""
        return of_events(self.events)
