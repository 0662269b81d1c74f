"""One request as the layers of the app see it, and how every answer is sent.

The outermost layer makes the `Exchange` and puts it into the ASGI scope; the others read it, and
note in it what became of the request. Nothing here knows a route or an operation.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache

from starlette.types import Receive, Scope, Send

from memsync import errors
from memsync.ids import random_hex
from memsync.ports import Answer
from memsync.wire import codec, context

SCOPE_KEY = "memsync.exchange"
JSON = "application/json"
AT_ONCE = "memsync.at_once"  # in the scope, where the server has it: see `AtOnce`
HeaderLines = list[tuple[bytes, bytes]]
AtOnce = Callable[[int, HeaderLines, bytes, bool], bool]
"""Sends status, headers and body in one piece, and closes the connection after it where asked to;
False where it could not, and nothing is sent yet. ASGI takes two calls and two writes for it."""
Handler = Callable[[Scope, Receive, Mapping[str, str]], Awaitable[Answer]]

_FORWARDED = {name.lower().encode(): name for name in context.FORWARDED}
_OURS = frozenset(
    name.lower()
    for name in (
        "Content-Length",
        "Content-Type",
        "Connection",
        context.REQUEST_ID,
        context.TRACE_ID,
    )
)


class Exchange:
    """A request's identity, the headers that travel with it, and its outcome."""

    __slots__ = (
        "address", "always", "headers", "is_write", "operation", "request_id", "route", "status",
        "trace_id",
    )  # fmt: skip

    def __init__(self, scope: Scope, always: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self.always = always  # headers of every answer
        self.headers = _forwarded_headers(scope)
        self.request_id = context.request_id_of(
            {context.REQUEST_ID.lower(): self.headers.get(context.REQUEST_ID, "")}
        )
        self.trace_id = _trace_id(self.headers)
        self.headers[context.REQUEST_ID] = self.request_id
        client = scope.get("client")
        self.address: str = client[0] if client else ""
        self.route = "unknown"  # the route's template, for metrics and the log
        self.status = 0  # 0 until an answer is sent
        self.operation = ""  # what the backend was asked for
        self.is_write = False  # whether that may change state


def exchange_of(scope: Scope) -> Exchange:
    """The exchange that the outermost layer put into the scope."""
    found: Exchange = scope[SCOPE_KEY]
    return found


def _forwarded_headers(scope: Scope) -> dict[str, str]:
    """Those headers that mean something to a backend, under their canonical names."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        known = _FORWARDED.get(name)
        if known is not None:
            try:
                found[known] = value.decode()
            except UnicodeDecodeError:
                found[known] = value.decode("latin-1")
    return found


def _trace_id(headers: dict[str, str]) -> str:
    """The caller's trace id; where there is none, a new one that goes on to the backend."""
    given = headers.get(context.TRACE_PARENT)
    if given is not None:
        parts = given.split("-")
        if len(parts) >= 4 and len(parts[1]) == 32 and not parts[1].strip("0123456789abcdef"):
            return parts[1]
    new = random_hex()
    headers[context.TRACE_PARENT] = f"00-{new}-{random_hex()[:16]}-01"
    return new


def error_to_answer(
    error: errors.MemsyncError, request_id: str, headers: Mapping[str, str] | None = None
) -> Answer:
    """The answer that says `error`; `Retry-After` is in whole seconds, as HTTP wants it."""
    found = dict(headers or {})
    if error.retry_after_s is not None:
        found[context.RETRY_AFTER] = str(max(1, math.ceil(error.retry_after_s)))
    body = codec.to_json(errors.error_answer(error, request_id))
    return Answer(error.http_status, found, body)


async def send_answer(scope: Scope, send: Send, answer: Answer, *, closes: bool = False) -> None:
    """Send an answer; the body of an answer to HEAD is left out. `closes` ends the connection."""
    exchange = exchange_of(scope)
    exchange.status = answer.status
    headers = [
        (b"content-type", answer.headers.get("Content-Type", JSON).encode()),
        (b"content-length", b"%d" % len(answer.body)),
    ]
    for name, value in answer.headers.items():
        if sent := _sent_name(name):
            headers.append((sent, value.encode("latin-1", "replace")))
    headers.append((b"x-request-id", exchange.request_id.encode()))
    headers.append((b"x-trace-id", exchange.trace_id.encode()))
    headers += exchange.always
    body = b"" if scope["method"] == "HEAD" else answer.body
    at_once: AtOnce | None = scope.get(AT_ONCE)
    if at_once is not None and at_once(answer.status, headers, body, closes):
        return
    if closes:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@lru_cache(1_024)
def _sent_name(name: str) -> bytes:
    """A header's name as it is sent; b"" for one that every answer has anyway."""
    lower = name.lower()
    return b"" if lower in _OURS else lower.encode("latin-1")
