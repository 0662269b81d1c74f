"""The few fields of a body that matter on the way: whose data it speaks of, and how long it may
take. Everything else of it is the peers' business, also whether it is right at all.
"""

from __future__ import annotations

from typing import Any

import msgspec

from memsync import limits

TIER_DEFAULT = "medium"


class _Fields(msgspec.Struct, frozen=True):
    end_user_id: Any = None
    user_id: Any = None
    computation_tier: Any = TIER_DEFAULT
    items: Any = None


class Named(msgspec.Struct, frozen=True):
    """`end_user` is the one that the body names for all of the request (it wins over the header's),
    `end_users` all whom it names in any place. `budget_s` is what a recall may take."""

    end_user: str | None = None
    end_users: frozenset[str] = frozenset()
    budget_s: float = limits.RECALL_BUDGET_MS[TIER_DEFAULT] / 1000


_decoder = msgspec.json.Decoder(_Fields)
_NOTHING = Named()
_MARKS = (b"user_id", b"computation_tier", b"\\u")  # the last: a field's name may be escaped


def read(body: bytes) -> Named:
    """What a body names; nothing where it cannot be read, which a peer will say."""
    if not any(mark in body for mark in _MARKS):
        return _NOTHING  # nearly always
    try:
        fields = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _NOTHING
    end_user = _text(fields.end_user_id)
    users = {end_user, _text(fields.user_id)}
    if isinstance(fields.items, list):
        users |= {_text(one.get("end_user_id")) for one in fields.items if isinstance(one, dict)}
    return Named(
        end_user=end_user,
        end_users=frozenset(user for user in users if user is not None),
        budget_s=_budget_s(fields.computation_tier),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _budget_s(tier: Any) -> float:
    known = tier if isinstance(tier, str) else TIER_DEFAULT
    return limits.RECALL_BUDGET_MS.get(known, limits.RECALL_BUDGET_MS[TIER_DEFAULT]) / 1000
