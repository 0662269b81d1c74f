"""What `healing/` tests, beside the tests that come before."""

from __future__ import annotations

import pytest

from tests.beside import Ended

END_S = 600  # begun with all tests, on a machine that they keep busy


@pytest.mark.beside(
    "pytest", "-q", "-p", "no:cacheprovider", "tests/system/healing", "-o", "python_files=*.py",
    within_s=END_S,
)  # fmt: skip
def test_what_is_wrong_on_a_peer_is_healed(beside: Ended) -> None:
    assert beside.code == 0, beside.out + beside.err
