"""What comes back: an answer as it came, the error in it, or its body as a struct.

A client reads the answers of older and newer servers: fields that it does not know are passed over,
and one that is missing is named.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from memsync import errors

READS = frozenset(
    {
        "memory.query", "memory.get", "memory.list", "memory.graph", "memory.explanation",
        "keys.list", "org.get", "cluster.members",
    }
)  # fmt: skip

T = TypeVar("T")


class Reply(msgspec.Struct, frozen=True):
    """An answer: HTTP status, headers with names in lower case, JSON body.

    `is_repeat` says that an earlier attempt may have been taken, too; `idempotency_key` is that of
    a write, for repeating it.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    operation: str = ""
    is_repeat: bool = False
    idempotency_key: str | None = None

    def read(self, kind: type[T]) -> T:
        """The body as `kind`. Where it is something else raises `NoCluster` for a read, and
        `OutcomeUnknown` for a write, which may well have happened."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            problem = self._unreadable(error)
            if not self.operation or self.operation in READS:
                raise errors.NoCluster(problem) from error
            raise errors.OutcomeUnknown(
                f"{problem}; it may have happened",
                details={"idempotency_key": self.idempotency_key},
            ) from error

    def _unreadable(self, error: Exception) -> str:
        found = f"the answer (status {self.status}) is not of the memsync API: {error}"
        if isinstance(error, msgspec.ValidationError) and self.status < 300:
            return found + " (a server of another version?)"
        return found


def problem_of(reply: Reply) -> tuple[errors.MemsyncError, bool]:
    """The error in an answer, and whether the answer is one of ours."""
    try:
        answer = msgspec.json.decode(reply.body, type=errors.ErrorAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"the answer (status {reply.status}) is not of the memsync API: {error}"
        return errors.NoCluster(message), False
    found = errors.error_from_answer(answer)
    if found.definite and not answer.error.definite:  # a code that only a newer server knows
        found = errors.OutcomeUnknown(f"{answer.error.code}: {found}", details=found.details)
    return found, True
