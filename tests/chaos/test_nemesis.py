"""The nemesis writes down what it did; a fault that did nothing ends the run with exit code 3."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from nats.aio.client import Client

from memsync.homes import Home
from memsync.local.ports import Ports
from tests.chaos import __main__ as command
from tests.chaos import faults
from tests.chaos.cluster import Cluster
from tests.chaos.driver import Driver
from tests.chaos.fault import Context, Fault
from tests.chaos.forging import Forge
from tests.chaos.history import Fault as Written
from tests.chaos.nemesis import Nemesis
from tests.chaos.network import CannotError, Relayed
from tests.chaos.test_command import enough, saved


class Course(Fault):
    """Notes what is done with it, in its order."""

    done: tuple[str, ...] = ()
    effect = "something"

    async def make(self) -> None:
        self.done += ("make",)

    async def look(self) -> None:
        self.done += ("look",)
        self.seen = self.effect

    async def take_back(self) -> None:
        self.done += ("take back",)


class Nothing(Course):
    """Does nothing."""

    effect = ""


class Impossible(Course):
    """Cannot be made here."""

    async def make(self) -> None:
        raise CannotError("no such thing here")


class Late(Course):
    """What it waits for does not come."""

    async def make(self) -> None:
        raise AssertionError("peer-1 did not start again")


class Ready(Cluster):
    """A cluster that is always ready."""

    async def wait_ready(self, timeout_s: float) -> list[str]:
        return []


@pytest.fixture
def nemesis(tmp_path: Path) -> Nemesis:
    recorder = Forge().recorder
    cluster = Ready(Home(tmp_path), Ports(), Relayed())
    context = Context(cluster, Client(), random.Random(1), tmp_path)
    driver = Driver(recorder, "key", context)
    context.now = driver.now
    return Nemesis(context, driver, ["kill peer"], every_s=1.0, fault_s=0.0)


async def written(nemesis: Nemesis, kind: type[Course]) -> tuple[Course, Written]:
    """A fault of this kind, and what is written of it."""
    fault = kind(nemesis._context, ["peer-1"])
    return fault, await nemesis._suffer("kill peer", fault)


async def test_a_fault_is_made_looked_at_and_taken_back(nemesis: Nemesis) -> None:
    fault, found = await written(nemesis, Course)
    assert fault.done == ("make", "look", "take back")
    assert (found.skipped, found.without_effect) == ("", "")
    assert found.ready is not None


async def test_one_that_does_nothing_is_written_as_such(nemesis: Nemesis) -> None:
    _, found = await written(nemesis, Nothing)
    assert found.without_effect == "nothing was seen of it"


async def test_one_that_cannot_be_made_is_skipped(nemesis: Nemesis) -> None:
    _, found = await written(nemesis, Impossible)
    assert (found.skipped, found.without_effect) == ("no such thing here", "")


async def test_one_that_fails_half_way_is_taken_back_and_says_so(nemesis: Nemesis) -> None:
    fault, found = await written(nemesis, Late)
    assert fault.done == ("take back",)
    assert found.note == "peer-1 did not start again"


async def test_a_run_of_a_nemesis_that_does_nothing_is_3(
    nemesis: Nemesis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forge = Forge()
    enough(forge)
    path = tmp_path / "history.jsonl"
    _, found = await written(nemesis, Course)
    forge.add(found)
    assert command.main(["--from-history", str(saved(forge, path))]) == 0
    _, found = await written(nemesis, Nothing)
    forge.add(found)
    capsys.readouterr()
    assert command.main(["--from-history", str(saved(forge, path))]) == 3
    assert "without effect kill peer: nothing was seen of it" in capsys.readouterr().out


@pytest.mark.parametrize("name", faults.FAULTS)
def test_every_fault_that_is_only_made_has_no_effect(name: str, nemesis: Nemesis) -> None:
    """None of them counts before it has looked."""
    targets = [list(faults.FAULTS[name][1][:1])]
    fault = faults.made(name, targets, nemesis._context)
    assert fault.why_without_effect() == "nothing was seen of it"
