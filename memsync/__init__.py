"""memsync: a highly available, self-hosted memory layer for AI agents.

Start reading at `ARCHITECTURE.md` beside this file. For programs: `memsync.connect` and
`memsync.connect_sync` (see `memsync.client`), and `memsync.errors`; they are imported when they are
first used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as a type checker knows it; `typing` itself is slow to import
if TYPE_CHECKING:
    from memsync import errors as errors
    from memsync import testing as testing
    from memsync.client import connect as connect
    from memsync.client import connect_sync as connect_sync

__version__ = "0.1.0"
__all__ = ["__version__", "connect", "connect_sync", "errors", "testing"]


if not TYPE_CHECKING:  # for a type checker there is nothing but the names above

    def __getattr__(name: str) -> object:
        """What a program uses, imported when it is asked for."""
        if name in ("connect", "connect_sync"):
            from memsync import client

            return getattr(client, name)
        if name in ("errors", "testing"):
            import importlib

            return importlib.import_module(f"memsync.{name}")
        raise AttributeError(f"module 'memsync' has no attribute {name!r}")
