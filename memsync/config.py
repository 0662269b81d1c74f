"""What an operator sets: TOML files read into frozen structs, checked field by field.

A wrong file raises `ConfigurationError` with the file, the field and what to do; processes then
exit with 2 and their keeper does not start them again. The README's tables are made from the
docstrings here by `scripts/config_table`.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

import msgspec

from memsync import limits
from memsync.errors import ConfigurationError

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Profile = Annotated[str, msgspec.Meta(pattern=r"^(development|production)$")]

GIB = 1024**3
CLOCK_OFFSET_S_MAX = 1e9
NATS_SCHEMES = ("nats", "tls")
HTTP_SCHEMES = ("http", "https")


class NatsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to reach the bus."""

    servers: Annotated[list[str], msgspec.Meta(min_length=1)]
    """`nats://host:port` of every server, the preferred one first."""
    credentials: str = ""
    """Path of a JSON file {"user", "password", "inbox_prefix"} (mode 0600); "" = no accounts."""
    system_credentials: str = ""
    """The same for the system account; peers use it to read each server's settings. "" = not
    checked in development, not ready for writes in production."""


class PeerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of one peer."""

    name: Name
    """Which member of the genesis file this process is."""
    genesis: str
    """Path of genesis.json, the same file on every peer of the cell."""
    data_dir: str
    """Where the store lives; made at start (mode 0700). Needs about 4 KB for each memory."""
    http_host: str = "127.0.0.1"
    """Address of the peer's own HTTP port. Open it to gateways only."""
    http_port: Port = 8081
    """Port of the peer's own HTTP port (0 is not allowed: gateways must know it)."""
    nats: NatsSettings
    """How to reach the bus."""
    profile: Profile = "production"
    """`development` accepts a bus with lazy fsync; `production` is then not ready for writes."""
    log_replicas: Annotated[int, msgspec.Meta(ge=1, le=5)] = 3
    """Copies of each log stream on the bus. 1 is for a laptop: it survives no loss of a server."""
    stripe_bytes_max: Annotated[int, msgspec.Meta(ge=16 * 1024 * 1024)] = 8 * GIB
    """`max_bytes` of each of the three log streams; taken when a stream is made, a later change has
    no effect on it. Lower: less disk. Higher: more can be written before the log is full (it is not
    trimmed yet, messages leave it after 7 days)."""
    hot_index_bytes_max: Positive = limits.HOT_INDEX_BYTES_MAX_DEFAULT
    """Memory for the loaded recall indexes; the longest unused scope goes first. Lower: more
    loading from SQLite. Higher: more memory."""
    embedder: Annotated[str, msgspec.Meta(pattern=r"^(static|none)$")] = "static"
    """`static` is the model in the wordllama wheel; `none` recalls by words only (tagged
    `embedding`)."""
    log_dir: str = ""
    """Where log files go (rotated at 10 MB, 5 kept); "" = standard error."""
    clock_offset_s: Annotated[
        float, msgspec.Meta(ge=-CLOCK_OFFSET_S_MAX, le=CLOCK_OFFSET_S_MAX)
    ] = 0.0
    """Shifts the wall clock, for tests; refused outside profile `development`."""


class GatewaySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of one gateway."""

    name: Name
    """Appears in logs, metrics and X-Served-By."""
    region: Name = "local"
    """The region of the cell, as in genesis.json."""
    cell: Name = "cell"
    """The cell that is served, as in genesis.json."""
    peers: Annotated[dict[str, str], msgspec.Meta(min_length=1)]
    """Member name -> `http://host:port` of its own HTTP port: the way when the bus is gone."""
    nats: NatsSettings
    """How to reach the bus."""
    id_space: Annotated[int, msgspec.Meta(ge=0, lt=1 << limits.ID_SPACE_BITS)] = 0
    """The id space of the NATS cluster, as in genesis.json."""
    http_host: str = "127.0.0.1"
    """Address to listen on where the keeper passes no socket."""
    http_port: Port = 8080
    """Port to listen on where the keeper passes no socket."""
    log_dir: str = ""
    """Where log files go (rotated at 10 MB, 5 kept); "" = standard error."""


Settings = TypeVar("Settings", PeerSettings, GatewaySettings)


def load(path: Path, kind: type[Settings]) -> Settings:
    """Read a settings file; raises `ConfigurationError` that names the file and the field."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not TOML (not UTF-8, byte {error.start})") from error
    try:
        settings = msgspec.convert(tomllib.loads(text), kind)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not TOML ({error})") from error
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: {_field_first(str(error))}") from error
    for server in settings.nats.servers:
        _check_url(path, "nats.servers", server, NATS_SCHEMES)
    if isinstance(settings, PeerSettings):
        _check_peer(path, settings)
    else:
        for member, url in settings.peers.items():
            _check_url(path, f"peers.{member}", url, HTTP_SCHEMES)
    return settings


_ABOUT_A_FIELD = {
    "Object missing required field ": "required",
    "Object contains unknown field ": "unknown field",
}


def _field_first(message: str) -> str:
    """msgspec says "reason - at `$.field`"; an operator looks for the field first."""
    reason, _, place = message.partition(" - at ")
    field = place.strip("`").removeprefix("$.") if place else ""
    for said, meant in _ABOUT_A_FIELD.items():
        if reason.startswith(said):
            name = reason.removeprefix(said).strip("`")
            field, reason = (f"{field}.{name}" if field else name), meant
    return f"{field}: {reason}" if field else reason


def _check_url(path: Path, field: str, url: str, schemes: tuple[str, ...]) -> None:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in schemes and bool(parts.hostname) and parts.port is not None
    except ValueError:  # a port that is none, or half of an IPv6 address
        is_good = False
    if not is_good or " " in url:
        shown = url.rpartition("@")[2]  # without a password
        raise ConfigurationError(f"{path}: {field}: {shown!r} is not like {schemes[0]}://host:port")


def _check_peer(path: Path, settings: PeerSettings) -> None:
    if settings.clock_offset_s and settings.profile != "development":
        raise ConfigurationError(
            f'{path}: clock_offset_s: only for tests; set profile = "development" or remove it'
        )
