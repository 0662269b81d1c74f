"""What holds for all tests: their order, what runs beside them, and what each gives back."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from memsync.adapters.models import minilm
from tests.beside import Beside, Ended

TESTS = Path(__file__).parent
# Two minutes of chaos run beside contracts and units, which are in virtual time for the most part;
# beside the system's tests, which are held to real seconds, run only the many seeds, in what these
# leave of the processors, and are judged last.
RINGS = ("contracts", "unit", "chaos", "system", "simulation")
BESIDE = "beside(module, *arguments, within_s, is_idle): begun at once, judged by this test"
_RUNNING = pytest.StashKey[dict[str, tuple[Beside, float | None]]]()

settings.register_profile(
    "memsync",
    settings(deadline=None, suppress_health_check=[HealthCheck.too_slow]),  # the machine's matter
)
settings.load_profile("memsync")


def pytest_configure(config: pytest.Config) -> None:
    """Say which markers there are."""
    config.addinivalue_line("markers", BESIDE)
    config.addinivalue_line("markers", "real_time: where the folder's time is virtual, this is not")
    config.stash[_RUNNING] = {}


@pytest.fixture(scope="session")
def has_minilm() -> None:
    """For what needs the package of the extra `minilm`, which config/lock-models.txt brings: in CI
    it must be there."""
    try:
        metadata.distribution(minilm.DISTRIBUTION)
    except metadata.PackageNotFoundError:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"not installed here: {minilm.INSTALL}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order of the rings."""
    items.sort(key=_ring)


def _ring(item: pytest.Item) -> int:
    ring = item.path.relative_to(TESTS).parts[0]
    return RINGS.index(ring) if ring in RINGS else -1


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin what is to run beside the tests. An argument may name `{folder}`, which is its own."""
    for item in [] if session.config.option.collectonly else session.items:
        for marker in item.iter_markers("beside"):
            folder = session.config._tmp_path_factory.mktemp("beside")  # type: ignore[attr-defined]
            module, *arguments = (str(one).format(folder=folder) for one in marker.args)
            is_idle = marker.kwargs.get("is_idle", False)
            begun = Beside(folder, module, *arguments, is_idle=is_idle)
            session.config.stash[_RUNNING][item.nodeid] = begun, marker.kwargs.get("within_s")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what nobody waited for."""
    for begun, _ in session.config.stash[_RUNNING].values():
        begun.end()


@pytest.fixture
def beside(request: pytest.FixtureRequest) -> Ended:
    """What became of the program that the test's marker names."""
    begun, within_s = request.config.stash[_RUNNING][request.node.nodeid]
    return begun.ended(within_s)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """What a test sets up for logs ends with it. Else later ones would write to where it was heard,
    which is closed by then, with a word and a level that are not theirs."""
    root = logging.getLogger()
    handlers, levels = root.handlers[:], _levels()
    before = structlog.get_config() if structlog.is_configured() else None
    yield
    for added in set(root.handlers) - set(handlers):
        added.close()
    root.handlers[:] = handlers
    for name in _levels():
        logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))
    if before is None:
        structlog.reset_defaults()
    else:
        structlog.configure(**before)
    structlog.contextvars.clear_contextvars()


def _levels() -> dict[str | None, int]:
    """Of every logger; None is the root."""
    known = logging.root.manager.loggerDict.items()
    named = {name: one.level for name, one in known if isinstance(one, logging.Logger)}
    return {None: logging.root.level, **named}
