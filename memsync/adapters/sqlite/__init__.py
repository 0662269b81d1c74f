"""The local store: one SQLite file, one writer thread, aiosqlite readers."""
