"""What is wrong is refused with the right status, code and field; never a 500, never half a write.

Every row goes to a real cluster over a gateway, over a peer's own port and over NATS, as an end
user of its own, of whom nothing may be stored afterwards.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import string
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from memsync import limits
from memsync.core.admission import TIERS
from tests.system.callers import (
    WAYS,
    HttpWay,
    NatsWay,
    Reply,
    Way,
    bus_client,
    http_client,
)
from tests.system.conftest import Cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")
_number = itertools.count()


class Row(msgspec.Struct, frozen=True):
    """A request, and how it is refused. `told` stands in the message."""

    operation: str
    body: Any
    status: int
    code: str
    told: str
    headers: dict[str, str] = {}
    ways: tuple[str, ...] = WAYS


def nested(depth: int) -> dict[str, Any]:
    """An object so many levels deep."""
    found: dict[str, Any] = {}
    for _ in range(depth - 1):
        found = {"a": found}
    return found


def wrong(operation: str, told: str, *bodies: Any, **base: Any) -> list[Row]:
    """422 rows: `told` is the field; bodies that are dicts are put upon `base`."""
    return [
        Row(operation, {**base, **body} if isinstance(body, dict) else body, 422,
            "VALIDATION_ERROR", told + ": ")
        for body in bodies
    ]  # fmt: skip


def headers(told: str, *given: Mapping[str, str]) -> list[Row]:
    """422 rows of a header."""
    body = {"text": "a text"}
    return [
        Row("memory.add", body, 422, "VALIDATION_ERROR", told + ": ", dict(one)) for one in given
    ]


NOT_JSON = [
    b"{",
    b"nonsense",
    b'{"text": "a"',
    b'{"text": "a"} trailing',
    b"{'text': 'a'}",
    b'{"text": NaN}',
    b'{"text": "a", "importance": Infinity}',
    b'{"text": "a", "metadata": {"a": -Infinity}}',
    b'{"text": "\xff"}',
    b"\xff\xfe{\x00}\x00",
    b"\x00",
    b'{"text": "a\nb"}',
    b'{"text": "\\ud800"}',
    b'{"text": "\\udfff\\ud800"}',
    b'{"text": "a", "metadata": {"\\ud800": 1}}',
    b'{"text": "\\x41"}',
    b'{"text": "a",}',
    b"[" * 100_000,
    b'{"text": "a", "metadata": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
    b'{"metadata": ' + b"[" * 400_000 + b"]" * 400_000 + b"}",
]
NOT_AN_OBJECT = [b"[]", b'"text"', b"5", b"null", b"true", b"[{}]"]
T = {"text": "a text"}
Q = {"query": "a question"}
R = {"memory_id": 4_000_000_001, "to_memory_id": 4_000_000_002, "relationship_type": "similar"}

ROWS: list[Row] = [
    *(Row(op, body, 400, "INVALID_JSON", "JSON") for body in NOT_JSON for op in ("memory.add",)),
    *(Row(op, b"{", 400, "INVALID_JSON", "JSON")
      for op in ("memory.bulk_add", "memory.query", "memory.forget", "keys.create")),
    *(row for body in NOT_AN_OBJECT for row in wrong("memory.add", "body", body)),
    # Without a body
    *wrong("memory.add", "text", b""),
    *wrong("memory.bulk_add", "items", b""),
    *wrong("memory.query", "query", b""),
    *wrong("memory.forget", "memory_ids", b""),
    # memory.add: types
    *wrong("memory.add", "text", {"text": 5}, {"text": ["a"]}, {"text": {}}, {"text": True}),
    *wrong("memory.add", "tags", {"tags": "x"}, {"tags": {"a": 1}}, **T),
    *wrong("memory.add", "tags[1]", {"tags": ["a", 1]}, {"tags": ["a", None]}, **T),
    *wrong("memory.add", "importance", {"importance": "high"}, {"importance": [1]}, **T),
    *wrong("memory.add", "metadata", {"metadata": []}, {"metadata": "x"}, {"metadata": 1}, **T),
    *wrong("memory.add", "session_id", {"session_id": 4}, **T),
    *wrong("memory.add", "ttl_minutes", {"ttl_minutes": 1.5}, {"ttl_minutes": "5"}, **T),
    *wrong("memory.add", "deduplicate", {"deduplicate": "yes"}, {"deduplicate": 1}, **T),
    *wrong("memory.add", "occurred_at", {"occurred_at": 1_700_000_000}, **T),
    *wrong("memory.add", "end_user_id", {"end_user_id": 7}, **T),
    *wrong("memory.add", "frobnicate", {"frobnicate": None}, **T),
    *wrong("memory.add", "Text", {"Text": "case matters"}, **T),
    # memory.add: limits
    *wrong("memory.add", "text", {"text": "x" * 8_001}, {"text": None}, {"content": "x" * 8_001}),
    *wrong("memory.add", "tags", {"tags": ["t"] * 33}, {"tags": ["x" * 65]}, {"tags": [""]}, **T),
    *wrong("memory.add", "metadata", {"metadata": {"a": "x" * 16_384}}, **T),
    *wrong("memory.add", "metadata", {"metadata": nested(limits.METADATA_DEPTH_MAX + 2)}, **T),
    *wrong("memory.add", "client_ref", {"client_ref": ""}, {"client_ref": "x" * 129}, **T),
    *wrong("memory.add", "source", {"source": "x" * 257}, **T),
    *wrong("memory.add", "role", {"role": "x" * 257}, **T),
    *wrong("memory.add", "ttl_minutes", {"ttl_minutes": 0}, {"ttl_minutes": -(1 << 63)},
           {"ttl_minutes": 1 << 63}, **T),
    *wrong("memory.add", "occurred_at", {"occurred_at": "yesterday"}, {"occurred_at": ""},
           {"occurred_at": "0001-01-01T00:00:00+23:00"}, {"occurred_at": "2026-02-30"},
           {"occurred_at": "9999-12-31T23:59:59-23:00"}, {"occurred_at": "2026-01-01\x00"}, **T),
    *wrong("memory.add", "end_user_id", {"end_user_id": ""}, {"end_user_id": "x" * 257},
           {"end_user_id": "a\nb"}, {"end_user_id": "a\x00"}, {"end_user_id": "\u2028"}, **T),
    *wrong("memory.add", "body", {"metadata": {"a": 1 << 64}}, {"metadata": {"a": 10**100}},
           {"metadata": {"a": [-(1 << 63) - 1]}}, **T),
    # memory.bulk_add: one bad item fails all
    *wrong("memory.bulk_add", "items", {"items": []}, {"items": [T] * 51}, {"items": {}},
           {"items": "x"}, {}),
    *wrong("memory.bulk_add", "items[1].text", {"items": [T, {"text": 5}]}),
    *wrong("memory.bulk_add", "items[1].frobnicate", {"items": [T, {"frobnicate": 5}]}),
    *wrong("memory.bulk_add", "items[1].tags", {"items": [T, {**T, "tags": ["x" * 65]}]}),
    *wrong("memory.bulk_add", "items[1].occurred_at", {"items": [T, {**T, "occurred_at": "x"}]}),
    *wrong("memory.bulk_add", "items[1]", {"items": [T, None]}, {"items": [T, []]}),
    *wrong("memory.bulk_add", "body", {"items": [T, {**T, "metadata": {"a": 1 << 64}}]}),
    # memory.query
    *wrong("memory.query", "query", {}, {"query": 5}, {"query": None}),
    *wrong("memory.query", "k", {"k": "5"}, {"k": 1.5}, {"k": None}, **Q),
    *wrong("memory.query", "filters", {"filters": []}, {"filters": "x"}, **Q),
    *wrong("memory.query", "filters.colour", {"filters": {"colour": "x"}}, **Q),
    *wrong("memory.query", "filters.since", {"filters": {"since": "x"}},
           {"filters": {"since": "2026-02-01", "until": "2026-01-01"}}, **Q),
    *wrong("memory.query", "filters.tier", {"filters": {"tier": "tepid"}}, **Q),
    *wrong("memory.query", "filters.sources", {"filters": {"sources": ["x"] * 33}},
           {"filters": {"sources": ["x", "x" * 257]}}, **Q),
    *wrong("memory.query", "weights", {"weights": {"semantic": 0}}, {"weights": {}},
           {"weights": 5}, **Q),
    *wrong("memory.query", "weights.beauty", {"weights": {"beauty": 1}}, **Q),
    *wrong("memory.query", "weights.semantic", {"weights": {"semantic": -1}}, **Q),
    *wrong("memory.query", "computation_tier", {"computation_tier": "maximal"}, **Q),
    *wrong("memory.query", "consistency", {"consistency": "eventual"}, **Q),
    *wrong("memory.query", "Memsync-Min-Position", {"min_position": "x"},
           {"min_position": "3.0.1"}, {"min_position": "0.0.-1"}, {"min_position": "0.0"}, **Q),
    *wrong("memory.query", "traversal_depth", {"traversal_depth": "deep"}, **Q),
    *wrong("memory.query", "now", {"now": "yesterday"}, {"now": 5}, {"now": ""}, **Q),
    # memory.get, memory.list: over HTTP their fields stand in the path and the query
    Row("memory.get", {"memory_id": 4_000_000_000}, 404, "NOT_FOUND", "4000000000"),
    Row("memory.get", {"memory_id": "abc"}, 404, "NOT_FOUND", "route", ways=("gateway", "peer")),
    Row("memory.get", {"memory_id": -1}, 404, "NOT_FOUND", "route", ways=("gateway", "peer")),
    Row("memory.get", {"memory_id": 1 << 53}, 422, "VALIDATION_ERROR", "memory_id: ",
        ways=("gateway", "peer")),
    *(msgspec.structs.replace(row, ways=("nats",)) for row in [
        *wrong("memory.get", "memory_id", {}, {"memory_id": "abc"}, {"memory_id": 1.5},
               {"memory_id": None}),
        *wrong("memory.list", "limit", {"limit": "x"}, {"limit": 1.5}),
        *wrong("memory.list", "page", {"page": 1})]),
    *(msgspec.structs.replace(row, ways=("gateway", "peer")) for row in [
        *wrong("memory.list", "limit", {"limit": "x"}, {"limit": "1.5"}, {"limit": ""}),
        *wrong("memory.list", "offset", {"offset": "9" * 40}),
        *wrong("memory.list", "page", {"page": 1}),
        *wrong("memory.get", "colour", {"memory_id": 1, "colour": "red"})]),
    # memory.update
    Row("memory.update", {"memory_id": 4_000_000_000, "source": "x"}, 404, "NOT_FOUND", "40000000"),
    *wrong("memory.update", "body", {}, {"source": None}, memory_id=1),
    *wrong("memory.update", "importance", {"importance": "x"}, memory_id=1),
    *wrong("memory.update", "metadata", {"metadata": {"a": "x" * 16_384}}, memory_id=1),
    *wrong("memory.update", "tags", {"tags": ["t"] * 33}, memory_id=1),
    *wrong("memory.update", "text", {"text": "cannot be changed"}, memory_id=1),
    # memory.forget
    *wrong("memory.forget", "memory_ids", {"memory_ids": []}, {"memory_ids": "x"},
           {"memory_ids": [1] * 20_001}, {"memory_ids": [1], "filters": {"source": "x"}}),
    *wrong("memory.forget", "memory_ids[0]", {"memory_ids": ["x"]}, {"memory_ids": [1.5]},
           {"memory_ids": [None]}),
    *wrong("memory.forget", "filters.before", {"filters": {}}, {"filters": {"before": "x"}}),
    *wrong("memory.forget", "filters.colour", {"filters": {"colour": "x"}}),
    *wrong("memory.forget", "reason", {"memory_ids": [1], "reason": "x" * 501}),
    *wrong("memory.forget", "dry_run", {"memory_ids": [1], "dry_run": "no"}),
    # memory.relate, memory.feedback
    *wrong("memory.relate", "relationship_type", {"relationship_type": "hates"},
           {"relationship_type": 5}, {"relationship_type": None}, {}, memory_id=1, to_memory_id=2),
    *wrong("memory.relate", "to_memory_id", {"to_memory_id": "x"}, {"to_memory_id": 1.5},
           {"to_memory_id": None}, {"to_memory_id": 1}, memory_id=1, relationship_type="similar"),
    *wrong("memory.relate", "confidence", {"confidence": "sure"}, {"confidence": []}, **R),
    *wrong("memory.relate", "metadata", {"metadata": []}, {"metadata": nested(40)},
           {"metadata": {"a": "x" * 16_384}}, **R),
    *wrong("memory.relate", "body", {"metadata": {"a": 1 << 64}}, **R),
    *wrong("memory.relate", "frobnicate", {"frobnicate": 1}, **R),
    Row("memory.relate", R, 404, "NOT_FOUND", "4000000001"),
    *(Row("memory.explanation", {"query_id": name}, 404, "NOT_FOUND", "query_id")
      for name in ("q_1", "x" * 900, "q_" + "0" * 24 + ".peer-1", "☃")),
    Row("memory.explanation", {"query_id": "q_" + "0" * 24 + ".peer-8"}, 404, "NOT_FOUND",
        "peer-8"),
    *(msgspec.structs.replace(row, ways=("nats",))
      for row in wrong("memory.explanation", "query_id", {}, {"query_id": 5})),
    *wrong("memory.query", "weights[...]", {"weights": {"semantic": "much"}},
           {"weights": {"semantic": None}}, b'{"query": "a", "weights": {"semantic": 1e999}}', **Q),
    Row("memory.query", b'{"query": "a", "weights": {"semantic": NaN}}', 400, "INVALID_JSON",
        "JSON"),
    *wrong("memory.query", "filters.until", {"filters": {"until": "2026-13-01"}}, **Q),
    *wrong("memory.query", "filters.tags", {"filters": {"tags": "x"}}, **Q),
    *wrong("memory.query", "filters.metadata", {"filters": {"metadata": []}}, **Q),
    *wrong("memory.query", "filters.include_summaries", {"filters": {"include_summaries": 1}}, **Q),
    *wrong("memory.query", "explain", {"explain": "yes"}, **Q),
    Row("memory.graph", {"memory_id": 4_000_000_000}, 404, "NOT_FOUND", "4000000000"),
    *(msgspec.structs.replace(row, ways=("nats",)) for row in [
        *wrong("memory.graph", "memory_id", {"memory_id": "abc"}, {"memory_id": 1.5}),
        *wrong("memory.graph", "depth", {"depth": "x"}, {"depth": None}),
        *wrong("memory.graph", "limit", {"limit": 1.5})]),
    *(msgspec.structs.replace(row, ways=("gateway", "peer")) for row in [
        *wrong("memory.graph", "memory_id", {"memory_id": "abc"}, {"memory_id": ""}),
        *wrong("memory.graph", "depth", {"depth": "deep"}, {"depth": "1.5"}),
        *wrong("memory.graph", "colour", {"colour": "red"})]),
    *wrong("memory.feedback", "signal", {"signal": "meh"}, {"signal": 1}, {"signal": None}, {},
           memory_id=1),
    *wrong("memory.feedback", "comment", {"comment": 5}, {"comment": "x" * 501}, memory_id=1,
           signal="positive"),
    Row("memory.feedback", {"memory_id": 4_000_000_000, "signal": "positive"}, 404, "NOT_FOUND",
        "4000000000"),
    # Keys
    *wrong("keys.create", "environment", {"environment": "moon"}, {"environment": 1}),
    *wrong("keys.create", "scopes", {"scopes": []}, {"scopes": ["root"]}, {"scopes": "memory:*"}),
    *wrong("keys.create", "rate_limit_tier", {"rate_limit_tier": "gold"}),
    *wrong("keys.create", "expires_at", {"expires_at": "soon"}),
    *wrong("keys.create", "name", {"name": "x" * 257}, {"name": 5}),
    *wrong("keys.create", "project_id", {"project_id": "A B"}, {"project_id": ""},
           {"project_id": "x" * 65}, {"project_id": "a.b"}, {"project_id": "a\x00"}),
    *wrong("keys.create", "organisation", {"organisation": ""}, {"organisation": "Ä"},
           {"organisation": "a/b"}),
    *wrong("keys.create", "frobnicate", {"frobnicate": 1}),
    Row("keys.create", {"project_id": "proj_0123456789abcdef"}, 404, "PROJECT_NOT_FOUND", "proj_"),
    Row("keys.revoke", {"key_id": 4_000_000_000}, 404, "NOT_FOUND", "4000000000"),
    # Headers
    *headers("Idempotency-Key", {"Idempotency-Key": "x" * 129}, {"Idempotency-Key": "~x"},
             {"Idempotency-Key": ""}, {"Idempotency-Key": "a\u200bb"}),
    *headers("Memsync-Ack", {"Memsync-Ack": "most"}, {"Memsync-Ack": ""}),
    *headers("Memsync-Consistency", {"Memsync-Consistency": "eventual"}),
    *headers("Memsync-Min-Position", {"Memsync-Min-Position": "x"}, {"Memsync-Min-Position": ","},
             {"Memsync-Min-Position": "9.0.1"}, {"Memsync-Min-Position": "1.1.1.1"}),
    *headers("Memsync-Deadline-Ms", {"Memsync-Deadline-Ms": "soon"}, {"Memsync-Deadline-Ms": "0"},
             {"Memsync-Deadline-Ms": "-5"}, {"Memsync-Deadline-Ms": "nan"}),
    *headers("end_user_id", {"X-End-User-ID": "x" * 257}),
    Row("memory.add", T, 404, "PROJECT_NOT_FOUND", "nowhere", {"X-Project-ID": "nowhere"}),
    Row("memory.add", T, 400, "MISSING_END_USER_ID", "X-End-User-ID", {"X-End-User-ID": ""}),
    Row("memory.add", T, 401, "MISSING_API_KEY", "API", {"X-API-Key": ""}),
    # Size
    Row("memory.add", b'{"text": "a text"' + b" " * limits.BODY_BYTES_MAX + b"}", 413,
        "PAYLOAD_TOO_LARGE", str(limits.BODY_BYTES_MAX)),
    Row("memory.add", b"x" * 3_000_000, 413, "PAYLOAD_TOO_LARGE", str(limits.BODY_BYTES_MAX)),
    Row("memory.query", b"[" * 3_000_000, 413, "PAYLOAD_TOO_LARGE", str(limits.BODY_BYTES_MAX)),
]  # fmt: skip


def row_id(row: Row) -> str:
    body = row.body if isinstance(row.body, bytes) else json.dumps(row.body).encode()
    text = f"{row.operation} {body[:40].decode('latin-1')} {row.headers or ''}"
    return "".join(c for c in text if c in string.printable and c not in "\n\r\t\x0b\x0c[]")[:70]


class Ways(msgspec.Struct, frozen=True):
    """All three, open."""

    gateway: HttpWay
    peer: HttpWay
    nats: NatsWay

    def each(self, names: tuple[str, ...] = WAYS) -> list[Way]:
        return [getattr(self, name) for name in names]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ways(cluster: Cluster) -> AsyncIterator[Ways]:
    async with http_client() as client, bus_client(cluster, "client") as bus:
        yield Ways(
            gateway=HttpWay("gateway", client, cluster.url),
            peer=HttpWay("peer", client, cluster.peer_url(3)),
            nats=NatsWay(bus),
        )


def a_user() -> str:
    """An end user that nobody had before."""
    return f"bad-input-{next(_number)}"


def check_form(reply: Reply) -> None:
    """What every answer that is not a success looks like."""
    body = reply.body
    assert body.keys() == {"error", "request_id"}, reply
    error = body["error"]
    assert {"code", "message", "definite"} <= error.keys() <= {
        "code", "message", "definite", "details", "retry_after",
    }  # fmt: skip
    assert error["definite"] is True
    assert error["message"]
    assert len(error["message"]) < 600
    assert "Traceback" not in error["message"]
    assert body["request_id"] == reply.headers["x-request-id"]
    assert reply.headers["x-trace-id"]


@pytest.mark.parametrize("row", ROWS, ids=row_id)
async def test_what_is_wrong_is_refused(cluster: Cluster, ways: Ways, row: Row) -> None:
    for way in ways.each(row.ways):
        user = a_user()
        reply = await way.call(row.operation, row.body, cluster.headers(user, **row.headers))
        assert (reply.status, reply.code) == (row.status, row.code), (way.name, reply)
        check_form(reply)
        told = reply.body["error"]["message"]
        if row.told.endswith(": "):
            assert told.startswith(row.told), (way.name, told)
            assert reply.body["error"]["details"][0]["field"] == row.told[:-2]
        assert row.told in told, (way.name, told)
        listed = await way.call("memory.list", {}, cluster.headers(user))
        assert (listed.status, listed.body["total"]) == (200, 0), way.name


# The rest of the error table, which takes more than one request


async def new_key(cluster: Cluster, way: Way, **fields: Any) -> dict[str, Any]:
    """A key that every peer knows."""
    made = await way.call("keys.create", fields, cluster.headers("", **{"Memsync-Ack": "all"}))
    assert made.status == 201, made
    found: dict[str, Any] = made.body
    return found


async def list_with(way: Way, key: str, **more: str) -> Reply:
    """A list as some user with this key."""
    return await way.call("memory.list", {}, {"X-API-Key": key, "X-End-User-ID": "u", **more})


async def test_keys_that_are_not_good(cluster: Cluster, ways: Ways) -> None:
    for way in ways.each():
        unknown = await list_with(way, "ms_dev_" + "0" * 48)
        assert (unknown.status, unknown.code) == (401, "INVALID_API_KEY")
        expired = await new_key(cluster, way, expires_at="2020-01-01")
        old = await list_with(way, expired["key"])
        assert (old.status, old.code) == (401, "INVALID_API_KEY")
        revoked = await new_key(cluster, way)
        headers = cluster.headers("", **{"Memsync-Ack": "all"})
        assert (await way.call("keys.revoke", {"key_id": revoked["id"]}, headers)).status == 200
        gone = await list_with(way, revoked["key"])
        assert (gone.status, gone.code) == (403, "API_KEY_REVOKED")
        lacking = await new_key(cluster, way, scopes=["memory:add"])
        short = await list_with(way, lacking["key"])
        assert (short.status, short.code) == (403, "INSUFFICIENT_SCOPE")
        for reply in (unknown, old, gone, short):
            check_form(reply)


async def test_another_tenant(cluster: Cluster, ways: Ways) -> None:
    fields = {"tenant_id": "elsewhere", "user_id": "u"}
    over_nats = await ways.nats.call("memory.list", fields, cluster.headers("u"))
    assert (over_nats.status, over_nats.code) == (403, "TENANT_MISMATCH")
    check_form(over_nats)
    for way in (ways.gateway, ways.peer):
        answer = await way.client.get(
            way.url + "/v1/memory/elsewhere/u/list", headers=cluster.headers("u")
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "TENANT_MISMATCH")


async def test_what_is_not_there_or_not_built(cluster: Cluster, ways: Ways) -> None:
    for operation, status, code in [
        ("state.put", 501, "NOT_IMPLEMENTED"),
        ("memory.export", 501, "NOT_IMPLEMENTED"),
        ("memory.frobnicate", 404, "NOT_FOUND"),
        ("memory", 404, "NOT_FOUND"),
        ("a.b.c.d.e", 404, "NOT_FOUND"),
        ("x" * 500, 404, "NOT_FOUND"),
    ]:
        reply = await ways.nats.call(operation, {}, cluster.headers("u"))
        assert (reply.status, reply.code) == (status, code), operation
        check_form(reply)
    for way in (ways.gateway, ways.peer):
        for method, path, status, code in [
            ("POST", "/v1/state/put", 501, "NOT_IMPLEMENTED"),
            ("GET", "/memory/export", 501, "NOT_IMPLEMENTED"),
            ("GET", "/nowhere", 404, "NOT_FOUND"),
            ("GET", "/memory/add/", 404, "NOT_FOUND"),
            ("GET", "/memory/add", 405, "METHOD_NOT_ALLOWED"),
            ("PUT", "/memory/query", 405, "METHOD_NOT_ALLOWED"),
            ("TRACE", "/memory/1", 405, "METHOD_NOT_ALLOWED"),
            ("POST", "/v1/operations/memory.frobnicate", 404, "NOT_FOUND"),
        ]:
            answer = await way.client.request(
                method, way.url + path, headers=cluster.headers("u"), content=b"{}"
            )
            reply = Reply(answer.status_code, dict(answer.headers), answer.content)
            assert (reply.status, reply.code) == (status, code), (method, path, reply)
            check_form(reply)
            if status == 405:
                assert answer.headers["allow"]


async def test_a_key_that_is_used_again_and_a_version_that_is_old(
    cluster: Cluster, ways: Ways
) -> None:
    for way in ways.each():
        headers = cluster.headers(a_user(), **{"Idempotency-Key": "once", "Memsync-Ack": "all"})
        first = await way.call("memory.add", {"text": "one"}, headers)
        assert first.status == 201
        for operation, body in [
            ("memory.add", {"text": "two"}),
            ("memory.bulk_add", {"items": [{"text": "one"}]}),
            ("memory.forget", {"memory_ids": [first.body["id"]]}),
            ("memory.update", {"memory_id": first.body["id"], "source": "x"}),
        ]:
            reply = await way.call(operation, body, headers)
            assert (reply.status, reply.code) == (422, "IDEMPOTENCY_KEY_REUSED"), way.name
            check_form(reply)
        del headers["Idempotency-Key"]
        stale = {"memory_id": first.body["id"], "source": "x", "if_version": "stale"}
        reply = await way.call("memory.update", stale, headers)
        assert (reply.status, reply.code) == (409, "VERSION_CONFLICT")
        check_form(reply)
        assert reply.body["error"]["details"] == {"current_version": first.body["version"]}
        page = (await way.call("memory.list", {}, headers)).body
        assert page["items"] == [first.body]


async def test_a_body_of_the_largest_size_is_taken(cluster: Cluster, ways: Ways) -> None:
    body = b'{"text": "a text"' + b" " * (limits.BODY_BYTES_MAX - 18) + b"}"
    assert len(body) == limits.BODY_BYTES_MAX
    texts = [f"{n} " + "word " * 1_590 for n in range(50)]
    bulk = {"items": [{"text": text, "metadata": {"a": "x" * 10_000}} for text in texts]}
    assert 890_000 < len(json.dumps(bulk)) < limits.BODY_BYTES_MAX
    for way in ways.each():
        headers = cluster.headers(a_user(), **{"Memsync-Ack": "all"})
        assert (await way.call("memory.add", body, headers)).status == 201, way.name
        reply = await way.call("memory.bulk_add", bulk, headers)
        assert (reply.status, reply.body["created"]) == (200, 50), way.name
        page = await way.call("memory.list", {"limit": 100}, headers)
        assert (page.body["total"], len(page.body["items"])) == (51, 51)


async def test_a_bulk_rejects_texts_one_by_one(cluster: Cluster, ways: Ways) -> None:
    items: list[dict[str, Any]] = [
        {"text": "good"},
        {"text": "x" * 8_001},
        {"text": ""},
        {},
        {"text": "!? ..."},
        {"text": "good"},
    ]
    for way in ways.each():
        headers = cluster.headers(a_user(), **{"Memsync-Ack": "all"})
        reply = await way.call("memory.bulk_add", {"items": items}, headers)
        statuses = [one["status"] for one in reply.body["results"]]
        assert statuses == ["created", "rejected", "rejected", "rejected", "skipped", "skipped"]
        assert (await way.call("memory.list", {}, headers)).body["total"] == 1


# What looks wrong and is not: it is stored as it came, or clamped


HOSTILE_TEXTS = [
    "a\x00b",
    "\x00\x01\x1b[31m\x7f end",
    "a\r\nX-API-Key: b",
    "bidi \u202e reversed \ufeff\u200b",
    "🙂 𝕊 e\u0301 \uffff \U0010ffff",
    "'; DROP TABLE memories; --",
    "{{7*7}} ${HOME} %s %n",
    "x" * 8_000,
    "a" + "\u0301" * 7_999,
    "日" * 8_000,
]


async def test_any_text_is_stored_as_it_came(cluster: Cluster, ways: Ways) -> None:
    for way in ways.each():
        headers = cluster.headers(a_user(), **{"Memsync-Ack": "all"})
        for text in HOSTILE_TEXTS:
            body = {
                "text": text,
                "tags": [text[:64]],
                "source": text[:256],
                "client_ref": text[:128],
                "metadata": {text[:99]: text[:1_000]},
            }
            made = await way.call("memory.add", body, headers)
            assert made.status == 201, (way.name, made)
            got = await way.call("memory.get", {"memory_id": made.body["id"]}, headers)
            assert {name: got.body[name] for name in body if name in got.body} == {
                name: value for name, value in body.items() if name in got.body
            }
            found = await way.call("memory.query", {"query": text, "k": 50}, headers)
            assert found.status == 200, (way.name, found)
            assert made.body["id"] in [memory["id"] for memory in found.body["memories"]]


async def test_numbers_out_of_range_are_clamped(cluster: Cluster, ways: Ways) -> None:
    for way in ways.each():
        headers = cluster.headers(a_user(), **{"Memsync-Ack": "all"})
        for given, stored in [(7, 1.0), (-1e308, 0.0), (1 << 62, 1.0)]:
            body = {"text": f"importance {given}", "importance": given}
            made = await way.call("memory.add", body, headers)
            assert (made.status, made.body["importance"]) == (201, stored)
        for k, count in [(0, 1), (-(1 << 60), 1), (1 << 60, 3)]:
            asked = {"query": "importance", "k": k, "traversal_depth": k}
            found = await way.call("memory.query", asked, headers)
            assert (found.status, len(found.body["memories"])) == (200, count)
        for weight in (1e308, 5e-324):
            weights = dict.fromkeys(("semantic", "recency", "importance"), weight)
            found = await way.call("memory.query", {**Q, "weights": weights}, headers)
            assert (found.status, len(found.body["memories"])) == (200, 3), (way.name, found)
            scores = [memory["score"] for memory in found.body["memories"]]
            assert 0 < max(scores) <= 1, (way.name, weight, scores)
            assert min(scores) >= 0
        for fields, limit, offset in [
            ({"limit": 0}, 1, 0), ({"limit": 5_000}, 100, 0), ({"offset": -5}, 20, 0),
            ({"offset": 10**14}, 20, 10**14),
        ]:  # fmt: skip
            page = await way.call("memory.list", fields, headers)
            assert (page.status, page.body["limit"], page.body["offset"]) == (200, limit, offset)


async def test_names_of_users_in_headers(cluster: Cluster, ways: Ways) -> None:
    """The same name is the same user over every way, and in a body."""
    for user in ("Zoë", "日本 語", "🙂", "a: b", "a=b;c", "a%2Fb", "ÿ", "Ã¿", "x" * 256, '"', "\\"):
        ids = []
        for number, way in enumerate(ways.each()):
            headers = cluster.headers(user, **{"Memsync-Ack": "all"})
            made = await way.call("memory.add", {"text": f"{user[:20]} {number}"}, headers)
            assert made.status == 201, (way.name, user, made)
            ids.append(made.body["id"])
        for way in ways.each():
            page = await way.call("memory.list", {"end_user_id": user}, cluster.headers("other"))
            assert sorted(item["id"] for item in page.body["items"]) == sorted(ids), (way, user)
        body = {"memory_ids": ids}
        assert (await ways.nats.call("memory.forget", body, headers)).body == ids


async def test_the_kind_of_a_body_is_not_asked_for(cluster: Cluster, ways: Ways) -> None:
    for way in (ways.gateway, ways.peer):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "image/png", "", "x" * 900):
            answer = await way.client.post(
                way.url + "/memory/add",
                content=json.dumps({"text": f"as {kind[:50]}"}).encode(),
                headers={**cluster.headers(a_user()), "Content-Type": kind},
            )
            assert answer.status_code == 201, answer.text
            assert answer.headers["content-type"] == "application/json"
        packed = await way.client.post(
            way.url + "/memory/add",
            content=b"\x1f\x8b\x08\x00",
            headers={**cluster.headers(a_user()), "Content-Encoding": "gzip"},
        )
        assert (packed.status_code, packed.json()["error"]["code"]) == (400, "INVALID_JSON")


# Anything at all


NASTY: list[bytes] = [
    b"null", b"true", b"-1", b"0", b"1.5", b"1e400", b"-0.0", b"5e-324", b"1" * 5_000,
    b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b'""', b'" "',
    b'"\\u0000"', b'"\\ud83d"', b'"\\ud83d\\ude00"', b'"' + b"x" * 70_000 + b'"', b"[]", b"[[]]",
    b"[null]", b'[""]', b"{}", b'{"":{}}', b'{"a":[{"b":null}]}', b"[" + b"1," * 30_000 + b"1]",
    b"[" * 2_000 + b"]" * 2_000, b'"2026-01-01T00:00:00+99:99"', b'"0.0.99999999999999999999"',
]  # fmt: skip
FIELDS = {
    "memory.add": "text content source event_type tags importance session_id role metadata "
    "end_user_id client_ref ttl_minutes occurred_at deduplicate user_id tenant_id",
    "memory.bulk_add": "items deduplicate end_user_id",
    "memory.query": "query k filters session_id traversal_depth weights computation_tier "
    "consistency min_position explain now end_user_id",
    "memory.update": "tags importance metadata source event_type if_version end_user_id",
    "memory.forget": "memory_ids filters dry_run reason end_user_id",
    "memory.relate": "to_memory_id relationship_type confidence metadata end_user_id",
    "memory.feedback": "signal comment end_user_id",
    "keys.create": "name environment scopes project_id rate_limit_tier expires_at organisation",
}
OF_ONE = {
    "memory.update": ("PATCH", ""),
    "memory.relate": ("POST", "/relations"),
    "memory.feedback": ("POST", "/feedback"),
}
GOOD: dict[str, dict[str, Any]] = {
    "memory.add": T,
    "memory.bulk_add": {"items": [T]},
    "memory.query": Q,
    "memory.update": {"source": "s"},
    "memory.forget": {"memory_ids": [1]},
    "memory.relate": {"to_memory_id": 78, "relationship_type": "similar"},
    "memory.feedback": {"signal": "positive"},
    "keys.create": {},
}


@pytest.mark.parametrize("name", WAYS)
async def test_no_value_of_a_field_breaks_anything(cluster: Cluster, ways: Ways, name: str) -> None:
    [way] = ways.each((name,))
    slots = asyncio.Semaphore(16)
    headers = cluster.headers(a_user())
    bad: list[str] = []
    statuses: set[int] = set()

    async def attempt(operation: str, field: str, value: bytes) -> None:
        fields = {key: json.dumps(given).encode() for key, given in GOOD[operation].items()}
        fields[field] = value
        body = b"{" + b",".join(b'"%s":%s' % (k.encode(), v) for k, v in fields.items()) + b"}"
        async with slots:
            reply = await ask(operation, body)
        statuses.add(reply.status)
        if reply.status >= 500 or (reply.status >= 400 and not reply.body["error"]["definite"]):
            bad.append(f"{operation} {field}={value[:40]!r}: {reply}")

    async def ask(operation: str, body: bytes) -> Reply:
        if operation not in OF_ONE:
            return await way.call(operation, body, headers)
        if isinstance(way, HttpWay):
            method, path = OF_ONE[operation]
            url = f"{way.url}/memory/77{path}"
            answer = await way.client.request(method, url, content=body, headers=headers)
            return Reply(answer.status_code, dict(answer.headers), answer.content)
        return await way.call(operation, b'{"memory_id":77,' + body[1:], headers)

    async with asyncio.TaskGroup() as tasks:
        for operation, names in FIELDS.items():
            for field in names.split():
                for value in NASTY:
                    tasks.create_task(attempt(operation, field, value))
    assert bad == []
    assert {200, 201, 400, 404, 422} <= statuses
    cluster.wait_ready()


# Limits of a key


async def test_a_free_key_is_told_when_to_come_again(cluster: Cluster, ways: Ways) -> None:
    """The window of a second counts on each peer by itself; so every request goes to one peer."""
    way = ways.peer
    key = (await new_key(cluster, way, rate_limit_tier="free"))["key"]
    replies = [await list_with(way, key) for _ in range(TIERS["free"].per_second + 1)]
    assert [reply.status for reply in replies] == [200, 200, 429]
    refused = replies[-1]
    check_form(refused)
    assert refused.code == "RATE_LIMIT_EXCEEDED"
    assert 0 < refused.body["error"]["retry_after"] <= 1.1
    assert int(refused.headers["retry-after"]) >= refused.body["error"]["retry_after"]
    assert refused.headers["x-ratelimit-limit"] == "2"
    assert refused.headers["x-ratelimit-remaining"] == "0"
    assert int(refused.headers["x-ratelimit-reset"]) > 1_700_000_000


@pytest.mark.parametrize("name", ["gateway", "nats"])
async def test_a_free_key_is_limited_over_every_way(
    cluster: Cluster, ways: Ways, name: str
) -> None:
    """Through a gateway or NATS it may be let through by each of the three peers, no more."""
    [way] = ways.each((name,))
    key = (await new_key(cluster, way, rate_limit_tier="free"))["key"]
    replies = [await list_with(way, key) for _ in range(12)]
    refused = [reply for reply in replies if reply.status == 429]
    assert len(refused) >= 12 - 3 * TIERS["free"].per_second
    for reply in refused:
        check_form(reply)
        assert reply.code == "RATE_LIMIT_EXCEEDED"
        assert reply.body["error"]["retry_after"] > 0
        assert int(reply.headers["retry-after"]) >= 1


# Explanations


async def test_an_explanation_is_read_over_every_way(cluster: Cluster, ways: Ways) -> None:
    """Whichever peer is asked for it: the one that answered has it."""
    for way in ways.each():
        headers = cluster.headers(a_user(), **{"Memsync-Ack": "all"})
        made = await way.call("memory.add", {"text": "green tea from Uji"}, headers)
        answer = (await way.call("memory.query", {"query": "green tea"}, headers)).body
        assert answer["degraded_components"] == []
        for other in ways.each():
            told = await other.call("memory.explanation", {"query_id": answer["query_id"]}, headers)
            assert told.status == 200, (way.name, other.name, told)
            assert told.body["query_id"] == answer["query_id"]
            assert [one["memory_id"] for one in told.body["candidates"]] == [made.body["id"]]
            stranger = cluster.headers(a_user())
            denied = await other.call(
                "memory.explanation", {"query_id": answer["query_id"]}, stranger
            )
            assert (denied.status, denied.code) == (404, "NOT_FOUND")
            check_form(denied)
        asked = {"query": "green tea", "explain": True}
        shown = (await way.call("memory.query", asked, headers)).body
        assert shown["explanation"]["query_id"] == shown["query_id"]


async def test_words_of_every_script_find_their_memory(cluster: Cluster, ways: Ways) -> None:
    texts = {
        "日本語の新しい本を読みました": "新しい本",
        "我昨天在北京吃了烤鸭": "烤鸭",
        "ฉันชอบดื่มชาเขียวตอนเช้า": "ชาเขียว",
        "أحب الشاي الأخضر في الصباح": "الشاي",
        "Я люблю зелёный чай по утрам": "зелёный",
        "나는 아침에 녹차를 마신다": "녹차",
        "मुझे हरी चाय पसंद है": "चाय",
        "Ο σκύλος μου λέγεται Άργος": "σκύλος",
        "יש לי כלב גדול": "כלב",
    }
    for way in ways.each():
        headers = cluster.headers(a_user(), **{"Memsync-Ack": "all"})
        items = {"items": [{"text": text} for text in texts]}
        assert (await way.call("memory.bulk_add", items, headers)).body["created"] == len(texts)
        for text, asked in texts.items():
            found = await way.call("memory.query", {"query": asked, "k": 1}, headers)
            assert [one["text"] for one in found.body["memories"]] == [text], (way.name, asked)


ODD_QUESTIONS = [
    "", " ", "\x00", "\n\t\r", "?!...", "🙂🙂🙂", "\u202e\u200b\ufeff", "a" * 950_000, "the of and",
    "\u0301" * 500, "１２３", "𝒜𝒹𝒶", "NaN", "' OR 1=1 --", "ﷺ" * 9_000,
]  # fmt: skip


async def test_odd_questions_get_an_answer(cluster: Cluster, ways: Ways) -> None:
    for way in ways.each():
        headers = cluster.headers(a_user(), **{"Memsync-Ack": "all"})
        made = await way.call("memory.add", {"text": "Ada drinks green tea"}, headers)
        assert made.status == 201, (way.name, made)
        for question in ODD_QUESTIONS:
            body = json.dumps({"query": question}, ensure_ascii=False).encode("utf-8")
            if len(body) > limits.BODY_BYTES_MAX:
                body = json.dumps({"query": question[:8_000]}, ensure_ascii=False).encode()
            found = await way.call("memory.query", body, headers)
            assert found.status == 200, (way.name, question[:20], found)
            told = [one["id"] for one in found.body["memories"]]
            assert told in ([], [made.body["id"]]), (way.name, question[:20])
