"""A peer that was frozen and thaws never answers as fresh what is stale."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import httpx
import pytest

from tests.conditions import eventually
from tests.system.conftest import Cluster

ROUNDS = 4


async def held(client: httpx.AsyncClient, url: str, headers: dict[str, str]) -> dict[str, Any]:
    """What a peer lists, and whether it says that this may be stale."""
    answer = await client.get(url + "/memory/list", headers=headers)
    assert answer.status_code == 200, answer.text
    texts = [item["text"] for item in answer.json()["items"]]
    return {"texts": texts, "is_tagged": "memsync-degraded" in answer.headers}


@pytest.mark.parametrize("frozen", [1, 3])
async def test_a_thawed_peer_is_never_stale_and_untagged(cluster: Cluster, frozen: int) -> None:
    """Freeze a peer, write through another, thaw it, and read from it at once: the requests that
    wait in its socket are the first things that it sees. Writes go on meanwhile: the lease that it
    held is over after a moment."""
    headers = cluster.headers(f"thawed-{frozen}")
    url, other = cluster.peer_url(frozen), cluster.peer_url(2)
    pid = cluster.pid(f"peer-{frozen}")
    async with httpx.AsyncClient(timeout=30.0) as client:
        for number in range(ROUNDS):
            await held(client, url, headers)
            os.kill(pid, signal.SIGSTOP)
            try:
                early = [asyncio.create_task(held(client, url, headers)) for _ in range(3)]
                body = {"text": f"while frozen, {number}", "client_ref": f"frozen-{number}"}
                answer = await client.post(other + "/memory/add", json=body, headers=headers)
                assert answer.status_code == 201, answer.text
                late = [asyncio.create_task(held(client, url, headers)) for _ in range(3)]
            finally:
                os.kill(pid, signal.SIGCONT)
            for found in await asyncio.gather(*late):
                assert body["text"] in found["texts"] or found["is_tagged"], found
            await asyncio.gather(*early)

            async def is_fresh_again(text: str = body["text"]) -> bool:
                found = await held(client, url, headers)
                return text in found["texts"] and not found["is_tagged"]

            await eventually(is_fresh_again, f"peer-{frozen} is fresh again")
