"""What is kept for when no peer answers: given then, and never when it is known to be wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import pytest

from memsync import errors, ids, limits
from memsync.gateway.passing.without_peers import HEARD_S
from memsync.keeping import Kept
from memsync.ports import Answer
from memsync.wire import codec, replies
from memsync.wire.news import News, about_user
from tests.conditions import eventually
from tests.fakes.backend import AT
from tests.fakes.gateway import HEADERS, MEMBERS, Gateway
from tests.fakes.ways import GOOD, NOT_DELIVERED, Peers, after, refusal, silent

QUESTION = b'{"query": "tea"}'
TEXT = "Ada drinks green tea"
SESSION = 77


def found(
    text: str = TEXT, *, expires_at: str | None = None, degraded: tuple[str, ...] = ()
) -> Answer:
    """A peer's answer with one memory."""
    memory = replies.RecalledMemory(
        id=1, text=text, created_at=AT, updated_at=AT, tags=[], importance=0.5, metadata={},
        user_id=7, end_user_id="anna", version="1", expires_at=expires_at, score=1.0, scoring={},
    )  # fmt: skip
    answer = replies.QueryAnswer(
        memories=[memory], context=f"- {text}", confidence=0.5, latency_ms=1.0, session_id=None,
        query_intent="factual", query_id="q_1", degraded=bool(degraded),
        degraded_components=list(degraded), freshness=replies.Freshness(), sla_target_ms=500,
        sla_met=True,
    )  # fmt: skip
    headers = {"Memsync-Degraded": ",".join(degraded)} if degraded else {}
    return Answer(200, headers, codec.to_json(answer))


def news(number: int, *, member: str = "peer-1", session: int = SESSION, **said: Any) -> bytes:
    """News as a peer tells them."""
    content = {"users": [], "keys": [], "is_all": False} | said
    return codec.pack(News(member, "cell", session, number, **content))


@pytest.fixture
def peers() -> Peers:
    return Peers(found())


@pytest.fixture
async def gateway(peers: Peers) -> AsyncIterator[Gateway]:
    async with httpx.AsyncClient() as client:
        made = Gateway(peers, client)
        for member in MEMBERS:
            made.hearing.take(news(1, member=member))  # what it hears first drops what it has
        yield made


async def recalled(gateway: Gateway, body: bytes = QUESTION, **headers: str) -> Any:
    """The answer to a question, as JSON."""
    answer = await gateway.call("memory.query", body, **headers)
    assert answer.status == 200, answer
    fields = msgspec.json.decode(answer.body)
    msgspec.convert(fields, replies.QueryAnswer)
    return fields


async def texts(gateway: Gateway, body: bytes = QUESTION, **headers: str) -> list[str]:
    """What a question finds."""
    return [memory["text"] for memory in (await recalled(gateway, body, **headers))["memories"]]


class TestGiven:
    @pytest.mark.parametrize("trouble", [silent, NOT_DELIVERED, refusal(errors.Unavailable)])
    async def test_when_no_peer_answers(
        self, trouble: object, gateway: Gateway, peers: Peers
    ) -> None:
        first = await recalled(gateway)
        peers.default = trouble
        gateway.clock.ahead_s = 30.0
        answer = await gateway.call("memory.query", QUESTION)
        fields = msgspec.json.decode(answer.body)
        assert fields["memories"] == first["memories"]
        assert fields["context"] == first["context"]
        assert fields["degraded"] is True
        assert fields["degraded_components"] == ["cache", "replication"]
        assert answer.headers == {"Memsync-Degraded": "cache,replication"}
        assert fields["freshness"]["source"] == "cache"
        assert 30_000 <= fields["freshness"]["age_ms"] < 32_000
        assert fields["query_id"] != first["query_id"]
        assert fields["sla_met"] is True

    async def test_not_while_a_peer_answers(self, gateway: Gateway, peers: Peers) -> None:
        await recalled(gateway)
        peers.default = found("newer")
        assert await texts(gateway) == ["newer"]
        peers.default = found("", degraded=("search",))  # it is loading, and knows what is gone
        assert await texts(gateway) == [""]

    async def test_also_after_the_bus_died_and_peers_were_not_sure(
        self, gateway: Gateway, peers: Peers
    ) -> None:
        """Nobody could forget anything then, nor tell it."""
        await recalled(gateway)
        gateway.clock.ahead_s = HEARD_S + 1
        peers.default = found(degraded=("replication",))
        await recalled(gateway)
        peers.default = NOT_DELIVERED
        assert await texts(gateway) == [TEXT]

    async def test_keeps_what_the_answer_itself_lacked(
        self, gateway: Gateway, peers: Peers
    ) -> None:
        peers.default = found(degraded=("embedding",))
        await recalled(gateway)
        peers.default = NOT_DELIVERED
        fields = await recalled(gateway)
        assert fields["degraded_components"] == ["embedding", "cache", "replication"]

    async def test_for_a_minute(self, gateway: Gateway, peers: Peers) -> None:
        await recalled(gateway)
        peers.default = NOT_DELIVERED
        gateway.clock.ahead_s = limits.LAST_ANSWERS_AGE_S - 1
        assert await texts(gateway) == [TEXT]
        gateway.clock.ahead_s = limits.LAST_ANSWERS_AGE_S
        fields = await recalled(gateway)
        assert fields["memories"] == []
        assert fields["degraded_components"] == ["search", "replication"]
        assert fields["freshness"] == {"source": "cache", "age_ms": 0.0}

    @pytest.mark.parametrize(
        ("body", "headers"),
        [
            (b'{"query": "coffee"}', {}),
            (b'{"query": "tea", "k": 6}', {}),
            (b'{"query": "tea", "filters": {"tags": ["a"]}}', {}),
            (b'{"query": "tea", "end_user_id": "bob"}', {}),
            (QUESTION, {"X_End_User_ID": "bob"}),
            (QUESTION, {"X_Project_ID": "p"}),
            (QUESTION, {"X_API_Key": "another"}),
            (QUESTION, {"Memsync_Consistency": "strong"}),
        ],
    )
    async def test_to_the_same_question_only(
        self, body: bytes, headers: dict[str, str], gateway: Gateway, peers: Peers
    ) -> None:
        await recalled(gateway)
        peers.default = NOT_DELIVERED
        assert await texts(gateway, body, **headers) == []
        assert await texts(gateway, QUESTION, Memsync_Min_Position="0.0.7") == [TEXT]

    async def test_not_once_a_memory_of_it_has_expired(
        self, gateway: Gateway, peers: Peers
    ) -> None:
        end = datetime.fromtimestamp(gateway.clock.wall_ms() / 1000 + 20, UTC)
        peers.default = found(expires_at=end.isoformat())
        await recalled(gateway)
        peers.default = NOT_DELIVERED
        gateway.clock.ahead_s = 10.0
        assert await texts(gateway) == [TEXT]
        gateway.clock.ahead_s = 21.0
        assert await texts(gateway) == []

    async def test_not_where_it_is_none_of_ours(self, gateway: Gateway, peers: Peers) -> None:
        peers.default = GOOD  # not the fields that an answer has
        await gateway.call("memory.query", QUESTION)
        peers.default = NOT_DELIVERED
        assert await texts(gateway) == []


class TestNotKept:
    @pytest.mark.parametrize("lacking", ["search", "replication"])
    async def test_what_a_peer_was_not_sure_of(
        self, lacking: str, gateway: Gateway, peers: Peers
    ) -> None:
        peers.default = found(degraded=(lacking,))
        await recalled(gateway)
        peers.default = NOT_DELIVERED
        assert await texts(gateway) == []

    async def test_of_a_peer_whose_news_are_not_heard(self, gateway: Gateway, peers: Peers) -> None:
        """The bus is away and the peers answer over HTTP: a forget elsewhere is not heard of."""
        await recalled(gateway)
        gateway.clock.ahead_s = HEARD_S
        peers.closed = {"bus", "second"}
        await recalled(gateway)
        await recalled(gateway, b'{"query": "coffee"}')
        peers.default = NOT_DELIVERED
        assert await texts(gateway) == []
        assert await texts(gateway, b'{"query": "coffee"}') == []
        peers.default = found()
        for member in MEMBERS:
            gateway.hearing.take(news(1, member=member))  # the same again, but they are heard
        await recalled(gateway)
        peers.default = NOT_DELIVERED
        assert await texts(gateway) == [TEXT]

    async def test_of_a_peer_that_tells_no_news(self, peers: Peers) -> None:
        """It is of a version before them."""
        async with httpx.AsyncClient() as client:
            gateway = Gateway(peers, client)
            await recalled(gateway)
            peers.default = NOT_DELIVERED
            assert await texts(gateway) == []

    async def test_an_error(self, gateway: Gateway, peers: Peers) -> None:
        peers.default = refusal(errors.ValidationFailed)
        await gateway.call("memory.query", QUESTION)
        peers.default = NOT_DELIVERED
        assert await texts(gateway) == []

    async def test_a_key_or_a_word(self, gateway: Gateway, peers: Peers) -> None:
        secret = "ms_live_" + "7" * 40
        await recalled(gateway, X_API_Key=secret)
        kept: Kept[bytes] = gateway.last_answers._kept
        assert len(kept) == 1
        shown = repr((kept._entries.keys(), kept._keys, kept._changed))
        assert secret not in shown
        assert "anna" not in shown


class TestDropped:
    @pytest.mark.parametrize(
        "told",
        [
            {"users": [about_user("anna")]},
            {"keys": [ids.secret_hash("k")]},
            {"is_all": True},
        ],
        ids=["forgotten", "revoked", "everything"],
    )
    async def test_by_news(self, told: dict[str, Any], gateway: Gateway, peers: Peers) -> None:
        await recalled(gateway)
        gateway.hearing.take(news(2, **told))
        peers.default = NOT_DELIVERED
        assert await texts(gateway) == []

    @pytest.mark.parametrize(
        "told", [{"users": [about_user("bob")]}, {"keys": [ids.secret_hash("other")]}]
    )
    async def test_not_by_news_of_others(
        self, told: dict[str, Any], gateway: Gateway, peers: Peers
    ) -> None:
        await recalled(gateway)
        gateway.hearing.take(news(2, **told))
        peers.default = NOT_DELIVERED
        assert await texts(gateway) == [TEXT]

    @pytest.mark.parametrize(
        "heard",
        [
            news(3),  # number 2 was not heard
            news(3, users=[about_user("bob")]),
            news(2),  # told without its content, which is lost
            news(1, session=78),  # another process of this name
            news(9, member="peer-4"),  # whoever it is, it may have said something before
            b"\xc1 of another version",
        ],
    )
    async def test_where_something_may_not_have_been_heard(
        self, heard: bytes, gateway: Gateway, peers: Peers
    ) -> None:
        await recalled(gateway)
        gateway.hearing.take(heard)
        peers.default = NOT_DELIVERED
        assert await texts(gateway) == []

    async def test_not_by_what_was_heard_before(self, gateway: Gateway, peers: Peers) -> None:
        """Each connection hears the same; the numbers come again and again."""
        gateway.hearing.take(news(2, users=[about_user("anna")]))
        await recalled(gateway)
        for number in (2, 1, 2):
            gateway.hearing.take(news(number))
            gateway.hearing.take(news(number, users=[about_user("anna")]))
        peers.default = NOT_DELIVERED
        assert await texts(gateway) == [TEXT]

    @pytest.mark.parametrize(
        ("operation", "body"),
        [
            ("memory.add", b'{"text": "a"}'),
            ("memory.add", b'{"text": "a", "end_user_id": "anna"}'),
            ("memory.add", rb'{"text": "a", "end\u005fuser\u005fid": "anna"}'),
            ("memory.bulk_add", b'{"items": [{"text": "a", "end_user_id": "anna"}]}'),
            ("memory.forget", b'{"memory_ids": [1]}'),
            ("memory.update", b'{"memory_id": 1}'),
            ("keys.revoke", b'{"key_id": 1}'),
        ],
    )
    async def test_by_an_own_write(
        self, operation: str, body: bytes, gateway: Gateway, peers: Peers
    ) -> None:
        await recalled(gateway)
        user = "bob" if b"anna" in body else "anna"
        await gateway.call(operation, body, X_End_User_ID=user)
        peers.default = NOT_DELIVERED
        assert await texts(gateway) == []

    async def test_not_by_another_users_write(self, gateway: Gateway, peers: Peers) -> None:
        await recalled(gateway)
        await gateway.call("memory.add", b'{"text": "a"}', X_End_User_ID="bob")
        peers.default = NOT_DELIVERED
        assert await texts(gateway) == [TEXT]

    async def test_by_a_write_whatever_becomes_of_it(self, gateway: Gateway, peers: Peers) -> None:
        await recalled(gateway)
        peers.default = NOT_DELIVERED
        assert (await gateway.call("memory.forget", Memsync_Deadline_Ms="50")).status == 503
        assert await texts(gateway) == []

    @pytest.mark.parametrize("error", [errors.Unauthenticated, errors.ApiKeyRevoked])
    async def test_for_a_key_that_a_peer_refuses(
        self, error: type[errors.MemsyncError], gateway: Gateway, peers: Peers
    ) -> None:
        await recalled(gateway)
        await recalled(gateway, b'{"query": "coffee"}')
        peers.default = refusal(error)
        await gateway.call("memory.query", QUESTION)
        peers.default = NOT_DELIVERED
        assert await texts(gateway) == []
        assert await texts(gateway, b'{"query": "coffee"}') == []


@pytest.mark.parametrize("change", ["news", "write"])
async def test_an_answer_from_before_a_change_is_not_kept_after_it(
    change: str, gateway: Gateway, peers: Peers
) -> None:
    """A peer answered, then the memory was forgotten; the answer arrives after the news."""
    peers.default = after(0.05, found())
    asking = asyncio.create_task(gateway.backend.call("memory.query", HEADERS, QUESTION))

    async def is_asked() -> bool:
        return bool(peers.asked)

    await eventually(is_asked, "a peer is asked")
    if change == "news":
        gateway.hearing.take(news(2, users=[about_user("anna")]))
    else:
        peers.default = Answer(200, {}, b"[1]")
        await gateway.backend.call("memory.forget", HEADERS, b'{"memory_ids": [1]}')
    assert TEXT.encode() in (await asking).body
    peers.default = NOT_DELIVERED
    assert await texts(gateway) == []
