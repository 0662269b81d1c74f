"""What is sent again, and what it means when nothing comes back."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from memsync import errors
from memsync.cli import connection
from memsync.cli.connection import Body, NoAnswerError, Reply, ask
from memsync.cli.exits import NoClusterError
from memsync.wire import codec

LOST = NoAnswerError("somebody: connection reset")
NOT_THERE = NoClusterError("nobody listens")
ANSWER = Reply(200, {}, b"{}")


class Scripted:
    """A way whose attempts end as the script says, in order."""

    def __init__(self, *script: Exception | Reply) -> None:
        self.left = list(script)

    async def call(self, operation: str, body: Body, headers: Mapping[str, str]) -> Reply:
        """The next of the script."""
        outcome = self.left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def close(self) -> None:
        """Nothing is open."""


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits before trying again."""
    monkeypatch.setattr(connection, "AGAIN_S", 0.0)


async def test_a_lost_answer_is_asked_for_again() -> None:
    assert not (await ask(Scripted(ANSWER), "memory.add", {}, {})).is_repeat
    way = Scripted(LOST, NOT_THERE, LOST, ANSWER)
    assert (await ask(way, "memory.add", {}, {})).is_repeat


async def test_what_was_certainly_not_taken_is_told_at_once() -> None:
    way = Scripted(NOT_THERE, ANSWER)
    with pytest.raises(NoClusterError, match="nobody listens"):
        await ask(way, "memory.add", {}, {})
    assert way.left == [ANSWER]


async def test_a_write_whose_answers_are_lost_is_unknown_and_a_read_is_not() -> None:
    script = [LOST, *[NOT_THERE] * (connection.ATTEMPTS_MAX - 1)]
    with pytest.raises(errors.OutcomeUnknown, match="connection reset"):
        await ask(Scripted(*script), "memory.add", {}, {})
    with pytest.raises(NoClusterError, match="connection reset"):
        await ask(Scripted(*script), "memory.query", {}, {})


async def test_an_answer_that_is_an_error_is_not_asked_for_again() -> None:
    body = codec.to_json(errors.error_answer(errors.NoQuorum("1 of 3"), "r"))
    with pytest.raises(errors.NoQuorum, match="1 of 3"):
        await ask(Scripted(Reply(503, {}, body)), "memory.add", {}, {})


async def test_an_error_of_somebody_else_is_no_error_of_ours() -> None:
    with pytest.raises(NoClusterError, match="status 502"):
        await ask(Scripted(Reply(502, {}, b"<html>")), "memory.add", {}, {})
