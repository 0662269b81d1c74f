"""Looking for damage in the log before anybody needs what is damaged.

A server whose block file lost a part serves the rest as if nothing were missing, and says that it
is well (measured, jetstream.md). The others still have everything, so writes are safe and nothing
stops; but one more such server may be one too many. So each peer, in turns,

- asks every server how many messages are missing within its copy of each stripe (none ever may);
- reads a part of the newest messages back, from whichever server answers: their sequences must be
  continuous, and each must be a frame;
- sees that no stream ends before what was applied from it.

What it finds is an alarm: in the log of this process, in metrics and in readiness (as "ok: ...").
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Sequence

from memsync import limits
from memsync.engine import metrics
from memsync.engine.cell.members import Members
from memsync.engine.progress import Progress
from memsync.engine.streams.ownership import OwnedLog, Ownership
from memsync.engine.streams.stripes import Stripes
from memsync.errors import InvariantBroken, Unavailable
from memsync.ids import Position
from memsync.ports import Servers, StripeCopy, StripeState
from memsync.tasks import is_going_on, pause
from memsync.telemetry import describe, logger
from memsync.wire import codec
from memsync.wire.operations import RawMessage, frame_id

REMEDY = (
    "stop that server, move its store_dir aside and start it again: it fetches everything from the "
    "others. One at a time"
)
CLEAN_ROUNDS = 9  # in a row, since one server in three answers
UNKNOWN_SERVER = "one"  # which server answers a read is not told


class LogScrub:
    """The loop. `findings` has what was found, by where; what is mended goes at the next look."""

    def __init__(
        self,
        servers: Servers,
        log: OwnedLog,
        ownership: Ownership,
        *,
        members: Members,
        progress: Progress,
        stripes: Stripes,
        void: Collection[Position],
    ) -> None:
        self._servers = servers
        self._log = log
        self._ownership = ownership
        self._members = members
        self._progress = progress
        self._stripes = stripes
        self._void = frozenset(void)
        self._cursors: dict[int, int] = {}
        self._clean_rounds: dict[int, int] = {}
        self.findings: dict[str, str] = {}

    async def run(self) -> None:
        """Look at one stripe after the other, at the servers once in a round, until cancelled. The
        members begin at different times."""
        names = self._members.names
        turn = names.index(self._members.name) if self._members.name in names else 0
        await pause(limits.LOG_SCRUB_S * (1 + turn / max(1, len(names))))
        while is_going_on():
            for stripe in range(limits.STRIPES):
                await self._try(self.read_back(stripe))
                await pause(limits.LOG_SCRUB_S)
            await self._try(self.ask_servers())

    def verdict(self) -> str:
        """For readiness: writes are as safe as before, so nothing fails."""
        said = "; ".join(why for _, why in sorted(self.findings.items()))
        return f"ok: {said}" if said else "ok"

    async def _try(self, look: Awaitable[None]) -> None:
        try:
            await look
        except Unavailable as error:
            logger().info("log.not_scrubbed", **describe(error))

    async def ask_servers(self) -> None:
        """See what is missing within the copies."""
        copies = await self._servers.copies()
        damaged: dict[str, list[StripeCopy]] = {}
        for copy in copies:
            damaged.setdefault(copy.server, [])
            if copy.deleted:
                damaged[copy.server].append(copy)
        for server, found in damaged.items():
            metrics.LOG_DAMAGE.labels(server).set(sum(copy.deleted for copy in found))
            missing = ", ".join(f"{copy.deleted} of stripe {copy.stripe}" for copy in found)
            self._note(
                f"server {server}",
                f"{server} lacks messages within its copy of the log ({missing}): {REMEDY}"
                if found
                else None,
            )

    async def read_back(self, stripe: int) -> None:
        """Read the next part of a stripe's newest messages from whichever server answers."""
        known = self._stripes.states.get(stripe)
        if known is None:
            return
        applied = self._progress.end_of(stripe)
        state = await self._ownership.state(stripe, known.generation)
        self._note_end(state, applied)
        oldest = max(state.first_sequence, state.last_sequence - limits.LOG_SCRUB_NEWEST, 1)
        start = self._cursors.get(stripe, oldest)
        if not oldest <= start <= state.last_sequence:
            start = oldest
        found = await self._log.fetch(Position(stripe, known.generation, start))
        wrong = misfits(found, start, self._void)
        if found:
            self._cursors[stripe] = found[-1].position.sequence + 1
        else:
            self._cursors[stripe] = start + limits.FETCH_BATCH_MESSAGES
            # One that is a little behind has nothing yet; one that is this far behind lost it.
            wrong += [start] if self._cursors[stripe] <= state.last_sequence else []
        if wrong:  # what was trimmed meanwhile is not missing
            first = (await self._ownership.state(stripe, known.generation)).first_sequence
            wrong = [sequence for sequence in wrong if sequence >= first]
        if wrong:
            self._clean_rounds[stripe] = 0
            self._note_misfits(stripe, wrong)
        elif self._cursors[stripe] > state.last_sequence:
            self._clean_rounds[stripe] = self._clean_rounds.get(stripe, 0) + 1
            if self._clean_rounds[stripe] >= CLEAN_ROUNDS:
                self._note_misfits(stripe, [])

    def _note_end(self, state: StripeState, applied: Position | None) -> None:
        is_short = (
            state.leader is not None
            and applied is not None
            and applied.generation == state.generation
            and applied.sequence > state.last_sequence
        )
        self._note(
            f"end of stripe {state.stripe}",
            f"stripe {state.stripe} ends at {state.last_sequence}, before what was applied from "
            "it: its servers lost what they had acknowledged. Stop writes, and have a person look"
            if is_short
            else None,
        )

    def _note_misfits(self, stripe: int, wrong: Sequence[int]) -> None:
        metrics.LOG_DAMAGE.labels(f"{UNKNOWN_SERVER}-{stripe}").set(len(wrong))
        self._note(
            f"stripe {stripe}",
            f"{UNKNOWN_SERVER} of the servers gives stripe {stripe} with holes or unreadable "
            f"({len(wrong)} messages from {wrong[0]} on). Its own count may say which "
            f"(num_deleted in /jsz); if none does, read each alone. Then {REMEDY}"
            if wrong
            else None,
        )

    def _note(self, place: str, why: str | None) -> None:
        if why is None:
            if self.findings.pop(place, None) is not None:
                logger().info("log.mended", place=place)
        else:
            if place not in self.findings:
                logger().error("log.damaged", place=place, reason=why)
            self.findings[place] = why


def misfits(found: Sequence[RawMessage], start: int, void: Collection[Position]) -> list[int]:
    """The sequences that an answer leaves out between `start` and its end, and those in it that are
    not what they were published as."""
    wrong: list[int] = []
    expected = start
    for message in found:
        wrong += range(expected, message.position.sequence)
        expected = message.position.sequence + 1
        if message.position not in void and not _is_whole(message):
            wrong.append(message.position.sequence)
    return wrong


def _is_whole(message: RawMessage) -> bool:
    try:
        frame = codec.decode_frame(message.data)
    except InvariantBroken:
        return False
    return frame.incarnation == 0 or frame_id(frame) == message.message_id
