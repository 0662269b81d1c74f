"""Every subject and stream name on the bus, made here and nowhere else.

    memsync.v1.<operation>                          callers' requests, to any peer (queue group)
    memsync.peer.<region>.<cell>.<member>.<op>      a gateway's requests, to one peer
    memsync.log.<region>.<cell>.<k>.f               frames, stored by stripe k's stream
    memsync.log.<region>.<cell>.<k>.r.<record>      conditional updates of one record, the same
    memsync.tail.<region>.<cell>.<k>.f              the same, republished after they are stored
    memsync.mark.<region>.<cell>.<member>           what members tell all others (watermarks, ...)
    memsync.told.<region>.<cell>.<member>           what one member is told alone
    memsync.roster.<region>.<cell>.<member>         who the members are, for gateways, too
    memsync.news.<region>.<cell>.<member>           what peers tell gateways of changes
    memsync.rows.<region>.<cell>.<member>           one member's rows, for another member
    memsync.ids.block, memsync.ids.leased           id blocks: handed out; told to all who lease

Names are checked where they enter (`config.Name`), so none can smuggle a wildcard or a dot.
"""

from __future__ import annotations

import msgspec

IDS_STREAM = "MEMSYNC_IDS"
IDS_SUBJECT = "memsync.ids.block"
IDS_LEASED = "memsync.ids.leased"
CLIENT_PREFIX = "memsync.v1."
CLIENT_ALL = "memsync.v1.>"
CLIENT_QUEUE = "memsync-peers"
SERVERS_VARZ = "$SYS.REQ.SERVER.PING.VARZ"
SERVERS_JSZ = "$SYS.REQ.SERVER.PING.JSZ"


class CellName(msgspec.Struct, frozen=True):
    """A cell of a region, as it stands in subjects."""

    region: str
    cell: str

    @property
    def _dotted(self) -> str:
        return f"{self.region}.{self.cell}"

    def log(self, stripe: int) -> str:
        """Where frames of a stripe are published."""
        return f"memsync.log.{self._dotted}.{stripe}.f"

    def record(self, stripe: int, record: bytes) -> str:
        """A record's own subject, for conditional updates."""
        return f"memsync.log.{self._dotted}.{stripe}.r.{record.hex()}"

    def log_all(self, stripe: int) -> str:
        """What the stripe's stream stores."""
        return f"memsync.log.{self._dotted}.{stripe}.>"

    def tail_all(self, stripe: int) -> str:
        """Where the stripe's stored frames appear."""
        return f"memsync.tail.{self._dotted}.{stripe}.>"

    def mark(self, member: str) -> str:
        """Where a member publishes what it tells all others."""
        return f"memsync.mark.{self._dotted}.{member}"

    def told(self, member: str) -> str:
        """Where a member hears what only it is told."""
        return f"memsync.told.{self._dotted}.{member}"

    def roster(self, member: str) -> str:
        """Where a process tells which members it goes by, to whoever listens."""
        return f"memsync.roster.{self._dotted}.{member}"

    def news(self, member: str) -> str:
        """Where a member tells gateways what changed."""
        return f"memsync.news.{self._dotted}.{member}"

    def rows(self, member: str) -> str:
        """Where a member is asked for rows."""
        return f"memsync.rows.{self._dotted}.{member}"

    def peer(self, member: str, operation: str) -> str:
        """One peer's own requests."""
        return f"memsync.peer.{self._dotted}.{member}.{operation}"

    def stream(self, stripe: int, generation: int) -> str:
        """The name of the stream that is this generation of a stripe."""
        return f"{self._stream_prefix(stripe)}{generation}"

    def generation_of(self, stripe: int, stream: str) -> int | None:
        """The generation in a stream's name; None for a stream that is not of this stripe."""
        prefix = self._stream_prefix(stripe)
        number = stream.removeprefix(prefix)
        return int(number) if stream.startswith(prefix) and number.isdecimal() else None

    def _stream_prefix(self, stripe: int) -> str:
        name = f"{self.region}_{self.cell}".replace("-", "_").upper()
        return f"MEMSYNC_{name}_{stripe}_"
