"""Whether API keys that were taken back are taken back: from the history alone.

A read by a key whose end was acknowledged before the read was sent must not be answered, unless the
answer says that it may be old: a peer that is cut off cannot know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tests.chaos.history import Operation


def accepted_though_revoked(
    operations: Iterable[Operation], excuses: Iterable[str]
) -> Iterator[tuple[Operation, Operation]]:
    """(the revocation, the read that was answered nevertheless)."""
    known, pardoned = list(operations), frozenset(excuses)
    revoked: dict[str, Operation] = {}
    for one in known:
        if one.invoke.op == "revoke" and one.is_ok:
            first = revoked.get(one.invoke.refs[0])
            if first is None or one.ended < first.ended:
                revoked[one.invoke.refs[0]] = one
    for use in known:
        if use.invoke.op == "use" and use.is_ok and not pardoned.intersection(use.end.tags):
            end = revoked.get(use.invoke.refs[0])
            if end is not None and end.ended < use.began:
                yield end, use
