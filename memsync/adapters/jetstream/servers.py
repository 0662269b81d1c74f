"""`ports.Servers`: asks every server for its settings, over the system account, on a short
connection."""

from __future__ import annotations

import json
from typing import Any

import nats.errors
from nats.aio.client import Client

from memsync.adapters.jetstream import connection
from memsync.config import NatsSettings
from memsync.errors import Unavailable
from memsync.wire import subjects

VARZ_TIMEOUT_S = 1.0


class NatsServers:
    """See `ports.Servers`. Needs a user of the system account (`system_credentials`)."""

    def __init__(self, settings: NatsSettings, name: str) -> None:
        self._settings = settings
        self._name = name

    async def faults(self) -> dict[str, str]:
        """What is wrong with each server that answered."""
        try:
            client = await connection.connect(
                self._settings,
                f"{self._name}-system",
                credentials=self._settings.system_credentials,
            )
        except Unavailable as error:
            raise Unavailable(f"{error.message}; check nats.system_credentials") from error
        try:
            answers = await _varz(client, len(self._settings.servers))
        finally:
            await connection.close(client)
        found = {varz["server_name"]: _fault(varz) for varz in answers}
        return {name: fault for name, fault in found.items() if fault is not None}


async def _varz(client: Client, expected: int) -> list[dict[str, Any]]:
    """The settings of the servers that answer in time; raises where they are no majority."""
    inbox = client.new_inbox()
    answers: list[dict[str, Any]] = []
    try:
        subscription = await client.subscribe(inbox)
        await client.publish(subjects.SERVERS_VARZ, b"", reply=inbox)
        while len(answers) < expected:
            message = await subscription.next_msg(timeout=VARZ_TIMEOUT_S)
            if message.data:
                answers.append(json.loads(message.data)["data"])
            else:
                break  # "no responders": not the system account
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
