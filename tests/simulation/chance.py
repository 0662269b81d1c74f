"""Chance under a seed: for the simulation's own parts, and for what the product asks of `secrets`.

Each part has a generator of its own, so that one more draw here does not change everything there.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from memsync import ids


def chance(seed: int, part: str) -> random.Random:
    """The generator of one part; the same in every process."""
    return random.Random(f"{seed}/{part}")


@contextmanager
def seeded_secrets(seed: int) -> Iterator[None]:
    """Have `secrets` and `random` say what the seed says."""
    generator = chance(seed, "secrets")
    stand_ins: dict[str, Any] = {
        "token_bytes": lambda count=32: generator.randbytes(count),
        "token_hex": lambda count=32: generator.randbytes(count).hex(),
        "randbits": generator.getrandbits,
        "randbelow": generator.randrange,
        "choice": generator.choice,
    }
    real = {name: getattr(secrets, name) for name in stand_ins}
    state = random.getstate()
    random.seed(f"{seed}/random")
    ids._random.clear()
    for name, stand_in in stand_ins.items():
        setattr(secrets, name, stand_in)
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(secrets, name, function)
        ids._random.clear()
        random.setstate(state)
