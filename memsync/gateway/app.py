"""The HTTP face: one ASGI app, the same for gateways and for each peer's own port.

It translates routes to operations and asks a backend; it knows nothing of what an operation does.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Router

from memsync.gateway.middleware import AccessLog, AddressLimit, AnswerHeaders, ErrorMapping
from memsync.gateway.pages import add_pages
from memsync.gateway.routes import RouteTable, add_operations
from memsync.ports import Backend


def build_app(backend: Backend, *, name: str) -> Starlette:
    """The app of the process `name`, in front of `backend`."""
    routes = RouteTable()
    add_operations(routes, backend)
    add_pages(routes, backend, name)
    app = Starlette(
        middleware=[
            Middleware(AnswerHeaders, name=name),
            Middleware(ErrorMapping),
            Middleware(AccessLog),
            Middleware(AddressLimit),
        ]
    )
    app.router = Router(default=routes, redirect_slashes=False)
    return app
