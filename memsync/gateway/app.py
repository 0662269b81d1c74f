"""The HTTP face: one ASGI app, the same for gateways and for each peer's own port.

It translates routes to operations and asks a backend; it knows nothing of what an operation does.
"""

from __future__ import annotations

from starlette.types import ASGIApp

from memsync.gateway.middleware import AccessLog, AddressLimit, AnswerHeaders, ErrorMapping
from memsync.gateway.pages import add_pages
from memsync.gateway.routes import RouteTable, add_operations
from memsync.ports import Backend


def build_app(backend: Backend, *, name: str, secret: str = "") -> ASGIApp:
    """The app of the process `name`, in front of `backend`; `secret` is the cell's, by which a peer
    knows a gateway ("": nobody is known). The layers are joined here and not by
    Starlette, whose own (for lifespans, for errors that our layers handle) a request would pass,
    too."""
    routes = RouteTable()
    add_operations(routes, backend, secret=secret)
    add_pages(routes, backend, name)
    return AnswerHeaders(ErrorMapping(AccessLog(AddressLimit(routes))), name=name)
