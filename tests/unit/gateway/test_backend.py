"""Passing requests on: one effect, one answer, in time, and nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from memsync import errors, limits
from memsync.gateway.passing import attempts
from memsync.gateway.passing import backend as passing
from memsync.gateway.passing.attempts import NotDeliveredError
from memsync.gateway.passing.members import Members
from memsync.gateway.passing.routing import Suspects, rendezvous
from memsync.gateway.passing.watch import PeerWatch
from memsync.gateway.passing.ways import HttpWay
from memsync.ports import Answer
from memsync.wire import replies
from memsync.wire.members import Roster
from memsync.wire.operations import Stamp
from tests.conditions import eventually
from tests.fakes.gateway import HEADERS, MEMBERS, Gateway
from tests.fakes.ways import (
    GOOD,
    NO_ANSWER,
    NOT_DELIVERED,
    Peers,
    after,
    refusal,
    silent,
)

ORDER = rendezvous(MEMBERS, "k", "", "anna")
FIRST, SECOND, THIRD = ORDER
QUESTION = b'{"query": "tea", "session_id": "s"}'


@pytest.fixture
def peers() -> Peers:
    return Peers()


@pytest.fixture
async def gateway(peers: Peers) -> AsyncIterator[Gateway]:
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    async with httpx.AsyncClient(transport=transport) as client:
        yield Gateway(peers, client)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts that fail in 20 ms instead of 500."""
    monkeypatch.setattr(limits, "ATTEMPT_TIMEOUT_S", 0.02)


def code_of(answer: Answer) -> str:
    """The code of the error that an answer says."""
    return error_of(answer).code


def error_of(answer: Answer) -> errors.ErrorBody:
    """The error that an answer says."""
    return msgspec.json.decode(answer.body, type=errors.ErrorAnswer).error


class TestTheUsualCase:
    async def test_the_preferred_peer_answers(self, gateway: Gateway, peers: Peers) -> None:
        answer = await gateway.call("memory.query", QUESTION)
        assert answer == GOOD
        assert [(a.way, a.member, a.body) for a in peers.asked] == [("bus", FIRST, QUESTION)]

    async def test_a_write_gets_its_key_and_ids(self, gateway: Gateway, peers: Peers) -> None:
        await gateway.call("memory.add", b'{"text":"tea"}')
        await gateway.call("memory.bulk_add")
        await gateway.call("memory.forget", Idempotency_Key="mine")
        added, bulk, forgotten = (asked.headers for asked in peers.asked)
        assert added["Memsync-Ids"] == "100-100"
        assert added["Memsync-Operation-Key"].startswith("~")
        assert bulk["Memsync-Ids"] == f"101-{100 + limits.BULK_ITEMS_MAX}"
        assert bulk["Memsync-Operation-Key"] != added["Memsync-Operation-Key"]
        assert "Memsync-Ids" not in forgotten
        assert "Memsync-Operation-Key" not in forgotten
        assert forgotten["Idempotency-Key"] == "mine"

    async def test_a_read_gets_none(self, gateway: Gateway, peers: Peers) -> None:
        await gateway.call("memory.get")
        assert not {"Memsync-Ids", "Memsync-Operation-Key"} & set(peers.asked[0].headers)

    async def test_a_caller_cannot_fix_what_is_the_gateways(
        self, gateway: Gateway, peers: Peers
    ) -> None:
        gateway.ids.are_there = False
        await gateway.call("memory.add", Memsync_Ids="1-2", Memsync_Operation_Key="evil")
        assert "Memsync-Ids" not in peers.asked[0].headers
        assert peers.asked[0].headers["Memsync-Operation-Key"] != "evil"

    async def test_what_is_left_of_the_deadline_goes_along(
        self, gateway: Gateway, peers: Peers
    ) -> None:
        await gateway.call("memory.add", Memsync_Deadline_Ms="400")
        await gateway.call("memory.add")
        first, second = (int(asked.headers["Memsync-Deadline-Ms"]) for asked in peers.asked)
        assert 300 < first <= 400
        assert 9_000 < second <= 10_000


class TestRefusedHere:
    async def test_without_a_key(self, gateway: Gateway, peers: Peers) -> None:
        answer = await gateway.backend.call("memory.query", {"X-Request-ID": "r"}, QUESTION)
        assert (answer.status, code_of(answer)) == (401, "MISSING_API_KEY")
        assert peers.asked == []

    @pytest.mark.parametrize(
        ("name", "value"),
        [("Memsync_Ack", "some"), ("Memsync_Consistency", "none"), ("Idempotency_Key", "k" * 129),
         ("Idempotency_Key", "~mine"), ("Memsync_Deadline_Ms", "soon"),
         ("Memsync_Min_Position", "x")],
    )  # fmt: skip
    async def test_with_a_header_that_is_wrong_on_its_face(
        self, name: str, value: str, gateway: Gateway, peers: Peers
    ) -> None:
        answer = await gateway.call("memory.add", **{name: value})
        assert (answer.status, code_of(answer)) == (422, "VALIDATION_ERROR")
        assert error_of(answer).message.startswith(name.replace("_", "-"))
        assert peers.asked == []

    async def test_when_too_many_are_in_flight(
        self, gateway: Gateway, peers: Peers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "REQUESTS_IN_FLIGHT_MAX", 2)
        peers.default = after(0.01)
        answers = await asyncio.gather(
            *(gateway.backend.call("memory.add", HEADERS, b"{}") for _ in range(3))
        )
        assert sorted(answer.status for answer in answers) == [200, 200, 503]
        assert code_of(answers[2]) == "OVERLOADED"
        assert error_of(answers[2]).definite
        assert (await gateway.call("memory.add")).status == 200


class TestTheNextPeer:
    @pytest.mark.parametrize("operation", ["memory.add", "memory.query", "memory.list"])
    @pytest.mark.parametrize(
        "trouble",
        [NOT_DELIVERED, NO_ANSWER, silent, refusal(errors.Unavailable), refusal(errors.NoQuorum)],
        ids=["nobody there", "lost", "silent", "overloaded", "no quorum"],
    )
    async def test_is_asked_over_the_second_bus(
        self, operation: str, trouble: object, gateway: Gateway, peers: Peers
    ) -> None:
        peers.does[FIRST] = trouble
        assert await gateway.call(operation, QUESTION) == GOOD
        assert [(a.way, a.member) for a in peers.asked] == [("bus", FIRST), ("second", SECOND)]

    async def test_is_asked_with_the_same_key_and_ids(self, gateway: Gateway, peers: Peers) -> None:
        peers.default = silent
        peers.does["http", THIRD] = GOOD
        assert await gateway.call("memory.add") == GOOD
        assert peers.members() == ORDER
        for name in ("Memsync-Operation-Key", "Memsync-Ids"):
            assert len({asked.headers[name] for asked in peers.asked}) == 1

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 429, 501])
    async def test_is_not_asked_after_a_final_answer(
        self, status: int, gateway: Gateway, peers: Peers
    ) -> None:
        peers.does[FIRST] = Answer(status, {}, b"{}")
        for operation in ("memory.update", "memory.query"):
            assert (await gateway.call(operation, QUESTION)).status == status
        assert peers.members() == [FIRST, FIRST]

    async def test_is_not_asked_when_a_home_stripe_has_no_leader(
        self, gateway: Gateway, peers: Peers
    ) -> None:
        peers.does[FIRST] = refusal(errors.NoStripeLeader)
        assert code_of(await gateway.call("memory.update")) == "NO_STRIPE_LEADER"
        assert peers.members() == [FIRST]

    async def test_is_asked_for_a_read_after_a_fault(self, gateway: Gateway, peers: Peers) -> None:
        peers.does[FIRST] = refusal(errors.Internal)
        assert await gateway.call("memory.query", QUESTION) == GOOD
        assert await gateway.call("memory.list") == GOOD
        assert (await gateway.call("memory.forget")).status == 500

    async def test_a_late_answer_still_counts(self, gateway: Gateway, peers: Peers) -> None:
        peers.default = silent
        peers.does["bus", FIRST] = after(0.05)
        assert await gateway.call("memory.add") == GOOD
        assert peers.members()[:2] == [FIRST, SECOND]

    async def test_without_the_bus_the_ports_are_asked(
        self, gateway: Gateway, peers: Peers
    ) -> None:
        peers.closed = {"bus", "second"}
        for operation in ("memory.add", "memory.query"):
            assert await gateway.call(operation, QUESTION) == GOOD
        assert [asked.way for asked in peers.asked] == ["http", "http"]

    async def test_one_bus_is_enough(self, gateway: Gateway, peers: Peers) -> None:
        peers.closed = {"bus"}
        await gateway.call("memory.add")
        assert [asked.way for asked in peers.asked] == ["second"]


DENIALS = [
    refusal(errors.Unauthenticated),
    refusal(errors.Forbidden),
    refusal(errors.NotFound),
    refusal(errors.VersionConflict),
    refusal(errors.ValidationFailed),
    refusal(errors.RateLimited),
    refusal(errors.Internal),
    refusal(errors.NoStripeLeader),
]


@pytest.mark.parametrize("denial", DENIALS, ids=[code_of(answer) for answer in DENIALS])
class TestAWriteThatIsDeniedBesideAnother:
    """What a later attempt says that did nothing is no word about the earlier one."""

    async def test_waits_for_the_earlier_one(
        self, denial: Answer, gateway: Gateway, peers: Peers
    ) -> None:
        peers.default = denial
        peers.does[FIRST] = after(0.1)
        assert await gateway.call("memory.update") == GOOD
        assert [peers.members().count(member) for member in (SECOND, THIRD)] == [1, 1]

    @pytest.mark.parametrize("earlier", [NO_ANSWER, silent, refusal(errors.OutcomeUnknown)])
    async def test_is_unknown_if_the_earlier_one_is(
        self, earlier: object, denial: Answer, gateway: Gateway, peers: Peers
    ) -> None:
        peers.default = denial
        peers.does[FIRST] = earlier
        answer = await gateway.call("memory.update", Memsync_Deadline_Ms="150")
        assert (code_of(answer), error_of(answer).definite) == ("OUTCOME_UNKNOWN", False)
        assert {SECOND, THIRD} < set(peers.members())

    @pytest.mark.parametrize("earlier", [NOT_DELIVERED, refusal(errors.NoQuorum)])
    async def test_is_the_answer_if_the_earlier_one_did_nothing(
        self, earlier: object, denial: Answer, gateway: Gateway, peers: Peers
    ) -> None:
        peers.default = denial
        peers.does[FIRST] = earlier
        assert await gateway.call("memory.update") == denial
        assert THIRD not in peers.members()

    async def test_is_the_answer_once_the_earlier_one_has_refused(
        self, denial: Answer, gateway: Gateway, peers: Peers
    ) -> None:
        peers.default = denial
        peers.does[FIRST] = after(0.05, refusal(errors.NoQuorum))
        assert await gateway.call("memory.update") == denial

    async def test_is_settled_by_a_third_that_knows(
        self, denial: Answer, gateway: Gateway, peers: Peers
    ) -> None:
        peers.does = {FIRST: NO_ANSWER, SECOND: denial}
        assert await gateway.call("memory.update") == GOOD
        assert peers.members() == ORDER


class Moment:
    """Peers that say one thing until so many attempts were made in all, and then another."""

    def __init__(self, first: Answer, count: int, then: Answer = GOOD) -> None:
        self._first, self._count, self._then = first, count, then

    async def __call__(self, peers: Peers) -> Answer:
        return self._first if len(peers.asked) <= self._count else self._then


class TestAWriteThatIsNotSettled:
    """An attempt that is lost with a server or a cable never ends by itself."""

    @pytest.mark.parametrize("earlier", [NO_ANSWER, silent])
    @pytest.mark.parametrize("error", [errors.Unavailable, errors.NoStripeLeader])
    async def test_is_asked_again_until_a_peer_settles_it(
        self, error: type[errors.MemsyncError], earlier: object, gateway: Gateway, peers: Peers
    ) -> None:
        peers.default = Moment(refusal(error), 7)
        peers.does[FIRST] = earlier
        started = asyncio.get_running_loop().time()
        assert await gateway.call("memory.update") == GOOD
        assert asyncio.get_running_loop().time() - started < 2.0  # and not the deadline of 10 s
        assert len({asked.headers["Memsync-Operation-Key"] for asked in peers.asked}) == 1

    async def test_is_not_asked_where_it_is_still_silent(
        self, gateway: Gateway, peers: Peers
    ) -> None:
        peers.default = silent
        answer = await gateway.call("memory.add", Memsync_Deadline_Ms="900")
        assert code_of(answer) == "OUTCOME_UNKNOWN"
        asked = [(one.way, one.member) for one in peers.asked]
        assert len(asked) == len(set(asked)) == 7

    async def test_is_asked_less_and_less_often(
        self, gateway: Gateway, peers: Peers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attempts, "AGAIN_S", 0.05)
        peers.default = refusal(errors.NoStripeLeader)
        peers.does[FIRST] = silent
        answer = await gateway.call("memory.update", Memsync_Deadline_Ms="900")
        assert code_of(answer) == "OUTCOME_UNKNOWN"
        rounds = peers.members().count(SECOND)
        assert 3 <= rounds <= 5  # 0, 50, 150, 350, 750 ms, and what the attempts take

    @pytest.mark.parametrize("later", [errors.NoQuorum, errors.VersionConflict])
    async def test_is_unknown_at_once_where_asking_again_settles_nothing(
        self, later: type[errors.MemsyncError], gateway: Gateway, peers: Peers
    ) -> None:
        peers.default = refusal(later)
        peers.does[FIRST] = NO_ANSWER
        started = asyncio.get_running_loop().time()
        answer = await gateway.call("memory.update")
        assert code_of(answer) == "OUTCOME_UNKNOWN"
        assert asyncio.get_running_loop().time() - started < 1.0
        assert [peers.members().count(member) for member in (SECOND, THIRD)] == [1, 1]

    async def test_its_attempts_stand_in_the_log(
        self, gateway: Gateway, peers: Peers, caplog: pytest.LogCaptureFixture
    ) -> None:
        peers.does = {FIRST: silent, SECOND: NO_ANSWER, THIRD: refusal(errors.NoQuorum)}
        await gateway.call("memory.update", Memsync_Deadline_Ms="200")
        (record,) = [one for one in caplog.records if "write.left_unknown" in one.getMessage()]
        told = " | ".join(record.attempts)  # type: ignore[attr-defined]
        assert f"second {SECOND} unknown" in told
        assert f"http {THIRD} NO_QUORUM" in told
        assert f"bus {FIRST} silent for 0.2 s" in told

    async def test_a_read_is_asked_again_as_well(self, gateway: Gateway, peers: Peers) -> None:
        peers.default = Moment(refusal(errors.Unavailable), 7)
        peers.does[FIRST] = silent
        assert await gateway.call("memory.get") == GOOD


class TestLoading:
    """A peer that is still loading the scope answers a recall empty, tagged `search`."""

    async def test_another_peer_is_asked(self, gateway: Gateway, peers: Peers) -> None:
        peers.does = {ORDER[0]: Answer(200, {"memsync-degraded": "search,replication"}, b"{}")}
        assert await gateway.call("memory.query", QUESTION) == GOOD
        assert peers.members() == list(ORDER[:2])

    async def test_if_none_can_its_answer_is_the_answer(
        self, gateway: Gateway, peers: Peers
    ) -> None:
        loading = Answer(200, {"Memsync-Degraded": "search"}, b"{}")
        peers.default = loading
        assert await gateway.call("memory.query", QUESTION) == loading

    async def test_any_other_component_may_be_missing(self, gateway: Gateway, peers: Peers) -> None:
        tagged = Answer(200, {"Memsync-Degraded": "embedding,expansion"}, b"{}")
        peers.default = tagged
        assert await gateway.call("memory.query", QUESTION) == tagged
        assert len(peers.asked) == 1


UNSURE = Answer(200, {"memsync-degraded": "replication"}, b"{}")


@pytest.mark.parametrize("operation", ["memory.query", "memory.get", "memory.list"])
class TestAnAnswerThatMayBeOld:
    """A peer that is not sure of its answer is not the last word while another may be."""

    async def test_another_peer_is_asked(
        self, operation: str, gateway: Gateway, peers: Peers
    ) -> None:
        peers.does = {FIRST: UNSURE}
        assert await gateway.call(operation, QUESTION) == GOOD
        assert peers.members() == [FIRST, SECOND]

    async def test_the_next_request_does_not_begin_with_it(
        self, operation: str, gateway: Gateway, peers: Peers
    ) -> None:
        peers.does = {FIRST: UNSURE}
        await gateway.call(operation, QUESTION)
        peers.asked.clear()
        await gateway.call(operation, QUESTION)
        assert peers.members() == [SECOND]

    async def test_is_the_answer_where_all_are_unsure(
        self, operation: str, gateway: Gateway, peers: Peers
    ) -> None:
        peers.default = UNSURE
        assert await gateway.call(operation, QUESTION) == UNSURE
        assert peers.members() == ORDER
        peers.asked.clear()
        assert await gateway.call(operation, QUESTION) == UNSURE
        assert len(peers.asked) == 1  # nobody is known to do better

    async def test_is_the_answer_where_the_others_are_gone(
        self, operation: str, gateway: Gateway, peers: Peers
    ) -> None:
        peers.default = NOT_DELIVERED
        peers.does = {FIRST: UNSURE}
        assert await gateway.call(operation, QUESTION) == UNSURE

    async def test_does_not_wait_long_for_a_better_one(
        self, operation: str, gateway: Gateway, peers: Peers
    ) -> None:
        peers.default = silent
        peers.does = {FIRST: UNSURE}
        started = asyncio.get_running_loop().time()
        assert await gateway.call(operation, QUESTION) == UNSURE
        assert asyncio.get_running_loop().time() - started < 0.5
        peers.asked.clear()

    async def test_of_a_position_of_the_future_is_no_word_about_the_peer(
        self, operation: str, gateway: Gateway, peers: Peers
    ) -> None:
        peers.default = UNSURE
        await gateway.call(operation, QUESTION, Memsync_Min_Position="0.0.99999")
        peers.asked.clear()
        peers.does = {SECOND: GOOD}
        assert await gateway.call(operation, QUESTION) == GOOD


class TestNoPeer:
    async def test_that_refused_is_asked_again_another_way(
        self, gateway: Gateway, peers: Peers
    ) -> None:
        peers.default = refusal(errors.NoQuorum)
        answer = await gateway.call("memory.add")
        assert code_of(answer) == "NO_QUORUM"
        assert error_of(answer).definite
        assert sorted(peers.members()) == MEMBERS

    @pytest.mark.parametrize(
        ("troubles", "code"),
        [
            ([NOT_DELIVERED] * 3, "OVERLOADED"),
            ([refusal(errors.NoQuorum), NOT_DELIVERED, NOT_DELIVERED], "NO_QUORUM"),
            ([refusal(errors.NoQuorum), refusal(errors.NoQuorum), NO_ANSWER], "OUTCOME_UNKNOWN"),
            ([NOT_DELIVERED, NO_ANSWER, NOT_DELIVERED], "OUTCOME_UNKNOWN"),
            ([refusal(errors.OutcomeUnknown), *[refusal(errors.NoQuorum)] * 2], "OUTCOME_UNKNOWN"),
            ([Answer(503, {}, b"<html>"), NOT_DELIVERED, NOT_DELIVERED], "OUTCOME_UNKNOWN"),
            ([Answer(502, {}, b"<html>"), NOT_DELIVERED, NOT_DELIVERED], "OUTCOME_UNKNOWN"),
        ],
    )
    async def test_a_write_is_definite_only_if_every_attempt_was(
        self, troubles: list[object], code: str, gateway: Gateway, peers: Peers
    ) -> None:
        peers.does = dict(zip(ORDER, troubles, strict=True))
        answer = await gateway.call("memory.add")
        assert (answer.status, code_of(answer)) == (503, code)
        assert error_of(answer).definite == (code != "OUTCOME_UNKNOWN")

    async def test_a_write_that_all_refuse_for_the_moment_is_offered_again(
        self, gateway: Gateway, peers: Peers
    ) -> None:
        async def at_the_second_round(peers: Peers) -> Answer:
            return GOOD if len(peers.asked) > 2 * len(MEMBERS) else refusal(errors.Unavailable)

        peers.default = at_the_second_round
        assert await gateway.call("memory.add") == GOOD
        for name in ("Memsync-Operation-Key", "Memsync-Ids"):
            assert len({asked.headers[name] for asked in peers.asked}) == 1

    async def test_a_write_is_not_offered_again_for_ever(
        self, gateway: Gateway, peers: Peers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(passing, "AGAIN_S_MAX", 0.3)
        peers.default = refusal(errors.Unavailable)
        answer = await gateway.call("memory.add")
        assert (code_of(answer), error_of(answer).definite) == ("OVERLOADED", True)
        assert len(MEMBERS) < len(peers.asked) < 10 * len(MEMBERS)

    async def test_a_read_is_always_definite(self, gateway: Gateway, peers: Peers) -> None:
        peers.default = NO_ANSWER
        answer = await gateway.call("memory.get")
        assert (answer.status, code_of(answer)) == (503, "OVERLOADED")
        assert error_of(answer).definite

    async def test_a_write_ends_at_its_deadline(self, gateway: Gateway, peers: Peers) -> None:
        peers.default = silent
        started = asyncio.get_running_loop().time()
        answer = await gateway.call("memory.add", Memsync_Deadline_Ms="150")
        assert 0.1 < asyncio.get_running_loop().time() - started < 1.0
        assert code_of(answer) == "OUTCOME_UNKNOWN"
        assert set(peers.members()) == set(MEMBERS)

    @pytest.mark.parametrize("trouble", [silent, NOT_DELIVERED, refusal(errors.Unavailable)])
    async def test_a_recall_is_empty_and_says_so(
        self, trouble: object, gateway: Gateway, peers: Peers
    ) -> None:
        peers.default = trouble
        answer = await gateway.call("memory.query", QUESTION, Memsync_Deadline_Ms="100")
        assert answer.status == 200
        found = msgspec.json.decode(answer.body, type=replies.QueryAnswer)
        assert found.memories == []
        assert found.degraded
        assert found.degraded_components == ["search", "replication"]
        assert found.session_id == "s"
        assert found.sla_target_ms == limits.RECALL_BUDGET_MS["medium"]

    @pytest.mark.parametrize(
        ("tier", "deadline_ms", "within_ms"),
        [("low", "30000", 100), ("medium", "30000", 500), ("high", "30000", 2_000),
         ("high", "80", 80), ("hi", "30000", 500)],
    )  # fmt: skip
    async def test_a_recall_is_answered_within_the_budget_of_its_tier(
        self, tier: str, deadline_ms: str, within_ms: int, gateway: Gateway, peers: Peers
    ) -> None:
        peers.default = silent
        body = b'{"query": "tea", "computation_tier": "%s"}' % tier.encode()
        started = asyncio.get_running_loop().time()
        answer = await gateway.call("memory.query", body, Memsync_Deadline_Ms=deadline_ms)
        took_s = asyncio.get_running_loop().time() - started
        assert answer.status == (422 if tier == "hi" else 200)  # only a peer says so at once
        assert within_ms * 0.9 / 1000 < took_s < within_ms / 1000 + 0.05
        assert len({(asked.way, asked.member) for asked in peers.asked}) >= 4
        assert {"bus", "second", "http"} == {asked.way for asked in peers.asked}

    async def test_a_peer_has_a_little_less_time_than_the_gateway(
        self, gateway: Gateway, peers: Peers
    ) -> None:
        await gateway.call("memory.query", b'{"query": "a", "computation_tier": "low"}')
        await gateway.call("memory.query", b'{"query": "a", "computation_tier": "high"}')
        low, high = (int(asked.headers["Memsync-Deadline-Ms"]) for asked in peers.asked)
        assert 75 <= low < 95
        assert 1_800 <= high < 1_900

    @pytest.mark.parametrize(
        ("body", "code"), [(b"{", "INVALID_JSON"), (b'{"k": 5}', "VALIDATION_ERROR"),
                           (b'{"query":"a","weights":{"x":1}}', "VALIDATION_ERROR")],
    )  # fmt: skip
    async def test_a_wrong_question_is_still_wrong(
        self, body: bytes, code: str, gateway: Gateway, peers: Peers
    ) -> None:
        peers.default = NOT_DELIVERED
        assert code_of(await gateway.call("memory.query", body)) == code


class TestHedging:
    async def test_a_slow_peer_is_overtaken(self, gateway: Gateway, peers: Peers) -> None:
        peers.does[FIRST] = silent
        started = asyncio.get_running_loop().time()
        assert await gateway.call("memory.query", QUESTION) == GOOD
        assert asyncio.get_running_loop().time() - started < 0.4

    async def test_a_quick_peer_is_not(self, gateway: Gateway, peers: Peers) -> None:
        for _ in range(100):
            await gateway.call("memory.query", QUESTION)
        assert set(peers.members()) == {FIRST}

    async def test_a_frozen_peer_is_asked_last_soon(self, gateway: Gateway, peers: Peers) -> None:
        peers.does[FIRST] = silent
        for _ in range(5):
            await gateway.call("memory.query", QUESTION, Memsync_Deadline_Ms="60")
        peers.asked.clear()
        assert await gateway.call("memory.query", QUESTION) == GOOD
        assert await gateway.call("memory.add") == GOOD
        assert peers.members() == [SECOND, SECOND]

    async def test_a_frozen_way_is_left_soon(self, gateway: Gateway, peers: Peers) -> None:
        for member in MEMBERS:
            peers.does["bus", member] = silent
        for _ in range(5):
            await gateway.call("memory.query", QUESTION)
        peers.asked.clear()
        assert await gateway.call("memory.query", QUESTION) == GOOD
        assert [asked.way for asked in peers.asked] == ["second"]

    async def test_a_user_named_in_the_body_has_a_preferred_peer_too(
        self, gateway: Gateway, peers: Peers
    ) -> None:
        for number in range(20):
            body = b'{"query": "tea", "end_user_id": "user-%d"}' % number
            await gateway.call("memory.query", body)
            await gateway.call("memory.query", QUESTION, X_End_User_ID=f"user-{number}")
        members = peers.members()
        assert members[::2] == members[1::2]
        assert set(members) == set(MEMBERS)

    async def test_a_dead_peer_is_asked_last_at_once(self, gateway: Gateway, peers: Peers) -> None:
        peers.does[FIRST] = NOT_DELIVERED
        await gateway.call("memory.add")
        peers.asked.clear()
        await gateway.call("memory.add")
        assert peers.members() == [SECOND]


class TestCancelling:
    async def test_leaves_nothing_behind(self, gateway: Gateway, peers: Peers) -> None:
        peers.default = silent
        before = asyncio.all_tasks()
        call = asyncio.create_task(gateway.backend.call("memory.query", HEADERS, QUESTION))
        await eventually(peers.were_two_asked, "two peers are asked")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert peers.silent_now == 0
        assert asyncio.all_tasks() == before
        peers.default = GOOD
        assert await gateway.call("memory.add") == GOOD


class TestReadiness:
    async def test_all_well(self, gateway: Gateway) -> None:
        await gateway.watch.ask_all()
        assert set(gateway.backend.checks().values()) == {"ok"}
        assert gateway.backend.is_recalling()

    async def test_without_the_bus(self, gateway: Gateway, peers: Peers) -> None:
        peers.closed = {"bus", "second"}
        assert gateway.backend.checks()["bus"].startswith("failed: not connected")
        peers.closed = {"bus"}
        assert gateway.backend.checks()["bus"] == "ok"

    async def test_before_and_without_peers(self, gateway: Gateway) -> None:
        assert gateway.backend.checks()["peers"].startswith("failed: 0 of 3 ready, 2 needed")
        assert not gateway.backend.is_recalling()

    async def test_members_that_come_and_go(self, gateway: Gateway, peers: Peers) -> None:
        gateway.members.hear(Roster("peer-4", "cell", Stamp(1, 1), ["peer-1", "peer-4"], 0))
        peers.default = refusal(errors.Unavailable)
        assert (await gateway.call("memory.get", b'{"memory_id": 1}')).status == 503
        assert set(peers.members()) == {"peer-1", "peer-4"}

    async def test_a_member_without_an_address_is_not_asked_over_http(self) -> None:
        async with httpx.AsyncClient() as client:
            way = HttpWay({"peer-1": "http://127.0.0.1:1"}, client)
            with pytest.raises(NotDeliveredError, match="no address of peer-4"):
                await way.ask("peer-4", "memory.get", {}, b"", 1.0)

    async def test_while_it_shuts_down(self, gateway: Gateway) -> None:
        gateway.is_stopping = True
        assert gateway.backend.checks()["process"] == "failed: shutting down"

    async def test_they_are_asked_more_often_until_a_majority_is_ready(self) -> None:
        asked: list[float] = []
        loop = asyncio.get_running_loop()

        def answer(request: httpx.Request) -> httpx.Response:
            if request.url.host == FIRST:
                asked.append(loop.time())
            return httpx.Response(503 if loop.time() < began + 1.0 else 200)

        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            urls = {member: f"http://{member}" for member in ORDER}
            watch = PeerWatch(urls, Members(ORDER), client, Suspects())
            began = loop.time()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(watch.run(), 5.9)
        since = [round(at - began, 3) for at in asked]
        assert since == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 3.0, 5.0]
        assert watch.check() == "ok"

    async def test_a_peer_that_does_not_answer_is_suspect(self) -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            if request.url.host == FIRST:
                raise httpx.ConnectError("refused")
            return httpx.Response(503 if request.url.host == SECOND else 200)

        suspects = Suspects()
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            urls = {member: f"http://{member}" for member in ORDER}
            members = Members(ORDER)
            watch = PeerWatch(urls, members, client, suspects)
            await watch.ask_all()
        assert watch.states == {FIRST: "ConnectError", SECOND: "not ready", THIRD: "ready"}
        assert watch.is_any_alive()
        assert watch.check().startswith("failed: 1 of 3 ready")
        assert suspects.order(ORDER, asyncio.get_running_loop().time())[-1] == FIRST
        members.hear(Roster(THIRD, "cell", Stamp(1, 1), [SECOND, THIRD, "peer-9"], 0))
        assert watch.check().startswith("failed: 1 of 2 ready, 2 needed")
        assert FIRST not in watch.check()
        members.hear(Roster(THIRD, "cell", Stamp(2, 1), [FIRST, "peer-9"], 0))
        assert not watch.is_any_alive()
