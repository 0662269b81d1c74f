"""Nobody sees, changes or even meets what lies in another scope, whichever way the request came.

A scope is (organisation, project, environment, end user). For each way there is an owner, and
strangers that differ from it in one part each. Set-up asks for the acknowledgement of every member,
so that a stranger finds nothing because it may not, and not because nothing has arrived yet.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from nats.js import JetStreamContext

from memsync.core.marks import round_of
from memsync.wire import codec
from memsync.wire.operations import Count
from tests.conditions import eventually
from tests.system.callers import WAYS, NatsWay, Reply, Way, bus_client, http_client, way_to
from tests.system.conftest import Cluster

_number = itertools.count()
EVERYBODY = {"Memsync-Ack": "all"}


class Person(msgspec.Struct, frozen=True):
    """Somebody with a key, for an end user."""

    way: Way
    key: str
    user: str
    project: str | None = None  # named in a header, beside what the key is pinned to

    async def call(self, operation: str, body: Any = None, **headers: str) -> Reply:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        found = {"X-API-Key": self.key, "X-End-User-ID": self.user, **given}
        if self.project is not None:
            found["X-Project-ID"] = self.project
        return await self.way.call(operation, {} if body is None else body, found)

    async def texts(self) -> list[str]:
        """Everything in this person's scope, oldest first."""
        page = await self.call("memory.list")
        assert page.status == 200, page
        return [item["text"] for item in reversed(page.body["items"])]


class World(msgspec.Struct, frozen=True):
    """One way, the owner's organisation, and who lives beside the owner."""

    way: Way
    organisation: str
    owner: Person
    strangers: dict[str, Person]
    admins: dict[str, Person]


async def new_key(cluster: Cluster, way: Way, **fields: Any) -> dict[str, Any]:
    """A new API key, known to every peer."""
    headers = {**cluster.headers("nobody"), **EVERYBODY}
    made = await way.call("keys.create", {"rate_limit_tier": "unlimited", **fields}, headers)
    assert made.status == 201, made
    found: dict[str, Any] = made.body
    return found


async def make_keys(cluster: Cluster, way: Way) -> dict[str, str]:
    """A key for each scope, and the slug of the owner's organisation."""
    organisation, other = f"acme-{way.name}", f"globex-{way.name}"

    async def key(**fields: Any) -> str:
        made = await new_key(cluster, way, **{"organisation": organisation, **fields})
        return str(made["key"])

    admin = {"scopes": ["org:admin"]}
    return {
        "organisation": organisation,
        "own": await key(project_id="site"),
        "shop": await key(project_id="shop"),
        "stall": await key(project_id="stall"),
        "free": await key(),
        "staging": await key(project_id="site", environment="staging"),
        "production": await key(project_id="site", environment="production"),
        "other": await key(project_id="site", organisation=other),
        "admin": await key(**admin),
        "pinned admin": await key(**admin, project_id="shop"),
        "other admin": await key(**admin, organisation=other),
    }


@pytest.fixture(scope="module")
def known_keys() -> dict[str, dict[str, str]]:
    """The keys that were made, by way: they last for all tests, while end users are new in each."""
    return {}


async def world_of(cluster: Cluster, way: Way, known: dict[str, dict[str, str]]) -> World:
    if way.name not in known:
        known[way.name] = await make_keys(cluster, way)
    keys = known[way.name]
    ada = f"ada-{next(_number)}"
    own = keys["own"]
    strangers = {
        "end user": Person(way, own, ada + "0"),
        "end user with a suffix": Person(way, own, ada + "/"),
        "end user in capitals": Person(way, own, ada.upper()),
        "project": Person(way, keys["shop"], ada),
        "no project": Person(way, keys["free"], ada),
        "named project": Person(way, keys["free"], ada, project="stall"),
        "environment staging": Person(way, keys["staging"], ada),
        "environment production": Person(way, keys["production"], ada),
        "organisation": Person(way, keys["other"], ada),
        "founding organisation": Person(way, cluster.api_key, ada),
    }
    admins = {
        "own": Person(way, keys["admin"], ada),
        "pinned": Person(way, keys["pinned admin"], ada),
        "other": Person(way, keys["other admin"], ada),
    }
    return World(way, keys["organisation"], Person(way, own, ada), strangers, admins)


@pytest.fixture(params=WAYS)
async def world(
    request: pytest.FixtureRequest, cluster: Cluster, known_keys: dict[str, dict[str, str]]
) -> AsyncIterator[World]:
    async with way_to(cluster, request.param) as way:
        yield await world_of(cluster, way, known_keys)


async def add(person: Person, text: str, **fields: Any) -> dict[str, Any]:
    """A memory that every peer has."""
    made = await person.call("memory.add", {"text": text, **fields}, **EVERYBODY)
    assert made.status == 201, made
    found: dict[str, Any] = made.body
    return found


# Memories


async def test_reads_stay_inside_the_scope(world: World) -> None:
    mine = await add(world.owner, "the secret of the owner", tags=["secret"])
    for name, stranger in world.strangers.items():
        got = await stranger.call("memory.get", {"memory_id": mine["id"]})
        assert (got.status, got.code) == (404, "NOT_FOUND"), name
        listed = await stranger.call("memory.list")
        assert (listed.status, listed.body["items"], listed.body["total"]) == (200, [], 0), name
        for filters in (None, {"tags": ["secret"]}):
            asked = {"query": "the secret of the owner", "k": 50, "filters": filters}
            found = await stranger.call("memory.query", asked)
            assert (found.status, found.body["memories"], found.body["context"]) == (200, [], "")
    assert await world.owner.texts() == ["the secret of the owner"]
    found = await world.owner.call("memory.query", {"query": "secret"})
    assert [memory["id"] for memory in found.body["memories"]] == [mine["id"]]


async def test_a_project_that_a_header_names_is_the_same_as_a_pinned_one(world: World) -> None:
    mine = await add(world.owner, "in the project")
    named = msgspec.structs.replace(world.strangers["no project"], project="site")
    assert (await named.call("memory.get", {"memory_id": mine["id"]})).body == mine
    assert await named.texts() == ["in the project"]
    refused = await msgspec.structs.replace(world.owner, project="shop").call("memory.list")
    assert (refused.status, refused.code) == (403, "INSUFFICIENT_SCOPE")
    elsewhere = msgspec.structs.replace(world.strangers["founding organisation"], project="site")
    unknown = await elsewhere.call("memory.list")
    assert (unknown.status, unknown.code) == (404, "PROJECT_NOT_FOUND")


async def test_updates_stay_inside_the_scope(world: World) -> None:
    mine = await add(world.owner, "mine", source="owner")
    for name, stranger in world.strangers.items():
        for body in ({"source": "x"}, {"source": "x", "if_version": mine["version"]}):
            reply = await stranger.call("memory.update", {"memory_id": mine["id"], **body})
            assert (reply.status, reply.code) == (404, "NOT_FOUND"), name
    got = await world.owner.call("memory.get", {"memory_id": mine["id"]})
    assert got.body == mine
    reply = await world.owner.call("memory.update", {"memory_id": mine["id"], "source": "y"})
    assert (reply.status, reply.body["source"]) == (200, "y")


async def test_forgets_stay_inside_the_scope(world: World) -> None:
    mine = await add(world.owner, "mine", source="owner", tags=["t"])
    meant: list[dict[str, Any]] = [
        {"memory_ids": [mine["id"]]},
        {"filters": {"source": "owner"}},
        {"filters": {"tags": ["t"], "before": "2999-01-01"}},
    ]
    for name, stranger in world.strangers.items():
        for body in meant:
            for dry_run in (True, False):
                reply = await stranger.call("memory.forget", {**body, "dry_run": dry_run})
                assert (reply.status, reply.body) == (200, []), name
    assert await world.owner.texts() == ["mine"]
    dry = await world.owner.call("memory.forget", {**meant[1], "dry_run": True})
    assert dry.body == [mine["id"]]
    assert (await world.owner.call("memory.forget", meant[0])).body == [mine["id"]]
    assert await world.owner.texts() == []


async def test_relations_and_feedback_stay_inside_the_scope(world: World) -> None:
    mine, too = await add(world.owner, "mine"), await add(world.owner, "mine, too")
    similar = {"relationship_type": "similar"}
    for name, stranger in world.strangers.items():
        his = (await add(stranger, "his"))["id"]
        for one, other in [(mine["id"], too["id"]), (his, mine["id"]), (mine["id"], his)]:
            body = {"memory_id": one, "to_memory_id": other, **similar}
            reply = await stranger.call("memory.relate", body)
            assert (reply.status, reply.code) == (404, "NOT_FOUND"), name
        judged = {"memory_id": mine["id"], "signal": "negative"}
        reply = await stranger.call("memory.feedback", judged)
        assert (reply.status, reply.code) == (404, "NOT_FOUND"), name
    body = {"memory_id": mine["id"], "to_memory_id": too["id"], **similar}
    assert (await world.owner.call("memory.relate", body, **EVERYBODY)).status == 201
    for name, stranger in world.strangers.items():
        drawn = await stranger.call("memory.graph", {"limit": 500})
        assert [node["text"] for node in drawn.body["nodes"]] == ["his"], name
        assert drawn.body["edges"] == [], name
        reply = await stranger.call("memory.graph", {"memory_id": mine["id"]})
        assert (reply.status, reply.code) == (404, "NOT_FOUND"), name
    drawn = await world.owner.call("memory.graph", {"memory_id": too["id"]})
    assert [node["id"] for node in drawn.body["nodes"]] == [too["id"], mine["id"]]
    judged = {"memory_id": mine["id"], "signal": "negative"}
    assert (await world.owner.call("memory.feedback", judged)).body["importance_after"] == 0.4


async def test_a_mixed_forget_takes_only_what_is_the_callers(world: World) -> None:
    mine, bob = await add(world.owner, "mine"), world.strangers["end user"]
    his = await add(bob, "his")
    reply = await bob.call("memory.forget", {"memory_ids": [mine["id"], his["id"], his["id"]]})
    assert reply.body == [his["id"]]
    assert (await world.owner.texts(), await bob.texts()) == (["mine"], [])


async def test_client_refs_and_texts_of_other_scopes_are_not_met(world: World) -> None:
    item = {"text": "said by many", "client_ref": "r-1"}
    mine = await add(world.owner, **item)
    seen = {mine["id"]}
    for stranger in world.strangers.values():
        made = await add(stranger, **item)
        again = {"text": "another", "client_ref": "r-1"}
        bulk = await stranger.call("memory.bulk_add", {"items": [again, {"text": "said by many"}]})
        assert [(one["status"], one["memory_ids"]) for one in bulk.body["results"]] == [
            ("skipped", [made["id"]]),
            ("skipped", [made["id"]]),
        ]
        seen.add(made["id"])
        await stranger.call("memory.forget", {"memory_ids": [made["id"]]}, **EVERYBODY)
    assert len(seen) == 1 + len(world.strangers)
    again_mine = await world.owner.call("memory.add", item)
    assert (again_mine.status, again_mine.body["memory_ids"]) == (200, [mine["id"]])
    assert await world.owner.texts() == ["said by many"]


async def test_a_bulk_puts_each_item_into_its_own_users_scope(world: World) -> None:
    bob = world.strangers["end user"]
    bulk = await world.owner.call(
        "memory.bulk_add",
        {"items": [{"text": "one"}, {"text": "one", "end_user_id": bob.user}]},
        **EVERYBODY,
    )
    assert bulk.body["created"] == 2
    ids = [one["memory_ids"][0] for one in bulk.body["results"]]
    assert (await world.owner.texts(), await bob.texts()) == (["one"], ["one"])
    crossed = await bob.call("memory.get", {"memory_id": ids[0]})
    assert crossed.code == "NOT_FOUND"
    for name, stranger in world.strangers.items():
        if name != "end user":
            assert await stranger.texts() == [], name


async def test_idempotency_keys_stay_inside_the_scope(world: World) -> None:
    first = await world.owner.call("memory.add", {"text": "one"}, Idempotency_Key="k", **EVERYBODY)
    seen = {first.body["id"]}
    for name, stranger in world.strangers.items():
        for text in ("one", "two"):  # the owner's request, and another one
            key = "k" if text == "one" else "k2"
            await world.owner.call("memory.add", {"text": "one more"}, Idempotency_Key="k2")
            reply = await stranger.call("memory.add", {"text": text}, Idempotency_Key=key)
            assert reply.status == 201, (name, reply)
            assert "idempotency-replayed" not in reply.headers
            seen.add(reply.body["id"])
        bulk = {"items": [{"text": "three"}]}
        await world.owner.call("memory.bulk_add", {"items": [{"text": "3"}]}, Idempotency_Key="b")
        reply = await stranger.call("memory.bulk_add", bulk, Idempotency_Key="b")
        assert (reply.status, reply.body["created"]) == (200, 1), name
        reply = await stranger.call("memory.forget", {"memory_ids": [first.body["id"]]},
                                    Idempotency_Key="k")  # fmt: skip
        assert reply.code == "IDEMPOTENCY_KEY_REUSED", name  # by its own add, not the owner's
    assert len(seen) == 1 + 2 * len(world.strangers)
    replay = await world.owner.call("memory.add", {"text": "one"}, Idempotency_Key="k")
    assert (replay.body, replay.headers["idempotency-replayed"]) == (first.body, "true")


async def test_fields_of_the_hosted_api_move_nobody(world: World) -> None:
    """user_id, tenant_id, project_id and environment in a body are accepted and ignored."""
    mine = await add(world.owner, "mine")
    fields: dict[str, Any] = {
        "user_id": world.owner.user,
        "tenant_id": world.organisation,
        "project_id": "site",
        "environment": "development",
    }
    for name, stranger in world.strangers.items():
        found = await stranger.call("memory.query", {"query": "mine", **fields})
        assert (found.status, found.body["memories"]) == (200, []), name
        reply = await stranger.call("memory.forget", {"memory_ids": [mine["id"]], **fields})
        assert reply.body == [], name
        reply = await stranger.call(
            "memory.update", {"memory_id": mine["id"], "source": "x"} | fields
        )
        assert reply.code == "NOT_FOUND", name
        await add(stranger, "theirs", **fields)
    assert await world.owner.texts() == ["mine"]


async def test_ids_of_keys_are_no_memories(world: World) -> None:
    listed = await world.admins["own"].call("keys.list")
    for key in listed.body["items"]:
        for person in (world.owner, world.admins["own"]):
            got = await person.call("memory.get", {"memory_id": key["id"]})
            assert got.code in ("NOT_FOUND", "INSUFFICIENT_SCOPE")
        assert (await world.owner.call("memory.forget", {"memory_ids": [key["id"]]})).body == []


# The lists of /v1, over HTTP only: who is meant stands in the path


async def test_a_path_names_no_other_tenant(
    cluster: Cluster, known_keys: dict[str, dict[str, str]]
) -> None:
    async with way_to(cluster, "gateway") as way, http_client() as client:
        world = await world_of(cluster, way, known_keys)
        await add(world.owner, "mine")
        for url in (cluster.url, cluster.peer_url(1)):
            for tenant in (world.organisation, "default"):
                for stranger in (world.owner, *world.strangers.values()):
                    answer = await client.get(
                        f"{url}/v1/memory/{tenant}/{world.owner.user}/list",
                        headers={"X-API-Key": stranger.key},
                    )
                    if stranger.key == world.owner.key:  # it may name any user of its own
                        assert [one["text"] for one in answer.json()["items"]] == ["mine"]
                    elif answer.status_code == 200:
                        assert answer.json()["total"] == 0
                    else:
                        assert answer.json()["error"]["code"] == "TENANT_MISMATCH"


# Keys


async def test_keys_stay_inside_the_organisation(world: World) -> None:
    own, other = world.admins["own"], world.admins["other"]
    mine = {key["id"]: key for key in (await own.call("keys.list")).body["items"]}
    theirs = {key["id"]: key for key in (await other.call("keys.list")).body["items"]}
    assert {key["organisation"] for key in mine.values()} == {world.organisation}
    assert world.organisation not in {key["organisation"] for key in theirs.values()}
    assert theirs
    assert not mine.keys() & theirs.keys()
    for key_id in mine:
        reply = await other.call("keys.revoke", {"key_id": key_id})
        assert (reply.status, reply.code) == (404, "NOT_FOUND")
    assert all(key["status"] == "active" for key in (await own.call("keys.list")).body["items"])
    for slug in (world.organisation, "default", "a-new-one"):
        reply = await other.call("keys.create", {"organisation": slug})
        assert (reply.status, reply.code) == (403, "INSUFFICIENT_SCOPE"), slug


async def test_a_key_that_is_pinned_reaches_its_projects_keys_only(world: World) -> None:
    pinned = world.admins["pinned"]
    every = {key["id"]: key for key in (await world.admins["own"].call("keys.list")).body["items"]}
    seen = {key["id"]: key for key in (await pinned.call("keys.list")).body["items"]}
    assert len({key["project_id"] for key in seen.values()}) == 1
    assert 0 < len(seen) < len(every)
    for key_id in every.keys() - seen.keys():
        reply = await pinned.call("keys.revoke", {"key_id": key_id})
        assert (reply.status, reply.code) == (404, "NOT_FOUND")
    refused = await pinned.call("keys.create", {"project_id": "site"})
    assert (refused.status, refused.code) == (403, "INSUFFICIENT_SCOPE")
    made = await pinned.call("keys.create", {})
    assert made.body["project_id"] == next(iter(seen.values()))["project_id"]


async def test_idempotency_keys_of_key_operations_stay_inside(world: World) -> None:
    own, other = world.admins["own"], world.admins["other"]
    first = await own.call("keys.create", {"name": "n"}, Idempotency_Key="kk", **EVERYBODY)
    elsewhere = await other.call("keys.create", {"name": "n"}, Idempotency_Key="kk")
    assert elsewhere.status == 201
    assert elsewhere.body["id"] != first.body["id"]
    assert elsewhere.body["organisation"] != world.organisation
    assert "idempotency-replayed" not in elsewhere.headers
    again = await own.call("keys.create", {"name": "n"}, Idempotency_Key="kk")
    assert (again.body["id"], again.body["key"]) == (first.body["id"], first.body["key"])
    pinned = await world.admins["pinned"].call("keys.create", {"name": "n"}, Idempotency_Key="kk")
    assert pinned.status in (422, 403)
    assert first.body["key"].encode() not in pinned.content


async def test_a_key_without_the_scope_is_refused(world: World) -> None:
    for operation in ("keys.create", "keys.list"):
        reply = await world.owner.call(operation)
        assert (reply.status, reply.code) == (403, "INSUFFICIENT_SCOPE")
    reply = await world.owner.call("keys.revoke", {"key_id": 1})
    assert (reply.status, reply.code) == (403, "INSUFFICIENT_SCOPE")
    for operation in ("memory.list", "memory.query", "memory.add", "memory.forget"):
        body = {"memory.query": {"query": "q"}}.get(operation, {})
        reply = await world.admins["own"].call(operation, body)
        assert (reply.status, reply.code) == (403, "INSUFFICIENT_SCOPE"), operation


async def test_a_revoked_key_is_refused_on_every_peer(cluster: Cluster, world: World) -> None:
    made = (await world.admins["own"].call("keys.create", {}, **EVERYBODY)).body
    revoked = await world.admins["own"].call("keys.revoke", {"key_id": made["id"]}, **EVERYBODY)
    assert (revoked.status, revoked.body["status"]) == (200, "revoked")
    async with http_client() as client:
        for url in (cluster.url, *(cluster.peer_url(n) for n in (1, 2, 3))):
            answer = await client.get(
                url + "/memory/list",
                headers={"X-API-Key": made["key"], "X-End-User-ID": "ada"},
            )
            assert answer.json()["error"]["code"] == "API_KEY_REVOKED"


# What travels beside a body


@pytest.mark.parametrize("header", ["Memsync-Ids", "memsync-ids", "MEMSYNC-IDS"])
async def test_a_caller_cannot_choose_ids(world: World, header: str) -> None:
    mine = await add(world.owner, "mine")
    taken = f"{mine['id']}-{mine['id']}"
    for wanted in (taken, "77-99", "x"):
        for number, operation in enumerate(("memory.add", "memory.bulk_add", "keys.create")):
            text = {"text": f"{wanted} {number}"}
            body: dict[str, Any] = {"memory.add": text, "memory.bulk_add": {"items": [text]}}.get(
                operation, {}
            )
            who = world.admins["own"] if operation == "keys.create" else world.owner
            reply = await who.call(operation, body, **{header: wanted})
            assert reply.status in (200, 201), reply
            found = reply.body
            made = found["results"][0]["memory_ids"][0] if "results" in found else found["id"]
            assert made > 1 << 16  # of a leased block
            assert made != mine["id"]
    assert (await world.owner.call("memory.get", {"memory_id": mine["id"]})).body == mine


async def test_the_way_of_gateways_lets_nobody_choose_ids_either(cluster: Cluster) -> None:
    """A peer's port tells a gateway from a caller by a proof, which no caller can make."""
    async with http_client() as client:
        for url in (cluster.url, *(cluster.peer_url(number) for number in (1, 2, 3))):
            for wanted in (77, (1 << 53) - 1):
                answer = await client.post(
                    url + "/v1/operations/memory.add",
                    json={"text": f"{wanted} at {url}"},
                    headers=cluster.headers("chooser", **{"Memsync-Ids": f"{wanted}-{wanted}"}),
                )
                assert answer.status_code == 201, answer.text
                assert 1 << 16 < answer.json()["id"] < 1 << 40  # of a block near the first one


async def test_an_operation_key_of_a_gateway_stays_inside_the_scope(
    cluster: Cluster, known_keys: dict[str, dict[str, str]]
) -> None:
    async with way_to(cluster, "nats") as way:
        world = await world_of(cluster, way, known_keys)
        first = await world.owner.call("memory.add", {"text": "x"}, Memsync_Operation_Key="~k")
        assert first.status == 201
        for stranger in world.strangers.values():
            reply = await stranger.call("memory.add", {"text": "x"}, Memsync_Operation_Key="~k")
            assert reply.status == 201
            assert reply.body["id"] != first.body["id"]
        for bad in ("k", "~" * 200, "~\x01"):
            reply = await world.owner.call("memory.list", Memsync_Operation_Key=bad)
            assert (reply.status, reply.code) == (400, "INVALID_REQUEST"), bad


# The client's user of the bus


STREAM = "MEMSYNC_LOCAL_CELL_0_0"
FORBIDDEN_TO_PUBLISH = (
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    f"$JS.API.STREAM.INFO.{STREAM}",
    f"$JS.API.STREAM.DELETE.{STREAM}",
    f"$JS.API.STREAM.PURGE.{STREAM}",
    f"$JS.API.DIRECT.GET.{STREAM}",
    f"$JS.local.API.STREAM.DELETE.{STREAM}",
    "$SYS.REQ.SERVER.PING.VARZ",
    "memsync.log.local.cell.0.f",
    "memsync.log.local.cell.0.r." + "00" * 16,
    "memsync.tail.local.cell.0.f",
    "memsync.mark.local.cell.peer-1",
    "memsync.told.local.cell.peer-1",
    "memsync.roster.local.cell.peer-1",
    "memsync.news.local.cell.peer-1",
    "memsync.peer.local.cell.peer-1.memory.add",
    "memsync.ids.block",
    "_INBOX_node.x",
)
FORBIDDEN_TO_HEAR = (
    "$JS.API.>",
    "$SYS.>",
    "memsync.log.>",
    "memsync.tail.>",
    "memsync.mark.>",
    "memsync.told.>",
    "memsync.roster.>",
    "memsync.news.>",
    "memsync.peer.>",
    "memsync.v1.>",
    "memsync.ids.>",
    "_INBOX.>",
    "_INBOX_node.>",
    "*.>",
    ">",
)


async def ends_of_the_log(cluster: Cluster) -> list[int]:
    """The last sequence of every stripe and of the ids, not counting what the peers put into the
    log by themselves: marks, and how often keys and memories were used."""
    async with bus_client(cluster, "node") as node:
        streams = node.jetstream(timeout=5)
        names = [f"MEMSYNC_LOCAL_CELL_{stripe}_0" for stripe in range(3)] + ["MEMSYNC_IDS"]
        ends = [(await streams.stream_info(name)).state.last_seq for name in names]
        for place, name in enumerate(names[:3]):
            while ends[place] and await is_of_peers(streams, name, ends[place]):
                ends[place] -= 1
        return ends


async def is_of_peers(streams: JetStreamContext, name: str, sequence: int) -> bool:
    message = await streams.get_msg(name, sequence, direct=True)
    if round_of((message.headers or {}).get("Nats-Msg-Id", "")) is not None:
        return True
    frame = codec.decode_frame(message.data or b"")  # anything else does not belong there
    return all(isinstance(one, Count) for write in frame.writes for one in write.operations)


async def test_the_client_user_may_publish_requests_only(cluster: Cluster) -> None:
    before = await ends_of_the_log(cluster)
    errors: list[str] = []
    async with bus_client(cluster, "client", errors) as caller:
        answers = await caller.subscribe(inbox := caller.new_inbox())
        for subject in FORBIDDEN_TO_PUBLISH:
            await caller.publish(subject, b"{}", reply=inbox)
        await caller.flush()

        async def all_refused() -> bool:
            return len(errors) == len(FORBIDDEN_TO_PUBLISH)

        await eventually(all_refused, "every message is refused")
        assert answers.pending_msgs == 0
    for subject, error in zip(FORBIDDEN_TO_PUBLISH, errors, strict=True):
        seen_as = subject.replace("$JS.local.API", "$JS.API").lower()  # the server's own mapping
        assert f'permissions violation for publish to "{seen_as}"' in error.lower()
    assert await ends_of_the_log(cluster) == before


async def test_the_client_user_may_hear_answers_only(cluster: Cluster) -> None:
    errors: list[str] = []
    async with bus_client(cluster, "client", errors) as caller:
        for subject in FORBIDDEN_TO_HEAR:
            await caller.subscribe(subject)
        await caller.flush()

        async def all_refused() -> bool:
            said = "\n".join(errors).lower()
            return all(
                f'permissions violation for subscription to "{subject.lower()}"' in said
                for subject in FORBIDDEN_TO_HEAR
            )

        await eventually(all_refused, "every subscription is refused")


@pytest.mark.parametrize(
    "reply",
    [
        "memsync.log.local.cell.0.f",
        "memsync.log.local.cell.1.r." + "00" * 16,
        "memsync.ids.block",
        "memsync.mark.local.cell.peer-1",
        "memsync.told.local.cell.peer-1",
        "memsync.tail.local.cell.0.f",
        "memsync.v1.memory.add",
        "memsync.peer.local.cell.peer-1.memory.add",
        f"$JS.API.STREAM.PURGE.{STREAM}",
    ],
)
async def test_an_answer_goes_to_no_subject_of_ours(cluster: Cluster, reply: str) -> None:
    """A peer may publish anywhere, so it must not be talked into answering into the log."""
    before = await ends_of_the_log(cluster)
    async with bus_client(cluster, "client") as caller, bus_client(cluster, "node") as node:
        heard: list[bytes] = []

        async def note(message: Any) -> None:
            heard.append(message.data)

        await node.subscribe(reply, cb=note)
        await node.flush()
        way = NatsWay(caller)
        for _ in range(6):  # some of them to each peer
            await caller.publish("memsync.v1.memory.list", b"{}", reply=reply)
        await caller.flush()
        # One connection keeps its order: whoever answers this has seen what came before.
        for _ in range(12):
            answer = await way.call("memory.list", {}, cluster.headers("reply"))
            assert answer.status == 200
        ours = [data for data in heard if b'"error"' in data]
        assert ours == [], json.loads(ours[0])
    assert await ends_of_the_log(cluster) == before
    cluster.wait_ready()
