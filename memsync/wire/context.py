"""What travels beside a body: the headers of a request and of its answer, the same over HTTP and
NATS."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from memsync import errors, limits
from memsync.ids import OperationKey, Position, new_operation_key, random_hex
from memsync.wire import codec
from memsync.wire.requests import Ack, Consistency

API_KEY = "X-API-Key"
AUTHORIZATION = "Authorization"
PROJECT = "X-Project-ID"
END_USER = "X-End-User-ID"
IDEMPOTENCY_KEY = "Idempotency-Key"
IDEMPOTENCY_REPLAYED = "Idempotency-Replayed"
ACK = "Memsync-Ack"
CONSISTENCY = "Memsync-Consistency"
MIN_POSITION = "Memsync-Min-Position"
POSITION = "Memsync-Position"
DEADLINE_MS = "Memsync-Deadline-Ms"
TRACE_PARENT = "traceparent"
REQUEST_ID = "X-Request-ID"
TRACE_ID = "X-Trace-ID"
STATUS = "Memsync-Status"
RETRY_AFTER = "Retry-After"
DEGRADED = "Memsync-Degraded"  # of a recall's answer: its `degraded_components`, comma-separated
PASSED = "Memsync-Passed"  # from a peer that could not answer well itself: it is not passed again
OPERATION_KEY = "Memsync-Operation-Key"  # fixed by a gateway: "<key>", not the caller's own
IDS = "Memsync-Ids"  # fixed by a gateway: "<first id>-<last id>" that the write may use
IDS_PROOF = "Memsync-Ids-Proof"  # over HTTP: that a gateway of this cell fixed them (wire/proof)

FORWARDED = (
    API_KEY, AUTHORIZATION, PROJECT, END_USER, IDEMPOTENCY_KEY, ACK, CONSISTENCY, MIN_POSITION,
    DEADLINE_MS, TRACE_PARENT, REQUEST_ID, OPERATION_KEY, IDS, IDS_PROOF,
)  # fmt: skip
_LOWER = {name: name.lower() for name in (*FORWARDED, PASSED)}
_HEX = "0123456789abcdef"


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """One request's circumstances. `deadline_s` counts from its arrival; ids are a closed range."""

    request_id: str
    trace_id: str
    api_key: str | None
    project: str | None
    end_user: str | None
    operation_key: OperationKey
    key_is_callers: bool
    key_is_new: bool
    """Whether the key was made for this very request: no other attempt of it can be anywhere."""
    ids: tuple[int, int] | None
    ack: Ack | None  # None: what the organisation has set
    consistency: Consistency
    min_positions: tuple[Position, ...]
    deadline_s: float
    is_passed: bool


def read_context(headers: Mapping[str, str]) -> Context:
    """Read the headers of a request; raises `ValidationFailed` that names the header."""
    return context_of({name.lower(): value for name, value in headers.items()})


def context_of(found: Mapping[str, str]) -> Context:
    """As `read_context`, of headers whose names are in lower case already."""
    callers_key = found.get(_LOWER[IDEMPOTENCY_KEY])
    if callers_key is not None:
        _check_key(callers_key)
    key = callers_key or found.get(_LOWER[OPERATION_KEY])
    return Context(
        request_id=request_id_of(found),
        trace_id=_trace_id(found.get(TRACE_PARENT)),
        api_key=_api_key(found),
        project=found.get(_LOWER[PROJECT]) or None,
        end_user=found.get(_LOWER[END_USER]) or None,
        operation_key=OperationKey(key) if key else new_operation_key(),
        key_is_callers=callers_key is not None,
        key_is_new=not key,
        ids=_id_range(found.get(_LOWER[IDS])),
        ack=_choice(ACK, found, ("log", "quorum", "all"), None),  # type: ignore[arg-type]
        consistency=_choice(  # type: ignore[arg-type]
            CONSISTENCY, found, ("local", "session", "strong"), "session"
        ),
        min_positions=parse_positions(found.get(_LOWER[MIN_POSITION], "")),
        deadline_s=_deadline(found.get(_LOWER[DEADLINE_MS])),
        is_passed=_LOWER[PASSED] in found,
    )


def request_id_of(headers: Mapping[str, str]) -> str:
    """The caller's request id where it is fit for a log, else a new one."""
    given = headers.get(_LOWER[REQUEST_ID], "")
    if 1 <= len(given) <= 128 and given.isascii() and given.isprintable():
        return given
    return "req_" + random_hex()[:16]


def format_positions(positions: tuple[Position, ...] | list[Position]) -> str:
    """Positions as the opaque string that callers carry along."""
    return ",".join(f"{p.stripe}.{p.generation}.{p.sequence}" for p in positions)


def parse_positions(text: str) -> tuple[Position, ...]:
    """The positions in an opaque string of ours; raises `ValidationFailed` for any other string."""
    if not text:
        return ()
    try:
        parts = [tuple(int(number) for number in part.split(".")) for part in text.split(",")]
        positions = tuple(Position(*part) for part in parts)
    except (ValueError, TypeError) as error:
        raise codec.invalid(MIN_POSITION, "not a position that memsync answered") from error
    for position in positions:
        if (
            not 0 <= position.stripe < limits.STRIPES
            or min(position.generation, position.sequence) < 0
        ):
            raise codec.invalid(MIN_POSITION, "not a position that memsync answered")
    return positions


def _check_key(key: str) -> None:
    if not 1 <= len(key) <= limits.IDEMPOTENCY_KEY_CHARS_MAX or not key.isprintable():
        raise codec.invalid(
            IDEMPOTENCY_KEY, f"1 to {limits.IDEMPOTENCY_KEY_CHARS_MAX} printable characters"
        )
    if key.startswith("~"):
        raise codec.invalid(IDEMPOTENCY_KEY, "must not begin with ~")


def _trace_id(trace_parent: str | None) -> str:
    """The trace id of a W3C `traceparent` (version-trace-parent-flags), else a new one."""
    if trace_parent is not None:
        parts = trace_parent.split("-")
        if len(parts) >= 4 and len(parts[1]) == 32 and not parts[1].strip(_HEX):
            return parts[1]
    return random_hex()


def _api_key(headers: Mapping[str, str]) -> str | None:
    if key := headers.get(_LOWER[API_KEY]):
        return key
    kind, _, token = headers.get(_LOWER[AUTHORIZATION], "").partition(" ")
    return token.strip() or None if kind.lower() == "bearer" else None


def _id_range(text: str | None) -> tuple[int, int] | None:
    if not text:
        return None
    try:
        first, last = (int(part) for part in text.split("-"))
    except ValueError as error:
        raise errors.InvalidRequest(f"{IDS}: not a range of ids") from error
    return first, last


def _choice(
    name: str, headers: Mapping[str, str], allowed: tuple[str, ...], default: str | None
) -> str | None:
    value = headers.get(_LOWER[name])
    if value is None:
        return default
    if value not in allowed:
        raise codec.invalid(name, f"{value[:40]!r} is not one of {', '.join(allowed)}")
    return value


def _deadline(text: str | None) -> float:
    if text is None:
        return limits.DEADLINE_S_DEFAULT
    try:
        milliseconds = float(text)
    except ValueError as error:
        raise codec.invalid(DEADLINE_MS, "not a number of milliseconds") from error
    if not milliseconds >= 1:
        raise codec.invalid(DEADLINE_MS, "at least 1 millisecond")
    return min(milliseconds / 1000, limits.DEADLINE_S_MAX)
