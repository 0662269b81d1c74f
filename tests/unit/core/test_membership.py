"""Which changes of a membership are allowed, and that majorities of neighbours always meet."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memsync import errors, limits
from memsync.core import membership
from memsync.core.lease import least_in_cover
from memsync.core.membership import Membership, check_settled, founded, joined, without
from memsync.core.records import as_record, join_operation
from memsync.wire.operations import Stamp

NAMES = [f"peer-{n}" for n in range(1, 6)]


def cell(count: int) -> Membership:
    return founded(NAMES[:count])


def test_a_founded_cell_has_its_founders_and_the_same_version_everywhere() -> None:
    assert cell(3).members == ("peer-1", "peer-2", "peer-3")
    assert cell(3).removed == ()
    assert (cell(3).stamp, cell(3).version) == (Stamp(0, 0), founded(NAMES[:3]).version)


def test_what_is_written_is_what_is_read_with_another_version() -> None:
    record = as_record(membership.founding(NAMES[:3]), membership.FOUNDING_STAMP)
    wanted = without(joined(cell(3), "peer-4", NAMES), "peer-2", NAMES)
    stamp = Stamp(7, 1)
    found = membership.read(join_operation(record, membership.update_to(wanted), stamp))
    assert (found.members, found.removed) == (("peer-1", "peer-3", "peer-4"), ("peer-2",))
    assert found.stamp == stamp
    assert found.version != cell(3).version


def test_one_that_returns_is_no_longer_among_the_removed() -> None:
    gone = without(cell(3), "peer-2", NAMES)
    assert gone.removed == ("peer-2",)
    assert joined(gone, "peer-2", NAMES).removed == ()


def test_only_the_latest_removed_are_remembered() -> None:
    current = cell(3)
    for number in range(limits.REMOVED_MAX + 5):
        name = f"host-{number}"
        current = without(joined(current, name, [*NAMES, name]), name, NAMES)
    assert len(current.removed) == limits.REMOVED_MAX
    assert current.removed[-1] == f"host-{limits.REMOVED_MAX + 4}"


def test_what_changes_nothing_or_too_much_is_refused() -> None:
    with pytest.raises(errors.Conflict, match="peer-2 is a member already"):
        joined(cell(3), "peer-2", NAMES)
    with pytest.raises(errors.NotFound, match="peer-5 is not a member; members are peer-1, peer-2"):
        without(cell(3), "peer-5", NAMES)
    with pytest.raises(errors.Conflict, match="the only member"):
        without(cell(1), "peer-1", NAMES)
    full = founded([f"peer-{n}" for n in range(limits.MEMBERS_MAX)])
    with pytest.raises(errors.Conflict, match="9 members, at most 9"):
        joined(full, "late", full.members)


def test_a_dead_one_may_be_removed_where_the_others_are_a_majority() -> None:
    assert without(cell(3), "peer-3", ["peer-1", "peer-2"]).majority == 2
    with pytest.raises(errors.Conflict, match=r"without peer-1 1 of 2 members would be alive"):
        without(cell(3), "peer-1", ["peer-1", "peer-2"])


def test_a_new_one_may_not_take_the_majority_away() -> None:
    assert joined(cell(3), "peer-4", NAMES[:3]).majority == 3
    with pytest.raises(errors.Conflict, match="with peer-4 2 of 4 members would be alive"):
        joined(cell(3), "peer-4", ["peer-1", "peer-2"])
    assert joined(cell(3), "peer-4", ["peer-1", "peer-2", "peer-4"]).members[-1] == "peer-4"
    with pytest.raises(errors.Conflict, match="2 are needed"):
        joined(cell(1), "peer-2", ["peer-1"])
    assert joined(cell(1), "peer-2", ["peer-1", "peer-2"]).majority == 2


def test_the_next_change_waits_until_a_majority_has_the_last() -> None:
    check_settled(cell(3), ["peer-1", "peer-3"], limits.GRANT_S)
    with pytest.raises(errors.Unavailable, match=r"1 of 3 members.*missing: peer-2, peer-3"):
        check_settled(cell(3), ["peer-1", "stranger"], 60.0)
    with pytest.raises(errors.Unavailable, match=r"0\.2 s old, the next may come 0\.6 s after"):
        check_settled(cell(3), NAMES, 0.2)


@given(st.integers(1, limits.MEMBERS_MAX), st.booleans(), st.integers(0, limits.MEMBERS_MAX))
def test_majorities_of_two_memberships_that_are_one_change_apart_meet(
    count: int, grows: bool, place: int
) -> None:
    before = founded([f"peer-{n}" for n in range(count)])
    if grows and count < limits.MEMBERS_MAX:
        after = joined(before, "new", [*before.members, "new"])
    elif count > 1:
        after = without(before, before.members[place % count], before.members)
    else:
        return
    for ours in combinations(before.members, before.majority):
        for theirs in combinations(after.members, after.majority):
            assert set(ours) & set(theirs)
    for theirs in combinations(after.members, after.majority):
        assert len(set(theirs) & set(before.members)) >= least_in_cover(count)
    assert before.majority >= least_in_cover(count)


def test_majorities_two_changes_apart_may_miss_each_other() -> None:
    """Why the next change has to wait."""
    five = joined(joined(cell(3), "peer-4", NAMES), "peer-5", NAMES)
    assert not {"peer-1", "peer-2"} & {"peer-3", "peer-4", "peer-5"}
    assert (cell(3).majority, five.majority) == (2, 3)
