"""The configuration of the local nats-servers, filled into the templates beside this file."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path
from string import Template

from memsync import limits
from memsync.errors import ConfigurationError
from memsync.local import secrets
from memsync.local.home import CREDENTIALS, Home, write_private
from memsync.local.ports import HOST, Ports

TEMPLATES = Path(__file__).parent
STAMP = "# made by memsync.local, stamp "
MEMORY_BYTES_MAX = 64 * 1024 * 1024  # no stream of ours is in memory
SMALL_STREAMS_BYTES = 256 * 1024 * 1024  # ids and jobs
GENERATIONS = limits.STRIPES + 1  # a stripe's next generation is made before the old one is let go


def file_bytes_max(stripe_bytes_max: int) -> int:
    """What one server may store: every stripe, one more generation, and the small streams."""
    return GENERATIONS * stripe_bytes_max + SMALL_STREAMS_BYTES


def write(home: Home, ports: Ports, stripe_bytes_max: int) -> None:
    """Write the configuration of every server, unless it is there and would be made the same now.

    So a file that somebody changed is kept, while new ports, passwords or templates take effect.
    """
    for number in range(1, ports.servers + 1):
        text = render(home, ports, number, stripe_bytes_max)
        stamp = STAMP + blake2b(text.encode(), digest_size=16).hexdigest() + "\n"
        path = home.config(f"nats-{number}.conf")
        if _first_line(path) != stamp:
            write_private(path, stamp + text)


def render(home: Home, ports: Ports, number: int, stripe_bytes_max: int) -> str:
    """The configuration of server `number`; a single server gets no cluster block."""
    name = f"nats-{number}"
    values = {
        "name": name,
        "host": HOST,
        "port": str(ports.nats(number)),
        "region": secrets.REGION,
        "log_file": _quoted(str(home.log(name))),
        "store_dir": _quoted(str(home.data(name))),
        "file_bytes_max": str(file_bytes_max(stripe_bytes_max)),
        "memory_bytes_max": str(MEMORY_BYTES_MAX),
        **_users(home),
    }
    values["cluster"] = _cluster(ports, number, values) if ports.servers > 1 else ""
    return _template("nats.conf.tmpl").substitute(values)


def _cluster(ports: Ports, number: int, values: dict[str, str]) -> str:
    user, password = json.loads(values["route_user"]), json.loads(values["route_password"])
    routes = ", ".join(
        _quoted(f"nats-route://{user}:{password}@{HOST}:{ports.route(other)}")
        for other in range(1, ports.servers + 1)
    )
    ours = {"route_port": str(ports.route(number)), "routes": routes}
    return _template("nats-cluster.conf.tmpl").substitute(values | ours)


def _users(home: Home) -> dict[str, str]:
    found: dict[str, str] = {}
    for user in CREDENTIALS:
        known = secrets.credentials(home, user)
        found[f"{user}_user"] = _quoted(known.user)
        found[f"{user}_password"] = _quoted(known.password)
        found[f"{user}_inbox"] = known.inbox_prefix
    return found


def _quoted(text: str) -> str:
    """As a string of the server's configuration language, which reads JSON's."""
    return json.dumps(text, ensure_ascii=False)


def _template(name: str) -> Template:
    try:
        return Template((TEMPLATES / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"{TEMPLATES / name}: cannot be read ({error.strerror})"
        ) from error


def _first_line(path: Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline()
    except FileNotFoundError:
        return ""
