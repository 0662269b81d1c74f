"""uvicorn inside a process of ours: no signal handlers, no prints, an end that waits for requests.

Used by the gateways and by each peer for its own port.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from memsync import errors, limits
from memsync.gateway.exchange import AT_ONCE, HeaderLines, error_to_answer
from memsync.wire import context

KEEP_ALIVE_S = 75
BACKLOG = 2_048
DATE_S = 1.0
LINGER_S = 0.5  # at the end, for callers to hear that their connection will be closed


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own. It looks ten times a second
    whether it is to end; here it is told, and looks once, for the date in its answers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ended = asyncio.Event()

    def end(self) -> None:
        """Close everything, once the requests in flight are answered."""
        self.should_exit = True
        self.ended.set()

    async def main_loop(self) -> None:
        """Until the end."""
        while not await self.on_tick(0):
            try:
                async with asyncio.timeout(DATE_S):
                    await self.ended.wait()
            except TimeoutError:
                pass

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(HttpToolsProtocol):
    """HTTP/1.1 whose answer to what is not HTTP has the form of all our errors, whose answers are
    written in one piece, and close their connections once `stop` is set. uvicorn is pinned for it.
    """

    def __init__(self, *given: Any, stop: asyncio.Event, **named: Any) -> None:
        super().__init__(*given, **named)
        self._stop = stop

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        scope: dict[str, Any] = cycle.scope  # type: ignore[assignment]
        scope[AT_ONCE] = partial(self._send_at_once, cycle)
        super()._start_asgi_task(cycle, app)

    def _send_at_once(
        self,
        cycle: RequestResponseCycle,
        status: int,
        headers: HeaderLines,
        body: bytes,
        closes: bool,
    ) -> bool:
        """See `exchange.AtOnce`; what uvicorn does in two calls of `send`, which does it where the
        caller reads slowly or a header is odd."""
        if closes or self._stop.is_set():
            cycle.keep_alive = False
        if cycle.flow.write_paused or cycle.disconnected or cycle.response_started:
            return False
        names, values = zip(*headers, strict=True)
        if HEADER_RE.search(b"".join(names)) or HEADER_VALUE_RE.search(b"".join(values)):
            return False
        lines = (b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers))
        parts = [STATUS_LINE[status], *lines]
        if not cycle.keep_alive:
            parts.append(b"connection: close\r\n")
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.transport.write(b"".join((*parts, b"\r\n", body)))
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True

    def send_400_response(self, msg: str) -> None:
        request_id = context.request_id_of({})
        body = error_to_answer(errors.InvalidRequest(msg), request_id).body
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket of our own; raises `ConfigurationError` that names a taken address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise errors.ConfigurationError(
            f"http_host, http_port: cannot listen on {host}:{port} ({error.strerror})"
        ) from error
    sock.setblocking(False)
    return sock


async def serve(app: ASGIApp, *, sockets: Sequence[socket.socket], stop: asyncio.Event) -> None:
    """Serve until `stop` is set; then accept nothing more and let requests finish (SHUTDOWN_S).

    A caller may send its next request on a connection in the moment in which it is closed, and
    cannot know whether it was taken. So for `LINGER_S` every answer says that the connection is
    closed after it; only then those are closed on which nothing came.

    The sockets are closed at the end, which ends nothing for another process that shares them. A
    cancelled call stops at once, requests and all.
    """
    config = uvicorn.Config(
        app,
        http=partial(_Protocol, stop=stop),  # type: ignore[arg-type]
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(limits.SHUTDOWN_S),
    )
    server = _Server(config)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_exit_when(stop, server))
        await server.serve(sockets=list(sockets))
        waiting.cancel()


async def _exit_when(stop: asyncio.Event, server: _Server) -> None:
    await stop.wait()
    for listening in server.servers:
        listening.close()
    if server.server_state.connections:
        await asyncio.sleep(LINGER_S)
    server.end()
