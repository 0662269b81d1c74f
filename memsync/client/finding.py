"""Where the cluster is and which key opens it: what the caller says, else the environment, else a
local home.

The key of a local home is sent to addresses of this machine only; for any other address the caller
gives one, itself or in `MEMSYNC_API_KEY`.
"""

from __future__ import annotations

import ipaddress
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import msgspec

from memsync import config
from memsync.errors import ConfigurationError, NoCluster
from memsync.homes import HOME_DEFAULT, HOME_VARIABLE, HOST, HTTP_PORT, Home, offset_from

URL_VARIABLE = "MEMSYNC_URL"
NATS_URL_VARIABLE = "MEMSYNC_NATS_URL"
KEY_VARIABLE = "MEMSYNC_API_KEY"
HTTP_SCHEMES = ("http", "https")
NATS_SCHEMES = ("nats", "tls")
START = "start one with memsync dev, or scripts/up in a checkout"


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
        """Whether every address is one of this machine."""
        return _are_loopback([self.url] if self.url else self.nats_servers)


def find(
    environment: Mapping[str, str],
    *,
    url: str | None = None,
    servers: str | Sequence[str] | None = None,
    home: Path | None = None,
    api_key: str | None = None,
    credentials: Path | None = None,
) -> Target:
    """The cluster that is meant. `servers` are NATS servers, in a list or separated by commas.

    Raises `NoCluster` where none is found, `ConfigurationError` for whatever is wrong with what
    was said; both say what to do.
    """
    if url and servers:
        raise ConfigurationError("url and servers (--url and --nats-url): give only one of them")
    found = find_home(environment, home)
    if not url and not servers:
        url, servers = environment.get(URL_VARIABLE), environment.get(NATS_URL_VARIABLE)
    if url and servers:
        raise ConfigurationError(
            f"{URL_VARIABLE} and {NATS_URL_VARIABLE} are both set: unset one, or name the address"
        )
    given = api_key if api_key is not None else environment.get(KEY_VARIABLE, "").strip()
    if servers:
        return _bus_target(servers, found, given, credentials)
    if not url and found is None:
        raise NoCluster(f"no cluster found in {_places(environment, home)}: {START}, {_OR}")
    is_homes_own = not url and found is not None
    address = home_url(found, environment) if not url and found else checked_url(url)
    key = _api_key(given, [address], found)
    return Target(url=address, api_key=key, home=found, is_homes_own=is_homes_own)


_OR = f"or name one as url or servers (--url, --nats-url, {URL_VARIABLE}, {NATS_URL_VARIABLE})"


def find_home(environment: Mapping[str, str], named: Path | None = None) -> Home | None:
    """The home of a local cluster that was started at least once: the named one, or the nearest."""
    homes = (Home(path.absolute()) for path in _candidates(environment, named))
    return next((home for home in homes if home.key.is_file()), None)


def is_found(home: Home, environment: Mapping[str, str]) -> bool:
    """Whether who names no home finds this one from the current folder, once it is prepared."""
    homes = (Home(path.absolute()) for path in _candidates(environment, None))
    return next((one for one in homes if one == home or one.key.is_file()), None) == home


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
    """Where a local cluster listens for callers, as its own settings say: its gateways, or without
    any (`memsync dev`) its peer."""
    settings = home.config("gateway-1.toml")
    if settings.exists():
        return f"http://{HOST}:{config.load(settings, config.GatewaySettings).http_port}"
    only_peer = home.config("peer-1.toml")
    if only_peer.exists():
        return f"http://{HOST}:{config.load(only_peer, config.PeerSettings).http_port}"
    return f"http://{HOST}:{HTTP_PORT + offset_from(environment)}"


def starter(home: Home) -> str:
    """The command that starts the cluster of this home again, from the current folder."""
    chosen, path = os.environ.get(HOME_VARIABLE), shlex.quote(str(home.path))
    if home.config("gateway-1.toml").exists():
        is_default = Path(chosen or HOME_DEFAULT).absolute() == home.path
        return "scripts/up" if is_default else f"{HOME_VARIABLE}={path} scripts/up"
    is_default = Path(chosen or Path("~", HOME_DEFAULT).expanduser()).absolute() == home.path
    return "memsync dev" if is_default else f"memsync dev --home {path}"


def checked_url(text: str | None) -> str:
    """An HTTP address without a slash at its end; raises `ConfigurationError` for anything else."""
    parts = _split(text or "", HTTP_SCHEMES, "http://127.0.0.1:8080")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigurationError(
            f"url (--url, {URL_VARIABLE}): only scheme, host, port and path are allowed"
        )
    return parts.geturl().rstrip("/")


def _bus_target(
    named: str | Sequence[str], home: Home | None, api_key: str, credentials: Path | None
) -> Target:
    texts = named.split(",") if isinstance(named, str) else named
    servers = tuple(one.strip() for one in texts if one.strip())
    is_secret = any("@" in one for one in servers)  # perhaps a comma in a password cut it in two
    parts = [
        _split(
            one,
            NATS_SCHEMES,
            "nats://127.0.0.1:4222",
            shown=f"number {number} of servers" if is_secret and "@" not in one else None,
        )
        for number, one in enumerate(servers, 1)
    ]
    if not servers:
        raise ConfigurationError(f"servers (--nats-url, {NATS_URL_VARIABLE}): no address")
    if (
        credentials is None
        and home is not None
        and not parts[0].username
        and _are_loopback(servers)
    ):
        candidate = home.credentials("client")
        credentials = candidate if candidate.is_file() else None
    return Target(
        nats_servers=servers,
        credentials=credentials,
        api_key=_api_key(api_key, servers, home),
        home=home,
    )


def _split(
    text: str, schemes: tuple[str, ...], example: str, *, shown: str | None = None
) -> SplitResult:
    """The parts of an address. Nothing that may hold a password is said, so not urllib's reason."""
    shown = shown or repr(_without_password(text)[:200])
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError:
        raise ConfigurationError(f"{shown} is not an address like {example}") from None
    is_printable = text.strip().isprintable() and " " not in text.strip()
    if parts.scheme not in schemes or not parts.hostname or port == 0 or not is_printable:
        raise ConfigurationError(f"{shown} is not an address like {example}")
    return parts


def _api_key(given: str, addresses: Sequence[str], home: Home | None) -> str:
    if given:
        return _checked_key(given, f"api_key ({KEY_VARIABLE})")
    if home is not None and _are_loopback(addresses):
        return _checked_key(_read_key(home), str(home.key))
    why = f" (the key in {home.path} is sent to this machine only)" if home else ""
    raise ConfigurationError(f"no API key: give api_key or set {KEY_VARIABLE}{why}")


def _read_key(home: Home) -> str:
    try:
        return home.key.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{home.key}: cannot be read ({error})") from error


def _checked_key(key: str, origin: str) -> str:
    if not key.isascii() or not key.isprintable() or not key or " " in key:
        raise ConfigurationError(f"{origin}: this is not an API key")
    return key


def _are_loopback(addresses: Sequence[str]) -> bool:
    """Whether nothing that is sent to any of these leaves this machine."""
    return all(_is_loopback(address) for address in addresses)


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without_password(address: str) -> str:
    """The address without whatever stands before its last "@", wherever that is."""
    before, _, rest = address.rpartition("@")
    scheme, separator, _ = before.partition("://")
    return scheme + separator + rest if separator and scheme.isalpha() else rest
