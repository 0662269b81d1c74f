"""A process that ends before its requests are answered, by a fault of ours."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping

import httpx
import pytest

from memsync.gateway.app import build_app
from memsync.gateway.server import listen, serve
from memsync.ports import Answer
from tests.fakes.backend import MemoryBackend
from tests.unit.gateway.calling import HEADERS, error_of


class Silent(MemoryBackend):
    """A backend that is asked and never answers."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def call(self, operation: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.asked.set()
        return await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize(
    ("path", "code", "is_definite"),
    [("/memory/add", "OUTCOME_UNKNOWN", False), ("/memory/query", "OVERLOADED", True)],
)
def test_who_waits_is_told_so(path: str, code: str, is_definite: bool) -> None:
    sock = listen("127.0.0.1", 0)
    failed: list[BaseException] = []

    async def live() -> None:
        backend = Silent()
        async with asyncio.TaskGroup() as tasks:
            app = build_app(backend, name="test-1")
            tasks.create_task(serve(app, sockets=[sock], stop=asyncio.Event()))
            await backend.asked.wait()
            raise RuntimeError("a fault of ours")

    def run() -> None:
        try:
            asyncio.run(live())
        except BaseExceptionGroup as error:
            failed.extend(error.exceptions)

    process = threading.Thread(target=run)
    process.start()
    try:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}{path}"
        answer = httpx.post(url, json={"text": "tea"}, headers=HEADERS, timeout=10, trust_env=False)
    finally:
        process.join(10)
        sock.close()
    assert answer.status_code == 503
    error = error_of(answer)
    assert (error.code, error.definite) == (code, is_definite)
    assert answer.headers["connection"] == "close"
    assert [str(error) for error in failed] == ["a fault of ours"]
