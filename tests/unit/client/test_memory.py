"""The typed methods against a served fake: what is sent, what comes back, what is refused here."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest

import memsync
from memsync import errors
from memsync.client import Client, patience
from memsync.errors import ConfigurationError
from memsync.ports import Answer
from memsync.wire import codec, context
from memsync.wire.requests import AddItem, QueryFilters
from tests.fakes.backend import KEY
from tests.unit.cli.serving import ClusterBackend

USER = "ada"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long before trying again."""
    monkeypatch.setattr(patience, "BACKOFF_S_MAX", 0.001)


def connect(url: str, **more: Any) -> Client:
    """A client of the served fake."""
    return memsync.connect(url=url, api_key=KEY, **{"end_user": USER, **more})


def sent(backend: ClusterBackend) -> tuple[dict[str, Any], dict[str, str]]:
    """Body and headers of the last request."""
    return json.loads(backend.calls[-1].body), backend.calls[-1].headers


async def test_only_what_was_given_is_sent(url: str, backend: ClusterBackend) -> None:
    async with connect(url, project="web", ack="all") as memory:
        await memory.add(
            "tea", tags=("a", "b"), metadata={"n": None}, source=None, importance=0.9,
            occurred_at=datetime(2026, 1, 2, tzinfo=UTC), idempotency_key="k1",
        )  # fmt: skip
        body, headers = sent(backend)
        assert body == {
            "text": "tea", "tags": ["a", "b"], "metadata": {"n": None}, "importance": 0.9,
            "occurred_at": "2026-01-02T00:00:00Z", "end_user_id": USER,
        }  # fmt: skip
        expected = {
            context.API_KEY: KEY, context.PROJECT: "web", context.END_USER: USER,
            context.IDEMPOTENCY_KEY: "k1", context.ACK: "all",
        }  # fmt: skip
        assert {name: headers[name] for name in expected} == expected
        assert 0 < float(headers[context.DEADLINE_MS]) < 10_000
        await memory.query("tea", k=2, filters=QueryFilters(tags=["a"]), consistency="local")
        body, headers = sent(backend)
        assert body == {"query": "tea", "k": 2, "filters": {"tags": ["a"]}, "end_user_id": USER}
        assert headers[context.CONSISTENCY] == "local"
        assert context.IDEMPOTENCY_KEY not in headers
        items = ["one", {"text": "two", "tags": None}, AddItem(text="three", metadata={"x": None})]
        await memory.bulk_add(items, deduplicate=False)
        assert sent(backend)[0]["items"] == [
            {"text": "one"}, {"text": "two"}, {"text": "three", "metadata": {"x": None}}
        ]  # fmt: skip


async def test_the_fields_of_answers_that_are_new_or_missing(
    url: str, backend: ClusterBackend
) -> None:
    async with connect(url) as memory:
        made = await memory.add("tea")
        whole = json.loads(codec.to_json(made)) | {"of_a_newer_server": [1]}
        backend.answers.append(Answer(201, {}, codec.to_json(whole)))
        assert await memory.add("tea") == made
        del whole["version"]
        backend.answers += [Answer(200, {}, codec.to_json(whole))] * 2
        with pytest.raises(errors.NoCluster, match=r"field `version`.*another version"):
            await memory.get(1)
        with pytest.raises(errors.OutcomeUnknown, match=r"field `version`.*may have happened"):
            await memory.update(1, importance=0.1)


async def test_a_position_of_another_version_does_not_undo_a_write(
    url: str, backend: ClusterBackend
) -> None:
    async with connect(url) as memory:
        made = await memory.add("tea")
        for position in ("v2:17", "0.0.2,x", "-1.0.1", "0.0." + "9" * 5_000, ";"):
            answer = Answer(201, {context.POSITION: position}, codec.to_json(made))
            backend.answers.append(answer)
            assert await memory.add("tea") == made
            assert memory.position == "0.0.1"


@pytest.mark.parametrize("greeting", [b"INFO []", b"INFO 7"])
async def test_a_server_that_is_not_of_nats_is_no_cluster(greeting: bytes) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting + b"\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        servers = f"nats://127.0.0.1:{port}"
        async with memsync.connect(servers=servers, api_key=KEY, end_user=USER) as memory:
            with pytest.raises(errors.NoCluster, match="no NATS server answers"):
                await memory.add("tea")


async def test_an_address_that_cannot_be_asked_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigurationError, match="cannot be asked"):
        async with connect("http://\u2603_.x"):
            pass
    with pytest.raises(ConfigurationError, match="finite"):
        connect("http://h", timeout_s=float("inf"))


async def test_nothing_is_sent_that_cannot_be_right(url: str, backend: ClusterBackend) -> None:
    async with connect(url) as memory:
        for call, reason in (
            (memory.add("x" * 8_001), "text: 8001 characters"),
            (memory.add(7), "text: Expected `str"),  # type: ignore[arg-type]
            (memory.add("x", colour="red"), "colour: unknown field"),  # type: ignore[call-arg]
            (memory.add("x", tags=["t" * 65]), "tags"),
            (memory.add("x", metadata={"a": object()}), "body"),
            (memory.add("x", idempotency_key="~x"), "Idempotency-Key"),
            (memory.add("x", idempotency_key=" x"), "idempotency_key"),
            (memory.add("x", ack="most"), "Memsync-Ack"),  # type: ignore[arg-type]
            (memory.add("x", timeout_s=0), "timeout_s"),
            (memory.add("x", timeout_s=float("inf")), "timeout_s"),
            (memory.add("x", end_user="a\nb"), "end_user"),
            (memory.bulk_add([]), "items: 0 items"),
            (memory.update(1), "name at least one"),
            (memory.forget(), "exactly one"),
            (memory.query("x", weights={"magic": 1.0}), "weights.magic"),
            (memory.get(1, min_position="nonsense"), "Memsync-Min-Position"),
        ):
            with pytest.raises(errors.ValidationFailed) as caught:
                await call  # type: ignore[misc]
            assert reason in str(caught.value)
        with pytest.raises(errors.PayloadTooLarge):
            await memory.bulk_add([{"text": "x" * 8_000, "metadata": {"a": "y" * 15_000}}] * 50)
        assert not backend.calls


async def test_reads_ask_for_what_was_written(url: str, backend: ClusterBackend) -> None:
    async with connect(url) as memory:
        await memory.list()
        assert context.MIN_POSITION not in sent(backend)[1]
        assert memory.position == ""
        await memory.add("tea")
        assert memory.position == "0.0.1"
        await memory.list(min_position="1.0.4")
        assert sent(backend)[1][context.MIN_POSITION] == "0.0.1,1.0.4"
        memory.carry("0.0.9")
        await memory.get(1)
        assert sent(backend)[1][context.MIN_POSITION] == "0.0.9"
    async with connect(url, reads_own_writes=False) as memory:
        await memory.add("coffee")
        await memory.list()
        assert context.MIN_POSITION not in sent(backend)[1]


async def test_a_failing_write_goes_on_with_its_own_key(url: str, backend: ClusterBackend) -> None:
    backend.faults += [errors.NoQuorum("1 of 3"), errors.OutcomeUnknown("lost")]
    async with connect(url) as memory:
        await memory.add("tea")
        await memory.add("milk")
    keys = [call.headers.get(context.IDEMPOTENCY_KEY) for call in backend.calls]
    assert None not in keys[-2:]
    assert keys[-1] != keys[-2]
    assert backend.texts(USER) == ["tea", "milk"]


async def test_without_retries_a_refusal_is_raised(url: str, backend: ClusterBackend) -> None:
    backend.faults.append(errors.NoQuorum("1 of 3"))
    async with connect(url, retries=False) as memory:
        with pytest.raises(errors.NoQuorum):
            await memory.add("tea")


async def test_a_skipped_add_and_a_used_up_quota(url: str, backend: ClusterBackend) -> None:
    skipped = {"status": "skipped", "reason": "duplicate", "memory_ids": [7]}
    backend.answers += [
        Answer(200, {}, codec.to_json(skipped)),
        Answer(200, {}, b'{"status":"ok"}'),
    ]
    async with connect(url) as memory:
        found = await memory.add("tea")
        assert getattr(found, "memory_ids", None) == [7]
        with pytest.raises(errors.RateLimited, match="quota"):
            await memory.add("tea")


async def test_the_body_of_the_block_keeps_its_error(url: str) -> None:
    for error in (ValueError("of the program"), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            async with connect(url):
                raise error


async def test_it_is_used_open_and_once(url: str) -> None:
    memory = connect(url)
    with pytest.raises(RuntimeError, match="async with"):
        await memory.list()
    async with memory:
        with pytest.raises(RuntimeError, match="open already"):
            await memory.__aenter__()
        assert (await memory.list()).total == 0
    with pytest.raises(RuntimeError, match="async with"):
        await memory.list()


def test_what_names_no_cluster_or_a_wrong_one_is_said_at_once() -> None:
    with pytest.raises(errors.NoCluster, match="no cluster found"):
        memsync.connect()
    for wrong, reason in (
        ({"url": "ftp://x"}, "not an address"),
        ({"servers": "http://127.0.0.1"}, "not an address"),
        ({"servers": ["nats://h"], "url": "http://h"}, "only one"),
        ({"url": "http://h"}, "no API key"),
        ({"url": "http://h", "api_key": "k k"}, "not an API key"),
        ({"url": "http://h", "api_key": "k", "timeout_s": 0.0}, "timeout_s"),
        ({"url": "http://h", "api_key": "k", "project": " x"}, "project"),
    ):
        with pytest.raises(ConfigurationError, match=reason):
            memsync.connect(**wrong)  # type: ignore[arg-type]


async def test_the_environment_names_what_the_program_does_not(
    url: str, backend: ClusterBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("URL", url), ("API_KEY", KEY), ("END_USER", "bo")):
        monkeypatch.setenv(f"MEMSYNC_{name}", value)
    async with memsync.connect() as memory:
        await memory.add("tea")
        await memory.add("tea", end_user="Zoë")
    assert (backend.texts("bo"), backend.texts("Zoë")) == (["tea"], ["tea"])
    assert context.END_USER not in sent(backend)[1]  # headers are ASCII; the body names her


async def test_keys(url: str, backend: ClusterBackend) -> None:
    async with connect(url, end_user=None) as memory:
        made = await memory.keys.create(name="ci", scopes=["memory:read"])
        assert made.key
        assert sent(backend)[0] == {"name": "ci", "scopes": ["memory:read"]}
        assert (await memory.keys.list()).total == 1
        assert (await memory.keys.revoke(made.id)).status == "revoked"
        with pytest.raises(errors.ValidationFailed, match="scopes"):
            await memory.keys.create(scopes=["everything"])
