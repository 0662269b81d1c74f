"""What is answered without a key."""

from __future__ import annotations

from html.parser import HTMLParser

import structlog

from memsync import __version__
from memsync.gateway import table
from tests.fakes.backend import MemoryBackend
from tests.unit.gateway.calling import caller, json_of


async def test_a_well_process() -> None:
    async with caller(MemoryBackend(), headers={}) as client:
        health = json_of(await client.get("/health"))
        assert health == {
            "status": "ok", "db": "healthy", "vector_db": "healthy", "cache": "healthy",
            "components": {"store": "ok"},
        }  # fmt: skip
        assert json_of(await client.get("/healthz")) == {"status": "alive"}
        assert json_of(await client.get("/ready")) == {"ready": True, "checks": {"store": "ok"}}
        status = json_of(await client.get("/status.json"))
    assert (status["name"], status["version"], status["status"]) == ("test-1", __version__, "ok")


async def test_an_unwell_process_that_recalls_is_healthy_enough_but_not_ready() -> None:
    backend = MemoryBackend()
    backend.found_checks = {"bus": "failed: gone", "store": "ok"}
    async with caller(backend, headers={}) as client:
        assert json_of(await client.get("/health"))["status"] == "degraded"
        ready = await client.get("/ready")
        assert json_of(await client.get("/status.json"))["status"] == "degraded"
    assert ready.status_code == 503
    assert ready.json() == {"ready": False, "checks": backend.found_checks}


async def test_a_process_that_can_serve_nothing() -> None:
    backend = MemoryBackend()
    backend.recalls = False
    async with caller(backend, headers={}) as client:
        health = await client.get("/health")
        assert json_of(await client.get("/healthz")) == {"status": "alive"}
    assert health.status_code == 503
    assert health.json()["db"] == "unhealthy"


async def test_metrics_count_by_template_and_never_by_tenant() -> None:
    async with caller(MemoryBackend()) as client:
        await client.get("/memory/123456")
        await client.get("/v1/memory/default/somebody-private/list")
        text = (await client.get("/metrics")).text
    assert 'memsync_http_requests_total{route="/memory/{memory_id}",status="404"}' in text
    assert 'memsync_http_seconds_count{route="/memory/{memory_id}"}' in text
    assert "somebody-private" not in text
    assert "123456" not in text


class Links(HTMLParser):
    """Everything that a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]


async def test_pages_stand_alone() -> None:
    backend = MemoryBackend()
    backend.found_checks = {"store": "failed: <script>alert(1)</script>"}
    async with caller(backend, headers={}) as client:
        for path in ("/docs", "/status"):
            response = await client.get(path)
            assert response.headers["content-type"] == "text/html; charset=utf-8"
            links = Links()
            links.feed(response.text)
            assert links.found in ([], ["/openapi.json"])
            assert not links.tags & {"script", "link", "img", "iframe"}


async def test_the_document_names_every_route() -> None:
    async with caller(MemoryBackend(), headers={}) as client:
        document = json_of(await client.get("/openapi.json"))
    for route in table.BUILT:
        entry = document["paths"][route.path.replace(":path", "")][route.method.lower()]
        assert str(route.status) in entry["responses"]
    for path, methods in table.UNBUILT.items():
        for method in methods.split():
            entry = document["paths"][path.replace(":path", "")][method.lower()]
            assert list(entry["responses"]) == ["501"]
    assert "AddRequest" in document["components"]["schemas"]


async def test_the_log_has_one_line_and_no_secret() -> None:
    with structlog.testing.capture_logs() as lines:
        async with caller(MemoryBackend()) as client:
            await client.post("/memory/add", json={"text": "the secret is tea"})
            await client.get("/v1/memory/default/somebody-private/list")
    assert [line["event"] for line in lines] == ["request.answered"] * 2
    assert [line["status"] for line in lines] == [201, 200]
    told = str(lines)
    assert not any(part in told for part in ("tea", "ms_dev", "anna", "somebody"))
