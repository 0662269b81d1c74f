"""Who belongs to a cell, as one record says it, and which changes to it are allowed. Pure.

The membership changes by one name at a time, and the next change comes only after a majority of the
new members has told, for `limits.GRANT_S`, that it applied the last. Any majority of n members
meets any majority of n + 1 (or n - 1) of which n (or n - 1) are the same, so two peers of which one
has applied a change and the other has not yet still cannot disagree: what one has covered, the
other hears of. Two changes apart they could; `memsync/decisions/0017-membership.md` says why that
cannot happen.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from memsync import errors, limits
from memsync.core.lease import majority_of
from memsync.core.records import Record, as_record, value_of, version_of
from memsync.ids import Scope, record_key_of_ref
from memsync.wire import codec
from memsync.wire.operations import Create, MembershipOrigin, Stamp, Update

KIND = "membership"
SCOPE = Scope(0, "", "", "")  # no organisation's: it belongs to the cell
RECORD = record_key_of_ref(KIND, SCOPE, "members")
FOUNDING_STAMP = Stamp(0, 0)  # below every stamp of a process: all that is written later wins


class Membership(msgspec.Struct, frozen=True):
    """The members in their order (founders first), and those that were taken out, latest last.

    `version` is equal where the membership is; `stamp` is when it was written."""

    members: tuple[str, ...]
    removed: tuple[str, ...]
    version: str
    stamp: Stamp

    @property
    def majority(self) -> int:
        """How many members are a majority."""
        return majority_of(len(self.members))


def founding(founders: Sequence[str]) -> Create:
    """The operation that every peer joins first, with `FOUNDING_STAMP`."""
    return Create(RECORD, SCOPE, [], MembershipOrigin(list(founders)))


def founded(founders: Sequence[str]) -> Membership:
    """The membership of a cell that nobody has changed."""
    return read(as_record(founding(founders), FOUNDING_STAMP))


def read(record: Record) -> Membership:
    """What the record says. Its founding is joined before anything else, so it has an origin."""
    assert isinstance(record.origin, MembershipOrigin)
    stamps = [r.stamp for r in record.registers.values()]
    return Membership(
        members=tuple(value_of(record, "members", record.origin.founders)),
        removed=tuple(value_of(record, "removed", [])),
        version=version_of(record),
        stamp=max(stamps, default=FOUNDING_STAMP),
    )


def joined(current: Membership, name: str, alive: Collection[str]) -> Membership:
    """The membership with `name`; raises `Conflict`. `alive` are the processes that were heard,
    `name` among them where it runs already."""
    if name in current.members:
        raise errors.Conflict(f"{name} is a member already")
    if len(current.members) >= limits.MEMBERS_MAX:
        raise errors.Conflict(
            f"{len(current.members)} members, at most {limits.MEMBERS_MAX}: remove one first"
        )
    removed = tuple(one for one in current.removed if one != name)
    changed = msgspec.structs.replace(current, members=(*current.members, name), removed=removed)
    _check_majority(changed, alive, f"with {name}")
    return changed


def without(current: Membership, name: str, alive: Collection[str]) -> Membership:
    """The membership without `name`; raises `Conflict`, and `NotFound` where it is no
    member. `alive` are the members that are."""
    if name not in current.members:
        raise errors.NotFound(f"{name} is not a member; members are {', '.join(current.members)}")
    if len(current.members) == 1:
        raise errors.Conflict(f"{name} is the only member: a cell has at least one")
    members = tuple(one for one in current.members if one != name)
    changed = msgspec.structs.replace(
        current,
        members=members,
        removed=(*current.removed, name)[-limits.REMOVED_MAX :],
    )
    _check_majority(changed, alive, f"without {name}")
    return changed


def _check_majority(changed: Membership, alive: Collection[str], how: str) -> None:
    """Raise `Conflict` where the change would leave the cell without a majority."""
    found = [one for one in changed.members if one in alive]
    if len(found) < changed.majority:
        raise errors.Conflict(
            f"{how} {len(found)} of {len(changed.members)} members would be alive "
            f"({', '.join(found) or 'none'}), {changed.majority} are needed: start more first"
        )


def update_to(changed: Membership) -> Update:
    """The operation that makes it so; it must be written with the former version as condition."""
    registers = {
        "members": codec.pack(list(changed.members)),
        "removed": codec.pack(list(changed.removed)),
    }
    return Update(RECORD, SCOPE, KIND, registers)


def check_settled(current: Membership, applied: Collection[str], settled_s: float) -> None:
    """Raise `Unavailable` while the next change would come too soon. `applied` are the members that
    have told the current version, `settled_s` for how long a majority of them has."""
    have = set(applied) & set(current.members)
    if len(have) < current.majority:
        missing = ", ".join(one for one in current.members if one not in have)
        raise errors.Unavailable(
            f"{len(have)} of {len(current.members)} members have told that they applied the last "
            f"change of the membership, {current.majority} are needed before the next "
            f"(missing: {missing}); nothing was written",
            retry_after_s=1.0,
        )
    if settled_s < limits.GRANT_S:
        raise errors.Unavailable(
            f"the last change of the membership is {settled_s:.1f} s old, the next may come "
            f"{limits.GRANT_S:g} s after it; nothing was written",
            retry_after_s=limits.GRANT_S,
        )
