"""The HTTP face in front of an honest small backend: routes, errors, headers, limits."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Mapping

import httpx
import pytest

from memsync import limits
from memsync.gateway import table
from memsync.ports import Answer
from tests.fakes.backend import KEY, MemoryBackend
from tests.unit.gateway.calling import HEADERS, caller, error_of, in_chunks, json_of

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
PARAMETERS = {"memory_id": "7", "key_id": "7", "tenant_id": "default", "user_id:path": "a/b"}


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
async def client(backend: MemoryBackend) -> AsyncIterator[httpx.AsyncClient]:
    async with caller(backend) as found:
        yield found


def example(template: str) -> str:
    """A path that fits a template."""
    path = template
    for name, value in PARAMETERS.items():
        path = path.replace("{" + name + "}", value)
    return path.replace("{rest:path}", "x/y").replace("{", "").replace("}", "")


def methods_by_path() -> dict[str, set[str]]:
    """What the table says each path takes."""
    found: dict[str, set[str]] = {}
    for route in table.BUILT:
        found.setdefault(route.path, set()).add(route.method)
    for path, methods in table.UNBUILT.items():
        found.setdefault(path, set()).update(methods.split())
    return found


class TestRoutes:
    @pytest.mark.parametrize("route", table.BUILT, ids=lambda r: f"{r.method} {r.path}")
    async def test_a_built_route_asks_for_its_operation(
        self, route: table.OperationRoute, client: httpx.AsyncClient, backend: MemoryBackend
    ) -> None:
        await client.request(route.method, example(route.path), content=b"{}")
        assert [call.operation for call in backend.calls] == [route.operation]

    @pytest.mark.parametrize(
        ("path", "method"), [(p, m) for p, ms in table.UNBUILT.items() for m in ms.split()]
    )
    async def test_an_unbuilt_route_says_so(
        self, path: str, method: str, client: httpx.AsyncClient
    ) -> None:
        response = await client.request(method, example(path))
        assert response.status_code == 501
        assert error_of(response).code == "NOT_IMPLEMENTED"

    @pytest.mark.parametrize(("path", "methods"), methods_by_path().items())
    async def test_every_other_method_is_refused_with_those_allowed(
        self, path: str, methods: set[str], client: httpx.AsyncClient
    ) -> None:
        allowed = methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
        for method in set(METHODS) - allowed - {"HEAD"}:
            response = await client.request(method, example(path))
            assert response.status_code == 405
            assert error_of(response).code == "METHOD_NOT_ALLOWED"
            assert set(response.headers["allow"].split(", ")) == allowed

    @pytest.mark.parametrize(
        "path",
        ["/", "/memory", "/memory/", "/memory/add/", "/memory//add", "/Memory/add", "/memory/abc",
         "/memory/-1", "/memory/1.5", "/memory/٣", "/memory/1/nothing", "/v1/memory/a/list",
         "/org/api-keys/abc/revoke", "/memory/7/"],
    )  # fmt: skip
    async def test_everything_else_is_not_found_and_never_redirected(
        self, path: str, client: httpx.AsyncClient
    ) -> None:
        for method in ("GET", "POST"):
            response = await client.request(method, path)
            assert response.status_code == 404
            assert error_of(response).code == "NOT_FOUND"

    async def test_head_is_get_without_the_body(self, client: httpx.AsyncClient) -> None:
        made = json_of(await client.post("/memory/add", json={"text": "tea"}))
        got, head = [await client.request(m, f"/memory/{made['id']}") for m in ("GET", "HEAD")]
        assert head.status_code == 200
        assert head.content == b""
        assert head.headers["content-length"] == got.headers["content-length"]

    async def test_options_names_the_methods(self, client: httpx.AsyncClient) -> None:
        response = await client.options("/memory/7")
        assert json_of(response) == {"methods": ["GET", "HEAD", "OPTIONS", "PATCH"]}
        assert response.headers["allow"] == "GET, HEAD, OPTIONS, PATCH"

    async def test_operations_pass_as_over_the_bus(
        self, client: httpx.AsyncClient, backend: MemoryBackend
    ) -> None:
        headers = {"Memsync-Ids": "5-6", "Memsync-Operation-Key": "~k"}
        response = await client.post(
            "/v1/operations/memory.add", json={"text": "tea"}, headers=headers
        )
        assert response.status_code == 201
        passed = backend.calls[0].headers
        assert passed["Memsync-Operation-Key"] == "~k"
        assert "Memsync-Ids" not in passed  # without a proof they are anybody's
        unknown = await client.post("/v1/operations/memory.nothing", json={})
        assert unknown.status_code == 404


class TestBodies:
    async def test_a_body_is_passed_on_as_it_came(
        self, client: httpx.AsyncClient, backend: MemoryBackend
    ) -> None:
        body = b' {"text" : "tea",\n "unknown": 1}'
        await client.post("/memory/add", content=body)
        await client.request("DELETE", "/memory/forget", content=b'{"memory_ids":[1]}')
        assert [call.body for call in backend.calls] == [body, b'{"memory_ids":[1]}']

    async def test_path_and_query_become_fields(
        self, client: httpx.AsyncClient, backend: MemoryBackend
    ) -> None:
        await client.get("/memory/7")
        await client.get("/memory/list?limit=3&offset=-1&tenant_id=x&end_user_id=bob")
        await client.post("/org/api-keys/9/revoke")
        await client.patch("/memory/7", content=b'{"tags": ["a"]}')
        assert [call.body for call in backend.calls] == [
            b'{"memory_id":7}',
            b'{"limit":3,"offset":-1,"end_user_id":"bob"}',
            b'{"key_id":9}',
            b'{"tags":["a"],"memory_id":7}',
        ]

    @pytest.mark.parametrize(
        ("path", "user"),
        [("a/b", "a/b"), ("a%2Fb", "a/b"), ("a%2Flist", "a/list"), ("list/list", "list/list"),
         ("%C3%A9%20x", "é x"), ("a//b/", "a//b/"), ('a"b', 'a"b')],
    )  # fmt: skip
    async def test_a_user_in_the_path_may_be_anything(
        self, path: str, user: str, client: httpx.AsyncClient, backend: MemoryBackend
    ) -> None:
        page = json_of(await client.get(f"/v1/memory/default/{path}/list?limit=2"))
        assert page == {"items": [], "total": 0, "limit": 2, "offset": 0, "truncated": False}
        assert b'"user_id"' in backend.calls[0].body
        assert httpx.Response(200, content=backend.calls[0].body).json()["user_id"] == user

    @pytest.mark.parametrize(
        ("method", "path", "body", "status", "message"),
        [
            ("GET", "/memory/list?limit=ten", b"", 422, "limit: not an integer"),
            ("GET", "/memory/list?limit=", b"", 422, "limit: not an integer"),
            ("GET", "/memory/list?limit=1.5", b"", 422, "limit: not an integer"),
            ("GET", "/memory/list?offset=" + "9" * 5000, b"", 422, "offset: not an integer"),
            ("GET", "/memory/list?page=2", b"", 422, "page: unknown field"),
            ("GET", "/memory/0", b"", 422, "memory_id: not a positive integer below 2^53"),
            ("GET", f"/memory/{1 << 53}", b"", 422, "memory_id: not a positive integer"),
            ("GET", "/memory/" + "9" * 5000, b"", 422, "memory_id: not a positive integer"),
            ("PATCH", "/memory/7", b'{"memory_id": 8}', 422, "memory_id: unknown field"),
            ("PATCH", "/memory/7", b'{"nothing": 8}', 422, "nothing: unknown field"),
            ("PATCH", "/memory/7", b"[]", 422, "body: Expected `object`, got `array`"),
            ("PATCH", "/memory/7", b"null", 422, "body: Expected `object`, got `null`"),
            ("PATCH", "/memory/7", b'{"tags": ["a"', 400, "the body is not JSON"),
            ("PATCH", "/memory/7", b"\xff", 400, "the body is not JSON"),
            ("PATCH", "/memory/7", b'{"a":' * 5000, 400, "the body is not JSON"),
            ("POST", "/memory/add", b'{"text": "a"', 400, "the body is not JSON"),
            ("POST", "/memory/add", b'{"text": 5}', 422, "text: Expected `str | null`, got `int`"),
            ("POST", "/memory/add", b'"text"', 422, "body: Expected `object`, got `str`"),
            ("POST", "/org/api-keys/7/revoke", b'{"key_id": 8}', 422, "key_id: unknown field"),
        ],
    )
    async def test_what_is_wrong_is_named(
        self, method: str, path: str, body: bytes, status: int, message: str,
        client: httpx.AsyncClient,
    ) -> None:  # fmt: skip
        response = await client.request(method, path, content=body)
        assert response.status_code == status
        error = error_of(response)
        assert error.message.startswith(message)
        assert error.definite
        assert error.code == ("INVALID_JSON" if status == 400 else "VALIDATION_ERROR")

    async def test_the_largest_body_passes(
        self, client: httpx.AsyncClient, backend: MemoryBackend
    ) -> None:
        for content in (b" " * limits.BODY_BYTES_MAX, in_chunks(*[b" " * 100_000] * 10)):
            assert (await client.post("/memory/add", content=content)).status_code == 400
        assert [len(call.body) for call in backend.calls] == [limits.BODY_BYTES_MAX] * 2

    @pytest.mark.parametrize("method_path", ["POST /memory/add", "DELETE /memory/forget",
                                             "PATCH /memory/7"])  # fmt: skip
    async def test_one_byte_more_does_not(
        self, method_path: str, client: httpx.AsyncClient, backend: MemoryBackend
    ) -> None:
        method, path = method_path.split()
        whole = b" " * (limits.BODY_BYTES_MAX + 1)
        for content in (whole, in_chunks(whole[:-1], b" ")):
            response = await client.request(method, path, content=content)
            assert response.status_code == 413
            assert error_of(response).code == "PAYLOAD_TOO_LARGE"
            assert response.headers["connection"] == "close"
        assert backend.calls == []

    async def test_an_endless_body_is_neither_kept_nor_read_to_its_end(
        self, client: httpx.AsyncClient
    ) -> None:
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while True:
                sent += 200_000
                yield bytes(200_000)

        tracemalloc.start()
        try:
            response = await client.post("/memory/add", content=endless())
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert response.status_code == 413
        assert 8 * limits.BODY_BYTES_MAX < sent < 9 * limits.BODY_BYTES_MAX
        assert peak < 2 * limits.BODY_BYTES_MAX


class TestHeaders:
    @pytest.mark.parametrize("path", ["/healthz", "/memory/7", "/nothing", "/metrics", "/docs"])
    async def test_every_answer_has_its_identity_and_the_security_headers(
        self, path: str, client: httpx.AsyncClient
    ) -> None:
        response = await client.get(path)
        assert response.headers["x-request-id"].startswith("req_")
        assert len(response.headers["x-trace-id"]) == 32
        assert response.headers["x-served-by"] == "test-1"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["content-security-policy"].startswith("default-src 'none'")

    async def test_the_callers_ids_are_kept(
        self, client: httpx.AsyncClient, backend: MemoryBackend
    ) -> None:
        trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
        headers = {"X-Request-ID": "mine-1", "traceparent": trace}
        response = await client.get("/memory/7", headers=headers)
        assert response.headers["x-request-id"] == "mine-1"
        assert response.headers["x-trace-id"] == "ab" * 16
        assert error_of(response).code == "NOT_FOUND"
        assert backend.calls[0].headers["X-Request-ID"] == "mine-1"
        assert backend.calls[0].headers["traceparent"] == trace

    @pytest.mark.parametrize("given", ["", "x" * 129, "a\tb"])
    async def test_an_unfit_request_id_is_replaced(
        self, given: str, client: httpx.AsyncClient
    ) -> None:
        response = await client.get("/healthz", headers={"X-Request-ID": given})
        assert response.headers["x-request-id"].startswith("req_")

    async def test_the_backend_learns_of_a_new_trace(
        self, client: httpx.AsyncClient, backend: MemoryBackend
    ) -> None:
        response = await client.get("/memory/7", headers={"traceparent": "nonsense"})
        parent = backend.calls[0].headers["traceparent"]
        assert parent.split("-")[1] == response.headers["x-trace-id"]

    async def test_only_headers_that_mean_something_are_passed_on(
        self, client: httpx.AsyncClient, backend: MemoryBackend
    ) -> None:
        given = {
            "Idempotency-Key": "k", "Memsync-Ack": "all", "Memsync-Consistency": "strong",
            "X-Project-ID": "proj_1", "Memsync-Deadline-Ms": "500", "Cookie": "c",
            "Nats-Expected-Last-Msg-Id": "evil", "Memsync-Ids": "1-2", "Memsync-Operation-Key": "x",
        }  # fmt: skip
        await client.post("/memory/add", json={"text": "tea"}, headers=given)
        assert set(backend.calls[0].headers) == {
            "X-API-Key", "X-End-User-ID", "Idempotency-Key", "Memsync-Ack", "Memsync-Consistency",
            "X-Project-ID", "Memsync-Deadline-Ms", "X-Request-ID", "traceparent",
        }  # fmt: skip

    async def test_a_user_beyond_ascii_is_read_as_utf_8(self, backend: MemoryBackend) -> None:
        async with caller(backend) as client:
            raw = [(b"x-api-key", KEY.encode()), (b"x-end-user-id", "Zoë".encode())]
            await client.get("/memory/list", headers=raw)
        assert backend.calls[0].headers["X-End-User-ID"].endswith("Zoë")

    async def test_what_the_backend_says_in_headers_comes_through(
        self, client: httpx.AsyncClient
    ) -> None:
        response = await client.post("/memory/add", json={"text": "tea"})
        assert response.headers["memsync-position"] == "0.0.1"


class Saying(MemoryBackend):
    """A backend that always gives one answer, or raises."""

    def __init__(self, answer: Answer | Exception) -> None:
        super().__init__()
        self.answer = answer

    async def call(self, operation: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class TestErrors:
    @pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 409, 422, 429, 503])
    async def test_the_backends_answer_is_the_answer(self, status: int) -> None:
        headers = {"Retry-After": "2", "X-Request-ID": "not-this", "Content-Length": "99"}
        async with caller(Saying(Answer(status, headers, b'{"a":1}'))) as client:
            response = await client.post("/memory/query", json={})
        assert response.status_code == status
        assert response.content == b'{"a":1}'
        assert response.headers["retry-after"] == "2"
        assert response.headers["content-length"] == "7"
        assert response.headers.get_list("x-request-id") != ["not-this"]
        assert len(response.headers.get_list("x-request-id")) == 1

    async def test_a_fault_in_a_read_is_internal_without_a_trace(self) -> None:
        async with caller(Saying(RuntimeError("secret detail"))) as client:
            response = await client.get("/memory/7")
        assert response.status_code == 500
        error = error_of(response)
        assert (error.code, error.definite) == ("INTERNAL", True)
        assert "secret" not in response.text
        assert "Traceback" not in response.text

    async def test_a_fault_in_a_write_leaves_its_outcome_unknown(self) -> None:
        async with caller(Saying(RuntimeError("secret detail"))) as client:
            response = await client.post("/memory/add", json={"text": "tea"})
        assert response.status_code == 503
        error = error_of(response)
        assert (error.code, error.definite, error.retry_after) == ("OUTCOME_UNKNOWN", False, 1.0)
        assert response.headers["retry-after"] == "1"
        assert "secret" not in response.text


class TestAddressLimits:
    async def test_health_is_limited_by_address(self, backend: MemoryBackend) -> None:
        async with caller(backend) as client:
            statuses = [(await client.get("/health")).status_code for _ in range(6)]
            response = await client.get("/health")
        assert statuses == [200] * 5 + [429]
        error = error_of(response)
        assert error.code == "RATE_LIMIT_EXCEEDED"
        assert error.retry_after is not None
        assert 0 < error.retry_after <= 1
        assert response.headers["retry-after"] == "1"

    async def test_probes_are_not(self, backend: MemoryBackend) -> None:
        async with caller(backend) as client:
            for path in ("/healthz", "/ready", "/metrics"):
                assert {(await client.get(path)).status_code for _ in range(30)} == {200}

    async def test_wrong_keys_are_limited_and_good_ones_go_on(self, backend: MemoryBackend) -> None:
        wrong = {**HEADERS, "X-API-Key": "ms_dev_wrong"}
        async with caller(backend) as client:
            assert (await client.get("/memory/list")).status_code == 200
            statuses = [
                (await client.get("/memory/list", headers=wrong)).status_code for _ in range(11)
            ]
            asked = len(backend.calls)
            good = await client.get("/memory/list")
        assert statuses == [401] * 10 + [429]
        assert asked == 11
        assert good.status_code == 200

    async def test_without_a_key_it_is_the_same(self, backend: MemoryBackend) -> None:
        async with caller(backend, headers={}) as client:
            responses = [await client.get("/memory/list") for _ in range(11)]
        assert [r.status_code for r in responses] == [401] * 10 + [429]
        assert error_of(responses[0]).code == "MISSING_API_KEY"
