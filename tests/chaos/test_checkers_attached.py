"""The judge is judged: signals and relations."""

from __future__ import annotations

import pytest

from tests.chaos.forging import LATE, PEERS, Forge, clean, only
from tests.chaos.history import Attached


@pytest.fixture
def forge() -> Forge:
    return Forge()


# Signals and relations


def related(forge: Forge) -> None:
    """A memory, as all show it at the end, a signal on it (2) and a relation from it (3)."""
    made = forge.write("add", 1, 2)
    forge.write("feedback", 3, 4, value="s2", key="k2")
    forge.write("relate", 3, 5, value="s3", key="k3")
    forge.end(forge.seen("r1", made))


def test_what_was_attached_is_there_once(forge: Forge) -> None:
    related(forge)
    forge.write("feedback", 6, 7, first=2, key="k2")
    forge.write("feedback", 6, 7, "fail", value="refused")
    forge.write("relate", 6, 7, "unknown", value="yes")
    forge.write("relate", 6, None, value="no")
    forge.attached("s3", "s2", "yes")
    verdict = forge.judged()
    clean(verdict)
    assert verdict.judged["signals and relations"] == 5
    assert verdict.unjudged["signals and relations whose outcome stayed unknown"] == 2


def test_a_signal_that_one_peer_does_not_have_is_lost(forge: Forge) -> None:
    related(forge)
    forge.attached("s2", "s3", peer_2=["s3"])
    only(forge.judged(), "lost", 1)


def test_one_that_was_acknowledged_to_a_repeat_is_lost_too(forge: Forge) -> None:
    related(forge)
    first = forge.write("feedback", 6, 7, "unknown", value="s4", key="k4")
    forge.write("feedback", 8, 9, first=first, key="k4")
    forge.attached("s2", "s3")
    only(forge.judged(), "lost", 1)


@pytest.mark.parametrize("value", ["s2", "s3"])
def test_a_signal_or_relation_that_is_there_twice_is_doubled(forge: Forge, value: str) -> None:
    related(forge)
    forge.attached("s2", "s3", peer_3=["s2", "s3", value])
    only(forge.judged(), "doubled", 1)


def test_one_whose_outcome_is_unknown_is_there_once_at_the_most(forge: Forge) -> None:
    related(forge)
    forge.write("feedback", 6, 7, "unknown", value="s4")
    forge.attached("s2", "s3", "s4", "s4")
    only(forge.judged(), "doubled", 1)


@pytest.mark.parametrize("value", ["refused", "nobodys"])
def test_one_that_was_refused_or_never_sent_is_a_phantom(forge: Forge, value: str) -> None:
    related(forge)
    forge.write("feedback", 6, 7, "fail", value="refused")
    forge.attached("s2", "s3", value)
    only(forge.judged(), "phantom", 1)


def test_feedback_that_does_not_find_an_acknowledged_memory(forge: Forge) -> None:
    related(forge)
    forge.write("feedback", 6, 7, "fail", value="s4", status=404, code="NOT_FOUND")
    forge.attached("s2", "s3")
    only(forge.judged(), "stale", 1)


def test_no_pass_where_what_is_attached_could_not_be_read(forge: Forge) -> None:
    related(forge)
    for peer in PEERS[:2]:
        forge.add(Attached(at=LATE, peer=peer, values=["s2", "s3"]))
    forge.add(Attached(at=LATE, peer=PEERS[2], problem="malformed"))
    verdict = forge.judged()
    assert verdict.anomalies == []
    assert verdict.cannot == ["peer-3: what is attached to its memories was not read"]
