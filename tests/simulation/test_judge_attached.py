"""The judge is judged: what is forgotten by its source, texts that are not stored beside their
like, relations, signals and API keys."""

from __future__ import annotations

import pytest

from tests.simulation.forging import Forged, memory, row
from tests.simulation.history import UNKNOWN, KeyRow

REFUSED = {"outcome": "fail", "status": 503}
LOCAL = {"Memsync-Consistency": "local"}


# Forgets by source


def test_a_forget_by_source_forgets_all_of_it_and_nothing_else() -> None:
    forged = Forged()
    one, two = forged.add("m1x", source="s1x"), forged.add("m2x", source="s2x")
    forged.forget_source("s1x", one)
    later = forged.add("m3x", source="s1x")
    forged.list(memory(two, "m2x"), memory(later, "m3x"))
    forged.end(row(one, "m1x", is_visible=False), row(two, "m2x"), row(later, "m3x"))
    assert forged.kinds() == set()


def test_a_forget_by_source_that_overlooks_what_was_acknowledged_is_stale() -> None:
    forged = Forged()
    one = forged.add("m1x", source="s1x")
    forged.add("m2x", source="s1x")
    forged.forget_source("s1x", one)
    assert forged.kinds() == {"stale"}


def test_a_forget_by_source_need_not_find_what_is_added_or_forgotten_beside_it() -> None:
    forged = Forged()
    one = forged.add("m1x", source="s1x")
    other = forged.forget(one)
    forged.add("m2x", source="s1x", invoked_s=other.invoked_s)
    forged.forget_source("s1x", invoked_s=other.invoked_s)
    assert forged.kinds() == set()


def test_what_was_added_after_a_forget_by_source_was_over_is_lost_where_it_is_gone() -> None:
    """By an attempt of the forget, say, that comes late."""
    forged = Forged()
    forged.forget_source("s1x")
    one = forged.add("m1x", source="s1x")
    forged.end(row(one, "m1x", is_visible=False))
    assert forged.kinds() == {"lost"}


@pytest.mark.parametrize("outcome", ["ok", UNKNOWN])
def test_what_was_added_beside_a_forget_by_source_may_be_gone(outcome: str) -> None:
    """Beside one of unknown outcome is whatever comes later."""
    forged = Forged()
    forget = forged.forget_source("s1x", outcome=outcome)
    began = forget.invoked_s if outcome == "ok" else forged.now_s
    one = forged.add("m1x", source="s1x", invoked_s=began)
    forged.end(row(one, "m1x", is_visible=False))
    assert forged.kinds() == set()


def test_a_forget_by_source_that_is_unknown_to_one_of_its_callers_may_come_later() -> None:
    forged = Forged()
    forget = forged.forget_source("s1x")
    forged.again(forget, [], outcome=UNKNOWN)
    one = forged.add("m1x", source="s1x")
    forged.end(row(one, "m1x", is_visible=False))
    assert forged.kinds() == set()


def test_what_another_user_has_of_a_source_is_not_meant() -> None:
    forged = Forged()
    one = forged.add("m1x", source="s1x")
    forged.forget_source("s1x")
    forged.history.effects[1].user = "bob"
    forged.end(row(one, "m1x", is_visible=False))
    assert forged.kinds() == {"lost"}


# Texts that are not stored beside their like


def test_a_text_is_stored_once_or_as_often_as_it_was_sent() -> None:
    forged = Forged()
    one = forged.text("d1x")
    forged.text_again("d1x", one)
    forged.query("d1x", memory(one, "d1x"))
    forged.end(row(one, "d1x"))
    assert forged.kinds() == set()
    forged.end(row(one, "d1x"), row(9, "d1x"))
    assert forged.kinds() == set()
    forged.end(row(one, "d1x"), row(9, "d1x"), row(10, "d1x"))
    assert forged.kinds() == {"doubled"}


def test_a_text_that_its_second_caller_was_told_of_is_lost_where_it_is_gone() -> None:
    forged = Forged()
    one = forged.text("d1x", outcome=UNKNOWN)
    forged.text_again("d1x", one)
    forged.end()
    assert forged.kinds() == {"lost", "ids"}


def test_a_text_of_two_records_is_two_memories() -> None:
    forged = Forged()
    one = forged.text("d1x")
    two = forged.text("d1x", invoked_s=0.0)
    forged.forget(one)
    forged.query("d1x", memory(two, "d1x"))
    forged.end(row(one, "d1x", is_visible=False), row(two, "d1x"))
    assert forged.kinds() == set()
    forged.query("d1x")
    assert forged.kinds() == {"stale"}
    forged.end(row(one, "d1x"), row(two, "d1x", is_visible=False))
    assert forged.kinds() == {"stale", "lost", "resurrected"}


def test_a_text_is_known_by_each_id_of_its_record() -> None:
    """Two attempts of one add gave it an id each: its caller was told one, and another is shown."""
    forged = Forged()
    told = forged.text("d1x")
    other = told + 9
    forged.query("d1x", memory(other, "d1x"))
    forged.end(row(told, "d1x", ids=(told, other)))
    assert forged.kinds() == set()
    forged.end(row(told, "d1x"), row(other, "d1x"))
    assert forged.kinds() == {"stale", "doubled"}


def test_who_is_told_that_a_text_is_there_though_it_was_forgotten_has_lost_it() -> None:
    forged = Forged()
    one = forged.text("d1x")
    forged.forget(one)
    told = forged.text_again("d1x", one)
    forged.end(row(one, "d1x", is_visible=False))
    assert forged.kinds() == {"stale"}
    told.invoked_s = 0.0  # beside the forget
    assert forged.kinds() == set()


# Relations and signals


def attached(forged: Forged) -> tuple[int, int]:
    """Two memories, with a relation v1x from the first to the second and a signal g1x on it."""
    one, two = forged.add("m1x"), forged.add("m2x")
    forged.relate(one, two, "v1x")
    forged.signal(one, "g1x")
    return one, two


def test_what_is_attached_is_there_once() -> None:
    forged = Forged()
    one, two = attached(forged)
    forged.relate(one, two, "v2x", outcome=UNKNOWN)
    forged.signal(two, "g2x", **REFUSED)
    forged.forget(one)  # what is attached stays
    for held in (("v1x", "g1x"), ("v1x", "g1x", "v2x")):
        forged.end(row(one, "m1x", is_visible=False, attached=held), row(two, "m2x"))
        assert forged.kinds() == set()


@pytest.mark.parametrize(
    ("held", "kind"),
    [
        (("v1x",), "lost"),
        (("g1x",), "lost"),
        (("v1x", "g1x", "g1x"), "doubled"),
        (("v1x", "v1x", "g1x"), "doubled"),
        (("v1x", "g1x", "v9x"), "phantom"),
        (("v1x", "g1x", "g2x"), "phantom"),  # refused for certain
        (("v1x", "g1x", "m2x"), "phantom"),  # of an add
    ],
)
def test_what_is_attached_wrongly(held: tuple[str, ...], kind: str) -> None:
    forged = Forged()
    one, two = attached(forged)
    forged.signal(one, "g2x", **REFUSED)
    forged.end(row(one, "m1x", attached=held), row(two, "m2x"))
    assert forged.kinds() == {kind}


def test_what_is_attached_to_another_memory_is_lost_and_a_phantom() -> None:
    forged = Forged()
    one, two = attached(forged)
    forged.end(row(one, "m1x", attached=("v1x",)), row(two, "m2x", attached=("g1x",)))
    assert forged.kinds() == {"lost", "phantom"}


def test_a_graph_shows_the_newest_relation_of_a_type() -> None:
    forged = Forged()
    one, two = attached(forged)
    nodes = [memory(one, "m1x"), memory(two, "m2x")]
    forged.graph(two, nodes, (one, two, "v1x"))
    forged.relate(one, two, "v2x")
    forged.graph(one, nodes, (one, two, "v2x"))
    forged.graph(one, nodes, (one, two, "v1x"), degraded="replication")
    assert forged.kinds() == set()
    forged.graph(one, nodes, (one, two, "v1x"))
    assert forged.kinds() == {"stale"}


def test_a_graph_without_an_acknowledged_relation_is_stale() -> None:
    forged = Forged()
    one, two = attached(forged)
    forged.graph(one, [memory(one, "m1x")], headers=LOCAL)
    assert forged.kinds() == set()
    forged.graph(one, [memory(one, "m1x")])
    assert forged.kinds() == {"stale"}
    forged.history.events[-1].invoked_s = 0.5  # beside the relation
    assert forged.kinds() == set()
    assert two


def test_a_graph_need_not_show_a_relation_to_what_may_be_forgotten() -> None:
    forged = Forged()
    one, two = attached(forged)
    forged.forget(two, outcome=UNKNOWN)
    forged.graph(one, [memory(one, "m1x")])
    assert forged.kinds() == set()


@pytest.mark.parametrize("edge", [(1, 2, "v9x"), (2, 1, "v1x"), (1, 2, "v2x"), (1, 2, "v3x")])
def test_a_graph_with_a_relation_that_nobody_made_is_a_phantom(edge: tuple[int, int, str]) -> None:
    """Never made, the other way round, refused for certain, or made later."""
    forged = Forged()
    one, two = attached(forged)
    forged.relate(one, two, "v2x", **REFUSED)
    nodes = [memory(one, "m1x"), memory(two, "m2x")]
    forged.graph(one, nodes, (one, two, "v1x"), edge)
    forged.relate(one, two, "v3x")
    assert forged.kinds() == {"phantom"}


def test_a_graph_of_what_was_acknowledged_is_not_nothing() -> None:
    forged = Forged()
    one, _ = attached(forged)
    forged.graph(one, [], outcome="fail", status=404)
    assert forged.kinds() == {"stale"}


@pytest.mark.parametrize("kind", ["relate", "signal"])
def test_who_attaches_finds_what_was_acknowledged(kind: str) -> None:
    forged = Forged()
    one, two = forged.add("m1x"), forged.add("m2x")
    missing = {"outcome": "fail", "status": 404}
    if kind == "relate":
        forged.relate(one, two, "v1x", **missing)
    else:
        forged.signal(one, "g1x", **missing)
    assert forged.kinds() == {"stale"}


def test_who_relates_need_not_find_what_another_forgets() -> None:
    forged = Forged()
    one, two = forged.add("m1x"), forged.add("m2x")
    began = forged.forget(two).invoked_s
    forged.relate(one, two, "v1x", outcome="fail", status=404, invoked_s=began)
    assert forged.kinds() == set()


@pytest.mark.parametrize(("total", "kinds"), [(1, {"stale"}), (2, set()), (3, {"phantom"})])
def test_a_signal_counts_those_before_it(total: int, kinds: set[str]) -> None:
    forged = Forged()
    one = forged.add("m1x")
    forged.signal(one, "g1x")
    forged.signal(one, "g2x", **REFUSED)
    forged.signal(one, "g3x", total)
    assert forged.kinds() == kinds


def test_a_signal_may_count_those_beside_it() -> None:
    for total in (1, 2):
        forged = Forged()
        one = forged.add("m1x")
        first = forged.signal(one, "g1x", total)
        forged.signal(one, "g2x", 3 - total, invoked_s=first.invoked_s, ended_s=first.ended_s)
        assert forged.kinds() == set()


@pytest.mark.parametrize(("later", "kinds"), [(True, {"repeat"}), (False, set())])
def test_another_count_in_the_repeat_of_a_signal_is_wrong(later: bool, kinds: set[str]) -> None:
    """But where another came in beside it, two attempts may each count what they saw."""
    forged = Forged()
    one = forged.add("m1x")
    first = forged.signal(one, "g1x")
    assert first.effect is not None
    forged.history.effects[first.effect].headers["Idempotency-Key"] = "k"
    forged.again(first, {"summary": {"total_signals": 1}})
    began = forged.now_s if later else first.invoked_s
    forged.signal(one, "g2x", 2, invoked_s=began)
    forged.again(first, {"summary": {"total_signals": 2}})
    assert forged.kinds() == kinds


@pytest.mark.parametrize(("later", "kinds"), [(True, {"repeat"}), (False, set())])
def test_other_ids_in_the_repeat_of_a_forget_are_wrong(later: bool, kinds: set[str]) -> None:
    """But where another forgot it beside it, two attempts may each tell what they found."""
    forged = Forged()
    one = forged.add("m1x")
    first = forged.forget(one, outcome=UNKNOWN)
    assert first.effect is not None
    forged.history.effects[first.effect].headers["Idempotency-Key"] = "k"
    answered = forged.again(first, [])
    began = forged.now_s if later else answered.invoked_s
    forged.forget(one, answer=[], invoked_s=began)
    forged.again(first, [one])
    assert forged.kinds() == kinds


def test_another_relation_in_a_repeat_is_wrong() -> None:
    forged = Forged()
    one, two = attached(forged)
    first = forged.relate(one, two, "v2x")
    assert first.effect is not None
    forged.history.effects[first.effect].headers["Idempotency-Key"] = "k"
    forged.again(first, {"id": 1, "created_at": "another"})
    assert forged.kinds() == set()
    forged.again(first, {"id": 2})
    assert forged.kinds() == {"repeat"}


# API keys


def test_keys_are_good_until_they_are_revoked() -> None:
    forged = Forged()
    one = forged.key("k1x")
    forged.use(one)
    end = forged.revoke(one)
    forged.use(one, invoked_s=end.invoked_s)
    forged.use(one, degraded="replication")
    forged.use(one, headers=LOCAL)
    forged.use(one, outcome="fail", status=403)
    forged.end_of_keys({one: KeyRow("k1x", is_revoked=True)})
    assert forged.kinds() == set()


def test_a_key_that_is_accepted_though_it_was_revoked_is_stale() -> None:
    forged = Forged()
    one = forged.key("k1x")
    forged.revoke(one)
    forged.use(one)
    assert forged.kinds() == {"stale"}


def test_a_key_that_may_have_been_revoked_may_be_accepted_or_not() -> None:
    forged = Forged()
    one = forged.key("k1x")
    forged.revoke(one, outcome=UNKNOWN)
    forged.use(one)
    forged.use(one, outcome="fail", status=403)
    for is_revoked in (True, False):
        forged.end_of_keys({one: KeyRow("k1x", is_revoked)})
        assert forged.kinds() == set()


def test_a_key_that_is_refused_though_nobody_revoked_it_is_a_phantom() -> None:
    forged = Forged()
    one = forged.key("k1x")
    forged.revoke(one, **REFUSED)
    forged.use(one, outcome="fail", status=403)
    assert forged.kinds() == {"phantom"}


def test_a_key_that_is_not_known_though_it_was_made_is_stale() -> None:
    forged = Forged()
    one = forged.key("k1x")
    for excused in ({"headers": LOCAL}, {"degraded": "replication"}, {"invoked_s": 0.0}):
        forged.use(one, outcome="fail", status=401, **excused)
    assert forged.kinds() == set()
    forged.use(one, outcome="fail", status=401)
    assert forged.kinds() == {"stale"}


def test_only_callers_own_keys_may_be_refused() -> None:
    forged = Forged()
    forged.list(outcome="fail", status=403)
    assert forged.kinds() == {"unexpected"}


def test_who_revokes_finds_what_was_made() -> None:
    forged = Forged()
    one = forged.key("k1x")
    forged.revoke(one, outcome="fail", status=404)
    assert forged.kinds() == {"stale"}


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ({}, "lost"),
        ({1: KeyRow("k1x", is_revoked=False)}, "resurrected"),
        ({1: KeyRow("k1x", is_revoked=True), 2: KeyRow("k9x", is_revoked=False)}, "phantom"),
        ({1: KeyRow("k1x", is_revoked=True), 2: KeyRow("k2x", is_revoked=False)}, "phantom"),
    ],
)
def test_keys_that_are_wrong_at_the_end(rows: dict[int, KeyRow], kind: str) -> None:
    """Gone, good again, made by nobody, made though it was refused for certain."""
    forged = Forged()
    one = forged.key("k1x")
    forged.revoke(one, outcome=UNKNOWN)
    forged.revoke(one)
    forged.key("k2x", **REFUSED)
    forged.end_of_keys(rows)
    assert forged.kinds() == {kind}


def test_a_key_that_is_revoked_at_the_end_though_nobody_did_it_is_a_phantom() -> None:
    forged = Forged()
    one = forged.key("k1x")
    forged.end_of_keys({one: KeyRow("k1x", is_revoked=True)})
    assert forged.kinds() == {"phantom"}


def test_a_repeat_may_name_another_id_of_the_one_key() -> None:
    forged = Forged()
    one = forged.key("k1x")
    other = one + 1
    forged.event(forged.history.effects[0], {"id": other, "key": "secret"}, status=201)
    forged.end_of_keys({identifier: KeyRow("k1x", is_revoked=False) for identifier in (one, other)})
    assert forged.kinds() == set()
    forged.end_of_keys({one: KeyRow("k1x", is_revoked=False)})
    assert forged.kinds() == {"lost"}


def test_two_keys_of_one_creation_are_doubled() -> None:
    forged = Forged()
    one = forged.key("k1x")
    second = KeyRow("k1x", is_revoked=False, record=b"second")
    forged.end_of_keys({one: KeyRow("k1x", is_revoked=False), one + 1: second})
    assert forged.kinds() == {"doubled"}
