"""What the callers of a run do, each again and again, with pauses by the run's seed.

add      adds a memory and reads it back: by id, by its words, in the list
read     reads what others wrote, from whichever peer answers
change   updates and forgets the same few records as others do
count    counts by conditional updates, as others do
bulk     stores several at once; others list them meanwhile
session  reads its own writes by their positions
one-ref  adds one `client_ref` from many at once
attach   relates memories and says what they were worth, as others do to the same
keys     makes API keys, takes them back, and reads with those that were taken back
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from memsync import limits
from tests.chaos.driver import Process, Request, fields_of, text_of
from tests.chaos.history import Operation, Unknown

USER_REFS_MAX = 40  # then a new end user: a list of all stays one page, and quick to judge
LIVE_MAX = 8
ATTACHED_TO = 3  # memories at once
ATTACHED_MAX = 120  # to them together, then others: no memory takes more than so many
SIGNALS = ("positive", "negative", "retrieved", "ignored")
TYPES = ("similar", "supports", "extends")
BULK_ITEMS = (3, 8)
KNOWN_MAX = 300
ACKS = {"": 0.88, "log": 0.06, "all": 0.06}  # shares of the writes
CONSISTENCIES = {"": 0.84, "strong": 0.1, "local": 0.06}  # and of the reads
KEYS_LIVE = 3
KEYS_TRIED = 5  # of those that were taken back, the last ones


class Known(msgspec.Struct, frozen=True):
    """A memory that was acknowledged, for those who read it."""

    user: str
    ref: str
    id: int


class World:
    """What all workloads know together."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.known: deque[Known] = deque(maxlen=KNOWN_MAX)
        self.users: dict[str, None] = {}
        self.ids: dict[str, dict[str, set[int]]] = {}  # user -> ref -> every id answered for it
        self._refs = 0

    def new_ref(self) -> str:
        """A name that no other record has."""
        self._refs += 1
        return f"r{self._refs:06d}"

    def learn(self, user: str, refs: Sequence[str], ids: Sequence[int]) -> None:
        """These were answered."""
        self.users[user] = None
        for ref, identifier in zip(refs, ids, strict=False):
            self.ids.setdefault(user, {}).setdefault(ref, set()).add(identifier)
            self.known.append(Known(user, ref, identifier))


class Users:
    """End users one after the other, so that none gets too many memories."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name
        self._number = 0
        self._left = 0
        self.now = ""

    def take(self, count: int = 1) -> str:
        """The user who gets the next `count` memories."""
        if self._left < count:
            self._number += 1
            self._left = USER_REFS_MAX
            self.now = f"{self._name}-{self._number}"
            self._world.users[self.now] = None
        self._left -= count
        return self.now


class Worker:
    """One caller with a workload; `step` is one round of it."""

    def __init__(self, world: World, process: Process) -> None:
        self.world = world
        self.process = process
        self.chance = random.Random(world.chance.random())

    async def step(self) -> None:
        """Do one round."""
        raise NotImplementedError

    async def add(self, user: str, ref: str, *, by_ref: bool, count: int = -1) -> Operation:
        """Add a memory; one that is left unknown is repeated at once by some callers."""
        value = f"{self.process.name}.{self.process.driver.recorder.last + 1}"
        body = {"text": text_of(ref, value), **fields_of(value, count)}
        key = "" if by_ref else f"add-{ref}"
        body["source"] = ref
        if by_ref:
            body["client_ref"] = ref
        request = Request(op="add", user=user, body=body, refs=[ref], value=value, key=key)
        return await self.write(request)

    async def write(self, request: Request) -> Operation:
        """Do a write, and sometimes do it again: what was unknown, and what was answered."""
        if request.op != "swap":  # which wait for one leader as it is
            request = msgspec.structs.replace(request, ack=self._one_of(ACKS))
        done = await self.process.do(request)
        again = 0.5 if isinstance(done.end, Unknown) else 0.08 if done.is_ok else 0.0
        if self.chance.random() < again:
            repeated = await self.process.repeat(request, done.n)
            done = repeated if repeated.is_ok and not done.is_ok else done
        if done.is_ok:
            self.world.learn(request.user, request.refs, done.end.ids)
        return done

    async def read(self, known: Known, **more: object) -> Operation:
        """Read a memory in one of the three ways."""
        kind = self.chance.choices(("get", "recall", "list"), (5, 4, 2))[0]
        bodies = {
            "get": {"memory_id": known.id},
            "recall": {"query": known.ref, "k": 5},
            "list": {"limit": 100},
        }
        refs = [] if kind == "list" else [known.ref]
        fields = {"op": kind, "user": known.user, "body": bodies[kind], "refs": refs, **more}
        fields["consistency"] = self._one_of(CONSISTENCIES)
        return await self.process.do(Request(**fields))  # type: ignore[arg-type]

    def _one_of(self, shares: Mapping[str, float]) -> str:
        return self.chance.choices(list(shares), list(shares.values()))[0]


class Add(Worker):
    """Add and read back."""

    def __init__(self, world: World, process: Process) -> None:
        super().__init__(world, process)
        self._users = Users(world, process.name)

    async def step(self) -> None:
        ref, user = self.world.new_ref(), self._users.take()
        done = await self.add(user, ref, by_ref=self.chance.random() < 0.5)
        if done.is_ok and done.end.ids:
            await self.read(Known(user, ref, done.end.ids[0]))


class Read(Worker):
    """Read what somebody wrote."""

    async def step(self) -> None:
        if self.world.known:
            await self.read(self.chance.choice(self.world.known))


class Pool(msgspec.Struct):
    """The records that all `change` workers share, or all `attach` workers."""

    users: Users
    live: list[Known] = []
    user: str = ""
    left: int = 0  # of what may be attached to these


class Change(Worker):
    """Update and forget the same records."""

    def __init__(self, world: World, process: Process, pool: Pool) -> None:
        super().__init__(world, process)
        self._pool = pool

    async def step(self) -> None:
        pool = self._pool
        if len(pool.live) < LIVE_MAX:
            await self._add()
            return
        known = self.chance.choice(pool.live)
        kind = self.chance.choices(("update", "forget", "read"), (10, 1, 9))[0]
        if kind == "read":
            await self.read(known)
        elif kind == "update":
            await self._update(known)
        else:
            pool.live.remove(known)
            key = f"forget-{self.process.name}-{known.ref}"
            # Nobody else's memory has this source: both mean the same one.
            is_by_filter = self.chance.random() < 0.5
            body: dict[str, object] = (
                {"filters": {"source": known.ref}} if is_by_filter else {"memory_ids": [known.id]}
            )
            request = Request(op="forget", user=known.user, body=body, refs=[known.ref], key=key)
            await self.write(request)

    async def _add(self) -> None:
        pool = self._pool
        user = pool.users.take()
        if user != pool.user:
            pool.user, pool.live = user, []
        ref = self.world.new_ref()
        done = await self.add(user, ref, by_ref=True)
        if done.is_ok and done.end.ids and user == pool.user:
            pool.live.append(Known(user, ref, done.end.ids[0]))

    async def _update(self, known: Known) -> None:
        value = f"{self.process.name}.{self.process.driver.recorder.last + 1}"
        request = Request(
            op="update", user=known.user, body={"memory_id": known.id, **fields_of(value)},
            refs=[known.ref], value=value, key=f"update-{value}",
        )  # fmt: skip
        await self.write(request)


class Count(Worker):
    """Count by conditional updates: whoever saw the version first wins. There is a counter in the
    home of each stripe, so that none can lose its leader unnoticed."""

    def __init__(self, world: World, process: Process, counters: dict[int, Known]) -> None:
        super().__init__(world, process)
        self._counters = counters

    async def step(self) -> None:
        if len(self._counters) < limits.STRIPES:
            await self._make()
        else:
            await self._count(self.chance.choice(list(self._counters.values())))

    async def _make(self) -> None:
        """A new counter, if it has another home than those that there are."""
        ref = self.world.new_ref()
        done = await self.add("count", ref, by_ref=True, count=0)
        if done.is_ok and done.end.ids:
            known = Known("count", ref, done.end.ids[0])
            counted = await self._count(known)
            if counted is not None and counted.is_ok:
                self._counters.setdefault(counted.end.stripe, known)

    async def _count(self, known: Known) -> Operation | None:
        body = {"memory_id": known.id}
        read = await self.process.do(Request(op="get", user="count", body=body, refs=[known.ref]))
        if not read.is_ok or not read.end.seen:
            return None
        seen = read.end.seen[0]
        value = f"{self.process.name}.{self.process.driver.recorder.last + 1}"
        change = {**fields_of(value, seen.count + 1), "if_version": seen.version}
        request = Request(
            op="swap", user="count", body={**body, **change}, refs=[known.ref], value=value,
            count=seen.count + 1, key=f"swap-{value}",
        )  # fmt: skip
        return await self.write(request)


class Bulk(Worker):
    """Several memories in one write."""

    def __init__(self, world: World, process: Process, users: Users) -> None:
        super().__init__(world, process)
        self._users = users

    async def step(self) -> None:
        refs = [self.world.new_ref() for _ in range(self.chance.randint(*BULK_ITEMS))]
        user = self._users.take(len(refs))
        value = f"{self.process.name}.{self.process.driver.recorder.last + 1}"
        items = [{"text": text_of(ref, value), **fields_of(value)} for ref in refs]
        request = Request(
            op="bulk", user=user, body={"items": items}, refs=refs, value=value, key=f"bulk-{value}"
        )
        await self.write(request)


class Lister(Worker):
    """Lists the user whose bulks are being written."""

    def __init__(self, world: World, process: Process, users: Users) -> None:
        super().__init__(world, process)
        self._users = users

    async def step(self) -> None:
        if self._users.now:
            body = {"limit": 100}
            await self.process.do(Request(op="list", user=self._users.now, body=body))


class Session(Worker):
    """Writes and reads; every read names the positions of what this session did before."""

    def __init__(self, world: World, process: Process) -> None:
        super().__init__(world, process)
        self._users = Users(world, process.name)

    async def step(self) -> None:
        ref, user = self.world.new_ref(), self._users.take()
        done = await self.add(user, ref, by_ref=False)
        if not done.is_ok or not done.end.ids:
            return
        known, after = Known(user, ref, done.end.ids[0]), [done.n]
        read = await self._read_after(known, after)
        value = f"{self.process.name}.{self.process.driver.recorder.last + 1}"
        request = Request(
            op="update", user=user, body={"memory_id": known.id, **fields_of(value)},
            refs=[ref], value=value, key=f"update-{value}",
        )  # fmt: skip
        updated = await self.write(request)
        after += [one.n for one in (read, updated) if one.is_ok]
        await self._read_after(known, after)

    async def _read_after(self, known: Known, after: list[int]) -> Operation:
        return await self.read(known, after=list(after), min_position=str(self.process.positions))


class OneRef(Worker):
    """One `client_ref` from many at once; every id that was answered must resolve."""

    def __init__(self, world: World, process: Process, others: Sequence[Process]) -> None:
        super().__init__(world, process)
        self._users = Users(world, process.name)
        self._workers = [Worker(world, other) for other in others]

    async def step(self) -> None:
        ref, user = self.world.new_ref(), self._users.take()
        async with asyncio.TaskGroup() as group:
            adds = [
                group.create_task(worker.add(user, ref, by_ref=True)) for worker in self._workers
            ]
        ids = {task.result().end.ids[0] for task in adds if task.result().end.ids}
        if ids:
            await self.read(Known(user, ref, self.chance.choice(sorted(ids))))


class Attach(Worker):
    """Signals and relations, each with a value of its own, on memories that others attach to."""

    def __init__(self, world: World, process: Process, pool: Pool) -> None:
        super().__init__(world, process)
        self._pool = pool

    async def step(self) -> None:
        pool = self._pool
        if len(pool.live) < ATTACHED_TO:
            await self._add()
            return
        pool.left -= 1
        one, other = self.chance.sample(pool.live, 2)
        if pool.left <= 0:
            pool.live = []
        value = f"{self.process.name}.{self.process.driver.recorder.last + 1}"
        fields: dict[str, object] = {
            "op": "feedback", "body": {"signal": self.chance.choice(SIGNALS), "comment": value}
        }  # fmt: skip
        if self.chance.random() < 0.5:
            body = {"to_memory_id": other.id, "relationship_type": self.chance.choice(TYPES)}
            fields = {"op": "relate", "body": {**body, "metadata": {"v": value}}}
        fields["body"] = {"memory_id": one.id, **fields["body"]}  # type: ignore[dict-item]
        more = {"user": one.user, "refs": [one.ref], "value": value, "key": f"attach-{value}"}
        await self.write(Request(**fields, **more))  # type: ignore[arg-type]

    async def _add(self) -> None:
        """Related memories are one end user's."""
        pool = self._pool
        if not pool.live:
            pool.user, pool.left = pool.users.take(ATTACHED_TO), ATTACHED_MAX
        user, ref = pool.user, self.world.new_ref()
        done = await self.add(user, ref, by_ref=True)
        if done.is_ok and done.end.ids and user == pool.user:
            pool.live.append(Known(user, ref, done.end.ids[0]))


class Keys(Worker):
    """Makes a key, uses it, takes it back, and uses those that were taken back, at any peer."""

    def __init__(self, world: World, process: Process) -> None:
        super().__init__(world, process)
        self._live: list[tuple[str, str, int]] = []
        self._ended: deque[tuple[str, str]] = deque(maxlen=KEYS_TRIED)

    async def step(self) -> None:
        if len(self._live) < KEYS_LIVE:
            await self._make()
        elif self.chance.random() < 0.1:
            ref, secret, identifier = self._live.pop(0)
            await self._do("revoke", ref, {"key_id": identifier}, key=f"revoke-{ref}")
            self._ended.append((ref, secret))
            await self._use(ref, secret)
        else:
            used = [*self._ended, *((ref, secret) for ref, secret, _ in self._live)]
            await self._use(*self.chance.choice(used))

    async def _make(self) -> None:
        ref = self.world.new_ref()
        made = await self._do("key", ref, {"name": ref, "rate_limit_tier": "unlimited"})
        if made.is_ok and self.process.secret:
            self._live.append((ref, self.process.secret, made.end.ids[0]))

    async def _use(self, ref: str, secret: str) -> None:
        """Each user is another peer's first."""
        user = f"keys-{self.chance.randrange(100)}"
        await self._do("use", ref, {"limit": 1}, user=user, secret=secret)

    async def _do(self, op: str, ref: str, body: dict[str, object], **more: str) -> Operation:
        fields = {"op": op, "user": "keys", "body": body, "refs": [ref], **more}
        return await self.process.do(Request(**fields))  # type: ignore[arg-type]


def crew(
    world: World, http: Callable[[str], Process], bus: Callable[[str], Process]
) -> list[Worker]:
    """All callers of a run; `http` and `bus` make a process with a connection of its own."""
    pool, counters = Pool(Users(world, "change")), dict[int, Known]()
    attached = Pool(Users(world, "attach"))
    bulks = Users(world, "bulk")
    many = [http("one-ref-1"), http("one-ref-2"), http("one-ref-3"), bus("one-ref-4")]
    return [
        *(Add(world, http(f"add-{number}")) for number in (1, 2, 3)),
        Add(world, bus("add-4")),
        *(Read(world, http(f"read-{number}")) for number in (1, 2, 3)),
        Read(world, bus("read-4")),
        *(Change(world, http(f"change-{number}"), pool) for number in (1, 2, 3)),
        Change(world, bus("change-4"), pool),
        *(Count(world, http(f"count-{number}"), counters) for number in (1, 2)),
        Count(world, bus("count-3"), counters),
        Bulk(world, http("bulk-1"), bulks),
        Lister(world, http("bulk-2"), bulks),
        Lister(world, bus("bulk-3"), bulks),
        *(Session(world, http(f"session-{number}")) for number in (1, 2)),
        OneRef(world, http("one-ref-0"), many),
        *(Attach(world, http(f"attach-{number}"), attached) for number in (1, 2)),
        Attach(world, bus("attach-3"), attached),
        Keys(world, http("keys-1")),
        Keys(world, bus("keys-2")),
    ]
