"""The official SDK against memsync, with nothing changed but `base_url`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import memorysync
import msgspec
import pytest
from memorysync import AsyncMemorySyncClient, BulkAddItem, MemorySyncClient

from memsync.gateway.app import build_app
from memsync.gateway.server import listen, serve
from tests.fakes.backend import KEY, MemoryBackend


class Endpoint(msgspec.Struct, frozen=True):
    """Where the API is, and a key for it."""

    url: str
    key: str


@pytest.fixture(scope="module")
def app_alone() -> Iterator[Endpoint]:
    """The HTTP app in front of a backend in memory, in a thread."""
    sock = listen("127.0.0.1", 0)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    app = build_app(MemoryBackend(), name="test-1")
    serving = serve(app, sockets=[sock], stop=stop)
    thread = threading.Thread(target=loop.run_until_complete, args=(serving,))
    port = sock.getsockname()[1]
    thread.start()
    yield Endpoint(f"http://127.0.0.1:{port}", KEY)
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


@pytest.fixture(params=["app", "cluster"])
def endpoint(request: pytest.FixtureRequest) -> Endpoint:
    """The app alone, then a whole cluster."""
    if request.param == "app":
        found: Endpoint = request.getfixturevalue("app_alone")
        return found
    cluster = request.getfixturevalue("cluster")
    return Endpoint(cluster.url, cluster.api_key)


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    """An end user of the test's own, with a slash in its name."""
    return f"sdk/{request.node.name}"


@pytest.fixture
def client(endpoint: Endpoint, user: str) -> Iterator[MemorySyncClient]:
    with MemorySyncClient(endpoint.key, endpoint.url, end_user_id=user) as found:
        yield found


@pytest.fixture
async def async_client(endpoint: Endpoint, user: str) -> AsyncIterator[AsyncMemorySyncClient]:
    async with AsyncMemorySyncClient(endpoint.key, endpoint.url, end_user_id=user) as found:
        yield found


def test_the_life_of_a_memory(client: MemorySyncClient, user: str) -> None:
    added = client.add(
        "Ada drinks green tea", source="chat", tags=["drink"], importance=0.7, session_id="s-1",
        metadata={"n": [1, 2]},
    )  # fmt: skip
    assert isinstance(added, memorysync.Memory)
    got = client.get(added.id)
    assert (got.text, got.tags, got.importance) == ("Ada drinks green tea", ["drink"], 0.7)
    assert (got.source, got.metadata) == ("chat", {"n": [1, 2]})

    changed = client.update(added.id, tags=["drink", "warm"], importance=0.9)
    assert (changed.id, changed.tags, changed.importance) == (added.id, ["drink", "warm"], 0.9)

    found = client.query("what tea does Ada drink", k=3)
    assert [memory.id for memory in found.memories] == [added.id]

    page = client.list_memories(tenant_id="default", user_id=user, limit=5)
    assert page["total"] == 1
    assert [item["id"] for item in page["items"]] == [added.id]

    assert client.forget([added.id], reason="test") == [added.id]
    assert client.query("what tea does Ada drink").memories == []
    with pytest.raises(memorysync.NotFoundError):
        client.get(added.id)


def test_bulk_and_forget_by_filter(client: MemorySyncClient, user: str) -> None:
    items = [BulkAddItem(text=f"Bob owns dog number {n}", source="import") for n in range(5)]
    answer = client.bulk_add(items)
    assert (answer.total, answer.created, answer.rejected) == (5, 5, 0)
    ids = [result.memory_ids[0] for result in answer.results]
    assert len(set(ids)) == 5
    second = client.list_memories(tenant_id="default", user_id=user, limit=2, offset=2)
    assert (second["total"], len(second["items"])) == (5, 2)
    assert sorted(client.forget(filters={"source": "import"}, dry_run=True)) == sorted(ids)
    assert sorted(client.forget(filters={"source": "import"})) == sorted(ids)
    assert client.list_memories(tenant_id="default", user_id=user)["total"] == 0


async def test_the_async_client(async_client: AsyncMemorySyncClient, user: str) -> None:
    added = await async_client.add("Cleo plays the cello")
    assert isinstance(added, memorysync.Memory)
    bulk = await async_client.bulk_add([BulkAddItem(text="Cleo lives in Oslo")])
    assert bulk.created == 1
    assert (await async_client.get(added.id)).text == "Cleo plays the cello"
    assert (await async_client.update(added.id, source="x")).source == "x"
    found = await async_client.query("who plays the cello", k=1)
    assert [memory.id for memory in found.memories] == [added.id]
    page = await async_client.list_memories(tenant_id="default", user_id=user)
    assert page["total"] == 2
    assert await async_client.forget([added.id]) == [added.id]


def test_relations_and_feedback(client: MemorySyncClient) -> None:
    one, other = client.add("Ada drinks green tea"), client.add("It comes from Uji")
    assert isinstance(one, memorysync.Memory)
    assert isinstance(other, memorysync.Memory)
    made = client.create_relation(
        one.id, to_memory_id=other.id, relationship_type="detail_of", confidence=0.8,
        metadata={"why": [1]},
    )  # fmt: skip
    assert (made.from_memory_id, made.to_memory_id) == (one.id, other.id)
    assert (made.relationship_type, made.confidence) == ("detail_of", 0.8)
    assert made.metadata == {"why": [1]}
    assert made.created_at
    for drawn in (client.graph(), client.graph(memory_id=one.id, depth=1, limit=5)):
        assert {node["id"] for node in drawn["nodes"]} == {one.id, other.id}
        assert [edge["id"] for edge in drawn["edges"]] == [made.id]
    taken = client.feedback(one.id, "positive", comment="right")
    assert (taken.memory_id, taken.signal, taken.importance_before) == (one.id, "positive", 0.5)
    assert taken.summary.total_signals == 1
    assert taken.summary.signal_counts["positive"] == 1
    with pytest.raises(memorysync.NotFoundError):
        client.create_relation(one.id, to_memory_id=4_000_000_000, relationship_type="similar")
    with pytest.raises(memorysync.NotFoundError):
        client.feedback(4_000_000_000, "ignored")


async def test_relations_and_feedback_of_the_async_client(
    async_client: AsyncMemorySyncClient,
) -> None:
    one, other = [await async_client.add(f"Cleo plays {what}") for what in ("cello", "chess")]
    assert isinstance(one, memorysync.Memory)
    assert isinstance(other, memorysync.Memory)
    made = await async_client.create_relation(
        one.id, to_memory_id=other.id, relationship_type="similar"
    )
    assert made.id > 0
    assert len((await async_client.graph())["edges"]) == 1
    assert (await async_client.feedback(other.id, "negative")).signal == "negative"


def test_errors_arrive_as_the_sdk_knows_them(endpoint: Endpoint, user: str) -> None:
    with MemorySyncClient("ms_dev_wrong", endpoint.url, end_user_id=user) as wrong:
        with pytest.raises(memorysync.AuthError) as refused:
            wrong.get(1)
        assert refused.value.status_code == 401
        assert refused.value.request_id
    with MemorySyncClient(endpoint.key, endpoint.url) as nobody:
        with pytest.raises(memorysync.ValidationError) as missing:
            nobody.add("tea")
        assert missing.value.status_code == 400
        with pytest.raises(memorysync.ServerError) as unbuilt:
            nobody.export_all()
        assert unbuilt.value.status_code == 501


def test_what_is_wrong_reaches_the_caller(client: MemorySyncClient) -> None:
    with pytest.raises(memorysync.ValidationError, match="text") as long:
        client.add("x" * 9_000)
    assert long.value.status_code == 422
    with pytest.raises(memorysync.NotFoundError):
        client.update(4_000_000_000, source="x")
