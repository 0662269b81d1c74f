"""The pytest plugin: the fixture `memsync_cluster`.

Every run of pytest where memsync is installed loads it, so it imports next to nothing until the
fixture is used. Nothing else in memsync needs pytest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from memsync.testing import Cluster


@pytest.fixture(scope="session")
def memsync_cluster() -> Iterator[Cluster]:
    """A throwaway memsync cluster for this session: `url`, `nats_url`, `api_key`, `connect()`."""
    from memsync import testing

    with testing.cluster() as running:
        yield running
