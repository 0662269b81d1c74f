"""The figures to reach, each from forged histories on both sides of its limit."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.checking import Anomaly, Verdict, judge
from tests.chaos.figures import (
    RECALL_S_MAX,
    SAFETY,
    TAGGED_MAX,
    WRITE_FREEZE_S_MAX,
    WRITE_KILL_S_MAX,
    WRITES_MIN,
    Figure,
    figures_of,
    percent,
)
from tests.chaos.history import Fail, Fault, Invoke, Ok, Recorder, Run, Unknown

MANY, FEW = 1_000, 10  # requests under a fault, each of a millisecond
NEAR_S = 0.01  # of a limit
UNANSWERED = 503


class Load:
    """Requests under one fault after the other."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.recorder.add(Run(at=0.0, seed=1, options={}, peers=[]))
        self._now = 10.0

    def fault(self, kind: str, ready_s: float | None = 1.0) -> None:
        """What comes from now on comes under this."""
        self._now += 100.0
        ready = None if ready_s is None else self._now + 90.0
        self.recorder.add(
            Fault(at=self._now + 90, kind=kind, targets=["x"], began=self._now,
                  taken_back=self._now + 80, ready=ready)
        )  # fmt: skip

    def requests(self, op: str, count: int, **more: Any) -> None:
        """So many, all answered at once."""
        for _ in range(count):
            self.request(op, **more)

    def request(
        self, op: str, took_s: float = 0.001, *, kind: type[Ok | Fail | Unknown] = Ok,
        status: int = 200, tags: list[str] | None = None, gateway: str = "", process: str = "p",
        **more: Any,
    ) -> None:  # fmt: skip
        """One."""
        n = self.recorder.next_number()
        refs, key = [f"r{n}"], f"k{n}"
        self.recorder.add(
            Invoke(at=self._now, n=n, process=process, op=op, user="u", refs=refs, key=key,
                   value=str(n), **more)
        )  # fmt: skip
        self.recorder.add(
            kind(at=self._now + took_s, n=n, status=status, tags=tags or [], at_gateway=gateway,
                 ids=[n] if op == "add" else [])
        )  # fmt: skip
        self._now += 0.001

    def figure(self, what: str) -> Figure | None:
        """The figure whose name begins so; None where the run is not one that it is about."""
        history = self.recorder.history()
        found = figures_of(history, judge(history, acknowledged_min=0)).figures
        return next((one for one in found if one.what.startswith(what)), None)

    def reached(self, what: str) -> bool:
        """Whether it is reached; it must be there."""
        figure = self.figure(what)
        assert figure is not None, what
        return figure.is_reached


def under(kind: str) -> Load:
    """Some writes and recalls under a fault, all well."""
    load = Load()
    load.fault(kind)
    load.requests("add", FEW)
    load.requests("recall", FEW)
    return load


def test_the_limits_are_those_of_the_issue() -> None:
    assert (RECALL_S_MAX, WRITE_KILL_S_MAX, WRITE_FREEZE_S_MAX) == (1.0, 1.5, 2.5)
    assert (WRITES_MIN, TAGGED_MAX) == (0.999, 0.001)


@pytest.mark.parametrize(
    ("kind", "op", "what", "limit_s"),
    [
        ("kill peer", "recall", "worst recall", 1.0),
        ("freeze nats", "recall", "worst recall", 1.0),
        ("kill gateway", "add", "worst write, kill", 1.5),
        ("freeze peer", "add", "worst write, freeze", 2.5),
    ],
)
def test_the_slowest_request(kind: str, op: str, what: str, limit_s: float) -> None:
    load = under(kind)
    load.request(op, limit_s - NEAR_S)
    assert load.reached(what)
    assert load.figure(what).found == f"{limit_s - NEAR_S:.2f} s"  # type: ignore[union-attr]
    load.request(op, limit_s + NEAR_S)
    assert not load.reached(what)


def test_each_kind_of_fault_has_its_own_limit_for_writes() -> None:
    load = under("kill peer")
    load.fault("freeze peer")
    load.request("add", 2.4)
    assert load.reached("worst write, kill")
    assert load.reached("worst write, freeze")


@pytest.mark.parametrize(("failed", "is_reached"), [(1, True), (2, False)])
@pytest.mark.parametrize("kind", [Fail, Unknown])
def test_of_a_thousand_writes_one_may_fail(
    failed: int, is_reached: bool, kind: type[Fail | Unknown]
) -> None:
    load = Load()
    load.fault("kill peer")
    load.requests("add", MANY - failed)
    load.requests("add", failed, kind=kind, status=UNANSWERED)
    assert load.reached("writes answered") == is_reached


def test_of_the_recalls_none_may_fail() -> None:
    load = under("freeze peer")
    assert load.reached("recalls answered")
    load.request("recall", kind=Fail, status=UNANSWERED)
    assert not load.reached("recalls answered")


@pytest.mark.parametrize(("tagged", "is_reached"), [(1, True), (2, False)])
def test_of_a_thousand_recalls_one_may_be_tagged(tagged: int, is_reached: bool) -> None:
    load = Load()
    load.fault("kill nats")
    load.requests("recall", MANY - tagged)
    load.requests("recall", tagged, tags=["replication"])
    assert load.reached("recalls tagged") == is_reached


def test_other_tags_are_not_counted() -> None:
    load = under("kill nats")
    load.requests("recall", 10, tags=["embedding"])
    assert load.reached("recalls tagged")


def test_answers_that_say_no_are_answers() -> None:
    """But being asked to come again later is none."""
    load = under("kill peer")
    load.requests("update", 10, kind=Fail, status=404)
    assert load.reached("writes answered")
    load.requests("update", 10, kind=Fail, status=429)
    assert not load.reached("writes answered")


def test_connections_at_a_harmed_gateway_are_counted_by_themselves() -> None:
    load = under("kill gateway")
    load.requests("add", 10, kind=Unknown, gateway="gateway-1")
    load.request("recall", 9.0, gateway="gateway-1")
    for what in ("writes answered", "worst recall", "recalls answered"):
        assert load.reached(what)


@pytest.mark.parametrize(
    ("op", "more"),
    [("add", {"ack": "all"}), ("add", {"ack": "log"}), ("get", {"consistency": "strong"}),
     ("recall", {"consistency": "strong"}), ("swap", {}), ("add", {"way": "nats"})],
)  # fmt: skip
def test_what_has_a_line_of_its_own_is_in_no_other(op: str, more: dict[str, str]) -> None:
    load = under("kill peer")
    load.requests(op, 10, kind=Fail, status=UNANSWERED, **more)
    assert load.reached("writes answered")
    assert load.reached("recalls answered")
    history = load.recorder.history()
    lines = figures_of(history, judge(history, acknowledged_min=0)).lines
    assert sum(line.refused for line in lines.values()) == 10


@pytest.mark.parametrize("kind", ["kill peer+freeze nats", "cut machine", "gone peer", "clock"])
def test_figures_of_one_fault_at_a_time_are_asked_of_no_other_run(kind: str) -> None:
    load = under(kind)
    assert load.figure("worst recall") is None
    load = under("kill peer")
    load.fault(kind)
    assert load.figure("worst recall") is None


@pytest.mark.parametrize("kind", [Fail, Unknown])
@pytest.mark.parametrize(
    ("op", "more"),
    [("add", {}), ("get", {}), ("recall", {}), ("swap", {}), ("add", {"ack": "log"}),
     ("list", {"consistency": "strong"})],
)  # fmt: skip
def test_in_a_rolling_restart_no_request_may_fail(
    op: str, more: dict[str, str], kind: type[Fail | Unknown]
) -> None:
    load = under("restart all")
    assert load.reached("rolling restart")
    load.request(op, kind=kind, status=UNANSWERED, **more)
    figure = load.figure("rolling restart")
    assert figure == Figure("rolling restart: failed requests over HTTP", "0", "1", False)


def test_in_a_rolling_restart_a_broken_connection_is_a_failed_request() -> None:
    load = under("restart all")
    load.request("add", kind=Unknown, gateway="gateway-2")
    assert not load.reached("rolling restart")


def test_in_a_rolling_restart_all_may_be_refused() -> None:
    """A member that restarts is dead for that long."""
    load = under("restart all")
    load.request("add", kind=Fail, status=UNANSWERED, ack="all")
    assert load.reached("rolling restart")


def test_a_fault_after_which_not_all_came_back_is_a_figure_missed() -> None:
    load = under("kill peer")
    assert load.reached("faults after which")
    load.fault("kill peer", ready_s=None)
    assert not load.reached("faults after which")


@pytest.mark.parametrize("kind", SAFETY)
def test_each_anomaly_is_a_figure_missed(kind: str) -> None:
    history = under("kill peer").recorder.history()
    verdict = Verdict([Anomaly(kind, "u", "r1", "forged")])
    missed = [one.what for one in figures_of(history, verdict).figures if not one.is_reached]
    assert missed == [kind]


def test_what_is_read_and_settled_at_the_end_is_no_load() -> None:
    load = under("kill peer")
    load.request("list", kind=Fail, status=UNANSWERED, final=("peer-1", "healed"))
    load.request("add", kind=Fail, status=UNANSWERED, process="settler")
    history = load.recorder.history()
    lines = figures_of(history, judge(history, acknowledged_min=0)).lines
    assert (lines["reads"].total, lines["writes"].total) == (FEW, FEW)


def test_how_long_requests_failed_leaves_out_those_at_the_gateway() -> None:
    load = under("kill gateway")
    load.request("add", 5.0, kind=Unknown, gateway="gateway-1")
    load.request("swap", 5.0, kind=Unknown, gateway="gateway-1")
    history = load.recorder.history()
    found = figures_of(history, judge(history, acknowledged_min=0))
    assert (found.suffered[0].requests_s, found.suffered[0].conditional_s) == (0.0, 0.0)
    assert found.outages == []
    load.request("add", 5.0, kind=Unknown)
    history = load.recorder.history()
    found = figures_of(history, judge(history, acknowledged_min=0))
    assert found.suffered[0].requests_s > 5.0


def test_a_share_is_told_with_as_many_digits_as_tell_it_from_all() -> None:
    assert [percent(share) for share in (1.0, 0.99999, 0.9987, 0.0)] == [
        "100.00 %", "99.99900 %", "99.87 %", "0.00 %",
    ]  # fmt: skip
