"""Any value in any field inside a question's `filters` and `weights`, through the HTTP face of a
peer down to the real search: a 422 that names the field where it is of the wrong kind, an answer or
a 422 where it is of the right one, and never a 500."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from memsync.adapters.hot_index import FaissHotIndex
from memsync.engine.recall import Breakers, Embedding, Reasoning, Recall
from memsync.wire.requests import TIERS, WEIGHTS, QueryFilters
from tests.unit.gateway.calling import caller
from tests.unit.service.world import World

VALUES: list[bytes] = [
    b"null", b"true", b"false", b"-1", b"0", b"1", b"1.5", b"1e308", b"1e400", b"-0.0", b"5e-324",
    b"1" * 5_000, b"9223372036854775808", b"18446744073709551616", b'""', b'" "', b'"\\u0000"',
    b'"\\ud83d"', b'"\\ud83d\\ude00"', b'"' + b"x" * 70_000 + b'"', b'"hot"', b'"summary"',
    b'"2026-01-01"', b'"2026-01-01T00:00:00+99:99"', b'"0001-01-01"',
    b'"9999-12-31T23:59:59-14:00"',
    b"[]", b"[[]]", b"[null]", b"[1]", b"[true]", b'[""]', b'["a"]', b'["\\ud83d"]', b'["a", 1]',
    b"[" + b'"a",' * 30_000 + b'"a"]', b"[" * 2_000 + b"]" * 2_000, b"{}", b'{"":{}}',
    b'{"a":null}', b'{"a":1e308}', b'{"a":' + b"9" * 400 + b"}", b'{"a":[{"b":null}]}',
    b'{"\\ud83d":"\\ud83d"}', b'{"a":' * 500 + b"1" + b"}" * 500,
]  # fmt: skip
NAMES = {name: f"filters.{name}" for name in QueryFilters.__struct_fields__}


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def is_tier(value: Any) -> bool:
    return value in TIERS


KINDS: dict[str, Callable[[Any], bool]] = {
    "memory_type": is_text,
    "source": is_text,
    "sources": is_list_of_texts,
    "tags": is_list_of_texts,
    "since": is_text,
    "until": is_text,
    "include_summaries": lambda value: isinstance(value, bool),
    "tier": is_tier,
    "session_id": is_text,
    "metadata": lambda value: isinstance(value, dict),
}


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """The HTTP face of a peer that searches as peers do, with a few memories."""
    breakers = Breakers(world.clock)
    recall = Recall(
        world.store,
        FaissHotIndex(1 << 30),
        Embedding([], breakers, world.clock),
        Reasoning(None, breakers, world.clock),
        world.clock,
        breakers=breakers,
    )
    for text, fields in (
        ("a cat", {"source": "a", "tags": ["a"], "metadata": {"a": 1}, "session_id": "a"}),
        ("a dog", {"metadata": {"a": [{"b": None}]}}),
    ):
        assert (await world.add(text, **fields)).status == 201
    world.recall = recall  # type: ignore[assignment]
    world.service = world.new_service()
    running = asyncio.create_task(recall.run())
    headers = {"X-API-Key": world.key, "X-End-User-ID": "ada"}
    async with caller(world.service, headers=headers) as found:
        yield found
    running.cancel()


def loaded(value: bytes) -> Any:
    """The value as Python has it; what no JSON parser can hold is of no kind."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return object()


def may_be_unreadable(value: bytes) -> bool:
    """Half of a character, or so deep that the decoder gives up: no JSON that we read (400)."""
    return b'\\ud83d"' in value or value.count(b"[") > 1_000 or value.count(b"{") > 100


async def ask(client: httpx.AsyncClient, part: str, field: str, value: bytes) -> httpx.Response:
    body = b'{"query":"cat","%s":{"%s":%s}}' % (part.encode(), field.encode(), value)
    return await client.post("/memory/query", content=body)


def problem(response: httpx.Response) -> tuple[str, str]:
    error = response.json()["error"]
    assert error["definite"] is True
    return error["code"], error["message"]


@pytest.mark.parametrize("field", NAMES)
async def test_a_filter_of_any_value(field: str, client: httpx.AsyncClient) -> None:
    seen = set()
    for value in VALUES:
        response = await ask(client, "filters", field, value)
        seen.add(response.status_code)
        kind = loaded(value)
        if response.status_code == 400:
            assert may_be_unreadable(value), (field, value[:40], response.text)
            continue
        if kind is not None and not KINDS[field](kind):
            assert response.status_code == 422, (field, value[:40], response.text)
        assert response.status_code in (200, 422), (field, value[:40], response.text)
        if response.status_code == 422:
            code, message = problem(response)
            assert code == "VALIDATION_ERROR"
            assert message.startswith(NAMES[field]), (field, value[:40], message)
        elif response.status_code == 200:
            answer = response.json()
            assert answer["degraded_components"] == ["embedding"], (field, value[:40])
    assert {200, 422} <= seen


@pytest.mark.parametrize("field", [*WEIGHTS, "colour", ""])
async def test_a_weight_of_any_value(field: str, client: httpx.AsyncClient) -> None:
    for value in VALUES:
        response = await ask(client, "weights", field, value)
        kind = loaded(value)
        is_number = isinstance(kind, int | float) and not isinstance(kind, bool)
        if response.status_code == 400:
            assert may_be_unreadable(value), (field, value[:40], response.text)
            continue
        if not is_number or field not in WEIGHTS:
            assert response.status_code == 422, (field, value[:40], response.text)
        assert response.status_code in (200, 422), (field, value[:40], response.text)
        if response.status_code == 200:
            assert response.json()["degraded_components"] == ["embedding"]
        elif response.status_code == 422:
            assert problem(response)[1].startswith("weights")


@pytest.mark.parametrize("value", [b"[]", b'"x"', b"1", b"true", b"[{}]", b'{"colour": 1}'])
@pytest.mark.parametrize("part", ["filters", "weights"])
async def test_a_part_that_is_no_object_or_has_another_field(
    part: str, value: bytes, client: httpx.AsyncClient
) -> None:
    response = await client.post(
        "/memory/query", content=b'{"query":"cat","%s":%s}' % (part.encode(), value)
    )
    assert response.status_code == 422
    code, message = problem(response)
    assert (code, message.split(":")[0].split(".")[0]) == ("VALIDATION_ERROR", part)


async def test_the_values_that_fit_find_what_they_name(client: httpx.AsyncClient) -> None:
    """So the answers above are those of the filters, and not of an empty scope."""
    for field, value, count in (
        ("source", b'"a"', 1), ("sources", b'["a"]', 1), ("tags", b'["a"]', 1),
        ("session_id", b'"a"', 1), ("metadata", b'{"a":1}', 1),
        ("metadata", b'{"a":[{"b":null}]}', 1), ("tier", b'"hot"', 2),
        ("since", b'"2020-01-01"', 2), ("until", b'"2020-01-01"', 0),
        ("memory_type", b'"summary"', 0),
        ("include_summaries", b"false", 2),
    ):  # fmt: skip
        response = await ask(client, "filters", field, value)
        assert len(response.json()["memories"]) == count, (field, value)
