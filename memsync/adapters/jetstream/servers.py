"""`ports.Servers`: asks every server for its settings and its copies of the log, over the system
account, on a short connection."""

from __future__ import annotations

import json
from typing import Any

import nats.errors
from nats.aio.client import Client

from memsync import limits
from memsync.adapters.jetstream import connection
from memsync.config import NatsSettings
from memsync.errors import Unavailable
from memsync.ports import StripeCopy
from memsync.wire import subjects
from memsync.wire.subjects import CellName

ANSWER_TIMEOUT_S = 1.0


class NatsServers:
    """See `ports.Servers`. Needs a user of the system account (`system_credentials`)."""

    def __init__(self, settings: NatsSettings, name: str, cell: CellName) -> None:
        self._settings = settings
        self._name = name
        self._cell = cell

    async def faults(self) -> dict[str, str]:
        """What is wrong with each server that answered."""
        answers = await self._ask_all(subjects.SERVERS_VARZ, {})
        found = {varz["server_name"]: _fault(varz) for _, varz in answers}
        return {name: fault for name, fault in found.items() if fault is not None}

    async def copies(self) -> list[StripeCopy]:
        """What each server that answered says of its copies."""
        answers = await self._ask_all(subjects.SERVERS_JSZ, {"accounts": True, "streams": True})
        found: list[StripeCopy] = []
        for server, jsz in answers:
            for account in jsz.get("account_details") or []:
                for stream in account.get("stream_detail") or []:
                    found += self._copy(server, stream)
        return found

    def _copy(self, server: str, stream: dict[str, Any]) -> list[StripeCopy]:
        """The copy of a stripe; nothing for a stream that is none of this cell's."""
        state = stream.get("state") or {}
        for stripe in range(limits.STRIPES):
            generation = self._cell.generation_of(stripe, stream["name"])
            if generation is not None:
                ends = state.get("first_seq", 0), state.get("last_seq", 0)
                return [StripeCopy(server, stripe, generation, *ends, state.get("num_deleted", 0))]
        return []

    async def _ask_all(
        self, subject: str, request: dict[str, Any]
    ) -> list[tuple[str, dict[str, Any]]]:
        """(server, answer) of the servers that answer in time."""
        try:
            client = await connection.connect(
                self._settings,
                f"{self._name}-system",
                credentials=self._settings.system_credentials,
            )
        except Unavailable as error:
            raise Unavailable(f"{error.message}; check nats.system_credentials") from error
        try:
            return await _answers(client, subject, request, len(self._settings.servers))
        finally:
            await connection.close(client)


async def _answers(
    client: Client, subject: str, request: dict[str, Any], expected: int
) -> list[tuple[str, dict[str, Any]]]:
    """What the servers say that answer in time; raises where they are no majority."""
    inbox = client.new_inbox()
    answers: list[tuple[str, dict[str, Any]]] = []
    try:
        subscription = await client.subscribe(inbox)
        await client.publish(subject, json.dumps(request).encode(), reply=inbox)
        while len(answers) < expected:
            message = await subscription.next_msg(timeout=ANSWER_TIMEOUT_S)
            if not message.data:
                break  # "no responders": not the system account
            answer = json.loads(message.data)
            answers.append((answer["server"]["name"], answer["data"]))
    except (nats.errors.Error, OSError, TimeoutError):
        pass  # those that answered count
    if len(answers) <= expected // 2:
        raise Unavailable(
            f"{len(answers)} of {expected} NATS servers told their settings; "
            "check nats.system_credentials"
        )
    return answers


def _fault(varz: dict[str, Any]) -> str | None:
    jetstream = (varz.get("jetstream") or {}).get("config")
    if not jetstream:
        return "has no JetStream; start it with JetStream enabled"
    if not jetstream.get("sync_always"):
        return "acknowledges before it syncs; set jetstream { sync_interval: always }"
    return None
