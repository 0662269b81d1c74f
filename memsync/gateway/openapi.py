"""The OpenAPI document, made from the table of routes and the structs of bodies and answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from memsync import __version__, errors
from memsync.gateway import table
from memsync.ports import Answer
from memsync.wire import codec

MakeAnswer = Callable[[], Answer]
REFERENCE = "#/components/schemas/{name}"
PAGES = (
    ("/health", "Whether recalls work, and what is unwell."),
    ("/healthz", "Whether the process is alive."),
    ("/ready", "Whether requests should be sent here."),
    ("/metrics", "Metrics for Prometheus (text)."),
    ("/status", "The status as a page (HTML)."),
    ("/status.json", "The status as JSON."),
    ("/openapi.json", "This document."),
    ("/docs", "The routes as a page (HTML)."),
)


def built_routes() -> Iterator[tuple[str, str, str]]:
    """(method, path, summary) of everything that works."""
    for route in table.BUILT:
        yield route.method, _path(route.path), route.summary
    for path, summary in PAGES:
        yield "GET", path, summary


def unbuilt_routes() -> Iterator[tuple[str, str]]:
    """(method, path) of everything that answers 501."""
    for path, methods in table.UNBUILT.items():
        for method in methods.split():
            yield method, _path(path)


class Document:
    """The document, made when it is asked for the first time."""

    def __init__(self) -> None:
        self._json = b""

    def as_json(self) -> bytes:
        """The document's text."""
        if not self._json:
            self._json = codec.to_json(make_document())
        return self._json


def make_document() -> dict[str, Any]:
    """The document as plain dictionaries."""
    kinds: list[Any] = [errors.ErrorAnswer]
    for route in table.BUILT:
        kinds += [route.takes, *route.answers]
    found, components = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
    schemas = iter(found)
    error = next(schemas)
    paths: dict[str, dict[str, Any]] = {}
    for route in table.BUILT:
        takes, answers = next(schemas), [next(schemas) for _ in route.answers]
        answer = answers[0] if len(answers) == 1 else {"anyOf": answers}
        entry = _operation(route, takes, answer, error)
        paths.setdefault(_path(route.path), {})[route.method.lower()] = entry
    for path, summary in PAGES:
        paths[path] = {"get": {"summary": summary, "responses": {"200": {"description": "OK"}}}}
    for method, path in unbuilt_routes():
        paths.setdefault(path, {})[method.lower()] = {
            "summary": "Not built yet.",
            "responses": {"501": _response("NOT_IMPLEMENTED", error)},
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "memsync", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
        "security": [{"key": []}, {"bearer": []}],
    }


def _operation(route: table.OperationRoute, takes: Any, answers: Any, error: Any) -> dict[str, Any]:
    names = re.findall(r"{(\w+)", route.path)
    entry: dict[str, Any] = {
        "summary": route.summary,
        "operationId": (route.operation + "_" + route.path.strip("/")).replace("/", "_"),
        "parameters": [_parameter(name, place="path") for name in names]
        + [_parameter(name, place="query") for name in route.query],
        "responses": {
            str(route.status): _response("OK", answers),
            "default": _response("An error of the table in the API document.", error),
        },
    }
    if route.source != "fields":
        entry["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": takes}},
        }
    return entry


def _parameter(name: str, *, place: str) -> dict[str, Any]:
    kind = "integer" if name in table.NUMBERS else "string"
    return {"name": name, "in": place, "required": place == "path", "schema": {"type": kind}}


def _response(description: str, schema: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _path(template: str) -> str:
    """A path as OpenAPI writes it, without our convertors."""
    return template.replace(":path}", "}")
