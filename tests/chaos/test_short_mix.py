"""Two minutes of the short mix: no promise is broken, whatever is killed, frozen or cut."""

from __future__ import annotations

import json

import pytest

from tests.beside import Ended

CHAOS_S = 120
EVERY_S = 12
FAULT_S = 4
SEED = 41
RATE = 30  # requests a second: other tests may share the machine
END_S = 420  # start, load, healing and last reads, on a busy machine
RECALLS_SERVED_MIN = 0.97
WRITES_SERVED_MIN = 0.90
FAULTS_MIN = 5


@pytest.mark.beside(
    "tests.chaos", "--mix", "short", "--seconds", CHAOS_S, "--every", EVERY_S, "--fault-s", FAULT_S,
    "--seed", SEED, "--rate", RATE, "--history", "{folder}/history.jsonl", "--json", within_s=END_S,
)  # fmt: skip
def test_the_short_mix_breaks_no_promise(beside: Ended) -> None:
    """Safety is asserted to the letter, availability loosely: it is measured elsewhere."""
    assert beside.out, beside.err
    found = json.loads(beside.out)
    verdict = json.dumps(found["verdict"], indent=1)
    again = f"scripts/chaos --from-history {beside.folder}/history.jsonl shows it\n{beside.err}"
    assert beside.code == 0, f"{verdict}\n{again}"
    assert not any(found["verdict"]["counts"].values()), f"{verdict}\n{again}"
    assert len(found["faults"]) >= FAULTS_MIN, found["skipped"]
    assert found["total"]["recalls"]["availability"] >= RECALLS_SERVED_MIN, again
    assert found["total"]["writes"]["availability"] >= WRITES_SERVED_MIN, again
