"""The lock files: whole, agreeing with each other and with pyproject.toml, and naming no host."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
LOCKS = ("lock.txt", "lock-test.txt", "lock-models.txt")
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", re.MULTILINE)


def text(name: str) -> str:
    """The content of a lock file."""
    return (TOP / "config" / name).read_text(encoding="utf-8")


def pins(source: str) -> dict[str, str]:
    """Package -> version, names as pip compares them."""
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in PIN.findall(source)}


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_hashes(name: str) -> None:
    entries = re.split(r"^(?=[A-Za-z0-9])", text(name), flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins(text(name)))
    assert all("--hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize("name", LOCKS)
def test_no_host_is_named(name: str) -> None:
    assert not re.search(r"://|^--", text(name), re.MULTILINE)


def test_tests_run_on_the_versions_that_are_shipped() -> None:
    shipped, tested = pins(text("lock.txt")), pins(text("lock-test.txt"))
    assert shipped.items() <= tested.items()


def test_the_locks_hold_what_the_project_asks_for() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = pins("\n".join(project["dependencies"]))
    wanted_by_tests = pins("\n".join(project["optional-dependencies"]["test"]))
    assert len(wanted) == len(project["dependencies"])  # exact versions only
    assert wanted.items() <= pins(text("lock.txt")).items()
    assert wanted_by_tests.items() <= pins(text("lock-test.txt")).items()


def test_the_model_that_is_tested_is_the_one_that_the_extra_names() -> None:
    """It is no part of the other locks, which pip resolves: it would bring PyTorch along."""
    extras = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = pins("\n".join(extras["optional-dependencies"]["minilm"]))
    assert named == pins(text("lock-models.txt"))
    assert not named.keys() & (pins(text("lock.txt")) | pins(text("lock-test.txt"))).keys()
    assert not {"torch", "sentence-transformers"} & pins(text("lock-test.txt")).keys()
