"""Knowing that this store has all that was acknowledged: by a lease, or by asking on the spot.

`core/lease.py` says why that is so. Here the questions are asked and answered:

- For a lease, with each watermark to all, as long as this peer keeps up; the next watermark of each
  who hears it is its answer. So leases cost no message. A peer that could not apply the answers in
  time waits before it asks again, longer each time: whoever is named in watermarks and does not
  keep up would delay everybody's writes. One that stood still, as may happen once, asks at once.
- On the spot, for a caller, where there is no lease. That grants nothing and delays nobody. Callers
  share a question, but only one that is sent after they came.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import deque
from collections.abc import Callable
from typing import Literal

from memsync import limits
from memsync.clock import Clock
from memsync.core.lease import Lease, Survey, first_question
from memsync.engine import metrics
from memsync.engine.cell.members import Members
from memsync.engine.progress import Progress
from memsync.errors import Unavailable
from memsync.ports import Marks
from memsync.tasks import is_going_on, pause
from memsync.telemetry import logger
from memsync.wire import codec
from memsync.wire.members import Answer, Question, Release, Told, Watermark

Freshness = Literal["fresh", "behind", "alone"]
LAG_PAUSE_S_FIRST = 1.0
LAG_PAUSE_S_MAX = 30.0
STALL_S = 0.3  # between two looks, a watermark to all apart: this process stood still
STALLS_APART_S = 10.0  # who stands still more often than that does not keep up
ALONE_S = 0.5  # how long an unanswered question is taken for the answer to the next ones
ANSWERS_QUEUED_MAX = 64
SURVEYS_KEPT = 8


class Leases:
    """This peer's lease, its questions, and its answers to others. `why_not` says what keeps this
    store from being complete, whatever its positions are."""

    def __init__(
        self,
        members: Members,
        progress: Progress,
        marks: Marks,
        clock: Clock,
        why_not: Callable[[], str | None],
    ) -> None:
        self._members = members
        self._progress = progress
        self._marks = marks
        self._clock = clock
        self._why_not = why_not
        self._lease = Lease()
        self._tokens = itertools.count(first_question(secrets.randbits(30) + 1))
        self._surveys: dict[int, Survey] = {}  # on the spot, by token
        self._asked: dict[int, Survey] = {}  # for a lease, by question; the oldest first
        self._asked_s = float("-inf")
        self._last_question = 0
        self._looked_s = float("-inf")  # for what has become of the questions,
        self._stalled_s = float("-inf")  # and when it was seen that this process had stood still
        self._callers: list[asyncio.Future[Survey | None]] = []
        self._called = asyncio.Event()
        self._answers: deque[tuple[str, bytes]] = deque(maxlen=ANSWERS_QUEUED_MAX)
        self._has_answers = asyncio.Event()
        self._alone_until_s = float("-inf")
        self._lag_pause_s = LAG_PAUSE_S_FIRST
        self._ask_again_s = float("-inf")
        self._is_late = False  # that is why it waits
        self._is_released = False
        members.ask = self._ask
        members.listeners.append(self._hear)
        progress.listeners.append(self._take_lease)

    def is_fresh(self) -> bool:
        """Whether this store has, at this moment, every write that was acknowledged."""
        if self._why_not() is not None:
            return False
        if self._members.is_only_one():
            return self._progress.has_reached_start()
        return self._lease.is_held(self._clock.steady_s())

    async def wait_fresh(self, deadline_s: float) -> Freshness:
        """`fresh` once this store has every write that was acknowledged before the call. `alone`
        where no majority answers, `behind` where this peer does not get there by `deadline_s`
        (steady clock)."""
        if self.is_fresh():
            return "fresh"
        if self._why_not() is not None or self._members.is_only_one():
            return "behind"
        now_s = self._clock.steady_s()
        if now_s < self._alone_until_s and not self._members.has_majority():
            return "alone"
        survey = await self._ask_on_the_spot(deadline_s)
        if survey is None:
            return "alone"
        has_all = await self._progress.wait_until(lambda: self._is_satisfied(survey), deadline_s)
        return "fresh" if has_all and self._is_complete() else "behind"

    async def _ask_on_the_spot(self, deadline_s: float) -> Survey | None:
        future: asyncio.Future[Survey | None] = asyncio.get_running_loop().create_future()
        self._callers.append(future)
        self._called.set()
        try:
            async with asyncio.timeout(max(0.0, deadline_s - self._clock.steady_s())):
                return await future
        except TimeoutError:
            return None

    def _is_satisfied(self, survey: Survey) -> bool:
        members = self._members
        return (
            survey.membership == members.membership.version  # else it was a majority of others
            and survey.is_satisfied(members.names, members.name, self._progress.by_place())
        )

    def _is_complete(self) -> bool:
        return self._progress.has_reached_start() and self._why_not() is None

    def why_none(self) -> str | None:
        """Why this peer asks for no lease at the moment, though nothing else is in its way."""
        left_s = self._ask_again_s - self._clock.steady_s()
        if left_s <= 0 or not self._is_late:
            return None
        return (
            "this peer does not keep up with the others, who therefore do not wait for it: its "
            f"disk or its processor is slow; it asks for a lease again in {left_s:.0f} s"
        )

    async def release(self) -> None:
        """Give the lease up for good, and tell the others: before this process ends."""
        self._is_released = True
        self._lease.give_up()
        metrics.LEASE_HELD.set(0)
        try:
            await self._marks.tell(
                codec.pack(Release(self._members.name, self._members.cell, self._last_question))
            )
        except Unavailable:
            pass  # then it runs out by itself

    async def run(self) -> None:
        """Ask and answer until cancelled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._learn_start(), name="start")
            loops.create_task(self._ask_for_callers(), name="questions")
            loops.create_task(self._send_answers(), name="answers")

    async def _learn_start(self) -> None:
        """Ask what must be applied here before others are answered: if all of them say."""
        while is_going_on() and not self._progress.has_reached_start():
            if not self._members.is_only_one():
                survey = await self._survey()
                others = {*self._members.names} - {self._members.name}
                if survey is not None and others <= survey.answers.keys():
                    self._progress.note_start_of_others(survey.furthest())
            await pause(limits.WATERMARK_S)

    # For a lease.

    def _ask(self) -> int:
        """The question that goes with the next watermark to all; 0 where none may."""
        metrics.LEASE_HELD.set(self.is_fresh())
        now_s = self._clock.steady_s()
        self._note_stall(now_s)
        oldest = next(iter(self._asked.values()), None)
        if oldest is not None and now_s >= oldest.sent_s + limits.LEASE_S:
            self._wait_before_asking(now_s)
        if now_s < self._asked_s + limits.WATERMARK_S or not self._may_ask():
            return 0
        self._asked_s = now_s
        survey = self._new_survey()
        self._asked[survey.token] = survey
        self._last_question = survey.token
        return survey.token

    def _note_stall(self, now_s: float) -> None:
        stood_still = self._asked and now_s - self._looked_s > STALL_S
        if stood_still and now_s - self._stalled_s >= STALLS_APART_S:
            self._stalled_s = now_s
        self._looked_s = now_s

    def _may_ask(self) -> bool:
        return (
            not self._is_released
            and self._why_not() is None
            and self._members.is_member()
            and not self._members.is_only_one()
            and self._progress.has_reached_start()
            and self._clock.steady_s() >= self._ask_again_s
        )

    def _take_lease(self) -> None:
        """Hold the lease that was asked for last, of those whose answers are all applied here. One
        that is over by now is of no use: it is left to `_wait_before_asking`."""
        now_s = self._clock.steady_s()
        satisfied = [
            token
            for token, survey in self._asked.items()
            if now_s < survey.sent_s + limits.LEASE_S and self._is_satisfied(survey)
        ]
        if not satisfied:
            return
        if self._lease.is_held(now_s):
            self._lag_pause_s = LAG_PAUSE_S_FIRST
        if not self._is_released and self._is_complete():
            self._lease.hold(self._asked[satisfied[-1]].sent_s)
        self._asked = {t: s for t, s in self._asked.items() if t > satisfied[-1]}

    def _wait_before_asking(self, now_s: float) -> None:
        """What was asked for is over, and this peer does not hold it: too few answered, or it could
        not apply in time what they said. What it asked before it stood still shows neither."""
        members, current = self._members, self._members.membership.version
        asked = [
            survey
            for survey in self._asked.values()
            if survey.membership == current and survey.sent_s >= self._stalled_s
        ]
        self._asked.clear()
        if not asked:
            return  # the members of now were not asked yet, or not since this process goes on
        if not any(survey.has_majority(members.names, members.name) for survey in asked):
            # Those who did hear it name this peer: for about half of the time.
            self._is_late = False
            self._ask_again_s = now_s + limits.LEASE_S + 2 * limits.GRANT_S
            metrics.QUESTIONS_UNANSWERED.inc()
            return
        self._is_late, self._ask_again_s = True, now_s + self._lag_pause_s
        logger().warning("lease.lost_by_lag", pause_s=self._lag_pause_s)
        metrics.LEASES_LOST.inc()
        self._lag_pause_s = min(LAG_PAUSE_S_MAX, 2 * self._lag_pause_s)

    # On the spot.

    async def _ask_for_callers(self) -> None:
        """One question at a time, for all who came before it was sent."""
        while is_going_on():
            await self._called.wait()
            self._called.clear()
            callers, self._callers = self._callers, []
            survey = await self._survey()
            if survey is None:
                self._alone_until_s = self._clock.steady_s() + ALONE_S
            for caller in callers:
                if not caller.done():
                    caller.set_result(survey)

    def _new_survey(self) -> Survey:
        version = self._members.membership.version
        return Survey(next(self._tokens), self._clock.steady_s(), version)

    async def _survey(self) -> Survey | None:
        """Ask all members; None where no majority answers within `QUESTION_TIMEOUT_S`. Answers
        that come later are still taken in."""
        survey = self._new_survey()
        self._surveys[survey.token] = survey
        while len(self._surveys) > SURVEYS_KEPT:
            del self._surveys[next(iter(self._surveys))]
        members = self._members
        try:
            await self._marks.tell(codec.pack(Question(members.name, members.cell, survey.token)))
        except Unavailable:
            return None
        has_majority = await self._progress.wait_until(
            lambda: survey.has_majority(members.names, members.name),
            survey.sent_s + limits.QUESTION_TIMEOUT_S,
        )
        if not has_majority:
            metrics.QUESTIONS_UNANSWERED.inc()
        return survey if has_majority else None

    async def _send_answers(self) -> None:
        while is_going_on():
            await self._has_answers.wait()
            self._has_answers.clear()
            while self._answers:
                asker, answer = self._answers.popleft()
                try:
                    await self._marks.tell(answer, only=asker)
                except Unavailable:
                    self._answers.clear()  # who asked has asked again by the time we could

    def _hear(self, told: Told) -> None:
        match told:
            case Watermark():
                self._hear_watermark(told)
            case Question():
                self._answer(told)
            case Answer(token=token) if token in self._surveys:
                self._surveys[token].hear(told.member, told.positions)
                self._progress.recheck()
            case Release(question=question):
                self._members.grants.drop(told.member, question)
            case _:
                pass  # sums and calls are others' business

    def _hear_watermark(self, mark: Watermark) -> None:
        if mark.question and self._may_answer():
            self._members.grants.give(mark.member, mark.question, self._clock.steady_s())
        survey = self._asked.get(mark.leases.get(self._members.name, 0))
        if survey is not None:
            survey.hear(mark.member, mark.positions)
            self._take_lease()

    def _may_answer(self) -> bool:
        """Whether this store is known to have all that was in the log at the start: the last
        commits may have been lost in a power cut."""
        return self._progress.has_reached_start() and self._members.is_member()

    def _answer(self, question: Question) -> None:
        """Say how far this store is."""
        if not self._may_answer():
            return
        members = self._members
        answer = Answer(members.name, members.cell, question.token, self._progress.ends())
        self._answers.append((question.member, codec.pack(answer)))
        self._has_answers.set()
