"""The judge is judged: a history for each anomaly, forged, and those that only look like one."""

from __future__ import annotations

from typing import Any

from tests.simulation.history import OK, UNKNOWN, Effect, Event, History, Row
from tests.simulation.judge import judge

USER = "ada"


class Forged:
    """A history in the making. Each write and read takes a tenth of a second."""

    def __init__(self) -> None:
        self.history = History()
        self.now_s = 0.0
        self._ids = 0

    def add(self, token: str, **more: Any) -> int:
        """An add, answered; its id."""
        self._ids += 1
        effect = self._effect("add", "memory.add", tokens=[token])
        self.event(effect, {"id": self._ids, "text": f"{token} x"}, status=201, **more)
        return self._ids

    def bulk(self, *tokens: str) -> list[int]:
        """A bulk add, answered; its ids."""
        made = [self._ids + 1 + place for place in range(len(tokens))]
        self._ids += len(tokens)
        effect = self._effect("bulk", "memory.bulk_add", tokens=list(tokens))
        effect.body = {"items": [{"text": f"{token} of b9x"} for token in tokens]}
        results = [
            {"index": place, "status": "created", "memory_ids": [one]}
            for place, one in enumerate(made)
        ]
        self.event(effect, {"results": results}, status=200)
        return made

    def update(self, target: int, token: str, **more: Any) -> Event:
        """An update of the tags."""
        effect = self._effect("update", "memory.update", tokens=[token], targets=[target])
        return self.event(effect, {}, **more)

    def count(self, target: int, count: int, token: str, **more: Any) -> Event:
        """A conditional update of a counter."""
        effect = self._effect("cas", "memory.update", tokens=[token], targets=[target])
        effect.count = count
        return self.event(effect, {}, **more)

    def forget(self, target: int, **more: Any) -> Event:
        """A forget that is answered with its id."""
        effect = self._effect("forget", "memory.forget", targets=[target])
        return self.event(effect, [target], **more)

    def _effect(self, kind: str, operation: str, **more: Any) -> Effect:
        effect = Effect(len(self.history.effects), kind, USER, operation, {}, {}, **more)
        self.history.effects.append(effect)
        return effect

    def event(self, effect: Effect | None, answer: Any, **more: Any) -> Event:
        """One request, answered unless `more` says otherwise."""
        fields: dict[str, Any] = {
            "number": len(self.history.events),
            "client": 0,
            "operation": effect.operation if effect else "",
            "user": USER,
            "effect": None if effect is None else effect.number,
            "body": {} if effect is None else effect.body,
            "headers": {},
            "peers": [],
            "invoked_s": self.now_s,
            "ended_s": self.now_s + 0.1,
            "outcome": OK,
            "status": 200,
            "answer": answer,
        }
        event = Event(**(fields | more))
        self.history.events.append(event)
        self.now_s += 0.2
        return event

    def list(self, *memories: dict[str, Any], **more: Any) -> Event:
        """A list that shows these."""
        answer = {"items": list(memories)}
        return self.event(None, answer, operation="memory.list", **more)

    def get(self, memory: dict[str, Any], **more: Any) -> Event:
        """A get that shows this."""
        body = {"memory_id": memory["id"]}
        return self.event(None, memory, operation="memory.get", body=body, **more)

    def end(self, *rows: Row, member: str = "peer-1") -> None:
        """What a member holds at the end."""
        self.history.rows[member] = {row.key: row for row in rows}
        self.history.resolved[member] = {one: row.key for row in rows for one in row.ids}

    def kinds(self) -> set[str]:
        """What the judge says."""
        return {violation.kind for violation in judge(self.history)}


def memory(identifier: int, token: str, **more: Any) -> dict[str, Any]:
    """A memory as an answer shows it."""
    fields: dict[str, Any] = {
        "id": identifier, "text": f"{token} x", "tags": [], "metadata": {}, "version": "v",
    }  # fmt: skip
    return fields | more


def row(identifier: int, token: str, **more: Any) -> Row:
    """A memory as a store holds it."""
    fields: dict[str, Any] = {
        "key": bytes([identifier]), "ids": (identifier,), "token": token, "user": USER,
        "is_visible": True, "tags": (), "metadata": {},
    }  # fmt: skip
    return Row(**(fields | more))


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
