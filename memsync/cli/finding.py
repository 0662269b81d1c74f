"""Where the cluster is and which key opens it: an option, else the environment, else a local home.

The key of a local home is sent to addresses of this machine only; for any other address the caller
gives one in `MEMSYNC_API_KEY`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import msgspec

from memsync import config
from memsync.cli.exits import NoClusterError, UsageProblem
from memsync.errors import ConfigurationError
from memsync.local.home import HOME_DEFAULT, HOME_VARIABLE, Home
from memsync.local.ports import HOST, Ports, offset_from

URL_VARIABLE = "MEMSYNC_URL"
NATS_URL_VARIABLE = "MEMSYNC_NATS_URL"
KEY_VARIABLE = "MEMSYNC_API_KEY"
HTTP_SCHEMES = ("http", "https")
NATS_SCHEMES = ("nats", "tls")
START = "start one with scripts/up"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to ask: `url` or `nats_servers`, one of them. `home` is the local cluster's."""

    url: str | None = None
    nats_servers: tuple[str, ...] = ()
    credentials: Path | None = None
    api_key: str
    home: Home | None = None
    is_homes_own: bool = False  # the address is what the home says, not what the caller said

    @property
    def name(self) -> str:
        """The address for messages, without passwords."""
        return self.url or ", ".join(_without_password(server) for server in self.nats_servers)

    @property
    def is_local(self) -> bool:
        """Whether the address is one of this machine."""
        return _is_loopback(self.url or self.nats_servers[0])


def find(
    environment: Mapping[str, str],
    *,
    url: str | None = None,
    nats_url: str | None = None,
    home: Path | None = None,
) -> Target:
    """The cluster that is meant; raises `UsageProblem` or `NoClusterError` that says what to do."""
    if url and nats_url:
        raise UsageProblem("--url and --nats-url: give only one of them")
    found = find_home(environment, home)
    if not url and not nats_url:
        url, nats_url = environment.get(URL_VARIABLE), environment.get(NATS_URL_VARIABLE)
    if url and nats_url:
        raise UsageProblem(
            f"{URL_VARIABLE} and {NATS_URL_VARIABLE} are both set: unset one, or say --url"
        )
    if nats_url:
        return _bus_target(environment, nats_url, found)
    if not url and found is None:
        raise NoClusterError(f"no cluster found in {_places(environment, home)}: {START}, {_OR}")
    is_homes_own = not url and found is not None
    address = home_url(found, environment) if not url and found else checked_url(url)
    key = _api_key(environment, address, found)
    return Target(url=address, api_key=key, home=found, is_homes_own=is_homes_own)


_OR = f"or name one with --url or {URL_VARIABLE}"


def find_home(environment: Mapping[str, str], named: Path | None = None) -> Home | None:
    """The home of a local cluster that was started at least once: the named one, or the nearest."""
    homes = (Home(path.absolute()) for path in _candidates(environment, named))
    return next((home for home in homes if home.key.is_file()), None)


def _candidates(environment: Mapping[str, str], named: Path | None) -> list[Path]:
    if named is not None:
        return [named]
    if chosen := environment.get(HOME_VARIABLE):
        return [Path(chosen)]
    own = environment.get("HOME")
    return [Path(HOME_DEFAULT), *([Path(own, HOME_DEFAULT)] if own else [])]


def _places(environment: Mapping[str, str], named: Path | None) -> str:
    return " or ".join(str(path) for path in _candidates(environment, named))


def home_url(home: Home, environment: Mapping[str, str]) -> str:
    """Where the gateways of a local cluster listen, as its own settings say."""
    settings = home.config("gateway-1.toml")
    if settings.exists():
        return f"http://{HOST}:{config.load(settings, config.GatewaySettings).http_port}"
    return f"http://{HOST}:{Ports(offset_from(environment)).http}"


def checked_url(text: str | None) -> str:
    """An HTTP address without a slash at its end; raises `UsageProblem` for anything else."""
    parts = _split(text or "", HTTP_SCHEMES, "http://127.0.0.1:8080")
    if parts.query or parts.fragment or parts.username:
        raise UsageProblem(f"--url, {URL_VARIABLE}: only scheme, host, port and path are allowed")
    return parts.geturl().rstrip("/")


def _bus_target(environment: Mapping[str, str], text: str, home: Home | None) -> Target:
    servers = tuple(one.strip() for one in text.split(",") if one.strip())
    parts = [_split(one, NATS_SCHEMES, "nats://127.0.0.1:4222") for one in servers]
    if not servers:
        raise UsageProblem(f"--nats-url, {NATS_URL_VARIABLE}: no address")
    credentials = None
    if home is not None and not parts[0].username and _is_loopback(servers[0]):
        candidate = home.credentials("client")
        credentials = candidate if candidate.is_file() else None
    return Target(
        nats_servers=servers,
        credentials=credentials,
        api_key=_api_key(environment, servers[0], home),
        home=home,
    )


def _split(text: str, schemes: tuple[str, ...], example: str) -> SplitResult:
    shown = _without_password(text)[:200]
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise UsageProblem(f"{shown!r} is not an address: {error}") from error
    is_printable = text.strip().isprintable() and " " not in text.strip()
    if parts.scheme not in schemes or not parts.hostname or port == 0 or not is_printable:
        raise UsageProblem(f"{shown!r} is not an address like {example}")
    return parts


def _api_key(environment: Mapping[str, str], address: str, home: Home | None) -> str:
    given = environment.get(KEY_VARIABLE, "").strip()
    if given:
        return _checked_key(given, KEY_VARIABLE)
    if home is not None and _is_loopback(address):
        return _checked_key(_read_key(home), str(home.key))
    why = f" (the key in {home.path} is sent to this machine only)" if home else ""
    raise UsageProblem(f"no API key: set {KEY_VARIABLE}{why}")


def _read_key(home: Home) -> str:
    try:
        return home.key.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{home.key}: cannot be read ({error})") from error


def _checked_key(key: str, origin: str) -> str:
    if not key.isascii() or not key.isprintable() or not key or " " in key:
        raise UsageProblem(f"{origin}: this is not an API key")
    return key


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without_password(address: str) -> str:
    scheme, separator, rest = address.partition("://")
    return scheme + separator + rest.rpartition("@")[2] if separator else address
