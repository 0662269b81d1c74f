"""What is answered without a key: health, readiness, metrics, the API document and two small pages.

The pages are one HTML text each, with no script and no asset from elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from html import escape

from prometheus_client import REGISTRY
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import Receive, Scope

from memsync import __version__
from memsync.gateway import openapi
from memsync.gateway.exchange import Handler
from memsync.gateway.routes import RouteTable
from memsync.ports import Answer, Backend
from memsync.wire import codec, requests

HTML = "text/html; charset=utf-8"
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .6rem;"
    "border-bottom:1px solid #8884}code{font-size:.95em}.bad{color:#c22}.ok{color:#282}"
)


def add_pages(routes: RouteTable, backend: Backend, name: str) -> None:
    """The routes of this module."""
    started_s = time.monotonic()
    document = openapi.Document()
    pages: dict[str, Handler] = {
        "/health": _plain(lambda: health(backend)),
        "/healthz": _plain(lambda: _json(200, {"status": "alive"})),
        "/ready": _plain(lambda: ready(backend)),
        "/metrics": _plain(metrics_text),
        "/status.json": _plain(lambda: _json(200, status(backend, name, started_s))),
        "/status": _plain(lambda: _html(status_page(status(backend, name, started_s)))),
        "/openapi.json": _plain(lambda: Answer(200, {}, document.as_json())),
        "/docs": _plain(lambda: _html(docs_page())),
    }
    for path, handler in pages.items():
        routes.add("GET", path, handler)


def _plain(make: openapi.MakeAnswer) -> Handler:
    async def answer(scope: Scope, receive: Receive, params: Mapping[str, str]) -> Answer:
        return make()

    return answer


def is_well(value: str) -> bool:
    """Whether a check has not failed; it may say "ok: what to know"."""
    return not value.startswith("failed")


def health(backend: Backend) -> Answer:
    """200 while recalls work, degraded or not; 503 only when nothing can be served."""
    checks = backend.checks()
    recalls = backend.is_recalling()
    well = all(map(is_well, checks.values()))
    part = "healthy" if recalls else "unhealthy"
    body = {
        "status": "ok" if recalls and well else "degraded",
        "db": part,
        "vector_db": part,
        "cache": "healthy",  # in this process: it works while the process does
        "components": checks,
    }
    return _json(200 if recalls else 503, body)


def ready(backend: Backend) -> Answer:
    """Whether requests of every kind should be sent here."""
    checks = backend.checks()
    is_ready = all(map(is_well, checks.values()))
    return _json(200 if is_ready else 503, {"ready": is_ready, "checks": checks})


def metrics_text() -> Answer:
    """Everything that this process counts, for Prometheus."""
    return Answer(200, {"Content-Type": CONTENT_TYPE_LATEST}, generate_latest(REGISTRY))


def status(backend: Backend, name: str, started_s: float) -> dict[str, object]:
    """What the status page shows."""
    checks = backend.checks()
    recalls = backend.is_recalling()
    well = all(map(is_well, checks.values()))
    return {
        "name": name,
        "version": __version__,
        "status": "ok" if recalls and well else "degraded" if recalls else "down",
        "recalling": recalls,
        "ready": well,
        "checks": checks,
        "uptime_s": round(time.monotonic() - started_s, 1),
        "at": requests.format_moment(time.time_ns() // 1_000_000),
    }


def status_page(found: Mapping[str, object]) -> str:
    """The status as a page that loads itself again every five seconds."""
    checks = found["checks"]
    assert isinstance(checks, dict)
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="{"ok" if is_well(value) else "bad"}">'
        f"{escape(value)}</td></tr>"
        for name, value in sorted(checks.items())
    )
    facts = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>"
        for name, value in found.items()
        if name not in ("checks", "name")
    )
    name = escape(str(found["name"]))
    return _page(
        f"memsync: {name}",
        f"<h1>memsync: {name}</h1><table>{facts}</table><h2>Checks</h2><table>{rows}</table>",
        head='<meta http-equiv="refresh" content="5">',
    )


def docs_page() -> str:
    """The routes as a page, for people; `/openapi.json` has every field."""
    built = "".join(
        f"<tr><td><code>{method} {escape(path)}</code></td><td>{escape(summary)}</td></tr>"
        for method, path, summary in openapi.built_routes()
    )
    unbuilt = "".join(
        f"<tr><td><code>{method} {escape(path)}</code></td></tr>"
        for method, path in openapi.unbuilt_routes()
    )
    return _page(
        "memsync API",
        f"<h1>memsync API {escape(__version__)}</h1><p>Send your key as <code>X-API-Key</code> and "
        "the end user as <code>X-End-User-ID</code>. Every field is described in "
        f'<a href="/openapi.json">openapi.json</a>.</p><table>{built}</table>'
        f"<h2>Not built yet (501)</h2><table>{unbuilt}</table>",
    )


def _page(title: str, content: str, head: str = "") -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{head}'
        f"<title>{title}</title><style>{STYLE}</style></head><body>{content}</body></html>"
    )


def _json(status_code: int, body: object) -> Answer:
    return Answer(status_code, {}, codec.to_json(body))


def _html(page: str) -> Answer:
    return Answer(200, {"Content-Type": HTML}, page.encode())
