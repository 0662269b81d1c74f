"""Sends operations as callers do, without retries, and notes in the history what became of each.

A process does one operation after the other over one connection of its own: to the gateways over
HTTP, or to the bus. What an operation did is told by its answer alone; where there is none it is
unknown. Texts, tags and metadata carry the driver's own names, so that whatever a read shows can be
traced to who wrote it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

import httpx
import msgspec
import nats.errors

from memsync.client.positions import Positions
from tests.chaos.history import (
    CREATES,
    KEYS,
    NOTHING,
    READS,
    End,
    Fail,
    Invoke,
    Ok,
    Operation,
    Recorder,
    Seen,
    Unknown,
)
from tests.system.callers import HttpWay, NatsWay, Reply

TIMEOUT_S = 15.0
MALFORMED = "MALFORMED"  # an answer that is none of the API's
KEY = "Idempotency-Key"
FILLERS = (
    "keeps bees behind the house", "rows on the fjord on Sundays", "prefers green tea to coffee",
    "has moved from Leeds to Oslo", "plays the viola in a quartet", "is afraid of tall ladders",
)  # fmt: skip
_OPERATIONS = {
    "add": "memory.add", "bulk": "memory.bulk_add", "update": "memory.update",
    "swap": "memory.update", "forget": "memory.forget", "get": "memory.get",
    "list": "memory.list", "recall": "memory.query",
    "relate": "memory.relate", "feedback": "memory.feedback",
    "key": "keys.create", "revoke": "keys.revoke", "use": "memory.list",
}  # fmt: skip
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_NOT_DELIVERED = (
    nats.errors.NoRespondersError,
    nats.errors.OutboundBufferLimitError,
    nats.errors.ConnectionClosedError,
)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One operation before it is sent. `key` is the caller's, for repeats."""

    op: str
    user: str
    body: dict[str, Any]
    refs: list[str] = []
    value: str = ""
    count: int = -1
    key: str = ""
    first: int = 0
    after: list[int] = []
    min_position: str = ""
    final: tuple[str, str] | None = None
    secret: str = ""  # another API key than the driver's
    ack: str = ""
    consistency: str = ""


class Gateways(Protocol):
    """Knows whose connection hangs or breaks because its gateway was harmed."""

    def harmed(self, port: int, began: float, ended: float) -> str:
        """The gateway that held the connection from this port while it was harmed, "" if none."""
        ...


class Connection:
    """One HTTP connection at a time, whose own port is known."""

    def __init__(self, url: str) -> None:
        self.port = 0
        self.client = httpx.AsyncClient(
            timeout=TIMEOUT_S,
            trust_env=False,
            verify=False,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
            event_hooks={"request": [self._watch]},
        )
        self.way = HttpWay("http", self.client, url)

    async def _watch(self, request: httpx.Request) -> None:
        request.extensions["trace"] = self._trace

    async def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self.port = info["return_value"].get_extra_info("client_addr")[1]


class Driver:
    """The clock, the history and the unknown writes of a run."""

    def __init__(self, recorder: Recorder, key: str, gateways: Gateways) -> None:
        self.recorder = recorder
        self.unsettled: dict[int, Request] = {}
        self.gateways = gateways
        self._key = key
        self._began = time.monotonic()

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began


class Process:
    """One caller."""

    def __init__(self, driver: Driver, name: str, way: Connection | NatsWay) -> None:
        self.driver = driver
        self.name = name
        self.positions = Positions()
        self.secret = ""  # of the API key that was made last; "" where nobody was told it
        self._way = way

    async def do(self, request: Request) -> Operation:
        """Send it and note what happened."""
        driver = self.driver
        n = driver.recorder.next_number()
        invoke = Invoke(
            at=driver.now(), n=n, process=self.name, op=request.op, user=request.user,
            way="nats" if isinstance(self._way, NatsWay) else "http", refs=request.refs,
            value=request.value, count=request.count, key=request.key, first=request.first,
            after=request.after, final=request.final, ack=request.ack,
            consistency=request.consistency,
        )  # fmt: skip
        driver.recorder.add(invoke)
        end = self._at_gateway(invoke, await self._end(request, n))
        driver.recorder.add(end)
        self._remember(request, n, end)
        return Operation(invoke, end)

    async def repeat(self, request: Request, first: int) -> Operation:
        """The same once more, with the same key: another attempt of operation `first`."""
        return await self.do(msgspec.structs.replace(request, first=first))

    async def _end(self, request: Request, n: int) -> End:
        way = self._way.way if isinstance(self._way, Connection) else self._way
        key = request.secret or self.driver._key
        headers = {"X-API-Key": key, "X-End-User-ID": request.user}
        if request.key:
            headers[KEY] = request.key
        if request.min_position:
            headers["Memsync-Min-Position"] = request.min_position
        if request.ack:
            headers["Memsync-Ack"] = request.ack
        if request.final is not None or request.consistency:
            headers["Memsync-Consistency"] = request.consistency or "local"
        now = self.driver.now
        try:
            reply = await way.call(_OPERATIONS[request.op], request.body, headers)
        except (*_NEVER_SENT, *_NOT_DELIVERED) as error:
            return Fail(at=now(), n=n, code=type(error).__name__)
        except (httpx.HTTPError, nats.errors.Error, TimeoutError, OSError) as error:
            return Unknown(at=now(), n=n, code=type(error).__name__)
        try:
            self.positions.merge(reply.headers.get("memsync-position", ""))
            if request.op == "key" and reply.status == 201:
                self.secret = reply.body["key"] or ""  # a repeat is answered without it
            return judge(request, n, now(), reply)
        except (ValueError, LookupError, TypeError, AttributeError):
            return Unknown(at=now(), n=n, status=reply.status, code=MALFORMED)

    def _at_gateway(self, invoke: Invoke, end: End) -> End:
        if not isinstance(self._way, Connection):
            return end
        harmed = self.driver.gateways.harmed(self._way.port, invoke.at, end.at)
        return msgspec.structs.replace(end, at_gateway=harmed) if harmed else end

    def _remember(self, request: Request, n: int, end: End) -> None:
        """Unknown writes are asked for again at the end; their keys make that safe."""
        first = request.first or n
        if request.op in (*READS, *KEYS):
            return
        if isinstance(end, Unknown):
            self.driver.unsettled.setdefault(first, request)
        elif isinstance(end, Ok):
            self.driver.unsettled.pop(first, None)


def judge(request: Request, n: int, at: float, reply: Reply) -> End:
    """What an answer means for the history."""
    status, body = reply.status, reply.body
    tags = [tag for tag in reply.headers.get("memsync-degraded", "").split(",") if tag]
    if request.op in READS:
        return _read(request, n, at, reply, tags)
    if request.op == "use" and status < 400:
        return Ok(at=at, n=n, status=status, tags=tags)
    if status >= 400:
        said = body.get("error", {}) if isinstance(body, dict) else {}
        kind = Fail if said.get("definite") is True else Unknown
        return kind(at=at, n=n, status=status, code=str(said.get("code", "")))
    if request.op == "forget":
        if not body:
            return Fail(at=at, n=n, status=status, code=NOTHING)
        return Ok(at=at, n=n, status=status, ids=body)
    stripe = (
        int(reply.headers["memsync-position"].partition(".")[0]) if request.op == "swap" else -1
    )
    return Ok(at=at, n=n, status=status, ids=ids_of(request.op, body), stripe=stripe)


def _read(request: Request, n: int, at: float, reply: Reply, tags: list[str]) -> End:
    status, body = reply.status, reply.body
    if status == 404 and request.op == "get":
        return Ok(at=at, n=n, status=status, tags=tags)
    if status >= 400:
        return Fail(at=at, n=n, status=status, code=reply.code)
    if request.op == "recall":
        tags = body["degraded_components"]
    rows = {"list": "items", "recall": "memories"}
    memories = [body] if request.op == "get" else body[rows[request.op]]
    is_exact = request.final is not None
    seen = [seen_in(memory, is_exact=is_exact) for memory in memories]
    is_whole = request.op == "list" and len(seen) == body["total"]
    return Ok(at=at, n=n, status=status, seen=seen, tags=tags, is_whole=is_whole)


def stripe_of(reply: Reply) -> int:
    """Where a conditional update lies; -1 for a repeat, whose answer names all positions."""
    said = reply.headers.get("memsync-position", "")
    return -1 if "," in said else int(said.partition(".")[0])


def ids_of(op: str, body: Mapping[str, Any]) -> list[int]:
    """The ids that a create was answered with: one for each item, in their order."""
    if op == "key":
        return [body["id"]]
    if op not in CREATES:
        return []
    if op == "bulk":
        return [(item["memory_ids"] or [0])[0] for item in body["results"]]
    return [body["id"]] if "id" in body else list(body.get("memory_ids", []))[:1]


def text_of(ref: str, made: str) -> str:
    """The text of a memory: whose it is, who made it, and something to be found by."""
    return f"{ref} {made} {FILLERS[sum(map(ord, ref + made)) % len(FILLERS)]}"


def fields_of(value: str, count: int = -1) -> dict[str, Any]:
    """What every write sets: its value, twice, and a counter's count."""
    metadata: dict[str, Any] = {"v": value}
    if count >= 0:
        metadata["n"] = count
    return {"tags": [value], "metadata": metadata}


def seen_in(memory: Mapping[str, Any], *, is_exact: bool) -> Seen:
    """A memory of an answer. At the end its text must be ours to the letter; while the run goes on
    a row that was altered by hand may be shown until it is healed."""
    ref, made = [*memory["text"].split(" "), "", ""][:2]
    if is_exact and memory["text"] != text_of(ref, made):
        made += " altered"
    metadata, tags = memory["metadata"], memory["tags"]
    return Seen(
        id=memory["id"], ref=ref, made=made, value=str(metadata.get("v", "")),
        side=tags[0] if tags else "", version=memory["version"], count=metadata.get("n", -1),
    )  # fmt: skip
