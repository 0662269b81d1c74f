"""What a peer tells gateways of changes, and what of it they understand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from memsync import ids, limits
from memsync.core.records import Record, join_operation
from memsync.engine.cell.news import Telling
from memsync.errors import Unavailable
from memsync.ids import Scope
from memsync.ports import Change
from memsync.wire import codec
from memsync.wire.news import News, about_user
from memsync.wire.operations import ApiKeyOrigin, Count, Create, Purge, Update
from tests.conditions import eventually
from tests.fakes.memories import SCOPE, changed, memory, stamp

SECRET = ids.secret_hash("secret")
KEY_SCOPE = Scope(7, "", "", "")
ADA, BOB = about_user("ada"), about_user("bob")


class Channel:
    """`ports.Channel` that remembers what was told, and fails on request."""

    def __init__(self) -> None:
        self.told: list[News] = []
        self.fails = False

    async def tell(self, data: bytes) -> None:
        if self.fails:
            raise Unavailable("no connection")
        self.told.append(codec.unpack(data, News))

    def content(self) -> list[News]:
        """What was told but numbers."""
        return [news for news in self.told if news.has_content]


@asynccontextmanager
async def telling(channel: Channel) -> AsyncIterator[Telling]:
    made = Telling("peer-1", "cell", channel, session=5)
    running = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.wait({running})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NEWS_S", 0.02)


async def told_of(*changes: Change) -> list[News]:
    """What is told of one batch."""
    channel = Channel()
    async with telling(channel) as made:
        made.apply(changes)

        async def is_told() -> bool:
            return len(channel.told) >= 3

        await eventually(is_told, "the last number is told again")
    return channel.content()


def api_key() -> Record:
    """An API key's record as it was made."""
    origin = ApiKeyOrigin(
        hash=SECRET, prefix="ms_dev_", name="n", environment="development", scopes=[], project="",
        tier="free", created_at_ms=1, expires_at_ms=None,
    )  # fmt: skip
    key = ids.record_key_of_ref("api_key", KEY_SCOPE, "k")
    return join_operation(None, Create(key, KEY_SCOPE, [3], origin), stamp(1))


TEA = memory("tea", "green tea")
FORGOTTEN = changed(TEA, deleted=True)
PURGED = join_operation(TEA, Purge(TEA.key, SCOPE, "memory"), stamp(2_000_000_000_000))
TAKEN_OUT = Record(TEA.kind, TEA.key, TEA.scope)
COUNTED = join_operation(
    TEA, Count(TEA.key, SCOPE, "memory", counters={"uses": {"1": 1}}, maxima={}), stamp(9)
)


@pytest.mark.parametrize("after", [FORGOTTEN, PURGED, TAKEN_OUT, changed(TEA, tags=["a"])])
async def test_a_memory_that_says_something_else_is_told_by_its_user(after: Record) -> None:
    (news,) = await told_of(Change(TEA, after))
    assert news == News("peer-1", "cell", 5, 1, [ADA], [], False)


@pytest.mark.parametrize(
    "change",
    [Change(None, TEA), Change(TEA, TEA), Change(TEA, COUNTED),
     Change(TEA, changed(TEA, tier="warm"))],
    ids=["new", "the same", "counted", "moved"],
)  # fmt: skip
async def test_what_no_answer_shows_is_not_told(change: Change) -> None:
    assert await told_of(change) == []


async def test_a_key_is_told_by_its_hash() -> None:
    key = api_key()
    revoked = {"revoked": codec.pack(True)}
    after = join_operation(key, Update(key.key, KEY_SCOPE, "api_key", revoked), stamp(2))
    (news,) = await told_of(Change(key, after))
    assert (news.users, news.keys, news.is_all) == ([], [SECRET], False)


async def test_what_concerns_everybody_is_told_as_everything() -> None:
    before = Record("project", ids.record_key_of_ref("project", KEY_SCOPE, "p"), KEY_SCOPE)
    archived = Update(before.key, KEY_SCOPE, "project", {"archived": codec.pack(True)})
    (news,) = await told_of(Change(before, join_operation(before, archived, stamp(2))))
    assert news.is_all


async def test_a_batch_is_one_piece_of_news_and_too_many_names_are_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "NEWS_NAMES_MAX", 2)
    batches = []
    for count in (2, 3):
        scopes = [Scope(7, "", "development", f"user-{n}") for n in range(count)] * 2
        before = [memory(f"m{n}", "tea", scope=scope) for n, scope in enumerate(scopes)]
        batches.append(await told_of(*(Change(r, changed(r, deleted=True)) for r in before)))
    assert [len(batch) for batch in batches] == [1, 1]
    assert batches[0][0].users == [about_user("user-0"), about_user("user-1")]
    assert (batches[1][0].users, batches[1][0].is_all) == ([], True)


async def test_what_could_not_be_told_leaves_a_gap_in_the_numbers() -> None:
    channel = Channel()
    async with telling(channel) as made:
        made.apply([Change(TEA, FORGOTTEN)])

        async def one_is_told() -> bool:
            return len(channel.content()) == 1

        await eventually(one_is_told, "the first is told")
        channel.fails = True
        made.apply([Change(TEA, FORGOTTEN)])

        async def is_taken() -> bool:
            return made._number == 2

        await eventually(is_taken, "the second is lost")
        channel.fails = False
        made.apply([Change(TEA, FORGOTTEN)])

        async def two_are_told() -> bool:
            return len(channel.content()) == 2

        await eventually(two_are_told, "the third is told")
    assert [news.number for news in channel.content()] == [1, 3]
    numbers = [news.number for news in channel.told]
    assert numbers == sorted(numbers)


def test_the_form_on_the_bus() -> None:
    """Golden bytes: gateways and peers of two versions stand side by side."""
    news = News("peer-1", "cell", 5, 2, [b"\x01" * 2], [b"\x02"], False)
    assert codec.pack(news).hex() == "97a6706565722d31a463656c6c050291c402010191c40102c2"
    with pytest.raises(msgspec.DecodeError):
        codec.unpack(codec.pack([1, 2]), News)
    assert (len(ADA), len(BOB)) == (16, 16)
    assert ADA != BOB
