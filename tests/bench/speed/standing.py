"""What a cluster takes while nobody asks: memory, disk, processor time."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from memsync.core.recall.lexical import terms_of
from tests.bench.corpus import Corpus
from tests.bench.speed import machine
from tests.bench.speed.blocks import Told
from tests.bench.speed.goals import Line, line
from tests.bench.speed.raw import DIMENSIONS
from tests.bench.speed.rig import METADATA, PEERS, SERVERS, Rig
from tests.system.conftest import Cluster

VECTOR_BYTES = 4 * DIMENSIONS
IDLE_S = 10.0
SETTLE_S = 3.0  # after the last request: stores are synced, loads end
PEER_MB = 180.0  # that a peer may take beside its scopes
MB = 1e6


class Content(msgspec.Struct, frozen=True):
    """What memories come to: how many, and the bytes of their texts, terms and metadata."""

    memories: int
    text_bytes: int
    terms_bytes: int
    metadata_bytes: int

    @property
    def hot_bytes(self) -> int:
        """Vector, text and terms."""
        return self.memories * VECTOR_BYTES + self.text_bytes + self.terms_bytes

    @property
    def kept_bytes(self) -> int:
        """Vector, text and metadata."""
        return self.memories * VECTOR_BYTES + self.text_bytes + self.metadata_bytes


def content_of(sizes: Mapping[str, int]) -> Content:
    """What `Rig.fill` gives end users of these sizes: each has the corpus' first texts."""
    texts = [memory.text for memory in Corpus().memories(0, max(sizes.values()))]
    text, terms = [0], [0]
    for one in texts:
        text.append(text[-1] + len(one.encode()))
        terms.append(terms[-1] + sum(len(term.encode()) for term in terms_of(one)))
    total = sum(sizes.values())
    return Content(
        memories=total,
        text_bytes=sum(text[size] for size in sizes.values()),
        terms_bytes=sum(terms[size] for size in sizes.values()),
        metadata_bytes=total * len(json.dumps(METADATA)),
    )


class Disk(msgspec.Struct, frozen=True):
    """Bytes on disk of one copy: the greatest of the peers' stores, and of the servers' logs. A
    store is the pages in use of its file: its WAL, at most 16 MB whatever is stored, is written
    over again and again, and so would hide what a store grew by."""

    store: int
    log: int


def disk_of(cluster: Cluster) -> Disk:
    """What the copies take now."""
    data = cluster.home / "data"
    stores = [_pages_bytes(data / f"peer-{n}" / "store.sqlite") for n in range(1, PEERS + 1)]
    logs = [machine.folder_bytes([data / f"nats-{n}"]) for n in range(1, SERVERS + 1)]
    return Disk(max(stores), max(logs))


def _pages_bytes(store: Path) -> int:
    """What the pages of an SQLite file that are in use take, as of its last commit."""
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        pages, free, page_bytes = (
            connection.execute(f"PRAGMA {what}").fetchone()[0]
            for what in ("page_count", "freelist_count", "page_size")
        )
    return int((pages - free) * page_bytes)


def disk_lines(before: Disk, after: Disk, content: Content) -> list[Line]:
    """Store and log per memory and copy, after so much was added."""
    n = content.memories
    kept = content.kept_bytes / n
    limit_is = "text + metadata + 4 bytes x dimensions"
    return [
        line(
            f"{name} per memory and copy", "bytes", grown / n, goal,
            limit=kept, limit_is=limit_is, judged="ratio",
        )
        for name, grown, goal in (
            ("store", after.store - before.store, 2.5),
            ("log", after.log - before.log, 1.5),
        )
    ]  # fmt: skip


def memory_lines(rig: Rig, content: Content) -> list[Line]:
    """Resident memory of the largest peer, whose scopes with this content are all loaded."""
    resident = max(
        machine.resident_bytes(rig.cluster.pid(f"peer-{n}")) for n in range(1, PEERS + 1)
    )
    allowed_mb = 1.5 * content.hot_bytes / MB + PEER_MB
    measure = f"RAM of a peer with {content.memories:,} memories in hot scopes"
    limit_is = f"1.5 x (vector + text + terms) + {PEER_MB:g} MB"
    return [
        line(
            measure, "MB", resident / MB, 1.0,
            limit=allowed_mb, limit_is=limit_is, judged="ratio",
        )
    ]  # fmt: skip


async def idle_lines(
    cluster: Cluster, memories: int, told: Told, seconds: float = IDLE_S
) -> list[Line]:
    """Processor time of all processes while nobody asks, keepers and `memsync.local.up` too."""
    told("waiting for the cluster to settle")
    await asyncio.sleep(SETTLE_S)
    pids = _all_processes(cluster)
    told(f"idle: {len(pids)} processes")
    before_s, began = sum(map(machine.cpu_seconds, pids)), time.monotonic()
    await asyncio.sleep(seconds)
    used_s = sum(map(machine.cpu_seconds, pids)) - before_s
    share = 100 * used_s / (time.monotonic() - began)
    state = f"with {memories:,} memories in hot scopes" if memories else "that is empty"
    measure = f"idle cluster {state}, all processes together"
    return [line(measure, "% of a core", share, 6.0)]


def _all_processes(cluster: Cluster) -> list[int]:
    """The process that this one started for the cluster, and all below."""
    pid = cluster.pid("peer-1")
    while (parent := _parent(pid)) not in (os.getpid(), 1, 0):
        pid = parent
    found = [pid]
    for one in found:  # grows meanwhile
        found += _children(one)
    return found


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _children(pid: int) -> Sequence[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found
