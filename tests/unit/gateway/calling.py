"""Calling the app in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec

from memsync import errors
from memsync.gateway.app import build_app
from memsync.ports import Backend
from tests.fakes.backend import KEY

HEADERS = {"X-API-Key": KEY, "X-End-User-ID": "anna"}


def caller(
    backend: Backend, *, address: str = "10.0.0.1", headers: dict[str, str] | None = None
) -> httpx.AsyncClient:
    """A client of a new app in front of `backend`; nothing goes over a network."""
    transport = httpx.ASGITransport(build_app(backend, name="test-1"), client=(address, 1))
    found = HEADERS if headers is None else headers
    return httpx.AsyncClient(transport=transport, base_url="http://memsync", headers=found)


def error_of(response: httpx.Response) -> errors.ErrorBody:
    """The error that an answer says; fails where it has not the form of the API."""
    assert response.headers["content-type"] == "application/json"
    answer = msgspec.json.decode(response.content, type=errors.ErrorAnswer)
    assert answer.request_id == response.headers["x-request-id"]
    return answer.error


async def in_chunks(*parts: bytes) -> AsyncIterator[bytes]:
    """A body without a length."""
    for part in parts:
        yield part


def json_of(response: httpx.Response) -> Any:
    """The body of a success."""
    assert response.status_code < 300, response.text
    return response.json()
