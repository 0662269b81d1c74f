"""Ids that a gateway fixed reach a peer over HTTP, too; nobody else's do."""

from __future__ import annotations

import httpx
import pytest

from memsync.gateway.app import build_app
from memsync.gateway.passing.ways import HttpWay
from memsync.wire import context
from memsync.wire.proof import ids_proof, is_proven
from tests.fakes.backend import KEY, MemoryBackend

SECRET = "the password of the cell's own user"
HEADERS = {
    context.API_KEY: KEY,
    context.END_USER: "ada",
    context.OPERATION_KEY: "~key",
    context.IDS: "5-6",
}
BODY = b'{"text": "tea"}'


def client_of(backend: MemoryBackend, secret: str = SECRET) -> httpx.AsyncClient:
    """What reaches a peer's own port."""
    transport = httpx.ASGITransport(build_app(backend, name="peer-1", secret=secret))
    return httpx.AsyncClient(transport=transport)


@pytest.mark.parametrize(
    ("gateways", "peers", "arrive"),
    [(SECRET, SECRET, True), ("another", SECRET, False), ("", SECRET, False), (SECRET, "", False),
     ("", "", False)],
)  # fmt: skip
async def test_ids_arrive_from_who_has_the_secret(gateways: str, peers: str, arrive: bool) -> None:
    backend = MemoryBackend()
    async with client_of(backend, peers) as client:
        way = HttpWay({"peer-1": "http://peer"}, client, secret=gateways)
        answer = await way.ask("peer-1", "memory.add", dict(HEADERS), BODY, 5.0)
    assert answer.status == 201
    (call,) = backend.calls
    assert call.headers.get(context.IDS) == ("5-6" if arrive else None)
    assert context.IDS_PROOF not in call.headers
    assert call.headers[context.OPERATION_KEY] == "~key"


@pytest.mark.parametrize(
    "changed",
    [
        {context.IDS: "5-7"},
        {context.OPERATION_KEY: "~other"},
        {context.API_KEY: "ms_dev_" + "1" * 48},
        {context.IDEMPOTENCY_KEY: "k"},
        {context.IDS_PROOF: ""},
        {context.IDS_PROOF: "\u00e9"},
    ],
)
def test_a_proof_is_for_one_write(changed: dict[str, str]) -> None:
    proof = ids_proof(SECRET, "memory.add", HEADERS)
    proven = HEADERS | {context.IDS_PROOF: proof}
    assert is_proven(SECRET, "memory.add", proven)
    assert is_proven(SECRET, "memory.add", {n.lower(): value for n, value in proven.items()})
    assert not is_proven(SECRET, "memory.bulk_add", proven)
    assert not is_proven(SECRET, "memory.add", proven | changed)


async def test_no_proof_counts_on_the_routes_of_callers() -> None:
    backend = MemoryBackend()
    proof = {context.IDS_PROOF: ids_proof(SECRET, "memory.add", HEADERS)}
    async with client_of(backend) as client:
        await client.post("http://peer/memory/add", content=BODY, headers=HEADERS | proof)
    passed = backend.calls[0].headers
    assert not {context.IDS, context.IDS_PROOF, context.OPERATION_KEY} & passed.keys()


async def test_a_gateway_fixes_the_ids_whatever_a_caller_sends() -> None:
    """A caller's proof, though it be right for a caller's ids, is not passed on by a gateway."""
    backend = MemoryBackend()
    sent = HEADERS | {context.IDS_PROOF: "0" * 64}
    async with client_of(backend) as client:
        way = HttpWay({"peer-1": "http://peer"}, client, secret=SECRET)
        await way.ask("peer-1", "memory.add", sent, BODY, 5.0)
    assert backend.calls[0].headers[context.IDS] == "5-6"
