"""uvicorn inside a process of ours: no signal handlers, no prints, an end that waits for requests.

Used by the gateways and by each peer for its own port.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from memsync import errors, limits
from memsync.gateway.exchange import error_to_answer
from memsync.wire import context

KEEP_ALIVE_S = 75
BACKLOG = 2_048


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(HttpToolsProtocol):
    """HTTP/1.1 whose answer to what is not HTTP has the form of all our errors."""

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

    The sockets are closed at the end, which ends nothing for another process that shares them. A
    cancelled call stops at once, requests and all.
    """
    config = uvicorn.Config(
        app,
        http=_Protocol,
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


async def _exit_when(stop: asyncio.Event, server: uvicorn.Server) -> None:
    await stop.wait()
    server.should_exit = True
