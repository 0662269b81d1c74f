"""Engines wait for silence, leases and heartbeats: in their tests, time is virtual."""

from __future__ import annotations

from tests.fakes.loop import virtual_time

pytest_asyncio_loop_factories = virtual_time
