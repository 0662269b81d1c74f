"""Bytes to structs and back: msgpack for the log and between peers, JSON for callers.

One encoder for everything that is hashed or stored, with sorted keys: equal values are equal bytes.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from memsync import errors
from memsync.wire import exchange, members, operations

T = TypeVar("T")

_msgpack = msgspec.msgpack.Encoder(order="deterministic")
_json = msgspec.json.Encoder()
_frame_decoder = msgspec.msgpack.Decoder(operations.Frame)
_told_decoder: msgspec.msgpack.Decoder[members.Told] = msgspec.msgpack.Decoder(members.Told)
_wanted_decoder: msgspec.msgpack.Decoder[exchange.Wanted] = msgspec.msgpack.Decoder(exchange.Wanted)
_json_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_content_decoder = msgspec.msgpack.Decoder(operations.Content)


def pack(value: Any) -> bytes:
    """Canonical msgpack: equal values give equal bytes."""
    return _msgpack.encode(value)


def pack_given(given: exchange.Given) -> bytes:
    """Msgpack of what a member gives. It is neither hashed nor stored, so the order of its maps,
    whose keys are not strings, does not matter."""
    return msgspec.msgpack.encode(given)


def unpack(data: bytes, kind: type[T]) -> T:
    """Decode msgpack; raises `msgspec.DecodeError` for whatever is not a `kind`."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"a string is not UTF-8: {error}") from error


def decode_frame(data: bytes) -> operations.Frame:
    """Read a log message; raises `InvariantBroken` for one that this version cannot read."""
    try:
        frame = _frame_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.InvariantBroken(f"unreadable frame of {len(data)} bytes: {error}") from error
    if frame.schema != operations.SCHEMA:
        raise errors.InvariantBroken(
            f"frame schema {frame.schema}, this version reads {operations.SCHEMA}: upgrade it"
        )
    return frame


def decode_told(data: bytes) -> members.Told:
    """Read what a member told; raises `msgspec.DecodeError`."""
    try:
        return _told_decoder.decode(data)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"a string is not UTF-8: {error}") from error


def decode_wanted(data: bytes) -> exchange.Wanted:
    """Read what a member asks of another; raises `msgspec.DecodeError`."""
    try:
        return _wanted_decoder.decode(data)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"a string is not UTF-8: {error}") from error


def seal(content: Any) -> operations.Envelope:
    """Put content into a clear envelope."""
    return operations.Envelope(operations.KEY_ID_CLEAR, pack(content))


def _opened(envelope: operations.Envelope) -> bytes:
    if envelope.key_id != operations.KEY_ID_CLEAR:
        raise errors.InvariantBroken(
            f"envelope sealed with key {envelope.key_id}: no such key here"
        )
    return envelope.data


def open_content(envelope: operations.Envelope) -> operations.Content:
    """Read a memory's content."""
    return _content_decoder.decode(_opened(envelope))


def open_as(envelope: operations.Envelope, kind: type[T]) -> T:
    """Read an envelope that holds something other than a whole content."""
    return unpack(_opened(envelope), kind)


def to_json(value: Any) -> bytes:
    """JSON for callers."""
    return _json.encode(value)


def from_json(data: bytes, kind: type[T]) -> T:
    """Read a caller's JSON; raises `InvalidJson` or `ValidationFailed` ("field: reason")."""
    data = data or b"{}"
    try:
        try:
            return _json_decoder(kind).decode(data)
        except msgspec.ValidationError as error:
            # The decoder stopped at the first wrong type: is all of it JSON?
            msgspec.json.decode(data, type=msgspec.Raw)
            raise invalid(*field_and_reason(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.InvalidJson(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise errors.InvalidJson(
            "the body is not JSON that can be read: nested too deep"
        ) from error


def _json_decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """One for each type that is read: made at each body, it takes as long as the body."""
    decoder = _json_decoders.get(kind)
    if decoder is None:
        decoder = _json_decoders[kind] = msgspec.json.Decoder(kind)
    return decoder


def field_and_reason(error: msgspec.ValidationError) -> tuple[str, str]:
    """Take msgspec's "reason - at `$.field`" apart."""
    reason, _, place = str(error).partition(" - at ")
    field = place.strip("`").removeprefix("$").removeprefix(".") if place else ""
    if reason.startswith("Object contains unknown field `"):
        name = reason.removeprefix("Object contains unknown field `").rstrip("`")
        return (f"{field}.{name}" if field else name), "unknown field"
    if reason.startswith("Object missing required field `"):
        name = reason.removeprefix("Object missing required field `").rstrip("`")
        return (f"{field}.{name}" if field else name), "required"
    return field or "body", reason


def invalid(field: str, reason: str) -> errors.ValidationFailed:
    """A 422 for one field."""
    return errors.ValidationFailed(
        f"{field}: {reason}", details=[{"field": field, "reason": reason}]
    )
