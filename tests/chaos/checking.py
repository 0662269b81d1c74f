"""The judge: what a history shows that must not be. Pure functions, no clock, no I/O.

    lost         acknowledged, and at the end some peer does not have it
    resurrected  forgotten, and at the end some peer shows it
    phantom      read, but never written, refused for certain, or written later than it was read
    partial      one write of which only a part is seen
    stale        an answer without a tag that lacks what was acknowledged before it was asked for
    divergent    after the healing, two peers do not have the same
    doubled      one write with two effects or two answers; two winners of one condition
    crashed      a process, or a request of it, failed by a fault inside memsync

What cannot be judged is counted in `unjudged`; what keeps the whole run from being judged is in
`cannot`. Neither is a pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise

import msgspec

from tests.chaos import attached
from tests.chaos.history import NOTHING, READS, History, Operation, Seen
from tests.chaos.keys import accepted_though_revoked
from tests.chaos.records import (
    BEHIND,
    FINAL,
    FRESH,
    LOCAL,
    Name,
    Record,
    Records,
    Write,
    is_older,
    of_operations,
)

KINDS = ("lost", "resurrected", "phantom", "partial", "stale", "divergent", "doubled", "crashed")
EACH_COUNTS = ("stale", "crashed")
EXCUSES = frozenset({"replication", "search", "cache"})  # tags of an answer that may be old
STORE = "store"  # in the names of faults that set a peer's store back
ACKNOWLEDGED_MIN = 20
ANSWERED_MIN = 20


class Anomaly(msgspec.Struct, frozen=True):
    """One thing that must not be, with the operations that show it."""

    kind: str
    user: str
    ref: str
    detail: str
    operations: list[int] = []


class Verdict(msgspec.Struct, frozen=True):
    """What was found. `judged` counts what was looked at, `unjudged` what could not be."""

    anomalies: list[Anomaly] = []
    judged: Counter[str] = msgspec.field(default_factory=Counter)
    unjudged: Counter[str] = msgspec.field(default_factory=Counter)
    cannot: list[str] = []

    def counts(self) -> dict[str, int]:
        """Kind -> how many, zeros included."""
        found = Counter(one.kind for one in self.anomalies)
        return {kind: found[kind] for kind in KINDS}


def judge(history: History, *, acknowledged_min: int = ACKNOWLEDGED_MIN) -> Verdict:
    """All checks over a history. One record at fault is told once for each kind, but for stale
    answers and crashes, of which each counts."""
    verdict = Verdict([], Counter(), Counter(), [])
    history = _without_unready(history, verdict)
    records = of_operations(
        history.operations,
        is_log_lost=attached.is_log_lost(history),
        is_set_back=any(STORE in fault.kind for fault in history.faults),
    )
    found: list[Anomaly] = []
    for operation in history.operations:
        if operation.invoke.op in READS and operation.is_ok:
            found += _judge_read(operation, records, verdict)
        elif _found_nothing(operation):
            found += _judge_absence(operation, operation.invoke.refs[0], records, verdict)
    found += _judge_keys(history, verdict)
    found += _judge_attached(history, verdict)
    found += _judge_answers(records, verdict)
    found += _judge_counters(history, records)
    found += _judge_peers(history, verdict)
    found += [Anomaly("crashed", "", one.process, one.line) for one in history.crashes]
    _tell_once(found, verdict.anomalies)
    _count_unsettled(records, verdict, is_log_lost=attached.is_log_lost(history))
    verdict.cannot.extend(_why_not(history, records, acknowledged_min))
    return verdict


def _without_unready(history: History, verdict: Verdict) -> History:
    """Without the last states of peers that did not come back: they say so themselves, and the
    others have what they lack. Such a run is no pass: its note is blocking."""
    unready = {name for note in history.notes for name in note.unready}
    kept = [one for one in history.operations if (one.invoke.final or ("",))[0] not in unready]
    if left := len(history.operations) - len(kept):
        verdict.unjudged["last reads of peers that were not ready"] += left
    digests = [one for one in history.digests if one.peer not in unready]
    held = [one for one in history.attached if one.peer not in unready]
    return msgspec.structs.replace(history, operations=kept, digests=digests, attached=held)


def _tell_once(found: list[Anomaly], into: list[Anomaly]) -> None:
    told: set[tuple[str, str, str]] = set()
    for one in found:
        key = (one.kind, one.user, one.ref)
        if one.kind in EACH_COUNTS or key not in told:
            told.add(key)
            into.append(one)


def _found_nothing(operation: Operation) -> bool:
    """Whether a write was refused because its record is not there: it has read that."""
    is_change = operation.invoke.op in ("update", "swap", "feedback")
    return (is_change and operation.end.status == 404) or operation.end.code == NOTHING


class _Reader:
    """What one read must know of a record, and how a failing is called. One that is excused must
    know what every member was told to have, unless it may be of a gateway's, or of a store that was
    set back since."""

    def __init__(self, read: Operation, records: Records) -> None:
        self.read = read
        self.is_final = read.invoke.final is not None
        is_local = read.invoke.consistency == LOCAL
        self.is_excused = not self.is_final and (is_local or bool(EXCUSES & set(read.end.tags)))
        self._kind = FINAL if self.is_final else BEHIND if self.is_excused else FRESH
        is_of_a_store = read.invoke.op in ("get", "list") and not records.is_set_back
        self.at = read.began if not self.is_excused or is_of_a_store else float("-inf")
        # The writes that the named positions are of, and those that the named reads showed. A
        # recall says by its tag that it did not wait for the position.
        is_waiting = read.invoke.op != "recall" or not EXCUSES & set(read.end.tags)
        self._after = set(_writes_behind(read, records)) if is_waiting else set()

    def floor(self, record: Record) -> Write | None:
        """The newest change that it must know."""
        known = self._named(record.changes)
        if (floor := record.floor(self.at, self._kind)) is not None:
            known.append(floor)
        return max(known, key=lambda write: write.began, default=None)

    def knows_create(self, record: Record) -> bool:
        """Whether it must know that the record exists."""
        return record.is_created(self.at, self._kind) or bool(self._named(record.creates))

    def knows_forget(self, record: Record) -> bool:
        """Whether it must know that the record is forgotten."""
        return record.is_forgotten(self.at, self._kind) or bool(self._named(record.forgets))

    def anomaly(self, kind: str, ref: str, detail: str, *writes: Write) -> Anomaly:
        """Something wrong with this read. What a finished run shows is not stale, but lost."""
        if self.read.invoke.final is not None:
            detail = f"{':'.join(self.read.invoke.final)}: {detail}"
        numbers = [self.read.n, *(write.n for write in writes)]
        return Anomaly(kind, self.read.invoke.user, ref, detail, numbers)

    def _named(self, writes: list[Write]) -> list[Write]:
        return [write for write in writes if write.n in self._after] if self._after else []


def _writes_behind(read: Operation, records: Records) -> Iterator[int]:
    for n in read.invoke.after:
        if (write := records.by_number.get(n)) is not None:
            yield write.n
        elif (earlier := records.reads.get(n)) is not None:
            for seen in earlier.end.seen:
                record = records.by_name.get((earlier.invoke.user, seen.ref), Record())
                for value in (seen.made, seen.value):
                    if (shown := record.writers.get(value)) is not None:
                        yield shown.n


def _judge_read(read: Operation, records: Records, verdict: Verdict) -> Iterator[Anomaly]:
    reader, user = _Reader(read, records), read.invoke.user
    verdict.judged["final reads" if reader.is_final else "reads"] += 1
    if reader.is_excused:
        verdict.unjudged["answers that may be old, not judged for staleness"] += 1
    shown = Counter(seen.ref for seen in read.end.seen)
    for seen in read.end.seen:
        record = records.by_name.get((user, seen.ref))
        if record is None:
            yield reader.anomaly("phantom", seen.ref, "a memory that nobody wrote")
        else:
            yield from _judge_seen(reader, record, seen)
    for ref, count in shown.items():
        if count > 1:
            yield reader.anomaly("doubled", ref, f"shown {count} times in one answer")
    expected = records.of_user.get(user, []) if read.end.is_whole else read.invoke.refs
    for ref in expected:
        if ref not in shown:
            yield from _judge_absence(read, ref, records, verdict)
    if read.end.is_whole:
        yield from _judge_bulks(reader, set(shown), records, verdict)


def _judge_seen(reader: _Reader, record: Record, seen: Seen) -> Iterator[Anomaly]:
    """One memory that a read shows."""
    made, writer = record.writers.get(seen.made), record.writers.get(seen.value)
    if seen.value != seen.side:
        detail = f"one write, two fields: {seen.value!r} and {seen.side!r}"
        yield reader.anomaly("partial", seen.ref, detail)
    for write, value in ((made, seen.made), (writer, seen.value)):
        if write is None:
            yield reader.anomaly("phantom", seen.ref, f"nobody wrote {value!r}")
        elif not write.is_possible:
            detail = f"{write.op} {write.n} was refused for certain and is seen"
            yield reader.anomaly("phantom", seen.ref, detail, write)
        elif write.began > reader.read.ended:
            yield reader.anomaly("phantom", seen.ref, "seen before it was written", write)
    if reader.knows_forget(record):
        kind = "resurrected" if reader.is_final else "stale"
        yield reader.anomaly(kind, seen.ref, "forgotten and acknowledged, and shown")
    floor = reader.floor(record)
    if writer is not None and floor is not None and is_older(writer, floor):
        yield _beaten(reader, seen, writer, floor)


def _beaten(reader: _Reader, seen: Seen, writer: Write, floor: Write) -> Anomaly:
    """The value is older than one that was acknowledged."""
    detail = f"shows {writer.op} {writer.n}, but {floor.op} {floor.n} was acknowledged after it"
    came_again = any(one.ended > floor.began for one in writer.attempts)
    if writer.op not in ("add", "bulk") and came_again:
        again = f"{detail}; it was repeated later and took effect again"
        return reader.anomaly("doubled", seen.ref, again, writer, floor)
    return reader.anomaly("lost" if reader.is_final else "stale", seen.ref, detail, writer, floor)


def _judge_absence(
    read: Operation, ref: str, records: Records, verdict: Verdict
) -> Iterator[Anomaly]:
    """A record that an answer lacks, or that a write did not find."""
    reader, record = _Reader(read, records), records.by_name.get((read.invoke.user, ref))
    if record is None:
        return
    is_known = reader.knows_create(record)
    if not is_known and not any(write.is_ok for write in record.creates):
        if any(write.is_possible for write in record.creates):
            verdict.unjudged["absences of records whose create is unknown"] += 1
        return
    if is_known and not record.may_be_forgotten(read.ended):
        detail = "acknowledged, and not there"
        if read.invoke.op not in READS:
            detail = f"acknowledged, and not found by {read.invoke.op} {read.n}"
        yield reader.anomaly("lost" if reader.is_final else "stale", ref, detail, *record.creates)


def _judge_bulks(
    reader: _Reader, shown: set[str], records: Records, verdict: Verdict
) -> Iterator[Anomaly]:
    """Of a bulk, a list shows all or nothing."""
    bulks = {
        write.n: write
        for ref in records.of_user.get(reader.read.invoke.user, [])
        for write in records.by_name[reader.read.invoke.user, ref].creates
        if len(write.refs) > 1
    }
    for write in bulks.values():
        names: list[Name] = [(write.user, ref) for ref in write.refs]
        if any(records.by_name[name].forgets for name in names):
            verdict.unjudged["bulks of which something was forgotten"] += 1
            continue
        count = sum(ref in shown for ref in write.refs)
        if 0 < count < len(names):
            detail = f"{count} of {len(names)} items of bulk {write.n}"
            yield reader.anomaly("partial", write.refs[0], detail, write)


def _judge_keys(history: History, verdict: Verdict) -> Iterator[Anomaly]:
    uses = [one for one in history.operations if one.invoke.op == "use"]
    verdict.judged["reads by keys"] += len(uses)
    for end, use in accepted_though_revoked(history.operations, EXCUSES):
        detail = f"a key was accepted that was revoked {use.began - end.ended:.3f} s before"
        yield Anomaly("stale", "", use.invoke.refs[0], detail, [end.n, use.n])


def _judge_attached(history: History, verdict: Verdict) -> Iterator[Anomaly]:
    writes = attached.writes_of(history)
    verdict.judged["signals and relations"] += len(writes)
    if unknown := sum(write.is_possible and not write.is_ok for write in writes):
        verdict.unjudged["signals and relations whose outcome stayed unknown"] += unknown
    for kind, value, detail, write in attached.wrong(history):
        numbers = [] if write is None else [one.n for one in write.attempts]
        yield Anomaly(kind, "" if write is None else write.user, value, detail, numbers)


def _judge_answers(records: Records, verdict: Verdict) -> Iterator[Anomaly]:
    """One answer to each write, however often it is repeated with its `Idempotency-Key`, and one
    memory behind each id. (Of a `client_ref` that several took at once a repeat may be answered
    with another id of the same record; that all of them resolve is seen at the end.)"""
    owners: dict[tuple[str, int], str] = {}
    for write in records.writes:
        verdict.judged["writes"] += 1
        answers = [one for one in write.attempts if one.is_ok and one.end.ids]
        for earlier, later in pairwise(answers):
            has_key = bool(later.invoke.key)
            if has_key and later.began > earlier.ended and later.end.ids != earlier.end.ids:
                detail = f"{write.op}: answered {earlier.end.ids}, repeated {later.end.ids}"
                numbers = [earlier.n, later.n]
                yield Anomaly("doubled", write.user, write.refs[0], detail, numbers)
        if write.op not in ("add", "bulk"):
            continue
        for one in answers:
            for ref, identifier in zip(write.refs, one.end.ids, strict=False):
                owner = owners.setdefault((write.user, identifier), ref)
                if owner != ref:
                    detail = f"id {identifier} was answered for {owner} and for {ref}"
                    yield Anomaly("doubled", write.user, ref, detail, [one.n])


def _judge_counters(history: History, records: Records) -> Iterator[Anomaly]:
    """Of all who saw one version, one wins; and the end shows as many steps as were won."""
    for (user, ref), record in records.by_name.items():
        swaps = [write for write in record.changes if write.op == "swap" and write.is_ok]
        for count, winners in Counter(write.count for write in swaps).items():
            if winners > 1:
                numbers = [write.n for write in swaps if write.count == count]
                detail = f"{winners} conditional updates to {count} were acknowledged"
                yield Anomaly("doubled", user, ref, detail, numbers)
    for read in history.operations:
        if read.invoke.final is None or not read.is_ok:
            continue
        for seen in read.end.seen:
            if seen.count >= 0:
                yield from _judge_count(read, seen, records)


def _judge_count(read: Operation, seen: Seen, records: Records) -> Iterator[Anomaly]:
    record = records.by_name.get((read.invoke.user, seen.ref))
    swaps = [write for write in record.changes if write.op == "swap"] if record else []
    won = sum(write.ended < read.began for write in swaps)
    possible = sum(write.is_possible and write.began < read.ended for write in swaps)
    if not won <= seen.count <= possible:
        kind = "lost" if seen.count < won else "doubled"
        detail = f"counts {seen.count}; {won} steps were acknowledged, {possible} are possible"
        yield Anomaly(kind, read.invoke.user, seen.ref, detail, [read.n])


def _judge_peers(history: History, verdict: Verdict) -> Iterator[Anomaly]:
    """After the healing all peers show the same, by every id, and their stores have equal sums."""
    shown: dict[tuple[str, str], dict[str, dict[str, Seen]]] = {}
    for read in history.operations:
        if read.invoke.final is None or not read.is_ok:
            continue
        peer, phase = read.invoke.final
        rows = shown.setdefault((phase, read.invoke.user), {}).setdefault(peer, {})
        for seen in read.end.seen:
            other = rows.setdefault(seen.ref, seen)
            if (other.made, other.version) != (seen.made, seen.version):
                detail = f"{peer}: ids {other.id} and {seen.id} show two memories"
                yield Anomaly("doubled", read.invoke.user, seen.ref, detail, [read.n])
    for (phase, user), peers in shown.items():
        verdict.judged["comparisons of peers"] += 1
        yield from _compare(phase, user, peers)
    yield from _compare_digests(history, verdict)


def _compare(phase: str, user: str, peers: Mapping[str, dict[str, Seen]]) -> Iterator[Anomaly]:
    names = sorted(peers)
    for ref in sorted({ref for rows in peers.values() for ref in rows}):
        states = {peer: _state(peers[peer].get(ref)) for peer in names}
        if len(set(states.values())) > 1:
            said = ", ".join(f"{peer} {state}" for peer, state in states.items())
            yield Anomaly("divergent", user, ref, f"{phase}: {said}")


def _state(seen: Seen | None) -> str:
    return "nothing" if seen is None else f"{seen.made}/{seen.value}/{seen.count}/{seen.version}"


def _compare_digests(history: History, verdict: Verdict) -> Iterator[Anomaly]:
    readable = [digest for digest in history.digests if not digest.problem]
    for digest in history.digests:
        if digest.damaged:
            detail = f"{digest.damaged} rows without the hash that is stored with them"
            yield Anomaly("divergent", "", digest.peer, detail)
    for one, other in pairwise(readable):
        if one.positions != other.positions:
            verdict.unjudged["pairs of stores at different positions"] += 1
            continue
        verdict.judged["pairs of stores"] += 1
        if one.sums != other.sums:
            buckets = sorted(
                bucket
                for bucket in {*one.sums, *other.sums}
                if one.sums.get(bucket, 0) != other.sums.get(bucket, 0)
            )
            detail = f"{one.peer} and {other.peer}: equal positions, unequal sums of {len(buckets)}"
            yield Anomaly("divergent", "", f"{one.peer}, {other.peer}", f"{detail} buckets")


def _count_unsettled(records: Records, verdict: Verdict, *, is_log_lost: bool) -> None:
    for write in records.writes:
        if write.is_ok and not write.is_kept(is_log_lost=is_log_lost):
            verdict.unjudged["writes to the log only, of which a stream was deleted"] += 1
        if write.is_possible and not write.is_ok:
            verdict.unjudged["writes whose outcome stayed unknown"] += 1


def _why_not(history: History, records: Records, acknowledged_min: int) -> Iterator[str]:
    """What keeps a run from being judged as a whole."""
    acknowledged = sum(write.is_ok for write in records.writes)
    answered = sum(
        one.is_ok for one in history.operations if one.invoke.op in READS and not one.invoke.final
    )
    if acknowledged < acknowledged_min:
        yield f"only {acknowledged} writes were acknowledged, {acknowledged_min} are needed"
    if answered < min(ANSWERED_MIN, acknowledged_min):
        yield f"only {answered} reads were answered"
    for digest in history.digests:
        if digest.problem:
            yield f"the store could not be read at the end: {digest.problem}"
    for fault in history.faults:
        if fault.without_effect:
            yield f"{fault.kind} at {fault.began:.0f} s had no effect: {fault.without_effect}"
    for peer in attached.unread(history):
        yield f"{peer}: what is attached to its memories was not read"
    yield from (note.text for note in history.notes if note.is_blocking)
    users = {write.user for write in records.writes if write.is_ok}
    unready = {name for note in history.notes for name in note.unready}
    for peer in history.run.peers if history.run else ():
        if peer in unready:
            continue
        read = {
            one.invoke.user
            for one in history.operations
            if one.is_ok and one.end.is_whole and (one.invoke.final or ("",))[0] == peer
        }
        if missing := users - read:
            yield f"{peer}: the last state of {len(missing)} of {len(users)} users was not read"
