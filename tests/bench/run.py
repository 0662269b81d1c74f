"""A caller's connection by the official client library, and short texts by number."""

from __future__ import annotations

import json

import nats
from nats.aio.client import Client

from tests.system.conftest import Cluster

WORDS = [
    "harbour", "lamp", "garden", "winter", "train", "letter", "bridge", "market", "river", "coffee",
    "violin", "paper", "island", "window", "teacher", "mountain", "ticket", "blanket", "orchard",
]  # fmt: skip


def text_of(number: int) -> str:
    """A sentence of about a dozen words, the same for the same number."""
    picked = [WORDS[(number * 7 + i * i * 3 + i) % len(WORDS)] for i in range(12)]
    return f"Note {number}: " + " ".join(picked)


async def connect(cluster: Cluster, server: int, user: str) -> Client:
    """A connection to one server."""
    credentials = json.loads((cluster.home / f"{user}.creds").read_text())
    return await nats.connect(
        cluster.nats_url(server),
        user=credentials["user"],
        password=credentials["password"],
        inbox_prefix=credentials["inbox_prefix"],
    )
