"""The judge is judged: forged histories, at least one for each anomaly, and clean ones."""

from __future__ import annotations

import pytest

from tests.chaos import history
from tests.chaos.checking import Verdict
from tests.chaos.forging import LATE, PEERS, Forge, clean, only
from tests.chaos.history import Crashed, Digest


@pytest.fixture
def forge() -> Forge:
    return Forge()


# Clean histories


def test_a_write_that_is_read_by_all(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    row = forge.seen("r1", made)
    forge.read("get", 3, [row], refs="r1")
    forge.read("recall", 3, [row], refs="r1")
    forge.read("list", 3, [row])
    forge.end(row)
    clean(forge.judged())


def test_a_read_beside_a_write_may_or_may_not_see_it(forge: Forge) -> None:
    made = forge.write("add", 1, 5)
    forge.read("get", 2, [], refs="r1", status=404)
    forge.read("get", 3, [forge.seen("r1", made)], refs="r1")
    update = forge.write("update", 6, 9)
    forge.read("get", 7, [forge.seen("r1", made)], refs="r1")
    forge.read("get", 7, [forge.seen("r1", made, update)], refs="r1")
    forge.read("get", 8, [forge.seen("r1", made)], refs="r1")
    forge.end(forge.seen("r1", made, update))
    clean(forge.judged())


@pytest.mark.parametrize("outcome", ["unknown", None])
@pytest.mark.parametrize("appears", [True, False])
def test_an_unknown_create_may_appear_or_not(
    forge: Forge, outcome: str | None, appears: bool
) -> None:
    made = forge.write("add", 1, 2 if outcome else None, outcome or "ok", ids=[])
    rows = [forge.seen("r1", made)] if appears else []
    forge.read("get", 3, [], refs="r1", status=404)
    forge.read("get", 50, rows, refs="r1")
    forge.end(*rows)
    verdict = forge.judged()
    clean(verdict)
    assert verdict.unjudged["writes whose outcome stayed unknown"] == 1


@pytest.mark.parametrize("wins", [True, False])
def test_an_unknown_update_may_win_over_later_ones(forge: Forge, wins: bool) -> None:
    """It may have its effect at any time, also after the update that was acknowledged later."""
    made = forge.write("add", 1, 2)
    unknown = forge.write("update", 3, 4, "unknown")
    later = forge.write("update", 5, 6)
    forge.end(forge.seen("r1", made, unknown if wins else later))
    clean(forge.judged())


def test_of_concurrent_updates_either_may_win(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    forge.write("update", 3, 6)
    second = forge.write("update", 4, 5)
    forge.end(forge.seen("r1", made, second))
    clean(forge.judged())


@pytest.mark.parametrize("is_there", [True, False])
def test_a_forget_beside_an_update(forge: Forge, is_there: bool) -> None:
    """While the forget runs, an update and a read may find the memory or not."""
    made = forge.write("add", 1, 2)
    forget = forge.write("forget", 3, 8)
    outcome, status = ("ok", 200) if is_there else ("fail", 404)
    update = forge.write("update", 4, 5, outcome, status=status)
    rows = [forge.seen("r1", made, update)] if is_there else []
    forge.read("get", 6, rows, refs="r1")
    forge.end()
    verdict = forge.judged()
    clean(verdict)
    assert forget
    assert verdict.judged["reads"] == 1


@pytest.mark.parametrize("is_there", [True, False])
def test_an_unknown_forget_may_have_happened_or_not(forge: Forge, is_there: bool) -> None:
    made = forge.write("add", 1, 2)
    forge.write("forget", 3, 4, "unknown")
    forge.end(*([forge.seen("r1", made)] if is_there else []))
    clean(forge.judged())


def test_a_tagged_answer_may_be_old_or_empty(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    update = forge.write("update", 3, 4)
    forge.read("recall", 5, [], refs="r1", tags=["search", "replication"])
    forge.read("get", 5, [forge.seen("r1", made)], refs="r1", tags=["replication"])
    forge.end(forge.seen("r1", made, update))
    verdict = forge.judged()
    clean(verdict)
    assert verdict.unjudged["answers that may be old, not judged for staleness"] == 2


def test_one_client_ref_from_many_ends_in_one_record(forge: Forge) -> None:
    """All are answered, with ids of their own; the first text stays, and every id resolves."""
    first = forge.write("add", 1, 3, ids=[11])
    forge.write("add", 1, 3, ids=[12])
    third = forge.write("add", 4, 5, ids=[12])
    forge.write("add", 6, 7, first=third, ids=[11])
    row = forge.seen("r1", first, id=11)
    forge.end(row)
    for place, peer in enumerate(PEERS):
        alias = forge.seen("r1", first, id=12)
        forge.read("get", LATE + 5 + place, [alias], refs="r1", final=(peer, "healed"))
    clean(forge.judged())


def test_a_settled_write_has_one_effect_and_one_answer(forge: Forge) -> None:
    made = forge.write("add", 1, 2, "unknown", ids=[])
    forge.write("add", 500, 501, first=made)
    forge.write("add", 510, 511, first=made)
    forge.end(forge.seen("r1", made), phase="settled")
    verdict = forge.judged()
    clean(verdict)
    assert not verdict.unjudged


def test_a_bulk_that_is_there_as_a_whole(forge: Forge) -> None:
    forge.read("list", 1, [])
    made = forge.write("bulk", 2, 4, refs="r1 r2 r3")
    rows = [forge.seen(ref, made) for ref in ("r1", "r2", "r3")]
    forge.read("list", 3, [])
    forge.read("list", 3, rows)
    forge.read("recall", 5, rows[:1], refs="r1")  # asks for few
    forge.end(*rows)
    clean(forge.judged())


def test_a_counter_that_counts(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    forge.write("swap", 3, 4, count=1)
    forge.write("swap", 3, 4, "fail", count=1, status=409)
    unknown = forge.write("swap", 5, 6, "unknown", count=2)
    last = forge.write("swap", 7, 8, count=3)
    assert unknown
    forge.end(forge.seen("r1", made, last, count=3))
    clean(forge.judged())


def test_equal_stores(forge: Forge) -> None:
    forge.end()
    for peer in PEERS:
        forge.add(Digest(at=LATE, peer=peer, positions={"0.0": 5}, sums={"1": 7}))
    verdict = forge.judged()
    clean(verdict)
    assert verdict.judged["pairs of stores"] == 2


# One anomaly each


def test_lost_an_acknowledged_create(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    forge.end(forge.seen("r1", made), peer_2=[])
    kinds = {one.kind for one in forge.judged().anomalies}
    assert kinds == {"lost", "divergent"}


def test_lost_on_every_peer(forge: Forge) -> None:
    forge.write("add", 1, 2)
    forge.end()
    only(forge.judged(), "lost", 1)


def test_lost_though_only_the_repeat_was_acknowledged(forge: Forge) -> None:
    made = forge.write("add", 1, 2, "unknown", ids=[])
    forge.write("add", 3, 4, first=made)
    forge.end()
    only(forge.judged(), "lost", 1)


def test_lost_an_update_beaten_by_an_older_one(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    old = forge.write("update", 3, 4)
    forge.write("update", 5, 6)
    forge.end(forge.seen("r1", made, old))
    only(forge.judged(), "lost", 1)


def test_lost_an_update_that_left_no_trace(forge: Forge) -> None:
    made = forge.write("add", 1, 50, first=0)
    forge.write("update", 5, 6)  # of a memory whose id was known before its create was answered
    forge.end(forge.seen("r1", made))
    only(forge.judged(), "lost", 1)


def test_lost_a_step_of_a_counter(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    forge.write("swap", 3, 6, count=1)
    second = forge.write("swap", 4, 5, count=2)
    forge.end(forge.seen("r1", made, second, count=1))
    only(forge.judged(), "lost", 1)


def test_resurrected(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    forge.write("forget", 3, 4)
    forge.end(forge.seen("r1", made))
    only(forge.judged(), "resurrected", 1)


def test_resurrected_through_a_settled_forget(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    forget = forge.write("forget", 3, 4, "unknown")
    forge.end(forge.seen("r1", made))
    forge.write("forget", 1_100, 1_101, first=forget)
    for place, peer in enumerate(PEERS):
        forge.read("list", 1_200 + place, [forge.seen("r1", made)], final=(peer, "settled"))
    only(forge.judged(), "resurrected", 1)


def test_phantom_a_memory_that_nobody_wrote(forge: Forge) -> None:
    forge.end(forge.seen("r9", 77))
    only(forge.judged(), "phantom", 1)


def test_phantom_a_value_that_nobody_wrote(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    forge.end(forge.seen("r1", made, 99))
    only(forge.judged(), "phantom", 1)


@pytest.mark.parametrize("op", ["add", "update", "swap"])
def test_phantom_a_write_that_was_refused_for_certain(forge: Forge, op: str) -> None:
    if op == "add":
        made = refused = forge.write("add", 1, 2, "fail", status=503)
    else:
        made = forge.write("add", 1, 2)
        refused = forge.write(op, 3, 4, "fail", status=409)
    forge.end(forge.seen("r1", made, refused))
    only(forge.judged(), "phantom")


def test_phantom_seen_before_it_was_written(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    row = forge.seen("r1", made, 3)
    forge.read("get", 3, [row], refs="r1")
    assert forge.write("update", 8, 9, value="3")
    forge.end(row)
    only(forge.judged(), "phantom", 1)


def test_partial_a_bulk(forge: Forge) -> None:
    """Also while it is written, and in a tagged answer: no state of a peer holds half of it."""
    made = forge.write("bulk", 2, 40, refs="r1 r2 r3")
    rows = [forge.seen(ref, made) for ref in ("r1", "r2", "r3")]
    forge.read("list", 3, rows[:2], tags=["replication"])
    forge.end(*rows)
    only(forge.judged(), "partial", 1)


def test_partial_an_unknown_bulk_at_the_end(forge: Forge) -> None:
    made = forge.write("bulk", 2, 4, "unknown", refs="r1 r2", ids=[])
    forge.end(forge.seen("r2", made))
    only(forge.judged(), "partial", 1)


def test_partial_two_fields_of_one_update(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    first = forge.write("update", 3, 9)
    second = forge.write("update", 3, 9)
    forge.end(forge.seen("r1", made, first, side=str(second)))
    only(forge.judged(), "partial", 1)


def test_stale_a_missing_memory(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    forge.read("get", 3, [], refs="r1", status=404)
    forge.read("recall", 3, [], refs="r1", tags=["embedding"])  # found by words all the same
    forge.read("list", 3, [])
    forge.end(forge.seen("r1", made))
    only(forge.judged(), "stale", 3)


def test_stale_an_old_value(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    update = forge.write("update", 3, 4)
    forge.read("get", 5, [forge.seen("r1", made)], refs="r1")
    forge.end(forge.seen("r1", made, update))
    only(forge.judged(), "stale", 1)


def test_stale_behind_the_newest_though_an_older_one_was_answered_last(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    old = forge.write("update", 3, 4)
    assert forge.write("update", 3.5, 10)
    newest = forge.write("update", 5, 6)
    forge.read("get", 11, [forge.seen("r1", made, old)], refs="r1")
    forge.end(forge.seen("r1", made, newest))
    only(forge.judged(), "stale", 1)


def test_stale_a_forgotten_memory(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    forge.write("forget", 3, 4)
    forge.read("recall", 5, [forge.seen("r1", made)], refs="")
    forge.end()
    only(forge.judged(), "stale", 1)


@pytest.mark.parametrize("op", ["update", "swap", "forget"])
def test_stale_a_write_that_does_not_find_its_memory(forge: Forge, op: str) -> None:
    made = forge.write("add", 1, 2)
    code = history.NOTHING if op == "forget" else "NOT_FOUND"
    forge.write(op, 3, 4, "fail", status=200 if op == "forget" else 404, code=code)
    forge.end(forge.seen("r1", made))
    only(forge.judged(), "stale", 1)


def test_stale_a_session_that_does_not_read_its_own_write(forge: Forge) -> None:
    """A tag does not excuse `get` and `list` that name the position: they wait for it."""
    made = forge.write("add", 1, 2)
    update = forge.write("update", 3, 4)
    row = forge.seen("r1", made)
    read = forge.read("get", 5, [row], refs="r1", after=[update], tags=["replication"])
    forge.read("recall", 5, [row], refs="r1", after=[update], tags=["replication"])
    forge.end(forge.seen("r1", made, update))
    verdict = forge.judged()
    only(verdict, "stale", 1)
    assert verdict.anomalies[0].operations[0] == read


def test_stale_a_session_that_goes_back_behind_what_it_read(forge: Forge) -> None:
    """What one read showed, though nobody had acknowledged it, a later one with its position must
    show, too; somebody else's read need not."""
    made = forge.write("add", 1, 2)
    update = forge.write("update", 3, 20)
    first = forge.read("get", 4, [forge.seen("r1", made, update)], refs="r1")
    forge.read("get", 5, [forge.seen("r1", made)], refs="r1")
    forge.read("list", 6, [forge.seen("r1", made)], after=[first])
    forge.end(forge.seen("r1", made, update))
    only(forge.judged(), "stale", 1)


def key_history(forge: Forge, *, revoked: float, used: float, tags: list[str]) -> Verdict:
    """A key is made, taken back (acknowledged a second later), and used."""
    forge.write("key", 1, 2, refs="k1", ids=[7])
    forge.write("revoke", revoked, revoked + 1, refs="k1")
    forge.read("use", used, [], refs="k1", tags=tags, whole=False)
    forge.end()
    return forge.judged()


def test_stale_a_key_is_accepted_that_was_revoked(forge: Forge) -> None:
    only(key_history(forge, revoked=3, used=4.5, tags=[]), "stale", 1)


@pytest.mark.parametrize(
    ("used", "tags"), [(2.5, []), (3.5, []), (4.5, ["replication"])], ids=["before", "while", "old"]
)
def test_a_key_may_be_accepted_until_its_end_is_acknowledged(
    used: float, tags: list[str], forge: Forge
) -> None:
    clean(key_history(forge, revoked=3, used=used, tags=tags))


def test_a_key_that_may_have_been_revoked_may_be_accepted(forge: Forge) -> None:
    forge.write("revoke", 3, 4, "unknown", refs="k1")
    forge.read("use", 5, [], refs="k1", whole=False)
    forge.end()
    clean(forge.judged())


def test_divergent_values(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    first, second = forge.write("update", 3, 9), forge.write("update", 3, 9)
    forge.end(forge.seen("r1", made, first), peer_3=[forge.seen("r1", made, second)])
    only(forge.judged(), "divergent", 1)


def test_divergent_in_what_is_unknown(forge: Forge) -> None:
    made = forge.write("add", 1, 2, "unknown", ids=[])
    forge.end(peer_1=[forge.seen("r1", made)])
    only(forge.judged(), "divergent", 1)


def test_divergent_sums_at_equal_positions(forge: Forge) -> None:
    forge.end()
    for number, peer in enumerate(PEERS):
        forge.add(Digest(at=LATE, peer=peer, positions={"0.0": 5}, sums={"1": number // 2}))
    only(forge.judged(), "divergent", 1)


def test_divergent_a_row_without_its_hash(forge: Forge) -> None:
    forge.end()
    forge.add(Digest(at=LATE, peer="peer-1", positions={"0.0": 5}, damaged=1))
    only(forge.judged(), "divergent", 1)


def test_crashed(forge: Forge) -> None:
    forge.end()
    forge.add(Crashed(at=5, process="peer-2", line='{"event":"process.failed"}'))
    only(forge.judged(), "crashed", 1)


def test_doubled_two_records_of_one_ref(forge: Forge) -> None:
    first, second = forge.write("add", 1, 3, ids=[11]), forge.write("add", 1, 3, ids=[12])
    rows = [forge.seen("r1", first, id=11), forge.seen("r1", second, id=12)]
    forge.end(*rows)
    only(forge.judged(), "doubled", 1)


def test_doubled_in_one_answer_while_the_run_goes_on(forge: Forge) -> None:
    made = forge.write("add", 1, 3)
    row = forge.seen("r1", made)
    forge.read("list", 4, [row, row])
    forge.end(row)
    only(forge.judged(), "doubled", 1)


def test_doubled_ids_that_resolve_to_two_memories(forge: Forge) -> None:
    first, second = forge.write("add", 1, 3, ids=[11]), forge.write("add", 1, 3, ids=[12])
    forge.end(forge.seen("r1", first, id=11))
    for place, peer in enumerate(PEERS):
        other = forge.seen("r1", second, id=12)
        forge.read("get", LATE + 5 + place, [other], refs="r1", final=(peer, "healed"))
    only(forge.judged(), "doubled", 1)


def test_doubled_two_answers_to_one_write(forge: Forge) -> None:
    made = forge.write("add", 1, 2, ids=[11], key="k")
    forge.write("add", 3, 4, first=made, ids=[12], key="k")
    forge.end(forge.seen("r1", made, id=11))
    only(forge.judged(), "doubled", 1)


def test_doubled_one_id_for_two_memories(forge: Forge) -> None:
    first = forge.write("add", 1, 2, ids=[11])
    second = forge.write("add", 1, 2, ids=[11], refs="r2")
    forge.end(forge.seen("r1", first, id=11), forge.seen("r2", second, id=11))
    only(forge.judged(), "doubled", 1)


def test_doubled_two_winners_of_one_version(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    forge.write("swap", 3, 6, count=1)
    second = forge.write("swap", 3, 6, count=1)
    forge.end(forge.seen("r1", made, second, count=2))
    only(forge.judged(), "doubled", 1)


def test_doubled_a_counter_that_counts_too_far(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    step = forge.write("swap", 3, 6, count=1)
    forge.end(forge.seen("r1", made, step, count=2))
    only(forge.judged(), "doubled", 1)


def test_doubled_a_repeat_that_takes_effect_again(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    first = forge.write("update", 3, 4)
    forge.write("update", 5, 6)
    forge.write("update", 7, 8, first=first)
    forge.end(forge.seen("r1", made, first))
    only(forge.judged(), "doubled", 1)
