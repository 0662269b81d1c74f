"""How a peer's own HTTP port tells a gateway of its cell from a caller: by a proof over the ids
that the gateway fixed.

The secret is the password of the cell's own user of the bus, which gateways and peers have anyway.
The proof is HMAC-SHA256 (RFC 2104) over what a write is known by; it says nothing to who sees it
but that these ids may be used for this very write.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from memsync.wire import context

_COVERED = (context.IDS, context.OPERATION_KEY, context.IDEMPOTENCY_KEY, context.API_KEY,
            context.AUTHORIZATION)  # fmt: skip


def ids_proof(secret: str, operation: str, headers: Mapping[str, str]) -> str:
    """The proof, in hex, for the ids in these headers; "" where there is no secret or no ids."""
    found = {name.lower(): value for name, value in headers.items()}
    if not secret or context.IDS.lower() not in found:
        return ""
    covered = [operation, *(found.get(name.lower(), "") for name in _COVERED)]
    text = "\0".join(covered).encode("utf-8", "surrogatepass")
    return hmac.new(secret.encode(), text, "sha256").hexdigest()


def is_proven(secret: str, operation: str, headers: Mapping[str, str]) -> bool:
    """Whether who sent these headers has the secret."""
    wanted = ids_proof(secret, operation, headers)
    given = {name.lower(): value for name, value in headers.items()}
    said = given.get(context.IDS_PROOF.lower(), "")
    return bool(wanted) and hmac.compare_digest(wanted.encode(), said.encode("utf-8", "replace"))
