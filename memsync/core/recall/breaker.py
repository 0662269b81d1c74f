"""A circuit breaker: what fails again and again is left alone for a while. Pure: the caller brings
the time.

    closed   every call may go; `FAILURES_TO_OPEN` failures in a row open it
    open     no call goes until the cooldown is over
    probing  one call at a time goes; its success closes the breaker, its failure opens it again,
             for twice as long

The cooldown begins at `COOLDOWN_S` and doubles up to `COOLDOWN_S_MAX` while probes fail (figures of
the design, architecture.md, "Recall"). A call is judged by the state that let it go: what comes
back after the breaker has turned says nothing of how things are now.
"""

from __future__ import annotations

from typing import Literal

FAILURES_TO_OPEN = 5
COOLDOWN_S = 60.0
COOLDOWN_S_MAX = 600.0

State = Literal["closed", "open", "probing"]


class Breaker:
    """One breaker. Times are seconds of a steady clock."""

    def __init__(self) -> None:
        self._failures = 0  # in a row, while closed
        self._turns = 0  # how often the state changed; a ticket is of one turn
        self._open_until_s: float | None = None
        self._cooldown_s = COOLDOWN_S
        self._is_probing = False

    @property
    def is_untroubled(self) -> bool:
        """Whether it is as one that was just made: nothing has failed since the last success."""
        return self._open_until_s is None and not self._failures

    def state(self, now_s: float) -> State:
        """How it is at this moment; an open one whose cooldown is over waits for its probe."""
        if self._open_until_s is None:
            return "closed"
        return "probing" if self._is_probing or now_s >= self._open_until_s else "open"

    def ask(self, now_s: float) -> int | None:
        """The ticket of a call that may go, to be handed back to one of the three methods below;
        None where it may not."""
        if self._open_until_s is None:
            return self._turns
        if self._is_probing or now_s < self._open_until_s:
            return None
        self._is_probing = True
        self._turns += 1
        return self._turns

    def succeeded(self, ticket: int) -> None:
        """The call was answered as it should be."""
        if ticket == self._turns:
            if self._open_until_s is not None:
                self._turns += 1
            self._failures, self._cooldown_s = 0, COOLDOWN_S
            self._open_until_s, self._is_probing = None, False

    def failed(self, ticket: int, now_s: float) -> bool:
        """The call failed; whether that opened the breaker (again)."""
        if ticket != self._turns:
            return False
        if self._is_probing:
            self._cooldown_s = min(2 * self._cooldown_s, COOLDOWN_S_MAX)
        else:
            self._failures += 1
            if self._failures < FAILURES_TO_OPEN:
                return False
        self._turns += 1
        self._open_until_s, self._is_probing = now_s + self._cooldown_s, False
        return True

    def given_up(self, ticket: int) -> None:
        """Nobody waited for the answer, which says nothing; another call may be the probe."""
        if ticket == self._turns:
            self._is_probing = False
