"""What is sent again, beside what, until when, and what it means when nothing comes back."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from memsync import errors
from memsync.client import asking, patience
from memsync.client.answers import Reply
from memsync.client.asking import Asking, Request, Terms
from memsync.wire import context
from tests.fakes.client import GOOD, LOST, NOT_THERE, FakeCluster, refusal, silent, terms

KEY = {context.IDEMPOTENCY_KEY: "k1"}
WRITE = Request("memory.add", KEY, {}, b"{}", is_read=False)
READ = Request("memory.query", {}, {}, b"{}", is_read=True)
UNKNOWN = refusal(errors.OutcomeUnknown("lost it"))
NO_QUORUM = refusal(errors.NoQuorum("1 of 3"))


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long before trying again."""
    monkeypatch.setattr(patience, "BACKOFF_S", 0.001)
    monkeypatch.setattr(patience, "BACKOFF_S_MAX", 0.001)
    monkeypatch.setattr(asking.limits, "ATTEMPT_TIMEOUT_S", 0.02)


async def ask(cluster: FakeCluster, request: Request, **changes: Any) -> Reply:
    """One call over two ways."""
    how = terms(**changes)
    hedges = how.get("hedges", [])
    found = Terms(
        until_s=asyncio.get_running_loop().time() + how["within_s"],
        patience_s=how["patience_s"],
        on_hedge=lambda: hedges.append(1),
        retries=how["retries"],
        has_met=how["has_met"],
    )
    return await Asking(cluster.ways(), request, found).settle()


async def test_a_lost_answer_is_asked_for_again_over_another_way_with_the_same_key() -> None:
    assert not (await ask(FakeCluster(), WRITE)).is_repeat
    cluster = FakeCluster(LOST, NOT_THERE, LOST, GOOD)
    assert (await ask(cluster, WRITE)).is_repeat
    assert cluster.names[:2] == ["one", "two"]
    assert {sent.headers[context.IDEMPOTENCY_KEY] for _, sent in cluster.asked} == {"k1"}


async def test_who_never_answered_is_not_waited_for() -> None:
    for request in (WRITE, READ):
        cluster = FakeCluster(NOT_THERE, GOOD)
        with pytest.raises(errors.NoCluster, match="nobody listens"):
            await ask(cluster, request)
        assert len(cluster.asked) == 1


async def test_who_answered_before_is_waited_for() -> None:
    assert await ask(FakeCluster(NOT_THERE, NOT_THERE, GOOD), READ, has_met=True)
    with pytest.raises(errors.NoCluster, match="nobody listens") as caught:
        await ask(FakeCluster(default=NOT_THERE), WRITE, has_met=True)
    assert caught.value.definite


async def test_a_write_whose_answers_are_lost_is_unknown_and_a_read_is_not() -> None:
    with pytest.raises(errors.OutcomeUnknown, match="connection reset") as caught:
        await ask(FakeCluster(default=LOST), WRITE)
    assert caught.value.details == {"idempotency_key": "k1"}
    with pytest.raises(errors.NoCluster, match="connection reset"):
        await ask(FakeCluster(default=LOST), READ)


@pytest.mark.parametrize("request_", [WRITE, READ])
async def test_what_may_succeed_later_is_tried_again(request_: Request) -> None:
    cluster = FakeCluster(
        NO_QUORUM, refusal(errors.NoStripeLeader("x")), refusal(errors.RateLimited("x")), UNKNOWN
    )
    assert (await ask(cluster, request_)).status == 200
    assert len(cluster.asked) == 5


async def test_a_refusal_that_stays_is_raised_as_it_is_and_definite() -> None:
    cluster = FakeCluster(default=NO_QUORUM)
    with pytest.raises(errors.NoQuorum, match="1 of 3") as caught:
        await ask(cluster, WRITE)
    assert caught.value.definite
    assert len(cluster.asked) == asking.ATTEMPTS_MAX


async def test_an_outcome_is_definite_only_if_every_attempts_was() -> None:
    for first in (UNKNOWN, LOST):
        with pytest.raises(errors.OutcomeUnknown):
            await ask(FakeCluster(first, default=NO_QUORUM), WRITE)
        with pytest.raises(errors.OutcomeUnknown, match="API_KEY_REVOKED"):
            await ask(FakeCluster(first, refusal(errors.ApiKeyRevoked("gone"))), WRITE)
        with pytest.raises(errors.ApiKeyRevoked):
            await ask(FakeCluster(first, refusal(errors.ApiKeyRevoked("gone"))), READ)
    wrong = refusal(errors.ValidationFailed("tags: too many"))
    with pytest.raises(errors.ValidationFailed):  # whoever took the first one said the same
        await ask(FakeCluster(LOST, wrong), WRITE)


@pytest.mark.parametrize(
    "error",
    [errors.NotFound, errors.VersionConflict, errors.ValidationFailed, errors.Forbidden,
     errors.NotBuilt, errors.PayloadTooLarge, errors.KeyReused],
)  # fmt: skip
async def test_what_no_repeat_changes_is_raised_at_once(error: type[errors.MemsyncError]) -> None:
    cluster = FakeCluster(refusal(error("as it is")))
    with pytest.raises(error, match="as it is"):
        await ask(cluster, WRITE)
    assert len(cluster.asked) == 1


async def test_a_fault_of_a_server_is_another_servers_chance_for_reads_only() -> None:
    fault = refusal(errors.Internal("a fault"))
    assert (await ask(FakeCluster(fault), READ)).status == 200
    with pytest.raises(errors.Internal):
        await ask(FakeCluster(fault), WRITE)


async def test_without_retries_a_refusal_is_final_and_a_lost_answer_is_not() -> None:
    for answer, error in ((NO_QUORUM, errors.NoQuorum), (UNKNOWN, errors.OutcomeUnknown)):
        with pytest.raises(error):
            await ask(FakeCluster(answer), WRITE, retries=False)
    assert (await ask(FakeCluster(LOST, LOST), WRITE, retries=False)).status == 200


async def test_a_server_that_says_when_to_come_back_is_obeyed_or_told_of_at_once() -> None:
    soon = refusal(errors.RateLimited("too fast", retry_after_s=0.05))
    started_s = time.monotonic()
    assert (await ask(FakeCluster(soon), WRITE)).status == 200
    assert time.monotonic() - started_s >= 0.05
    late = refusal(errors.RateLimited("too fast", retry_after_s=60.0))
    with pytest.raises(errors.RateLimited):
        await ask(FakeCluster(late), WRITE, within_s=30.0)
    assert time.monotonic() - started_s < 10.0


async def test_a_silent_attempt_is_hedged_and_ends_with_the_call() -> None:
    for request in (WRITE, READ):
        hedges: list[int] = []
        cluster = FakeCluster(silent)
        reply = await ask(cluster, request, hedges=hedges)
        assert (reply.status, reply.is_repeat) == (200, True)
        assert cluster.names == ["one", "two"]
        assert (hedges, cluster.silent_now) == ([1], 0)


async def test_silence_ends_at_the_deadline() -> None:
    cluster = FakeCluster(default=silent)
    with pytest.raises(errors.OutcomeUnknown):
        await ask(cluster, WRITE, within_s=0.1)
    with pytest.raises(errors.NoCluster):
        await ask(cluster, READ, within_s=0.1)
    assert cluster.silent_now == 0
    sent_ms = [float(sent.headers[context.DEADLINE_MS]) for _, sent in cluster.asked]
    assert max(sent_ms) <= 100
    assert sent_ms[1] < sent_ms[0]  # the deadline is one point in time


async def test_a_call_can_be_cancelled() -> None:
    cluster = FakeCluster(default=silent)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await ask(cluster, WRITE)
    assert cluster.silent_now == 0


async def test_a_recall_that_could_not_search_is_kept_for_the_worst_case() -> None:
    blind = Reply(200, {"memsync-degraded": "search,replication"}, b"{}")
    assert await ask(FakeCluster(blind), READ) == GOOD
    cluster = FakeCluster(default=blind)
    assert await ask(cluster, READ) == blind
    assert len(cluster.asked) == asking.SEARCHES_MAX
    assert await ask(FakeCluster(blind), READ, retries=False) == blind


async def test_an_answer_of_somebody_else() -> None:
    for status in (200, 302, 404, 500):
        foreign = Reply(status, {}, b"<html>", "memory.query")
        with pytest.raises(errors.NoCluster, match="memsync API"):
            (await ask(FakeCluster(foreign), READ)).read(dict)
    with pytest.raises(errors.OutcomeUnknown, match="memsync API"):
        await ask(FakeCluster(Reply(500, {}, b"<html>")), WRITE)
    proxy = Reply(502, {}, b"<html>bad gateway")
    assert (await ask(FakeCluster(proxy), WRITE)).is_repeat
    with pytest.raises(errors.OutcomeUnknown):
        await ask(FakeCluster(default=proxy), WRITE)


async def test_an_unknown_outcome_names_the_key_whoever_raised_it() -> None:
    foreign = Reply(500, {}, b"<html>")
    newer = b'{"error":{"code":"NEW","message":"new","definite":false},"request_id":"r"}'
    for answer in (foreign, UNKNOWN, Reply(503, {}, newer), LOST):
        with pytest.raises(errors.OutcomeUnknown) as caught:
            await ask(FakeCluster(default=answer), WRITE, retries=False, within_s=0.2)
        assert caught.value.details["idempotency_key"] == "k1"
    unreadable = Reply(201, {}, b"<html>", "memory.add")
    with pytest.raises(errors.OutcomeUnknown) as caught:
        (await ask(FakeCluster(unreadable), WRITE)).read(dict)
    assert caught.value.details == {"idempotency_key": "k1"}


async def test_an_error_that_only_a_newer_server_knows_keeps_its_certainty() -> None:
    body = b'{"error":{"code":"NEW","message":"new","definite":false},"request_id":"r"}'
    with pytest.raises(errors.OutcomeUnknown, match="NEW: new"):
        await ask(FakeCluster(Reply(503, {}, body)), WRITE, retries=False)
