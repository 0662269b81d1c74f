"""Every fault that the nemesis knows, by its name.

kill        SIGKILL; the keeper starts the process again after 0.1 s
freeze      SIGSTOP until it is taken back
gone        SIGKILL, and nobody starts it again until it is taken back
restart     SIGTERM, one process after the other, each once all are ready again
cut, ...    the network between machines; server i and peer i are machine i
disk full   the peer's data folder is a small tmpfs that has no room left
slow disk   the kernel lets the process write 20 times a second; needs root and a real disk
clock       the peer's clock is hours off
store ...   the peer's SQLite file, damaged while the peer is down
row         one row of it, altered while the peer runs
stream, ids a stream of the bus deleted
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from memsync import limits
from tests.chaos.cluster import GATEWAYS, NAMES, PEERS, SERVERS
from tests.chaos.fault import Context, Fault, Together
from tests.chaos.network import MACHINES
from tests.chaos.of_cables import Cut, CutGateways, CutOneWay, LinkDown, Lossy, Slow
from tests.chaos.of_data import (
    DiskFull,
    DiskSlow,
    IdsDeleted,
    RowAltered,
    StoreDeleted,
    StoreRolledBack,
    StoreZeros,
    StreamDeleted,
)
from tests.chaos.of_processes import Clock, Freeze, Gone, Kill, Restart

TOGETHER = "+"
MACHINE_NAMES = tuple(f"machine-{number}" for number in MACHINES)
STRIPES = tuple(f"stripe-{number}" for number in range(limits.STRIPES))

# name -> (kind, who may be its target, how many of them at once; 0 = all, one after the other)
FAULTS: dict[str, tuple[type[Fault], tuple[str, ...], int]] = {
    "kill peer": (Kill, PEERS, 1),
    "kill nats": (Kill, SERVERS, 1),
    "kill gateway": (Kill, GATEWAYS, 1),
    "freeze peer": (Freeze, PEERS, 1),
    "freeze nats": (Freeze, SERVERS, 1),
    "freeze gateway": (Freeze, GATEWAYS, 1),
    "gone peer": (Gone, PEERS, 1),
    "gone nats": (Gone, SERVERS, 1),
    "gone two peers": (Gone, PEERS, 2),
    "gone two nats": (Gone, SERVERS, 2),
    "restart all": (Restart, NAMES, 0),
    "cut machine": (Cut, MACHINE_NAMES, 1),
    "cut one way": (CutOneWay, MACHINE_NAMES, 1),
    "cut gateways": (CutGateways, MACHINE_NAMES, 1),
    "link down": (LinkDown, MACHINE_NAMES, 1),
    "slow machine": (Slow, MACHINE_NAMES, 1),
    "lossy machine": (Lossy, MACHINE_NAMES, 1),
    "disk full": (DiskFull, PEERS[2:], 1),
    "slow disk": (DiskSlow, (*PEERS[:2], *SERVERS), 1),  # the third peer's may be a tmpfs
    "clock": (Clock, PEERS, 1),
    "store zeros": (StoreZeros, PEERS, 1),
    "store deleted": (StoreDeleted, PEERS, 1),
    "store rolled back": (StoreRolledBack, PEERS, 1),
    "row altered": (RowAltered, PEERS, 1),
    "stream deleted": (StreamDeleted, STRIPES, 1),
    "ids deleted": (IdsDeleted, ("MEMSYNC_IDS",), 1),
}
ONE_AT_A_TIME = tuple(name for name in FAULTS if name.partition(" ")[0] in ("kill", "freeze"))
MIXES = {
    "one": ONE_AT_A_TIME,
    "short": (*ONE_AT_A_TIME, "cut machine", "store deleted"),
    "full": tuple(FAULTS),
}


def chosen(text: str) -> list[str]:
    """The faults that a list of names means, by their names or the beginnings of them ("kill",
    "store"); those joined by + come together. Raises `ValueError` for one that means none."""
    found: list[str] = []
    for part in filter(None, (one.strip() for one in text.split(","))):
        several = [one.strip() for one in part.split(TOGETHER)]
        meant = [name for name in FAULTS if name == part or name.startswith(part + " ")]
        if len(several) > 1 and all(one in FAULTS for one in several):
            meant = [TOGETHER.join(several)]
        if not meant:
            raise ValueError(f"{part!r} is none of: {', '.join(FAULTS)}")
        found += meant
    return found


def sequence(names: list[str], chance: random.Random) -> Iterator[tuple[str, list[list[str]]]]:
    """For ever (fault, the targets of each of its parts): every fault once before any comes
    again."""
    while True:
        for name in chance.sample(names, len(names)):
            yield name, [_targets(part, chance) for part in name.split(TOGETHER)]


def _targets(name: str, chance: random.Random) -> list[str]:
    _, candidates, count = FAULTS[name]
    return chance.sample(candidates, count) if count else list(candidates)


def made(name: str, targets: list[list[str]], context: Context) -> Fault:
    """The fault of that name, or several together, at these targets."""
    parts = [
        FAULTS[part][0](context, those)
        for part, those in zip(name.split(TOGETHER), targets, strict=True)
    ]
    return parts[0] if len(parts) == 1 else Together(context, parts)
