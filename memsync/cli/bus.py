"""Operations as NATS requests on `memsync.v1.<operation>`: no gateway is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import nats.errors
from nats.aio.client import Client

from memsync import errors
from memsync.adapters.jetstream.connection import read_credentials
from memsync.cli.connection import CONNECT_TIMEOUT_S, Body, NoAnswerError, Reply
from memsync.cli.exits import NoClusterError
from memsync.cli.finding import Target
from memsync.wire import codec, context, subjects

ATTEMPT_S = 4.0  # the peer or a server on the way may have died: then no answer ever comes
_NOT_SENT = (
    nats.errors.OutboundBufferLimitError,
    nats.errors.ConnectionClosedError,
    nats.errors.ConnectionDrainingError,
)


class BusConnection:
    """A connection to the first server that lets us in; made anew when it broke."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._client: Client | None = None
        self._connecting = asyncio.Lock()

    async def call(self, operation: str, body: Body, headers: Mapping[str, str]) -> Reply:
        """See `connection.Connection`."""
        async with self._connecting:
            client = await self._connected()
        subject = subjects.CLIENT_PREFIX + operation
        try:
            message = await client.request(
                subject, codec.to_json(body), timeout=ATTEMPT_S, headers=dict(headers)
            )
        except nats.errors.NoRespondersError as error:
            raise NoClusterError(f"no memsync peer listens at {self._target.name}") from error
        except nats.errors.MaxPayloadError as error:
            raise errors.PayloadTooLarge("larger than the NATS server takes") from error
        except _NOT_SENT as error:
            raise NoClusterError(f"{self._target.name}: {error}") from error
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise NoAnswerError(f"{self._target.name}: {type(error).__name__}") from error
        found = {str(name).lower(): value for name, value in (message.headers or {}).items()}
        status = found.get(context.STATUS.lower(), "")
        if not status.isdecimal():
            raise NoClusterError(f"whoever answers at {self._target.name} is not memsync")
        return Reply(int(status), found, message.data)

    async def close(self) -> None:
        """See `connection.Connection`."""
        if self._client is not None:
            try:
                async with asyncio.timeout(1.0):
                    await self._client.close()
            except (TimeoutError, nats.errors.Error, OSError):
                pass  # nobody needs it any more

    async def _connected(self) -> Client:
        if self._client is not None and self._client.is_connected:
            return self._client
        failures: list[str] = []
        for server in self._target.nats_servers:
            try:
                self._client = await _connect(server, self._options(server))
                return self._client
            except (nats.errors.Error, OSError, TimeoutError) as error:
                if "authorization violation" in str(error).lower():
                    raise errors.Unauthenticated(
                        f"{self._target.name} refuses this user of the bus; give user and "
                        "password as nats://user:password@host:port"
                    ) from error
                failures.append(str(error) or type(error).__name__)
        raise NoClusterError(
            f"no NATS server answers at {self._target.name} ({'; '.join(failures)}): "
            "start a cluster with scripts/up"
        )

    def _options(self, server: str) -> dict[str, Any]:
        """User and password: those of the address, else of the home's credentials file."""
        parts = urlsplit(server)
        if parts.username is None:
            return read_credentials(str(self._target.credentials or ""))
        user = unquote(parts.username)
        # Where a user of type client may hear answers, by the convention of memsync's accounts.
        return {
            "user": user,
            "password": unquote(parts.password or ""),
            "inbox_prefix": f"_INBOX_{user}",
        }


async def _connect(server: str, options: dict[str, Any]) -> Client:
    parts = urlsplit(server)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    client = Client()
    await asyncio.wait_for(
        client.connect(
            servers=[f"{parts.scheme}://{host}:{parts.port or 4222}"],
            name="memsync-cli",
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=int(CONNECT_TIMEOUT_S),
            error_cb=_be_quiet,
            **options,
        ),
        CONNECT_TIMEOUT_S + 1.0,
    )
    return client


async def _be_quiet(error: Exception) -> None:
    """What goes wrong is raised where it matters; nats-py would also log it."""
