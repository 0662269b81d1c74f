"""The layers around the routes: answer headers, then error mapping, access log, address limit.

Plain ASGI: a request passes each with one call. What follows in the API's order (authentication,
limits by key, scope, quota, audit) is the backend's, which answers callers over NATS the same way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter
from starlette.types import ASGIApp, Receive, Scope, Send

from memsync import errors
from memsync.gateway import metrics
from memsync.gateway.address_limits import AddressWindow, KnownKeys
from memsync.gateway.exchange import SCOPE_KEY, Exchange, error_to_answer, exchange_of, send_answer
from memsync.telemetry import logger
from memsync.wire import context

FAILED_AUTHENTICATIONS_PER_S = 10
ROUTE_LIMITS_PER_S = {
    "/health": 5, "/docs": 20, "/openapi.json": 20, "/status": 20, "/status.json": 20,
}  # fmt: skip
PROBES = frozenset({"/healthz", "/ready", "/metrics"})

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    ),
)


class AnswerHeaders:
    """Gives each request its id and trace, and each answer these and the security headers."""

    def __init__(self, app: ASGIApp, *, name: str) -> None:
        self.app = app
        self._constant = ((b"x-served-by", name.encode()), *SECURITY_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope[SCOPE_KEY] = Exchange(scope, self._constant)
        await self.app(scope, receive, send)


class ErrorMapping:
    """Turns what is raised below into an answer of the error table; never shows a traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except (
            Exception,
            asyncio.CancelledError,
        ) as raised:  # the top of a request: it is answered
            if scope["type"] != "http" or exchange_of(scope).status:
                raise  # the answer is on its way already: the server ends the connection
            exchange = exchange_of(scope)
            answer = error_to_answer(_meaning(raised, exchange), exchange.request_id)
            closes = isinstance(raised, errors.PayloadTooLarge | asyncio.CancelledError)
            await send_answer(scope, send, answer, closes=closes)


def _meaning(raised: BaseException, exchange: Exchange) -> errors.MemsyncError:
    """What it means to the caller: of a write that was cut off it is not known what became."""
    if isinstance(raised, errors.MemsyncError):
        return raised
    of_a_read: errors.MemsyncError
    if isinstance(raised, asyncio.CancelledError):  # who ends a process waited long enough
        why = "this process is ending"
        of_a_read = errors.Unavailable(f"{why}; ask again", retry_after_s=1.0)
    else:
        why = "a fault inside memsync"
        of_a_read = errors.Internal(f"{why}; the log has the details")
        logger().exception("request.failed", route=exchange.route, request_id=exchange.request_id)
    if not exchange.is_write:
        return of_a_read
    return errors.OutcomeUnknown(
        f"{why}; repeat it with the same Idempotency-Key or client_ref", retry_after_s=1.0
    )


class AccessLog:
    """One event and one count for each request; of its path only the template."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._counters: dict[tuple[str, int], Counter] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = exchange_of(scope)
        status = 500
        started_s = time.perf_counter()
        try:
            await self.app(scope, receive, send)
            status = exchange.status
        except errors.MemsyncError as error:
            status = error.http_status
            raise
        except asyncio.CancelledError:
            status = errors.Unavailable.http_status
            raise
        finally:
            self._record(scope["method"], exchange, status, time.perf_counter() - started_s)

    def _record(self, method: str, exchange: Exchange, status: int, seconds: float) -> None:
        route = exchange.route
        self._counter(route, status).inc()
        metrics.SECONDS.of(route).observe(seconds)
        log = logger().debug if route in PROBES and status < 400 else logger().info
        log(
            "request.answered",
            method=method if len(method) < 20 else "unknown",
            route=route,
            status=status,
            ms=round(seconds * 1000, 2),
            request_id=exchange.request_id,
            trace_id=exchange.trace_id,
        )

    def _counter(self, route: str, status: int) -> Counter:
        found = self._counters.get((route, status))
        if found is None:
            found = self._counters[route, status] = metrics.REQUESTS.labels(route, str(status))
        return found


class AddressLimit:
    """Limits what an address may ask without a key, and how often it may come with a wrong one."""

    def __init__(self, app: ASGIApp, *, limits_per_s: Mapping[str, int] | None = None) -> None:
        self.app = app
        found = ROUTE_LIMITS_PER_S if limits_per_s is None else limits_per_s
        self._routes = {path: AddressWindow(count) for path, count in found.items()}
        self._failures = AddressWindow(FAILED_AUTHENTICATIONS_PER_S)
        self._known = KnownKeys()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = exchange_of(scope)
        key = _key_header(exchange.headers)
        self._admit(scope["path"], exchange.address, key)
        try:
            await self.app(scope, receive, send)
        except errors.Unauthenticated:
            self._note(exchange.address, key, 401)
            raise
        if exchange.operation:
            self._note(exchange.address, key, exchange.status)

    def _admit(self, path: str, address: str, key: str | None) -> None:
        window = self._routes.get(path)
        if window is not None:
            wait_s = window.wait_s(address)
            if wait_s == 0.0:
                window.note(address)
        else:
            wait_s = self._failures.wait_s(address)
            if wait_s and key is not None and key in self._known:
                wait_s = 0.0
            if wait_s and path in PROBES:
                wait_s = 0.0
        if wait_s:
            raise errors.RateLimited(
                "too many requests from this address; wait and come again",
                retry_after_s=round(wait_s, 3),
            )

    def _note(self, address: str, key: str | None, status: int) -> None:
        if status == 401:
            self._failures.note(address)
            if key is not None:
                self._known.drop(key)
        elif key is not None and 200 <= status < 300:
            self._known.add(key)


def _key_header(headers: Mapping[str, Any]) -> str | None:
    return headers.get(context.API_KEY) or headers.get(context.AUTHORIZATION)
