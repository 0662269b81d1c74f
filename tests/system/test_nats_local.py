"""The generated configuration on real nats-servers: they form a cluster and keep callers out."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import nats.errors
import nats.js.api
import nats.js.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from memsync import limits
from memsync.local import secrets
from memsync.local.ports import HOST
from tests.conditions import eventually
from tests.system.local_bus import TOP, Bus, running_bus

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 2.0
ENDED_WITHIN_S = 10.0
REFUSED_TIMEOUT_S = 0.5  # a refused request is never answered


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """Three servers, shared by the tests of this file."""
    with running_bus(tmp_path_factory.mktemp("bus") / "home") as running:
        yield running


@asynccontextmanager
async def connected(bus: Bus, user: str, errors: list[str] | None = None) -> AsyncIterator[Client]:
    """A connection as one of the users; what the server refuses is added to `errors`."""
    known = secrets.credentials(bus.home, user)

    async def note(error: Exception) -> None:
        if errors is not None:
            errors.append(str(error))

    connection = await asyncio.wait_for(
        nats.connect(
            bus.servers,
            user=known.user,
            password=known.password,
            inbox_prefix=known.inbox_prefix.encode(),
            error_cb=note,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,
        ),
        CONNECT_TIMEOUT_S,
    )
    try:
        yield connection
    finally:
        await connection.close()


async def make_stream(connection: Client, name: str, subject: str) -> nats.js.api.StreamInfo:
    """Make a stream with three replicas, as soon as the servers have elected a leader."""
    config = nats.js.api.StreamConfig(name=name, subjects=[subject], num_replicas=3)

    async def attempt() -> nats.js.api.StreamInfo | None:
        try:
            return await connection.jetstream(timeout=ANSWER_TIMEOUT_S).add_stream(config)
        except (nats.errors.Error, nats.js.errors.APIError, TimeoutError):
            return None  # no leader yet, or not all three are known to it

    return await eventually(attempt, f"stream {name} with 3 replicas")


async def server_settings(connection: Client) -> dict[str, dict[str, Any]]:
    """`varz` of every server, by server name."""
    inbox = connection.new_inbox()
    answers = await connection.subscribe(inbox)
    await connection.publish("$SYS.REQ.SERVER.PING.VARZ", b"", reply=inbox)
    found: dict[str, dict[str, Any]] = {}
    try:
        while len(found) < 3:
            answer = json.loads((await answers.next_msg(ANSWER_TIMEOUT_S)).data)
            found[answer["server"]["name"]] = answer["data"]
    except nats.errors.TimeoutError:
        pass  # the caller asks again until all have answered
    await answers.unsubscribe()
    return found


async def test_a_stream_with_three_replicas_takes_messages_from_the_node_user(bus: Bus) -> None:
    async with connected(bus, "node") as connection:
        info = await make_stream(connection, "REPLICATED", "test.replicated")
        assert info.config.num_replicas == 3
        stream = connection.jetstream(timeout=ANSWER_TIMEOUT_S)

        async def published() -> bool:
            try:
                return (await stream.publish("test.replicated", b"one")).stream == "REPLICATED"
            except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
                return False  # interest in the new subject is still spreading

        assert await eventually(published, "a message is stored")


async def test_every_server_says_that_it_always_syncs(bus: Bus) -> None:
    """The field is `data.jetstream.config.sync_always`.

    It stands in the answer to `$SYS.REQ.SERVER.PING.VARZ` (system account): true with
    `sync_interval: always`, absent otherwise. `sync_interval` beside it says two minutes in both
    cases and tells nothing. `server.name` says whose answer it is; each server sends one.
    """
    async with connected(bus, "system") as connection:

        async def all_answered() -> dict[str, dict[str, Any]] | None:
            found = await server_settings(connection)
            return found if len(found) == 3 else None

        found = await eventually(all_answered, "three servers answer")
    assert sorted(found) == ["nats-1", "nats-2", "nats-3"]
    for settings in found.values():
        assert settings["jetstream"]["config"]["sync_always"] is True
        assert settings["feature_flags"]["js_ack_fc_v2"] is False
        assert settings["max_payload"] == limits.NATS_PAYLOAD_BYTES_MAX


async def test_a_caller_reaches_the_api_and_hears_the_answer(bus: Bus) -> None:
    async with connected(bus, "node") as node, connected(bus, "client") as caller:

        async def answer(message: Msg) -> None:
            await message.respond(b"heard")

        await node.subscribe("memsync.v1.>", cb=answer)
        await node.flush()

        async def answered() -> bool:
            try:
                heard = await caller.request("memsync.v1.x", b"", timeout=ANSWER_TIMEOUT_S)
            except nats.errors.NoRespondersError:
                return False  # the caller's server has not yet heard of the subscription
            return heard.data == b"heard"

        assert await eventually(answered, "the caller hears the answer")


@pytest.mark.parametrize(
    "subject",
    ["$JS.API.INFO", "memsync.log.local.cell.0.x", "memsync.tail.local.cell.0.x", "$SYS.x"],
)
async def test_a_caller_may_publish_nothing_else(bus: Bus, subject: str) -> None:
    errors: list[str] = []
    async with connected(bus, "client", errors) as caller:
        with pytest.raises(nats.errors.TimeoutError):
            await caller.request(subject, b"", timeout=REFUSED_TIMEOUT_S)
        await caller.flush()
    assert f'permissions violation for publish to "{subject.lower()}"' in "\n".join(errors).lower()


@pytest.mark.parametrize("subject", ["memsync.v1.>", "memsync.tail.>", "_INBOX.>", ">"])
async def test_a_caller_may_hear_nothing_else(bus: Bus, subject: str) -> None:
    errors: list[str] = []
    async with connected(bus, "client", errors) as caller:
        await caller.subscribe(subject)
        await caller.flush()

        async def refused() -> bool:
            return "permissions violation for subscription" in "\n".join(errors).lower()

        assert await eventually(refused, "the subscription is refused")


async def test_a_wrong_password_is_refused(bus: Bus) -> None:
    reader, writer = await asyncio.open_connection(HOST, bus.ports.nats(1))
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        assert (await reader.readline()).startswith(b"INFO ")
        writer.write(b'CONNECT {"user": "node", "pass": "wrong", "verbose": false}\r\nPING\r\n')
        assert b"Authorization Violation" in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_a_single_server_needs_no_cluster(tmp_path: Path) -> None:
    with running_bus(tmp_path / "home", servers=1) as single:

        async def answers() -> bool:
            try:
                async with connected(single, "node") as connection:
                    stream = connection.jetstream(timeout=ANSWER_TIMEOUT_S)
                    info = await stream.add_stream(name="ALONE", subjects=["test.alone"])
                    return info.config.num_replicas == 1
            except (nats.errors.Error, OSError):
                return False  # it is still starting

        assert await eventually(answers, "a stream on a single server")


@pytest.mark.parametrize(
    ("config", "binary", "said"),
    [
        ("server_name: x\nlisten: {\n", None, "nats.conf:"),
        ("no_such_field: 1\n", None, "no_such_field"),
        ("server_name: x\n", "/bin/true", "/bin/true: is not a nats-server"),
        ("server_name: x\n", "/nowhere", "/nowhere: cannot be run"),
        (None, None, "nats.conf: cannot be read"),
    ],
)
def test_what_is_wrong_is_said_with_code_2(
    tmp_path: Path, config: str | None, binary: str | None, said: str
) -> None:
    path = tmp_path / "nats.conf"
    if config is not None:
        path.write_text(config)
    answer = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            str(TOP / "memsync" / "nodes" / "nats.py"),
            "--config",
            str(path),
        ],
        env=os.environ | ({"MEMSYNC_NATS_SERVER": binary} if binary else {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=ENDED_WITHIN_S,
    )
    assert answer.returncode == 2
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr
