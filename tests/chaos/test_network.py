"""Machines, their cables and a small disk, as the nemesis uses them: on network namespaces of the
test's own, with real packets and a real tmpfs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import network
from tests.chaos.network import MACHINES, all_pairs
from tests.chaos.relay import CLIENT
from tests.chaos.shaping import NOTHING

TOP = Path(__file__).parents[2]
EVERY_PAIR = [(one, other) for one in (*MACHINES, CLIENT) for other in (*MACHINES, CLIENT)
              if one != other]  # fmt: skip


class Machines:
    """Those of a program that has namespaces of its own."""

    def __init__(self) -> None:
        command = [*network.unshared(), sys.executable, "-m", "tests.chaos.rehearsal"]
        self._process = subprocess.Popen(
            command, cwd=TOP, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, word: str, *arguments: Any) -> Any:
        """Do this; raises `AssertionError` where it cannot."""
        came = self.told(word, *arguments)
        assert "error" not in came, came
        return came["came"]

    def told(self, word: str, *arguments: Any) -> dict[str, Any]:
        """Do this, or say why not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([word, *arguments]) + "\n")
        self._process.stdin.flush()
        came: dict[str, Any] = json.loads(self._process.stdout.readline())
        return came

    def end(self) -> None:
        """With all that it made."""
        self._process.communicate(timeout=10)
        assert self._process.returncode == 0


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    if (why := network.why_not()) is not None:
        pytest.skip(f"no network namespaces here: {why}")
    made = Machines()
    yield made
    made.end()


def test_every_machine_reaches_every_other(machines: Machines) -> None:
    assert machines.tell("why_not_open", EVERY_PAIR) == ""
    assert "something gets through" in machines.tell("why_not_cut", EVERY_PAIR[:1])


def test_a_cut_drops_what_it_names_and_nothing_else(machines: Machines) -> None:
    cut = [(1, 2), (2, 1), (3, 1)]
    machines.tell("drop", cut)
    assert machines.tell("why_not_cut", cut) == ""
    assert machines.tell("why_not_open", [one for one in EVERY_PAIR if one not in cut]) == ""
    assert "(1, 2)" in machines.tell("why_not_open", cut)
    machines.tell("pass_again", cut)
    assert machines.tell("why_not_open", EVERY_PAIR) == ""


def test_a_cut_one_way_is_seen_only_that_way(machines: Machines) -> None:
    """A nemesis that cut one direction only would be found out."""
    machines.tell("drop", [(2, 3)])
    assert machines.tell("why_not_cut", [(2, 3)]) == ""
    assert machines.tell("why_not_cut", [(2, 3), (3, 2)]) == "something gets through of [(3, 2)]"
    machines.tell("pass_again", [(2, 3)])


def test_a_cable_that_is_out_carries_nothing(machines: Machines) -> None:
    machines.tell("unplug", 2)
    assert machines.tell("why_not_cut", all_pairs(2)) == ""
    others = [pair for pair in EVERY_PAIR if 2 not in pair]
    assert machines.tell("why_not_open", others) == ""
    machines.tell("plug", 2)
    assert machines.tell("why_not_open", EVERY_PAIR) == ""


@pytest.fixture
def shaped(machines: Machines) -> Iterator[Machines]:
    if machines.tell("says").endswith(NOTHING):
        pytest.skip("the kernel has no netem, and there is no /dev/net/tun")
    yield machines
    machines.tell("slow_no_more")
    assert machines.tell("why_not_open", EVERY_PAIR) == ""


def test_a_slow_machine_is_slow_both_ways_and_no_other_is(shaped: Machines) -> None:
    assert "took" in shaped.tell("why_not_slow", 3, 20, False)  # not yet
    shaped.tell("slow", 3, 40, 20, 0.0)
    assert shaped.tell("why_not_slow", 3, 20, False) == ""
    there, back, others = shaped.tell("flights", [(3, 1), (1, 3), (1, 2)], 20, 2.0)
    assert [len(there), len(back), len(others)] == [20, 20, 20]
    assert min(there + back) >= 0.020
    assert min(others) < 0.020
    assert "took" in shaped.tell("why_not_slow", 2, 20, False)


def test_a_lossy_machine_loses_some_and_no_other_does(shaped: Machines) -> None:
    shaped.tell("slow", 1, 1, 0, 0.2)
    assert shaped.tell("why_not_slow", 1, 1, True) == ""
    there, back, others = shaped.tell("flights", [(1, 2), (2, 1), (2, 3)], 200, 1.0)
    assert 0 < len(there) < 200
    assert 0 < len(back) < 200
    assert len(others) == 200


def test_a_machine_that_loses_nothing_is_found_out(shaped: Machines) -> None:
    shaped.tell("slow", 1, 1, 0, 0.0)
    assert "nothing of 200 datagrams was lost" in shaped.tell("why_not_slow", 1, 1, True)


def test_a_disk_that_is_filled_takes_nothing_until_there_is_room(
    machines: Machines, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    machines.tell("mount", str(folder))
    assert machines.tell("write", f"{folder}/kept", 100_000) == 100_000
    assert not machines.tell("is_full", str(folder))
    machines.tell("fill", str(folder))
    assert machines.tell("is_full", str(folder))
    assert machines.tell("write", f"{folder}/more", 1_000_000) < 1_000_000
    machines.tell("make_room", str(folder))
    assert not machines.tell("is_full", str(folder))
    assert machines.tell("write", f"{folder}/more", 1_000_000) == 1_000_000
    machines.tell("unmount", str(folder))
    assert list(folder.iterdir()) == []  # nobody but the program has seen it


def test_a_folder_that_is_no_disk_of_its_own_is_not_filled(
    machines: Machines, tmp_path: Path
) -> None:
    assert machines.told("fill", str(tmp_path)) == {"error": "the peer has no disk of its own here"}
