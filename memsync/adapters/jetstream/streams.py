"""`ports.Streams` on JetStream. All of it needs the meta leader, none of it is on the path of a
write."""

from __future__ import annotations

import json
from typing import Any

import nats.errors
import nats.js.errors as jetstream_errors
from nats.aio.client import Client
from nats.js import api

from memsync import limits
from memsync.errors import Unavailable
from memsync.ports import StripeState
from memsync.wire import subjects
from memsync.wire.subjects import CellName

ADMIN_TIMEOUT_S = 2.0
IDENTITY = "memsync.cell"  # in a stream's metadata: which cell made it
IN_USE = 10058  # "stream name already in use with a different configuration"


class JetStreamStreams:
    """See `ports.Streams`."""

    def __init__(
        self,
        client: Client,
        cell: CellName,
        *,
        replicas: int,
        stripe_bytes_max: int,
        identity: str,
    ) -> None:
        self._client = client
        self._cell = cell
        self._replicas = replicas
        self._stripe_bytes_max = stripe_bytes_max
        self._identity = identity
        self._jetstream = client.jetstream(timeout=ADMIN_TIMEOUT_S)

    async def generation(self, stripe: int) -> int | None:
        """The highest generation of a stripe that there is; None where there is no stream."""
        reply = await self._ask("STREAM.NAMES", {"subject": self._cell.log_all(stripe)})
        found = [self._cell.generation_of(stripe, name) for name in reply.get("streams") or []]
        return max((g for g in found if g is not None), default=None)

    async def state(self, stripe: int, generation: int) -> StripeState:
        """The stream of a generation as it is now."""
        reply = await self._ask(f"STREAM.INFO.{self._cell.stream(stripe, generation)}", {})
        cluster = reply.get("cluster") or {}
        replicas = cluster.get("replicas") or []
        leader = cluster.get("leader") or None
        leading = {leader} if leader else set()
        return StripeState(
            stripe=stripe,
            generation=generation,
            leader=leader,
            servers=tuple(sorted({replica["name"] for replica in replicas} | leading)),
            first_sequence=reply["state"]["first_seq"],
            last_sequence=reply["state"]["last_seq"],
            bytes=reply["state"]["bytes"],
            bytes_max=reply["config"]["max_bytes"],
            deleted=reply["state"].get("num_deleted", 0),
            cell=(reply["config"].get("metadata") or {}).get(IDENTITY, ""),
            current=tuple(sorted({r["name"] for r in replicas if r.get("current")} | leading)),
        )

    async def create(self, stripe: int, generation: int) -> None:
        """Make a generation of a stripe; it is fine if somebody else just did."""
        source = self._cell.log_all(stripe)
        target = self._cell.tail_all(stripe)
        await self._add(
            api.StreamConfig(
                name=self._cell.stream(stripe, generation),
                description=f"memsync log, stripe {stripe}, generation {generation}",
                subjects=[source],
                retention=api.RetentionPolicy.LIMITS,
                storage=api.StorageType.FILE,
                discard=api.DiscardPolicy.NEW,
                num_replicas=self._replicas,
                max_bytes=self._stripe_bytes_max,
                max_age=limits.LOG_AGE_MAX_S,
                max_msg_size=limits.NATS_PAYLOAD_BYTES_MAX,
                duplicate_window=limits.DUPLICATE_WINDOW_S,
                allow_direct=True,
                republish=api.RePublish(src=source, dest=target),
                metadata={IDENTITY: self._identity},
            )
        )

    async def adopt(self, stripe: int, generation: int) -> None:
        """Note on a stream without an identity that it is this cell's. The whole configuration is
        sent back as it was read: what is left out of an update would be reset."""
        stream = self._cell.stream(stripe, generation)
        config = (await self._ask(f"STREAM.INFO.{stream}", {}))["config"]
        metadata = config.get("metadata") or {}
        if IDENTITY in metadata:
            return  # another member was faster
        config["metadata"] = {**metadata, IDENTITY: self._identity}
        await self._ask(f"STREAM.UPDATE.{stream}", config)

    async def ids_end(self) -> int | None:
        """The last block that was handed out; None where `MEMSYNC_IDS` does not exist."""
        try:
            reply = await self._ask(f"STREAM.INFO.{subjects.IDS_STREAM}", {})
        except _Missing:
            return None
        return int(reply["state"]["last_seq"])

    async def create_ids(self, first_block: int) -> None:
        """Make `MEMSYNC_IDS` so that its first block is `first_block`."""
        await self._add(
            api.StreamConfig(
                name=subjects.IDS_STREAM,
                description="memsync id blocks: the sequence of a PubAck is a block",
                subjects=[subjects.IDS_SUBJECT],
                retention=api.RetentionPolicy.LIMITS,
                storage=api.StorageType.FILE,
                num_replicas=self._replicas,
                max_msgs=1,
                first_seq=first_block,
            )
        )

    async def delete_ids(self) -> None:
        """Take `MEMSYNC_IDS` away; for one that hands out blocks that were handed out before."""
        try:
            await self._ask(f"STREAM.DELETE.{subjects.IDS_STREAM}", {})
        except _Missing:
            pass  # somebody else was faster

    async def trim(self, stripe: int, generation: int, *, first_sequence: int) -> None:
        """Take everything before `first_sequence` out of a stream."""
        if first_sequence <= 1:
            await self.state(stripe, generation)  # to the server, 0 stands for "all of it"
            return
        stream = self._cell.stream(stripe, generation)
        await self._ask(f"STREAM.PURGE.{stream}", {"seq": first_sequence})

    async def step_down(self, stripe: int, generation: int, *, preferred: str) -> None:
        """Ask the leader of a stripe to hand over to `preferred`."""
        stream = self._cell.stream(stripe, generation)
        body = {"placement": {"preferred": preferred}}
        await self._ask(f"STREAM.LEADER.STEPDOWN.{stream}", body)

    async def _add(self, config: api.StreamConfig) -> None:
        try:
            await self._jetstream.add_stream(config)
        except jetstream_errors.APIError as error:
            if error.err_code != IN_USE:
                raise Unavailable(f"{config.name}: {error.err_code} {error.description}") from error
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise Unavailable(f"{config.name} not made: {type(error).__name__}") from error

    async def _ask(self, request: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            reply = await self._client.request(
                "$JS.API." + request, json.dumps(body).encode(), timeout=ADMIN_TIMEOUT_S
            )
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise Unavailable(f"JetStream {request}: {type(error).__name__}") from error
        answer: dict[str, Any] = json.loads(reply.data)
        if fault := answer.get("error"):
            kind = _Missing if fault.get("code") == 404 else Unavailable
            raise kind(f"JetStream {request}: {fault.get('err_code')} {fault.get('description')}")
        return answer


class _Missing(Unavailable):
    """The meta leader says that there is no such stream."""
