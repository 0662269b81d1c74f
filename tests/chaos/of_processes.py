"""Faults of processes: killed, frozen, away, restarted, started with a wrong clock."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import nats.errors
import nats.js.errors

from tests.chaos.cluster import GATEWAYS, SERVERS, Cluster
from tests.chaos.fault import Fault
from tests.chaos.network import CannotError
from tests.conditions import eventually

CLOCK_OFFSET_S = 3 * 3600.0
CLOCK_APART_S_MIN = 60.0
CLOCK_SEEN_S = 10.0
APART = "memsync_clock_apart_seconds"
DOWN_S = 5.0
SIGNAL_S = 0.5
STEP_READY_S = 30.0
PAGE_S = 2.0
STOPPED = "T"  # states in /proc
ENDED = ("", "Z", "X")


class Kill(Fault):
    """kill -9. A gateway is frozen first, so that its connections can be read without a race."""

    lasts = False

    async def make(self) -> None:
        killed = []
        for name in self.targets:
            if name in GATEWAYS:
                self.cluster.signal(name, signal.SIGSTOP)
                self.context.harm(name, self.cluster.connections(name))
            killed.append(hit(self.cluster, name, signal.SIGKILL))
        for pid in killed:
            await wait_ended(pid)
        self.seen = said_of(killed)

    async def take_back(self) -> None:
        for name in self.targets:
            self.context.harm_no_more(name)


class Freeze(Fault):
    """SIGSTOP and SIGCONT."""

    async def make(self) -> None:
        self._pids = []
        for name in self.targets:
            self._pids.append(hit(self.cluster, name, signal.SIGSTOP))
            if name in GATEWAYS:
                self.context.harm(name, self.cluster.connections(name))

    async def look(self) -> None:
        if await _is_soon(lambda: all(state_of(pid) == STOPPED for pid in self._pids)):
            self.seen = said_of(self._pids)

    async def take_back(self) -> None:
        for name in self.targets:
            self.cluster.signal(name, signal.SIGCONT)
            self.context.harm_no_more(name)


class Gone(Fault):
    """kill -9 with nobody to start it again."""

    async def make(self) -> None:
        self._pids = [await kill_for_good(self.cluster, name) for name in self.targets]

    async def look(self) -> None:
        if all(self.cluster.pid(name) in (0, pid) for name, pid in self._ended()):
            self.seen = said_of(self._pids)

    def _ended(self) -> list[tuple[str, int]]:
        return list(zip(self.targets, self._pids, strict=True))

    async def take_back(self) -> None:
        for name in self.targets:
            self.cluster.release_keeper(name)


class Restart(Fault):
    """SIGTERM to one process after the other, each once all are ready again; and after a server,
    as who looks after NATS would do it, once every stream has its leader and whole replicas. The
    note says when each was begun."""

    lasts = False

    async def make(self) -> None:
        began, steps, ended = self.context.now(), [], []
        for name in self.targets:
            steps.append(f"{name} +{self.context.now() - began:.1f}")
            self.note = ", ".join(steps)
            ended.append(await restart(self.cluster, name))
            if missing := await self.cluster.wait_ready(STEP_READY_S):
                raise AssertionError(f"after {name}: {', '.join(missing)} not ready")
            if name in SERVERS:
                await eventually(self._are_streams_whole, "whole streams", STEP_READY_S)
        self.seen = said_of(ended)

    async def _are_streams_whole(self) -> bool:
        try:
            found = await self.context.bus.jetstream().streams_info()
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
            return False
        clusters = [info.cluster for info in found if info.cluster is not None]
        return bool(clusters) and all(
            one.leader and all(r.current and not r.offline for r in one.replicas or [])
            for one in clusters
        )


class Clock(Fault):
    """The peer starts again with a clock that is hours off, and again with a right one."""

    async def make(self) -> None:
        offset = self.context.chance.choice([CLOCK_OFFSET_S, -CLOCK_OFFSET_S])
        self.note = f"{offset:+.0f} s"
        self._set(offset, "development")
        await restart(self.cluster, self.targets[0])
        self._offset_s = offset

    async def look(self) -> None:
        """The peer itself says how far its clock is from the others', once it has heard them."""
        try:
            apart = await eventually(self._apart, "a clock that is off", CLOCK_SEEN_S)
        except AssertionError:
            return
        self.seen = f"{apart:+.0f} s apart"

    async def _apart(self) -> float:
        url = f"{self.cluster.peer_url(self.targets[0])}/metrics"
        found = re.search(rf"(?m)^{APART} (\S+)$", await page(url))
        apart = 0.0 if found is None else float(found[1])
        return apart if apart * self._offset_s > 0 and abs(apart) > CLOCK_APART_S_MIN else 0.0

    async def take_back(self) -> None:
        self._set(0.0, "production")
        await restart(self.cluster, self.targets[0])

    def _set(self, offset_s: float, profile: str) -> None:
        path = self.cluster.home.config(f"{self.targets[0]}.toml")
        text = path.read_text(encoding="utf-8")
        for setting, value in (("clock_offset_s", str(offset_s)), ("profile", f'"{profile}"')):
            text, count = re.subn(rf"(?m)^{setting} = .*$", f"{setting} = {value}", text)
            if count != 1:
                raise CannotError(f"{path.name} has {count} lines of {setting}")
        path.write_text(text, encoding="utf-8")


def hit(cluster: Cluster, name: str, number: signal.Signals) -> int:
    """Send a signal; returns the process that it hit, 0 where none was there."""
    pid = cluster.pid(name)
    if state_of(pid) in ENDED:
        return 0
    return cluster.signal(name, number)


async def kill_for_good(cluster: Cluster, name: str) -> int:
    """kill -9, and wait until the process is gone; its keeper is held. Returns what was killed, as
    `hit`."""
    cluster.hold_keeper(name)
    pid = hit(cluster, name, signal.SIGKILL)
    await wait_ended(pid)
    return pid


async def restart(cluster: Cluster, name: str) -> int:
    """SIGTERM, and wait until the keeper has started it again. Returns what was ended, as `hit`."""
    pid = hit(cluster, name, signal.SIGTERM)
    await _wait(lambda: cluster.pid(name) not in (pid, 0), f"{name} started again", STEP_READY_S)
    await wait_ended(pid)
    return pid


async def wait_ended(pid: int) -> None:
    """Until the process has ended, also where nobody has taken its exit code."""
    await _wait(lambda: state_of(pid) in ENDED, f"process {pid} ended", DOWN_S)


def said_of(pids: list[int]) -> str:
    """What there is to say of processes that were there; "" where one was down already."""
    return f"process {', '.join(map(str, pids))}" if all(pids) else ""


async def page(url: str) -> str:
    """What stands there; "" where nobody answers."""
    async with httpx.AsyncClient(timeout=PAGE_S, trust_env=False) as client:
        try:
            return (await client.get(url)).text
        except httpx.HTTPError:
            return ""


async def _is_soon(condition: Callable[[], bool]) -> bool:
    """Whether it is so by now: a signal takes a moment."""
    try:
        await _wait(condition, "what was done", SIGNAL_S)
    except AssertionError:
        return False
    return True


async def _wait(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    async def is_so() -> bool:
        return condition()

    await eventually(is_so, what, timeout_s)


def state_of(pid: int) -> str:
    """The letter of the process's state in /proc; "" where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]
