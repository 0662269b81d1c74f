"""Sixteen concurrent adds with one `client_ref`, over both gateways and all three peers."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from tests.conditions import eventually
from tests.system.conftest import Cluster

USER = "one-client-ref"


async def add(client: httpx.AsyncClient, url: str, cluster: Cluster, number: int) -> list[int]:
    body = {"text": f"attempt {number} at saying the same thing", "client_ref": "order-4711"}
    answer = await client.post(url + "/memory/add", json=body, headers=cluster.headers(USER))
    assert answer.status_code in (200, 201), answer.text
    told: dict[str, Any] = answer.json()
    assert told.get("reason", "already_ingested") == "already_ingested"
    return [told["id"]] if "id" in told else told["memory_ids"]


async def test_sixteen_adds_make_one_memory_and_every_id_resolves(cluster: Cluster) -> None:
    urls = [cluster.url, *(cluster.peer_url(n) for n in (1, 2, 3))]
    async with httpx.AsyncClient(timeout=10.0) as client:
        answers = await asyncio.gather(*(add(client, urls[n % 4], cluster, n) for n in range(16)))
        ids = {memory_id for answer in answers for memory_id in answer}
        assert ids
        for number in (1, 2, 3):
            url = cluster.peer_url(number)

            async def is_one_memory(url: str = url) -> bool:
                page = (
                    await client.get(url + "/memory/list", headers=cluster.headers(USER))
                ).json()
                found = [
                    await client.get(f"{url}/memory/{i}", headers=cluster.headers(USER))
                    for i in sorted(ids)
                ]
                texts = {answer.json().get("text") for answer in found}
                return page["total"] == 1 and texts == {page["items"][0]["text"]}

            await eventually(is_one_memory, f"peer {number}: one memory, {len(ids)} ids", 10.0)
