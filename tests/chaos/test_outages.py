"""How long no conditional update went through, from forged histories; and what the report says."""

from __future__ import annotations

import pytest

from tests.chaos.checking import judge
from tests.chaos.figures import Figure, figures_of
from tests.chaos.history import (
    Elected,
    Fail,
    Fault,
    Invoke,
    Ok,
    Operation,
    Recorder,
    Run,
    Unknown,
)
from tests.chaos.outages import Outage, outages
from tests.chaos.report import as_json

NO_LEADER = 503


class Swaps:
    """Conditional updates of the counters `c0` to `c2`, each at home in its stripe."""

    def __init__(self) -> None:
        self.all: list[Operation] = []
        self.elections: list[Elected] = []
        for stripe in range(3):
            self.done(stripe, 0.1, 0.2)

    def _add(self, end: type[Ok | Fail | Unknown], at: tuple[float, float], **more: object) -> None:
        n, stripe = len(self.all) + 1, int(str(more.pop("home")))
        way = str(more.pop("way", "http"))
        invoke = Invoke(at=at[0], n=n, process="p", op="swap", user="u", way=way,
                        refs=[f"c{stripe}"])  # fmt: skip
        self.all.append(Operation(invoke, end(at=at[1], n=n, **more)))  # type: ignore[arg-type]

    def done(self, home: int, began: float, ended: float, way: str = "http") -> None:
        self._add(Ok, (began, ended), home=home, status=200, stripe=home, way=way)

    def refused(self, home: int, began: float, ended: float, status: int = NO_LEADER) -> None:
        self._add(Fail, (began, ended), home=home, status=status)

    def unknown(self, home: int, began: float, ended: float, way: str = "http") -> None:
        self._add(Unknown, (began, ended), home=home, status=503, way=way)

    def elected(self, stripe: int, at: float) -> None:
        self.elections.append(Elected(at=at, stripe=stripe, leader="nats-1"))

    def found(self, *faults: Fault) -> list[Outage]:
        return outages(self.all, self.elections, faults)


@pytest.fixture
def swaps() -> Swaps:
    return Swaps()


def fault(kind: str, began: float, ready: float) -> Fault:
    return Fault(at=ready, kind=kind, targets=[], began=began, taken_back=began + 1, ready=ready)


def losses(found: list[Outage]) -> list[tuple[int, list[float]]]:
    return [(one.stripe, [pytest.approx(part) for part in one.losses_s]) for one in found]


def test_from_the_first_that_failed_until_the_last_one(swaps: Swaps) -> None:
    swaps.done(1, 9.0, 9.1)
    swaps.refused(1, 10.0, 10.1)
    swaps.done(0, 12.0, 12.1)  # another stripe's
    swaps.refused(1, 14.0, 14.2)
    swaps.done(1, 19.0, 19.1)  # nobody asked meanwhile
    assert losses(swaps.found()) == [(1, [4.2])]


def test_it_goes_on_until_a_leader_was_elected(swaps: Swaps) -> None:
    swaps.refused(1, 10.0, 10.1)
    swaps.elected(1, 16.0)
    swaps.elected(0, 17.0)
    swaps.done(1, 19.0, 19.1)
    swaps.elected(1, 19.5)
    assert losses(swaps.found()) == [(1, [6.0])]


def test_one_that_had_to_wait_counts_though_it_was_done(swaps: Swaps) -> None:
    swaps.done(2, 10.0, 15.5)
    swaps.elected(2, 15.0)
    assert losses(swaps.found()) == [(2, [5.5])]


def test_two_elections_in_one_outage_are_two_losses(swaps: Swaps) -> None:
    swaps.refused(0, 10.0, 10.1)
    swaps.elected(0, 15.0)
    swaps.refused(0, 15.5, 15.6)
    swaps.elected(0, 21.0)
    swaps.done(0, 21.2, 21.3)
    assert losses(swaps.found()) == [(0, [5.0, 6.0])]


def test_one_done_between_two_losses_ends_the_first(swaps: Swaps) -> None:
    swaps.refused(0, 10.0, 12.0)
    swaps.done(0, 12.5, 12.6, way="nats")
    swaps.refused(0, 13.0, 15.0)
    assert losses(swaps.found()) == [(0, [2.0]), (0, [2.0])]


def test_one_that_hangs_while_others_are_done_is_no_outage(swaps: Swaps) -> None:
    swaps.unknown(0, 10.0, 20.0)
    for second in range(10, 21):
        swaps.done(0, second + 0.2, second + 0.3)
    assert losses(swaps.found()) == []


def test_answers_and_the_bus_of_the_driver_are_no_trouble(swaps: Swaps) -> None:
    swaps.refused(0, 10.0, 12.0, status=409)
    swaps.unknown(1, 10.0, 25.0, way="nats")
    assert losses(swaps.found()) == []


def test_without_a_quorum_more_is_lost_than_a_leader(swaps: Swaps) -> None:
    for began in (10.0, 40.0):
        swaps.refused(0, began, began + 9.0)
        swaps.done(0, began + 9.5, began + 9.6)
    found = swaps.found(fault("kill nats", 9.0, 12.0), fault("gone two nats+clock", 39.0, 45.0))
    assert [one.is_judged for one in found] == [True, False]


@pytest.mark.parametrize(("lasts_s", "is_reached"), [(7.0, True), (8.0, False)])
def test_the_figure_is_of_each_loss_and_the_report_names_what_is_more(
    lasts_s: float, is_reached: bool, swaps: Swaps
) -> None:
    swaps.refused(0, 10.0, 10.0 + lasts_s)
    swaps.refused(1, 30.0, 30.1)
    swaps.elected(1, 36.0)
    swaps.refused(1, 40.0, 41.0)
    swaps.elected(1, 42.0)
    recorder = Recorder()
    recorder.add(Run(at=0.0, seed=1, options={}, peers=[]))
    recorder.add(fault("cut machine", 9.0, 15.0))
    for one in swaps.all:
        recorder.add(one.invoke)
        recorder.add(one.end)
    for election in swaps.elections:
        recorder.add(election)
    history = recorder.history()
    verdict = judge(history)
    found = figures_of(history, verdict)
    (figure,) = [one for one in found.figures if "each loss" in one.what]
    assert figure == Figure(
        figure.what, "<= 7.5 s", f"{lasts_s:.2f} s, 3 of 1 s or more", is_reached
    )
    told = as_json(history, verdict, found)
    assert [one["losses_s"] for one in told["outages"]] == [[lasts_s], [6.0, 6.0]]
    assert told["faults"][0]["conditional_s"] == pytest.approx(1.0 + lasts_s)
