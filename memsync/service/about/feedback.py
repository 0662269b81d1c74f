"""memory.feedback: one more signal on a memory, and what it makes of its importance."""

from __future__ import annotations

from collections import Counter

from memsync.core import feedback as signals
from memsync.core.records import Record, stamps_of
from memsync.ports import Answer, StoredOperation
from memsync.service import access, answers, reads, writes
from memsync.service.about.room import check_new, check_room
from memsync.service.parts import Call, Parts
from memsync.service.writes import Draft, Intent
from memsync.wire import codec, replies, requests
from memsync.wire.operations import Attach, ItemOutcome, Signal
from memsync.wire.relations import FeedbackRequest, feedback_problems

TAKEN = "taken"


async def feedback(parts: Parts, call: Call, body: bytes) -> Answer:
    """POST /memory/{id}/feedback."""
    request = answers.decode(body, FeedbackRequest)
    scope = access.scope_of(parts.directory, call, request.end_user_id)
    intent = writes.intent_of(call, scope, request)

    async def execute() -> Answer | StoredOperation:
        requests.check(feedback_problems(request))

        async def look() -> Record:
            return await reads.visible_memory(parts, call, scope, request.memory_id)

        found = await writes.looked(parts, call, intent, look)
        if isinstance(found, StoredOperation):
            return found
        check_new(call, found, signals.SIGNALS)
        return await _take(parts, call, intent, request, found)

    async def replay(outcome: list[ItemOutcome]) -> Answer:
        assert outcome[0].reason is not None
        return Answer(200, {}, outcome[0].reason.encode())

    return await writes.once(parts, call, intent, replay=replay, execute=execute)


async def _take(
    parts: Parts, call: Call, intent: Intent, request: FeedbackRequest, record: Record
) -> Answer:
    comment = None if request.comment is None else codec.seal(request.comment)
    stamp = parts.appender.stamp(above=stamps_of(record))
    signal = Signal(stamp=stamp, signal=request.signal, comment=comment)
    element = codec.pack(signal)
    check_room(record, signals.SIGNALS, element, field="signal")
    answer = answers.answer(_taken(record, signal, request.memory_id))
    by_key: dict[str, bytes] = {call.context.operation_key: element}
    draft = Draft(
        outcome=[ItemOutcome(TAKEN, [request.memory_id], answer.body.decode())],
        operations=[Attach(record.key, record.scope, record.kind, {signals.SIGNALS: by_key})],
        stamp=stamp,
    )
    await writes.publish(parts, call, intent, draft)
    return answer


def _taken(record: Record, signal: Signal, identifier: int) -> replies.FeedbackTaken:
    """What the signal does, as far as this peer knows what others sent before it."""
    course = signals.course_with(record, signal)
    counts = Counter(each.signal for each in [*signals.signals_of(record), signal])
    adjustment = round(course.after - course.before, 6)
    return replies.FeedbackTaken(
        memory_id=identifier,
        signal=signal.signal,
        importance_before=course.before,
        importance_after=course.after,
        adjustment=adjustment,
        influenced_ranking=adjustment != 0,
        summary=replies.FeedbackSummary(
            total_signals=counts.total(),
            signal_counts=dict.fromkeys(signals.STEPS, 0) | counts,
            trend=replies.FeedbackTrend(
                momentum=course.trend.momentum,
                consistency=course.trend.consistency,
                trend_multiplier=course.trend.multiplier,
                recent_count=course.trend.recent_count,
            ),
        ),
    )
