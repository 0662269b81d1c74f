"""How often a memory was recalled, on all peers together. Pure."""

from __future__ import annotations

from math import log1p

from memsync.core.records import Record

USES, LAST_ACCESS = "uses", "last_access_ms"


def uses_of(record: Record) -> int:
    """How often recalls answered with it, as far as it is known: each store's count, summed."""
    return sum(record.counters.get(USES, {}).values())


def usage_of(record: Record) -> float:
    """The part `usage` of its score: min(1, ln(1 + uses) / 5), so 0.14 for one, 1 from 148 on
    (recall.md, "The default ranking")."""
    uses = uses_of(record)
    return min(1.0, log1p(uses) / 5) if uses else 0.0
