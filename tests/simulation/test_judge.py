"""The judge is judged: a history for each anomaly, forged, and those that only look like one."""

from __future__ import annotations

from tests.simulation.forging import Forged, memory, row
from tests.simulation.history import UNKNOWN


def test_what_is_as_it_was_told_breaks_nothing() -> None:
    forged = Forged()
    one, two = forged.add("m1x"), forged.add("m2x")
    forged.update(one, "t1x")
    forged.forget(two)
    forged.list(memory(one, "m1x", tags=["t1x"]))
    forged.end(row(one, "m1x", tags=("t1x",)), row(two, "m2x", is_visible=False))
    assert forged.kinds() == set()


def test_an_acknowledged_write_that_is_gone_is_lost() -> None:
    forged = Forged()
    forged.add("m1x")
    forged.end()
    assert forged.kinds() == {"lost", "ids"}


def test_an_unknown_write_may_be_gone() -> None:
    forged = Forged()
    forged.add("m1x", outcome=UNKNOWN)
    forged.end()
    assert forged.kinds() == set()


def test_a_write_that_waited_for_the_log_only_may_be_seen_later_but_is_not_lost() -> None:
    forged = Forged()
    one = forged.add("m1x", headers={"Memsync-Ack": "log"})
    forged.list()
    forged.end(row(one, "m1x"))
    assert forged.kinds() == set()
    forged.end()
    assert "lost" in forged.kinds()


def test_what_was_forgotten_and_is_there_is_resurrected() -> None:
    forged = Forged()
    one = forged.add("m1x")
    forged.forget(one)
    forged.end(row(one, "m1x"))
    assert forged.kinds() == {"resurrected"}


def test_a_forget_of_unknown_outcome_may_have_happened_or_not() -> None:
    for is_visible in (True, False):
        forged = Forged()
        one = forged.add("m1x")
        forged.forget(one, outcome=UNKNOWN)
        forged.end(row(one, "m1x", is_visible=is_visible))
        assert forged.kinds() == set()


def test_half_a_bulk_is_partial_even_in_a_tagged_answer() -> None:
    forged = Forged()
    one, _ = forged.bulk("m1x", "m2x")
    forged.list(memory(one, "m1x"), degraded="replication")
    assert forged.kinds() == {"partial"}


def test_a_bulk_of_which_an_item_was_forgotten_is_whole_without_it() -> None:
    forged = Forged()
    one, two = forged.bulk("m1x", "m2x")
    forged.forget(two)
    forged.list(memory(one, "m1x"))
    assert forged.kinds() == set()


def test_a_fresh_answer_without_what_was_acknowledged_is_stale() -> None:
    forged = Forged()
    one = forged.add("m1x")
    for tagged in ({"degraded": "replication"}, {"headers": {"Memsync-Consistency": "local"}}):
        forged.list(**tagged)
    assert forged.kinds() == set()
    forged.event(
        None, {}, operation="memory.get", body={"memory_id": one}, status=404, outcome="fail"
    )
    assert forged.kinds() == {"stale"}


def test_a_fresh_answer_with_what_was_forgotten_is_stale() -> None:
    forged = Forged()
    one = forged.add("m1x")
    forged.forget(one)
    forged.list(memory(one, "m1x"))
    assert forged.kinds() == {"stale"}


def test_a_local_answer_must_show_what_its_position_names() -> None:
    forged = Forged()
    forged.add("m1x")
    forged.list(headers={"Memsync-Consistency": "local"}, must_see=(0,))
    assert forged.kinds() == {"stale"}


def test_a_fresh_answer_with_an_older_value_is_stale() -> None:
    forged = Forged()
    one = forged.add("m1x")
    forged.update(one, "t1x")
    forged.update(one, "t2x")
    forged.get(memory(one, "m1x", tags=["t1x"]))
    assert forged.kinds() == {"stale"}


def test_of_two_updates_at_the_same_time_either_may_be_seen() -> None:
    for seen in ("t1x", "t2x"):
        forged = Forged()
        one = forged.add("m1x")
        first = forged.update(one, "t1x")
        forged.update(one, "t2x", invoked_s=first.invoked_s)
        forged.get(memory(one, "m1x", tags=[seen]))
        forged.end(row(one, "m1x", tags=(seen,)))
        assert forged.kinds() == set()


def test_a_counter_that_goes_back_is_stale() -> None:
    forged = Forged()
    one = forged.add("m1x")
    forged.count(one, 1, "c1x")
    forged.get(memory(one, "m1x", metadata={"n": 0}))
    assert forged.kinds() == {"stale"}


def test_an_update_that_does_not_find_what_was_acknowledged_is_stale() -> None:
    forged = Forged()
    one = forged.add("m1x")
    forged.update(one, "t1x", outcome="fail", status=404)
    assert forged.kinds() == {"stale"}


def test_a_conditional_update_that_overlooks_another_is_stale() -> None:
    forged = Forged()
    one = forged.add("m1x")
    read = forged.get(memory(one, "m1x", metadata={"n": 0}))
    forged.update(one, "t1x")
    forged.count(one, 1, "c1x", basis=read.number)
    assert forged.kinds() == {"stale"}


def test_a_recall_without_what_was_acknowledged_is_stale() -> None:
    forged = Forged()
    one, two = forged.add("m1x"), forged.add("m2x")
    forged.query("m1x", memory(one, "m1x"))
    forged.query("m2x", memory(two, "m2x"))
    assert forged.kinds() == set()
    forged.query("m2x")
    assert forged.kinds() == {"stale"}


def test_a_recall_by_the_word_of_a_bulk_shows_all_of_it() -> None:
    forged = Forged()
    made = forged.bulk("m1x", "m2x")
    shown = [memory(one, token) for one, token in zip(made, ("m1x", "m2x"), strict=True)]
    forged.query("b9x", *shown)
    assert forged.kinds() == set()
    forged.query("b9x", degraded="replication")  # nothing of it is no part of it
    assert forged.kinds() == set()
    forged.query("b9x", shown[0], degraded="replication")
    assert forged.kinds() == {"partial"}


def test_a_forget_that_overlooks_what_was_acknowledged_is_stale() -> None:
    forged = Forged()
    one, two = forged.add("m1x"), forged.add("m2x")
    forged.forget(one, two, answer=[two])
    assert forged.kinds() == {"stale"}


def test_a_forget_need_not_find_what_another_forgets_at_the_same_time() -> None:
    forged = Forged()
    one = forged.add("m1x")
    first = forged.forget(one)
    forged.forget(one, answer=[], invoked_s=first.invoked_s)
    assert forged.kinds() == set()


def test_what_nobody_wrote_is_a_phantom() -> None:
    forged = Forged()
    forged.list(memory(7, "m7x"))
    assert forged.kinds() == {"phantom"}


def test_what_was_refused_for_certain_and_is_there_is_a_phantom() -> None:
    forged = Forged()
    one = forged.add("m1x")
    forged.update(one, "t1x", outcome="fail", status=503)
    forged.end(row(one, "m1x", tags=("t1x",)))
    assert forged.kinds() == {"phantom"}


def test_what_belongs_to_another_user_is_a_phantom() -> None:
    forged = Forged()
    one = forged.add("m1x")
    forged.list(memory(one, "m1x"), user="bob")
    assert forged.kinds() == {"phantom"}


def test_two_records_of_one_add_are_doubled() -> None:
    forged = Forged()
    one = forged.add("m1x")
    forged.list(memory(one, "m1x"), memory(8, "m1x"))
    assert forged.kinds() == {"doubled"}
    forged.end(row(one, "m1x"), row(8, "m1x"))
    assert forged.kinds() == {"doubled"}


def test_two_writers_of_one_count_are_doubled() -> None:
    forged = Forged()
    one = forged.add("m1x")
    forged.count(one, 1, "c1x")
    forged.count(one, 1, "c2x")
    forged.end(row(one, "m1x", metadata={"n": 1, "by": "c2x"}))
    assert forged.kinds() == {"doubled"}


def test_a_step_of_a_counter_that_is_gone_at_the_end_is_lost() -> None:
    forged = Forged()
    one = forged.add("m1x")
    forged.count(one, 1, "c1x")
    forged.count(one, 2, "c2x")
    forged.end(row(one, "m1x", metadata={"n": 1, "by": "c1x"}))
    assert forged.kinds() == {"lost"}


def test_a_count_that_nobody_made_is_a_phantom() -> None:
    forged = Forged()
    one = forged.add("m1x")
    forged.count(one, 1, "c1x")
    forged.count(one, 2, "c2x", outcome="fail", status=503)
    forged.end(row(one, "m1x", metadata={"n": 2, "by": "c1x"}))
    assert forged.kinds() == {"phantom"}


def test_an_update_that_lost_to_an_older_one_is_beaten() -> None:
    forged = Forged()
    one = forged.add("m1x")
    forged.update(one, "t1x")
    forged.update(one, "t2x")
    forged.end(row(one, "m1x", tags=("t1x",)))
    assert forged.kinds() == {"beaten"}


def test_members_that_differ_are_divergent() -> None:
    forged = Forged()
    forged.history.states = {"peer-1": b"a", "peer-2": b"b"}
    assert forged.kinds() == {"divergent"}


def test_an_id_that_is_another_memory_is_wrong() -> None:
    forged = Forged()
    one, two = forged.add("m1x"), forged.add("m2x")
    forged.end(row(one, "m1x"), row(two, "m2x"))
    forged.history.resolved["peer-1"][one] = bytes([two])
    assert forged.kinds() == {"ids"}


def test_the_ids_of_one_memory_in_two_records_are_wrong() -> None:
    """Two adds of one name were told an id each, and both are the same memory."""
    forged = Forged()
    ids = [forged.add(token) for token in ("m1x", "m2x")]
    for effect in forged.history.effects:
        effect.client_ref = "r1x"
    forged.end(row(ids[0], "m1x", ids=tuple(ids)))
    assert forged.kinds() == set()
    forged.end(row(ids[0], "m1x"), row(ids[1], "", is_visible=False))
    assert forged.kinds() == {"ids"}


def test_half_a_bulk_at_the_end_is_partial() -> None:
    """Also where nobody was told that it is there."""
    forged = Forged()
    forged.bulk("m1x", "m2x", outcome=UNKNOWN)
    forged.end(row(1, "m1x"))
    assert forged.kinds() == {"partial"}


def test_another_answer_to_a_repeated_forget_is_wrong() -> None:
    forged = Forged()
    one, two = forged.add("m1x"), forged.add("m2x")
    first = forged.forget(one, two)
    forged.again(first, [one, two])
    assert forged.kinds() == set()
    forged.history.effects[2].headers["Idempotency-Key"] = "k"
    forged.again(first, [one])
    assert forged.kinds() == {"repeat"}


def test_another_answer_to_the_same_key_is_wrong() -> None:
    forged = Forged()
    one = forged.add("m1x")
    effect = forged.history.effects[0]
    effect.headers |= {"Memsync-Ids": "1-1", "Idempotency-Key": "k"}
    forged.event(effect, {"id": 5, "text": "m1x x"}, status=201)
    forged.end(row(one, "m1x", ids=(1, 5)))
    assert forged.kinds() == {"repeat"}


def test_a_conditional_update_that_conflicts_with_its_own_success_is_wrong() -> None:
    forged = Forged()
    one = forged.add("m1x")
    forged.count(one, 1, "c1x")
    forged.event(forged.history.effects[1], {}, outcome="fail", status=409)
    assert forged.kinds() == {"repeat"}


def test_a_fault_of_the_product_is_unexpected() -> None:
    forged = Forged()
    forged.list(outcome="fail", status=500)
    assert forged.kinds() == {"unexpected"}


def test_what_the_harness_met_is_told() -> None:
    forged = Forged()
    forged.history.troubles.append(("settle", "peer-1: down"))
    assert forged.kinds() == {"settle"}


# What only looks like an anomaly, or is one in other clothes


def test_two_records_at_the_end_are_doubled() -> None:
    forged = Forged()
    one = forged.add("m1x")
    forged.end(row(one, "m1x"), row(8, "m1x", is_visible=False))
    assert forged.kinds() == {"doubled"}


def test_what_was_refused_for_certain_and_is_shown_is_a_phantom() -> None:
    forged = Forged()
    one = forged.add("m1x")
    forged.update(one, "t1x", outcome="fail", status=503)
    forged.get(memory(one, "m1x", tags=["t1x"]))
    assert forged.kinds() == {"phantom"}


def test_what_was_refused_at_first_and_then_acknowledged_is_there() -> None:
    forged = Forged()
    one = forged.add("m1x")
    first = forged.update(one, "t1x", outcome="fail", status=503)
    forged.again(first, {})
    forged.get(memory(one, "m1x", tags=["t1x"]))
    forged.end(row(one, "m1x", tags=("t1x",)))
    assert forged.kinds() == set()


def test_a_count_beside_a_read_need_not_be_seen() -> None:
    forged = Forged()
    one = forged.add("m1x")
    count = forged.count(one, 1, "c1x")
    forged.get(memory(one, "m1x", metadata={"n": 0}), invoked_s=count.invoked_s)
    assert forged.kinds() == set()


def test_a_conditional_update_knows_what_was_over_before_it_read() -> None:
    forged = Forged()
    one = forged.add("m1x")
    forged.update(one, "t1x")
    read = forged.get(memory(one, "m1x", tags=["t1x"], metadata={"n": 0}))
    forged.count(one, 1, "c1x", basis=read.number)
    assert forged.kinds() == set()


def test_a_conditional_update_may_conflict_before_its_success() -> None:
    forged = Forged()
    one = forged.add("m1x")
    first = forged.count(one, 1, "c1x", outcome="fail", status=409)
    forged.again(first, {})
    forged.end(row(one, "m1x", metadata={"n": 1, "by": "c1x"}))
    assert forged.kinds() == set()


def test_a_name_that_only_one_of_two_was_told_of_is_lost_where_it_is_gone() -> None:
    forged = Forged()
    forged.add("m1x")
    forged.add("m2x", outcome=UNKNOWN)
    for effect in forged.history.effects:
        effect.client_ref = "r1x"
    forged.end()
    assert forged.kinds() == {"lost", "ids"}


def test_each_of_two_that_were_forgotten_together_stays_forgotten() -> None:
    forged = Forged()
    one, two = forged.add("m1x"), forged.add("m2x")
    forged.forget(one, two)
    forged.end(row(one, "m1x", is_visible=False), row(two, "m2x"))
    assert forged.kinds() == {"resurrected"}
