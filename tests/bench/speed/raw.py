"""What the index and the store cannot be faster than: bare FAISS and bare SQLite, in this process.

The generator has the same processors as the peers, so the figures bear comparison with theirs. Like
a peer it has one linear algebra thread (memsync/decisions/0003-one-linear-algebra-thread.md).
"""

from __future__ import annotations

import itertools
import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np

from tests.bench.speed.blocks import WARM_SHARE, Block, Case, block_of

DIMENSIONS = 256
FOUND = 5
QUESTIONS = 256
ROW_BYTES = 1_200  # about what a record of one short memory takes
BATCH_ROWS = 256  # as many as a frame has operations at most


def searches(name: str, memories: int) -> Case:
    """Exact search for the best five of so many vectors."""
    random = np.random.default_rng(memories)
    index = faiss.IndexFlatIP(DIMENSIONS)
    for first in range(0, memories, 10_000):
        count = min(10_000, memories - first)
        index.add(_normalised(random, count))
    questions = itertools.cycle(_normalised(random, QUESTIONS)[:, None, :])

    def search() -> None:
        index.search(next(questions), FOUND)

    return _case(name, search)


def _normalised(random: np.random.Generator, count: int) -> np.ndarray:
    vectors = random.standard_normal((count, DIMENSIONS)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def inserts(name: str, folder: Path) -> Case:
    """Rows by key into one table, a transaction a batch, with the store's own settings. What is
    counted are rows; times are those of batches."""
    database = sqlite3.connect(folder / f"raw-{secrets.token_hex(4)}.db", isolation_level=None)
    database.executescript(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -16384;"
        "CREATE TABLE records (row INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, state BLOB);"
    )
    random = np.random.default_rng(1)

    def insert() -> None:
        keys = random.bytes(16 * BATCH_ROWS)
        rows = [(keys[n * 16 : n * 16 + 16], b"x" * ROW_BYTES) for n in range(BATCH_ROWS)]
        database.execute("BEGIN")
        database.executemany("INSERT INTO records (key, state) VALUES (?, ?)", rows)
        database.execute("COMMIT")

    return _case(name, insert, counted=BATCH_ROWS)


def _case(name: str, step: Callable[[], None], counted: int = 1) -> Case:
    """A step that blocks: nobody else uses this process meanwhile."""

    def loop(seconds: float) -> list[float]:
        times_s = []
        began = time.perf_counter()
        end = began + seconds
        while began < end:
            step()
            now = time.perf_counter()
            times_s.append(now - began)
            began = now
        return times_s

    async def measure(seconds: float) -> Block:
        faiss.omp_set_num_threads(1)
        loop(seconds * WARM_SHARE)
        own_s, began = time.process_time(), time.perf_counter()
        times_s = loop(seconds)
        took_s = time.perf_counter() - began
        block = block_of(times_s, took_s, {"load": time.process_time() - own_s})
        return block.times(counted)

    return Case(name, 1, measure)
