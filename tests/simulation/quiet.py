"""The product's log during a simulation: nothing, or lines of a trace."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from memsync import telemetry
from tests.fakes.loop import OWNER

_listener: list[Callable[[str, str], None]] = []


class _Silence:
    """A logger that nobody listens to."""

    def __getattr__(self, level: str) -> Callable[..., None]:
        return self._nothing

    def _nothing(self, event: str, **more: Any) -> None:
        """Say nothing."""


class _Trace(_Silence):
    """A logger whose lines go into the trace."""

    def _nothing(self, event: str, **more: Any) -> None:
        said = " ".join(f"{name}={value}" for name, value in more.items())
        for listen in _listener:
            listen(OWNER.get(), f"{event} {said}")


def follow(note: Callable[[str, str], None]) -> None:
    """Send the product's events there."""
    _listener[:] = [note]


@contextmanager
def telemetry_is(logger: object) -> Iterator[None]:
    """Have every module log there."""

    def current() -> object:
        return logger

    users = [
        module
        for name, module in sorted(sys.modules.items())
        if name.startswith("memsync.") and getattr(module, "logger", None) is telemetry.logger
    ]
    patches = [mock.patch.object(module, "logger", current) for module in users]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


@contextmanager
def telemetry_quiet(*, is_traced: bool) -> Iterator[None]:
    """No product log but that of a trace; asyncio's own complaints are errors of the simulation."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    with telemetry_is(_Trace() if is_traced else _Silence()):
        yield
