"""The tables, as numbered forward scripts. A released script is never changed; a new one is added.

What the columns of `records` are for: `state` is the record, canonical msgpack, the only truth; the
others are derived from it for look-ups and are rebuilt with it at every write.
"""

from __future__ import annotations

import sqlite3

from memsync.errors import ConfigurationError

SCRIPTS = [
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
    CREATE TABLE positions (
        stripe INTEGER, generation INTEGER, sequence INTEGER NOT NULL,
        PRIMARY KEY (stripe, generation)
    ) WITHOUT ROWID;
    CREATE TABLE records (
        row INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        scope BLOB NOT NULL,
        hash INTEGER NOT NULL,      -- signed 64 bits of `state`
        created_at_ms INTEGER,      -- NULL while only later operations have arrived
        stamp_time INTEGER,         -- of the origin
        place INTEGER,              -- in its bulk
        expires_at_ms INTEGER,
        gone INTEGER NOT NULL,      -- forgotten, purged, or without an origin
        text_hash BLOB,
        state BLOB NOT NULL
    );
    CREATE INDEX records_of_scope
        ON records (scope, gone, created_at_ms, stamp_time, place) WHERE kind = 'memory';
    CREATE INDEX records_of_text ON records (scope, text_hash) WHERE text_hash IS NOT NULL;
    CREATE INDEX records_of_kind ON records (kind) WHERE kind <> 'memory';
    CREATE TABLE ids (id INTEGER PRIMARY KEY, key BLOB NOT NULL);
    CREATE TABLE operations (
        scope BLOB, key TEXT, request_hash BLOB NOT NULL, stamp BLOB NOT NULL,
        kept_until_ms INTEGER NOT NULL, kept_s INTEGER NOT NULL, outcome BLOB NOT NULL,
        PRIMARY KEY (scope, key)
    ) WITHOUT ROWID;
    CREATE INDEX operations_by_age ON operations (kept_until_ms);
    CREATE TABLE buckets (bucket INTEGER PRIMARY KEY, sum INTEGER NOT NULL);
    """,
    """
    CREATE TABLE lacking (key BLOB PRIMARY KEY) WITHOUT ROWID;  -- rows that were set aside
    """,
]

SETTINGS = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    PRAGMA temp_store = MEMORY;
    PRAGMA cache_size = -16384;
    PRAGMA busy_timeout = 5000;
    PRAGMA wal_autocheckpoint = 4096;  -- pages of 4 KiB; `files.checkpoint` comes before, mostly
"""
# synchronous = NORMAL: a power cut may take the last commits of one store; the log has them (synced
# on a majority of servers) and the applied positions went back with them, in the same transaction.


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a store up to this version's schema; refuses one of a later version."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(SCRIPTS):
        raise ConfigurationError(
            f"store: schema {version}, this version knows {len(SCRIPTS)}; start a newer memsync"
        )
    for number, script in enumerate(SCRIPTS[version:], version + 1):
        connection.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;")


def read_small_tables(connection: sqlite3.Connection) -> None:
    """Read what every start needs, so that damage in it is found while the store can be set
    aside."""
    for table in ("meta", "positions", "buckets", "lacking"):
        connection.execute(f"SELECT * FROM {table}").fetchall()
    connection.execute("SELECT key FROM records WHERE kind <> 'memory'").fetchall()
