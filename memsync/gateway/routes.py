"""Which handler answers a path and a method: a dictionary for plain paths, patterns for the others.

Starlette's own router tries its routes one by one, and answers 405 from the first path that fits;
here are about ninety paths, many with several methods. There are no redirects.
"""

from __future__ import annotations

from collections.abc import Mapping
from re import Pattern

from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send

from memsync import errors
from memsync.gateway import table
from memsync.gateway.bodies import body_from_fields, body_merged, read_body
from memsync.gateway.exchange import Handler, error_to_answer, exchange_of, send_answer
from memsync.ports import Answer, Backend
from memsync.wire import codec, context
from memsync.wire.proof import is_proven

# Who calls over HTTP does not fix these: ids come from gateways, over the bus, where no caller may
# publish, or with a proof; somebody's choice of an id could else hide another's memory.
_NOT_CALLERS = (context.OPERATION_KEY, context.IDS, context.IDS_PROOF)


class Path:
    """One path of the API: its template, and a handler for each method."""

    def __init__(self, template: str) -> None:
        self.template = template
        self.handlers: dict[str, Handler] = {}

    def allowed(self) -> list[str]:
        """The methods of the `Allow` header."""
        found = set(self.handlers) | {"OPTIONS"}
        return sorted(found | {"HEAD"} if "GET" in found else found)


class RouteTable:
    """The innermost ASGI app: finds the handler and sends its answer."""

    def __init__(self) -> None:
        self._plain: dict[str, Path] = {}
        self._patterns: list[tuple[Pattern[str], Path]] = []

    def add(self, method: str, template: str, handler: Handler) -> None:
        """Answer `method` on `template` by `handler`; patterns are tried in the order of adding."""
        path = self._plain.get(template)
        if path is None:
            path = next((p for _, p in self._patterns if p.template == template), None)
        if path is None:
            path = Path(template)
            if "{" in template:
                self._patterns.append((compile_path(template)[0], path))
            else:
                self._plain[template] = path
        path.handlers[method] = handler

    def find(self, path: str) -> tuple[Path, dict[str, str]]:
        """What stands at a path, and the fields in it; raises `NotFound`."""
        found = self._plain.get(path)
        if found is not None:
            return found, {}
        for pattern, candidate in self._patterns:
            match = pattern.match(path)
            if match and _ids_are_digits(match.groupdict()):
                return candidate, match.groupdict()
        raise errors.NotFound("no such route")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # a websocket, which we do not speak
            await send({"type": "websocket.close", "code": 1000})
            return
        path, params = self.find(scope["path"])
        exchange = exchange_of(scope)
        exchange.route = path.template
        method = scope["method"]
        handler = path.handlers.get("GET" if method == "HEAD" else method)
        if handler is not None:
            answer = await handler(scope, receive, params)
        else:
            answer = _no_handler(path, method, exchange.request_id)
        await send_answer(scope, send, answer)


def _ids_are_digits(params: Mapping[str, str]) -> bool:
    return all(
        value.isascii() and value.isdigit()
        for name, value in params.items()
        if name in table.NUMBERS
    )


def _no_handler(path: Path, method: str, request_id: str) -> Answer:
    allowed = path.allowed()
    headers = {"Allow": ", ".join(allowed)}
    if method == "OPTIONS":
        return Answer(200, headers, codec.to_json({"methods": allowed}))
    error = errors.MethodNotAllowed(f"{path.template} takes {', '.join(allowed)}")
    return error_to_answer(error, request_id, headers)


def add_operations(routes: RouteTable, backend: Backend, *, secret: str) -> None:
    """The routes that stand for operations, and those that are not built yet. `secret`: see
    `passing_handler`."""
    for route in table.BUILT:
        routes.add(route.method, route.path, operation_handler(backend, route))
    routes.add("POST", table.PASSING_PATH, passing_handler(backend, secret))
    for template, methods in table.UNBUILT.items():
        for method in methods.split():
            routes.add(method, template, not_built)


def operation_handler(backend: Backend, route: table.OperationRoute) -> Handler:
    """A handler that asks the backend for the route's operation."""

    async def answer(scope: Scope, receive: Receive, params: Mapping[str, str]) -> Answer:
        if route.source == "fields":
            body = body_from_fields(route, params, scope["query_string"])
        else:
            body = await read_body(scope, receive)
            if route.source == "merged":
                body = body_merged(params, body)
        for name in _NOT_CALLERS:
            exchange_of(scope).headers.pop(name, None)
        return await _ask(backend, route.operation, scope, body)

    return answer


def passing_handler(backend: Backend, secret: str) -> Handler:
    """A handler for an operation with its body as over NATS: how gateways reach a peer's port. The
    operation key is the gateway's, so that a retry elsewhere is known; ids are, too, where they
    come with a proof by `secret`, else the peer takes its own."""

    async def answer(scope: Scope, receive: Receive, params: Mapping[str, str]) -> Answer:
        operation = params["operation"]
        if operation not in table.OPERATIONS:
            raise errors.NotFound("no such route")
        headers = exchange_of(scope).headers
        if not is_proven(secret, operation, headers):
            headers.pop(context.IDS, None)
        headers.pop(context.IDS_PROOF, None)
        return await _ask(backend, operation, scope, await read_body(scope, receive))

    return answer


async def _ask(backend: Backend, operation: str, scope: Scope, body: bytes) -> Answer:
    exchange = exchange_of(scope)
    exchange.operation = operation
    exchange.is_write = operation not in table.READS
    return await backend.call(operation, exchange.headers, body)


async def not_built(scope: Scope, receive: Receive, params: Mapping[str, str]) -> Answer:
    """The answer of a route that the API has and this version has not."""
    raise errors.NotBuilt(f"{scope['method']} {exchange_of(scope).route} is not built yet")
