"""The judge is judged: what is promised to who asks for more, or for less, than the default."""

from __future__ import annotations

import pytest

from tests.chaos.forging import Forge, clean, only
from tests.chaos.history import Fault


@pytest.fixture
def forge() -> Forge:
    return Forge()


def harmed(forge: Forge, kind: str) -> None:
    """A fault of this kind, at the beginning."""
    forge.add(Fault(at=9, kind=kind, targets=["x"], began=0.5, taken_back=0.6, ready=1))


# Memsync-Ack: log


def test_what_only_the_log_has_need_not_be_read(forge: Forge) -> None:
    """Nor found by who changes it, nor known as forgotten."""
    made = forge.write("add", 1, 2, ack="log")
    forge.read("get", 3, [], refs="r1", status=404)
    forge.write("update", 3, 4, "fail", status=404)
    update = forge.write("update", 5, 6, ack="log")
    forge.read("get", 7, [forge.seen("r1", made)], refs="r1")
    forge.read("get", 8, [forge.seen("r1", made, update)], refs="r1")
    forge.write("forget", 9, 10, ack="log")
    forge.read("list", 11, [forge.seen("r1", made, update)])
    forge.end()
    clean(forge.judged())


@pytest.mark.parametrize("what", ["add", "update", "forget"])
def test_what_only_the_log_has_is_there_at_the_end(what: str, forge: Forge) -> None:
    made = forge.write("add", 1, 2, ack="log" if what == "add" else "")
    if what != "add":
        forge.write(what, 3, 4, ack="log")
    forge.end(*([] if what == "add" else [forge.seen("r1", made)]))
    only(forge.judged(), "resurrected" if what == "forget" else "lost", 1)


def test_what_only_the_log_has_may_be_gone_with_a_stream(forge: Forge) -> None:
    harmed(forge, "stream deleted")
    forge.write("add", 1, 2, ack="log")
    forge.write("add", 1, 2, refs="r2", ack="log", value="w2")
    forge.write("feedback", 3, 4, refs="r2", value="s3", ack="log")
    forge.end()
    forge.attached()
    verdict = forge.judged()
    clean(verdict)
    assert verdict.unjudged["writes to the log only, of which a stream was deleted"] == 2


def test_what_a_majority_has_is_not_gone_with_a_stream(forge: Forge) -> None:
    harmed(forge, "stream deleted")
    forge.write("add", 1, 2)
    forge.write("feedback", 3, 4, value="s2")
    forge.end()
    forge.attached()
    only(forge.judged(), "lost", 2)


def test_a_signal_that_only_the_log_has_is_there_at_the_end(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    forge.write("feedback", 3, 4, value="s2", ack="log")
    forge.end(forge.seen("r1", made))
    forge.attached()
    only(forge.judged(), "lost", 1)


def test_a_repeat_that_waits_for_more_than_the_log_must_be_read(forge: Forge) -> None:
    made = forge.write("add", 1, 2, ack="log", key="k")
    forge.write("add", 3, 4, first=made, key="k")
    forge.read("get", 3.5, [], refs="r1", status=404)
    forge.end(forge.seen("r1", made))
    clean(forge.judged())
    forge.read("get", 5, [], refs="r1", status=404)
    only(forge.judged(), "stale", 1)


def test_a_session_reads_what_it_wrote_to_the_log(forge: Forge) -> None:
    """It names the position, and whoever answers waits for it."""
    made = forge.write("add", 1, 2, ack="log")
    forge.read("get", 3, [], refs="r1", after=[made], status=404)
    forge.end(forge.seen("r1", made))
    only(forge.judged(), "stale", 1)


def test_what_only_the_log_has_is_older_than_nothing(forge: Forge) -> None:
    """Whoever coordinated the later one need not have known of it: either may win."""
    for wins in (True, False):
        forge = Forge()
        made = forge.write("add", 1, 2)
        first = forge.write("update", 3, 4, ack="log")
        second = forge.write("update", 5, 6)
        forge.end(forge.seen("r1", made, first if wins else second))
        clean(forge.judged())


# Memsync-Ack: all


@pytest.mark.parametrize("how", ["local", "replication"])
@pytest.mark.parametrize("op", ["get", "list"])
def test_what_all_have_is_read_from_each_also_from_one_that_lags(
    op: str, how: str, forge: Forge
) -> None:
    made = forge.write("add", 1, 2, ack="all")
    old = forge.write("add", 1, 2, refs="r2")
    more = {"consistency": "local"} if how == "local" else {"tags": ["replication"]}
    rows = [forge.seen("r1", made)] if op == "list" else []
    refs = "r2" if op == "get" else ""
    forge.read(op, 3, rows, refs=refs, **more)  # type: ignore[arg-type]
    forge.end(forge.seen("r1", made), forge.seen("r2", old))
    clean(forge.judged())
    forge.read(op, 4, [], refs=refs.replace("r2", "r1"), **more)  # type: ignore[arg-type]
    only(forge.judged(), "stale", 1)


def test_what_all_have_is_not_shown_with_an_older_value(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    update = forge.write("update", 3, 4, ack="all")
    forge.read("get", 5, [forge.seen("r1", made)], refs="r1", consistency="local")
    forge.end(forge.seen("r1", made, update))
    only(forge.judged(), "stale", 1)


def test_what_all_have_forgotten_is_not_shown(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    forge.write("forget", 3, 4, ack="all")
    forge.read("get", 5, [forge.seen("r1", made)], refs="r1", tags=["replication"])
    forge.end()
    only(forge.judged(), "stale", 1)


def test_a_store_that_was_set_back_may_lack_what_all_had(forge: Forge) -> None:
    harmed(forge, "store rolled back")
    made = forge.write("add", 1, 2, ack="all")
    forge.read("get", 3, [], refs="r1", status=404, tags=["replication"])
    forge.end(forge.seen("r1", made))
    clean(forge.judged())


def test_a_gateway_may_give_an_answer_from_before_all_had_it(forge: Forge) -> None:
    """Its last good one to that question, tagged."""
    made = forge.write("add", 1, 2, ack="all")
    forge.read("recall", 3, [], refs="r1", tags=["cache", "replication"])
    forge.end(forge.seen("r1", made))
    clean(forge.judged())


# Memsync-Consistency


def test_a_local_answer_may_be_old(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    update = forge.write("update", 3, 4)
    row = forge.seen("r1", made)
    for op in ("get", "recall", "list"):
        forge.read(op, 5, [row], refs="r1", consistency="local")
    forge.end(forge.seen("r1", made, update))
    verdict = forge.judged()
    clean(verdict)
    assert verdict.unjudged["answers that may be old, not judged for staleness"] == 3


@pytest.mark.parametrize("op", ["get", "recall"])
def test_a_local_answer_knows_the_positions_that_it_names(op: str, forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    update = forge.write("update", 3, 4)
    row = forge.seen("r1", made)
    forge.read(op, 5, [row], refs="r1", after=[update], consistency="local")
    forge.end(forge.seen("r1", made, update))
    only(forge.judged(), "stale", 1)


def test_a_strong_answer_is_as_fresh_as_any(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    forge.read("get", 3, [], refs="r1", status=404, consistency="strong")
    forge.end(forge.seen("r1", made))
    only(forge.judged(), "stale", 1)


@pytest.mark.parametrize("ack", ["", "log"])
def test_what_a_strong_answer_showed_is_shown_by_all_that_come_after(
    ack: str, forge: Forge
) -> None:
    """Whatever its writer was told: nothing yet, or that the log has it."""
    made = forge.write("add", 1, 2)
    update = forge.write("update", 3, 4 if ack else 40, ack=ack)
    old, new = forge.seen("r1", made), forge.seen("r1", made, update)
    forge.read("get", 5, [new], refs="r1", consistency="strong")
    forge.read("get", 5, [old], refs="r1")  # beside it
    forge.end(new)
    clean(forge.judged())
    forge.read("get", 6, [old], refs="r1")
    only(forge.judged(), "stale", 1)


def test_what_a_session_showed_may_be_unknown_to_others(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    update = forge.write("update", 3, 40)
    old, new = forge.seen("r1", made), forge.seen("r1", made, update)
    forge.read("get", 5, [new], refs="r1")
    forge.read("recall", 5, [new], refs="r1", consistency="strong", tags=["replication"])
    forge.read("get", 6, [old], refs="r1")
    forge.end(new)
    clean(forge.judged())


def test_what_a_strong_answer_showed_is_there_at_the_end(forge: Forge) -> None:
    """Though its writer was never told."""
    made = forge.write("add", 1, 2, "unknown", ids=[])
    forge.write("add", 1, 2, refs="r2")
    row = forge.seen("r1", made)
    forge.read("get", 5, [row], refs="r1", consistency="strong")
    forge.end(forge.seen("r2", 2))
    only(forge.judged(), "lost", 1)
