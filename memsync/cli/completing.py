"""What the shell can complete beside commands and options: the values that an option may have.

The server decides which values are right; these are the ones that this version knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


def words(known: Sequence[str]) -> Callable[[str], list[str]]:
    """A completion of typer that offers these words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in known if word.startswith(incomplete)]

    return complete
