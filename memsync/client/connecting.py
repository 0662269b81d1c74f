"""`memsync.connect` and `memsync.connect_sync`: whom to ask, as whom, and how."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from memsync.client import finding
from memsync.client.calling import Settings
from memsync.client.memory import Client
from memsync.client.synchronous import SyncClient
from memsync.wire.requests import Ack, Consistency

USER_VARIABLE = "MEMSYNC_END_USER"


class ConnectOptions(TypedDict, total=False):
    """What `connect` takes.

    `servers`: NATS servers (`nats://host:port`, also `nats://user:password@host:port`), in a list
    or separated by commas; or `url`: the address of a gateway or peer. Without both: the
    environment's MEMSYNC_URL or MEMSYNC_NATS_URL, else the local cluster in `home`, else in
    $MEMSYNC_HOME, ./.memsync or ~/.memsync, whose key and credentials are then used, too.
    `credentials`: a JSON file with user and password for NATS. `api_key`: else MEMSYNC_API_KEY.
    `end_user`: whose memories (else MEMSYNC_END_USER). `timeout_s`: for each call, all its attempts
    included; default 10. `ack`: log, quorum (default) or all; `consistency`: local, session
    (default) or strong. `reads_own_writes`: False lets reads be older than this client's writes.
    `retries`: False raises a refusal at once (what was lost is asked for again all the same).
    """

    servers: str | Sequence[str] | None
    url: str | None
    api_key: str | None
    project: str | None
    end_user: str | None
    credentials: str | Path | None
    home: str | Path | None
    timeout_s: float
    ack: Ack | None
    consistency: Consistency | None
    reads_own_writes: bool
    retries: bool


_TARGET = ("servers", "url", "api_key", "credentials", "home")


def connect(**options: Unpack[ConnectOptions]) -> Client:
    """A client, to be used as `async with memsync.connect(...) as memory:`. Nothing is sent yet.

    Raises `NoCluster` where no cluster is named or found, `ConfigurationError` for an address,
    key or file that cannot be right. See `ConnectOptions` for what it takes.
    """
    home, credentials = options.get("home"), options.get("credentials")
    target = finding.find(
        os.environ,
        url=options.get("url"),
        servers=options.get("servers"),
        home=Path(home) if home else None,
        api_key=options.get("api_key"),
        credentials=Path(credentials) if credentials else None,
    )
    rest = {name: value for name, value in options.items() if name not in _TARGET}
    rest["end_user"] = options.get("end_user") or os.environ.get(USER_VARIABLE) or None
    return Client(target, Settings(**rest))  # type: ignore[arg-type]


def connect_sync(**options: Unpack[ConnectOptions]) -> SyncClient:
    """The same for scripts: `with memsync.connect_sync(...) as memory:`, and no `await`."""
    return SyncClient(connect(**options))
