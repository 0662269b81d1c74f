"""Rows of one peer are altered by hand, while it runs: no caller is shown them, no other peer gets
them, and the peer has them back within a minute."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from memsync.adapters.sqlite.files import text_of
from memsync.core.records import Record, row_hash
from memsync.ids import ScopeKey, bucket_of
from memsync.wire import codec
from tests.conditions import wait_until
from tests.system.conftest import Cluster, running_cluster

USER = "altered"
MEMORIES = 60
HEALED_WITHIN_S = 60.0
HARMED = 2  # the peer
Harm = Callable[[sqlite3.Connection, bytes], object]


@contextmanager
def store_of(cluster: Cluster, peer: int) -> Iterator[sqlite3.Connection]:
    """A peer's SQLite file, beside the peer."""
    (path,) = Path(cluster.home).glob(f"**/peer-{peer}/store.sqlite")
    connection = sqlite3.connect(path, timeout=10.0)
    connection.text_factory = text_of
    try:
        with connection:
            yield connection
    finally:
        connection.close()


def rows_of(cluster: Cluster, peer: int) -> dict[bytes, tuple[object, ...]]:
    """Every memory with its columns, and what is kept of the sum of its bucket."""
    with store_of(cluster, peer) as db:
        rows = db.execute(
            "SELECT key, scope, hash, gone, expires_at_ms, state FROM records WHERE kind = 'memory'"
        )
        found = {row[0]: row[1:] for row in rows}
        scopes = {scope for scope, *_ in found.values() if isinstance(scope, bytes)}
        for bucket in {bucket_of(ScopeKey(scope)) for scope in scopes}:
            kept = db.execute("SELECT sum FROM buckets WHERE bucket = ?", (bucket,)).fetchone()
            found[b"bucket %d" % bucket] = kept
        return found


def keys_of(cluster: Cluster) -> list[bytes]:
    """The memories of the test, in the order of their creation."""
    with store_of(cluster, 1) as db:
        rows = db.execute("SELECT key FROM records WHERE kind = 'memory' ORDER BY created_at_ms")
        return [key for (key,) in rows]


def alter_state(db: sqlite3.Connection, key: bytes, word: bytes = b"lies") -> None:
    (state,) = db.execute("SELECT state FROM records WHERE key = ?", (key,)).fetchone()
    forged = state.replace(b"fact", word)
    assert forged != state
    db.execute("UPDATE records SET state = ? WHERE key = ?", (forged, key))


def alter_state_and_hash(db: sqlite3.Connection, key: bytes) -> None:
    alter_state(db, key, b"tale")
    (state,) = db.execute("SELECT state FROM records WHERE key = ?", (key,)).fetchone()
    db.execute("UPDATE records SET hash = ? WHERE key = ?", (signed(row_hash(state)), key))


def alter_hash(db: sqlite3.Connection, key: bytes) -> None:
    db.execute("UPDATE records SET hash = hash + 1 WHERE key = ?", (key,))


def delete(db: sqlite3.Connection, key: bytes) -> None:
    db.execute("DELETE FROM records WHERE key = ?", (key,))


def insert(db: sqlite3.Connection, key: bytes) -> None:
    """A row that looks as it should, of a memory that nobody wrote."""
    (state,) = db.execute("SELECT state FROM records WHERE key = ?", (key,)).fetchone()
    other = msgspec.structs.replace(codec.unpack(state, Record), key=b"x" * 16, ids=[5])
    forged = codec.pack(other)
    db.execute(
        "INSERT INTO records SELECT NULL, ?, kind, scope, ?, created_at_ms, stamp_time, place, "
        "expires_at_ms, gone, text_hash, ? FROM records WHERE key = ?",
        (b"x" * 16, signed(row_hash(forged)), forged, key),
    )


def column(name: str, value: object) -> Harm:
    def alter(db: sqlite3.Connection, key: bytes) -> None:
        db.execute(f"UPDATE records SET {name} = ? WHERE key = ?", (value, key))

    return alter


def replace_in_state(db: sqlite3.Connection, key: bytes) -> None:
    """As somebody does it in the shell of SQLite: the state is text then, and not UTF-8."""
    db.execute("UPDATE records SET state = replace(state, 'fact', 'lies') WHERE key = ?", (key,))


def alter_sum(db: sqlite3.Connection, key: bytes) -> None:
    db.execute("UPDATE buckets SET sum = sum + 1")


HARMS: dict[str, Harm] = {
    "state": alter_state,
    "hash": alter_hash,
    "state and hash": alter_state_and_hash,
    "deleted": delete,
    "inserted": insert,
    "gone": column("gone", 1),
    "expires": column("expires_at_ms", 1),
    "scope": column("scope", b"y" * 16),
    "scope is none": column("scope", "text"),
    "hash is none": column("hash", "text"),
    "state is none": column("state", b""),
    "state is text": replace_in_state,
    "key": column("key", b"z" * 16),
    "key is text": column("key", "text"),
    "sums": alter_sum,
}


def signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def listed(cluster: Cluster, peer: int) -> httpx.Response:
    return httpx.get(
        f"{cluster.peer_url(peer)}/memory/list?limit=100",
        headers=cluster.headers(USER),
        timeout=10.0,
    )


def is_degraded(answer: httpx.Response) -> bool:
    return "Memsync-Degraded" in answer.headers


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with memories, to be harmed by every test in turn."""
    with running_cluster(tmp_path_factory.mktemp("altered") / "home") as cluster:
        for number in range(MEMORIES):
            httpx.post(
                cluster.url + "/memory/add",
                json={"text": f"fact number {number}", "client_ref": f"f-{number}"},
                headers=cluster.headers(USER, **{"Memsync-Ack": "all"}),
                timeout=10.0,
            ).raise_for_status()
        yield cluster


def test_every_alteration_is_healed_within_a_minute_and_shown_to_nobody(harmed: Cluster) -> None:
    before = [rows_of(harmed, peer) for peer in (1, 2, 3)]
    assert before[0] == before[1] == before[2]
    keys = keys_of(harmed)
    assert len(keys) == MEMORIES
    with store_of(harmed, HARMED) as db:
        for place, harm in enumerate(HARMS.values()):
            harm(db, keys[place])
    harmed_at = time.monotonic()
    assert rows_of(harmed, HARMED) != before[0]

    def is_healed() -> bool:
        for peer in (1, 3):
            assert rows_of(harmed, peer) == before[0]
        answer = listed(harmed, HARMED)
        shown = [item["text"] for item in answer.json().get("items", [])]
        assert not [text for text in shown if "lies" in text]  # at no moment
        return rows_of(harmed, HARMED) == before[0]

    wait_until(is_healed, "every row as before", HEALED_WITHIN_S)
    print(f"healed after {time.monotonic() - harmed_at:.1f} s")
    wait_until(lambda: harmed.is_ready(harmed.peer_url(HARMED)), "ready again")
    answer = listed(harmed, HARMED)
    assert not is_degraded(answer)
    assert sorted(item["text"] for item in answer.json()["items"]) == sorted(
        f"fact number {number}" for number in range(MEMORIES)
    )


def test_an_update_of_an_altered_memory_meets_the_true_one_everywhere(harmed: Cluster) -> None:
    key = keys_of(harmed)[40]
    (true_text,) = [text for text in ["fact number 40"] if text]
    with store_of(harmed, HARMED) as db:
        alter_state(db, key)
    (item,) = [item for item in listed(harmed, 1).json()["items"] if item["text"] == true_text]
    answer = httpx.patch(
        f"{harmed.url}/memory/{item['id']}",
        json={"tags": ["updated"]},
        headers=harmed.headers(USER),
        timeout=10.0,
    )
    assert answer.status_code == 200, answer.text
    assert (answer.json()["text"], answer.json()["tags"]) == (true_text, ["updated"])

    def is_everywhere() -> bool:
        states = [rows_of(harmed, peer) for peer in (1, 2, 3)]
        assert all(b"lies" not in row[-1] for row in (states[0][key], states[2][key]))
        return states[0] == states[1] == states[2]

    wait_until(is_everywhere, "one and the same everywhere", HEALED_WITHIN_S)
    assert true_text in [item["text"] for item in listed(harmed, HARMED).json()["items"]]
