"""A cluster for the command line's tests: the HTTP app over a fake backend, on a loopback port."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from memsync import errors
from memsync.gateway import server
from memsync.gateway.app import build_app
from memsync.gateway.exchange import error_to_answer
from memsync.ports import Answer
from memsync.wire import codec, context, replies, requests
from tests.fakes.backend import MemoryBackend


class ClusterBackend(MemoryBackend):
    """The fake backend, with client references, keyed answers, and faults that a test sets.

    `faults` are raised one by one, before anything is done; `lost` so many answers are thrown away
    after the work. While `gate` is not set, bulk adds wait for it after they are noted in `calls`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[errors.MemsyncError] = []
        self.answers: list[Answer] = []
        self.lost = 0
        self.gate = threading.Event()
        self.gate.set()
        self.in_flight = 0
        self.in_flight_max = 0
        self._references: dict[tuple[str, str], int] = {}
        self._outcomes: dict[str, Answer] = {}

    async def call(self, operation: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Answer an operation, unless a fault comes first."""
        if self.answers:
            return self.answers.pop(0)
        if self.faults:
            await super().call("memory.list", headers, b"{}")  # it is noted that somebody called
            return error_to_answer(self.faults.pop(0), "")
        key = operation + headers.get(context.IDEMPOTENCY_KEY, "")
        if operation == "memory.bulk_add" and key in self._outcomes:
            kept = self._outcomes[key]
            return Answer(kept.status, {context.IDEMPOTENCY_REPLAYED: "true"}, kept.body)
        answer = await self._work(operation, headers, body)
        if answer.status < 300:
            self._outcomes[key] = answer
        if self.lost:
            self.lost -= 1
            return error_to_answer(errors.OutcomeUnknown("the answer was lost"), "")
        return answer

    async def _work(self, operation: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight, self.in_flight_max)
        answer = await super().call(operation, headers, body)
        if operation == "memory.bulk_add":
            await asyncio.to_thread(self.gate.wait)
        self.in_flight -= 1
        return answer

    def texts(self, user: str) -> list[str]:
        """What is stored for a user, in order."""
        return [memory.text for memory in self._of_user(user)]

    def _bulk_add(self, body: bytes, asked: context.Context) -> tuple[int, Any]:
        request = codec.from_json(body, requests.BulkAddRequest)
        requests.check(requests.bulk_problems(request))
        results = [
            self._bulk_item(index, item, self._user(asked, item.end_user_id or request.end_user_id))
            for index, item in enumerate(request.items)
        ]
        counts = [result.status for result in results]
        return 200, replies.BulkAdded(
            total=len(results), results=results, created=counts.count("created"),
            skipped=counts.count("skipped"), rejected=counts.count("rejected"),
        )  # fmt: skip

    def _bulk_item(self, index: int, item: requests.AddItem, user: str) -> replies.BulkItem:
        if not item.body:
            return replies.BulkItem(
                index=index, status="rejected", memory_ids=[], reason="text: empty"
            )
        reference = (user, item.client_ref or "")
        found = self._references.get(reference)
        if found is not None:
            return replies.BulkItem(
                index=index, status="skipped", memory_ids=[found], reason="already_ingested"
            )
        self._references[reference] = identifier = self._store(item, user).id
        return replies.BulkItem(index=index, status="created", memory_ids=[identifier])


@contextmanager
def serving(backend: MemoryBackend) -> Iterator[str]:
    """Serve the app over `backend` in a thread; the address."""
    sock = server.listen("127.0.0.1", 0)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    app = build_app(backend, name="gateway-1")

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(server.serve(app, sockets=[sock], stop=stop))

    thread = threading.Thread(target=run, name="serving")
    port = sock.getsockname()[1]
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
    assert not thread.is_alive()
