"""Loads PostgreSQL with pgvector: `VENV/bin/python postgres_driver.py`, driven by lines of JSON.

Runs in an environment of its own (psycopg, pgvector, numpy; not memsync), so it imports nothing of
this repository. What it does to the database is what shared/bench/pg_bench.py does.

    {"ports": [...], "users": 30, "memories": 1000}     make the table, an index on the user, rows
    {"do": "insert" | "recall", "in_flight": 16, "nodes": 1 | 3, "seconds": 1.0}    one block

Each line is answered with one: {"times_s": [...], "seconds": ..., "own_s": ...}, or {}.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import numpy as np
import psycopg
from pgvector.psycopg import register_vector_async

DIMENSIONS = 256
VECTORS = 2_000  # questions and rows that are made beforehand
WARM_SHARE = 0.15
TEXT = (
    "The user prefers dark mode in every application and asked to be reminded about the launch on "
    "Friday morning with the whole team present"
)
INSERT = "insert into m(usr,txt,meta,v) values(%s,%s,%s,%s) returning id"
RECALL = "select id,txt,meta,1-(v<=>%s) as s from m where usr=%s order by v<=>%s limit 5"


class Driver:
    """Connections to the primary and to all three nodes, and blocks over them."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        vectors = random.standard_normal((VECTORS, DIMENSIONS)).astype(np.float32)
        self._vectors = list(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        self._ports: list[int] = []
        self._users: list[str] = []
        self._pools: dict[int, list[Any]] = {}
        self._number = 0

    async def prepare(self, ports: list[int], users: int, memories: int) -> None:
        """Make the table and fill it."""
        self._ports, self._users = ports, [f"user-{n}" for n in range(users)]
        bare = await self._connected(ports[0], has_vectors=False)
        await bare.execute("create extension if not exists vector")
        await bare.execute("drop table if exists m")
        await bare.execute(
            "create table m(id bigserial primary key, usr text, txt text, meta jsonb, "
            f"v vector({DIMENSIONS}))"
        )
        await bare.execute("create index on m(usr)")
        await bare.close()
        filling = await self._connected(ports[0])
        async with (
            filling.cursor() as cursor,
            cursor.copy("copy m(usr,txt,meta,v) from stdin with (format binary)") as copy,
        ):
            copy.set_types(["text", "text", "jsonb", "vector"])
            for user in self._users:
                for number in range(memories):
                    meta = psycopg.types.json.Jsonb({"a": 1})
                    vector = self._vectors[(number * 7 + len(user)) % VECTORS]
                    await copy.write_row((user, f"{TEXT} {number}", meta, vector))
        await filling.execute("analyze m")
        await filling.close()

    async def _connected(self, port: int, *, has_vectors: bool = True) -> Any:
        connection = await psycopg.AsyncConnection.connect(
            f"host=127.0.0.1 port={port} user=postgres dbname=postgres", autocommit=True
        )
        if has_vectors:
            await register_vector_async(connection)
        return connection

    async def _pool(self, in_flight: int, nodes: int) -> list[Any]:
        """The same connections each time, so that statements stay prepared."""
        ports = self._ports[:nodes]
        for place in range(in_flight):
            port = ports[place % nodes]
            pool = self._pools.setdefault(port, [])
            if len(pool) <= place // nodes:
                pool.append(await self._connected(port))
        return [self._pools[ports[p % nodes]][p // nodes] for p in range(in_flight)]

    async def block(self, do: str, in_flight: int, nodes: int, seconds: float) -> dict[str, Any]:
        """One closed loop, after a short one that is not counted."""
        step = {"insert": self._insert, "recall": self._recall}[do]
        pool = await self._pool(in_flight, nodes)
        await self._loop(step, pool, seconds * WARM_SHARE)
        own_s, began = time.process_time(), time.perf_counter()
        times_s = await self._loop(step, pool, seconds)
        took_s = time.perf_counter() - began
        return {"times_s": times_s, "seconds": took_s, "own_s": time.process_time() - own_s}

    async def _loop(self, step: Any, pool: list[Any], seconds: float) -> list[float]:
        times_s: list[float] = []
        end = time.perf_counter() + seconds

        async def worker(connection: Any) -> None:
            began = time.perf_counter()
            while began < end:
                self._number += 1
                await step(connection, self._number)
                now = time.perf_counter()
                times_s.append(now - began)
                began = now

        await asyncio.gather(*map(worker, pool))
        return times_s

    async def _insert(self, connection: Any, number: int) -> None:
        row = (f"w{number % 64}", f"{TEXT} {number}", '{"a":1}', self._vectors[number % VECTORS])
        await connection.execute(INSERT, row)

    async def _recall(self, connection: Any, number: int) -> None:
        vector = self._vectors[number % VECTORS]
        user = self._users[number * 13 % len(self._users)]
        found = await (await connection.execute(RECALL, (vector, user, vector))).fetchall()
        assert len(found) == 5, found


async def main() -> None:
    """Do what the lines say, one after the other, until there are no more."""
    driver = Driver()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        answer: dict[str, Any] = {}
        if "ports" in command:
            await driver.prepare(**command)
        else:
            answer = await driver.block(**command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
