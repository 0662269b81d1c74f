"""One question to another member for what it holds."""

from __future__ import annotations

import msgspec

from memsync import limits
from memsync.errors import Unavailable
from memsync.ports import Peers
from memsync.wire import codec
from memsync.wire.exchange import Given, Wanted


async def ask(peers: Peers, member: str, wanted: Wanted) -> Given:
    """The answer; one that does not come, or cannot be read, is a refusal."""
    try:
        data = await peers.ask_rows(member, codec.pack(wanted), timeout_s=limits.EXCHANGE_TIMEOUT_S)
        return codec.unpack(data, Given)
    except Unavailable as error:
        return Given(0, [], refusal=error.message)
    except msgspec.DecodeError as error:
        return Given(0, [], refusal=f"its answer is unreadable: {error}")
