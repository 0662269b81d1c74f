"""The wheel: built from a copy, installed into an empty venv, used in an empty folder.

Proven: that the wheel alone, with what config/lock.txt names (by hash, through pip), starts a
cluster, adds and recalls; that no module, folder or argument of its processes is of the checkout;
that it takes no top-level name but `memsync`. Not proven: that every version which the metadata
allows works (they are exact), nor that it installs on another system.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest

from memsync.local import process_table
from memsync.local.home import Home
from memsync.local.ports import Ports, choose_free
from tests.conditions import wait_until
from tests.system.local_bus import TOP

STEP_S = 300.0  # an install from a slow mirror
READY_S = 60.0  # the first start also compiles what is imported
ENDED_S = 30.0
QUIET = ("--quiet", "--no-input", "--disable-pip-version-check")
PIP = (sys.executable, "-m", "pip")
EVERYTHING = "memsync.cli.main, memsync.nodes.peer, memsync.nodes.gateway, memsync.testing"
WHERE_FROM = f"""
import json, sys
import {EVERYTHING}
files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
print(json.dumps([sys.path, [file for file in files if file]]))
"""
THROWAWAY = """
import memsync.testing
with memsync.testing.cluster() as cluster, cluster.connect_sync(end_user="ada") as memory:
    memory.add("the fuse box is in the cellar")
    print(memory.query("where is the fuse box?").memories[0].text)
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """A command's standard output; it must succeed."""
    ended = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment or dict(os.environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=STEP_S,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the repository without what git ignores."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = [line.rstrip("/") for line in (TOP / ".gitignore").read_text().split()]
    ignore = shutil.ignore_patterns(".git", *ignored)
    shutil.copytree(TOP, folder / "source", symlinks=True, ignore=ignore)
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
    run(*PIP, "wheel", *QUIET, *options, folder / "source", cwd=folder)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new venv with the locked dependencies and the wheel, and nothing else."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv.parent)
    install = (*PIP, "--python", venv / "bin/python", "install", *QUIET, "--no-compile")
    lock = TOP / "config" / "lock.txt"
    run(*install, "--require-hashes", "--only-binary", ":all:", "-r", lock, cwd=venv.parent)
    run(*install, "--no-index", "--no-deps", wheel, cwd=venv.parent)
    return venv


class Newcomer:
    """Somebody with the installed wheel, an empty folder and an empty home."""

    def __init__(self, venv: Path, folder: Path) -> None:
        self.bin = venv / "bin"
        self.folder = folder / "empty"
        self.home = Home(folder / "home" / ".memsync")
        self.environment = {"HOME": str(folder / "home"), "PATH": f"{self.bin}:/usr/bin:/bin"}
        self.folder.mkdir()
        self.home.path.parent.mkdir()

    def run(self, *command: str) -> str:
        """Run a command of the venv."""
        return run(self.bin / command[0], *command[1:], cwd=self.folder, **self.environment)


@pytest.fixture
def newcomer(installed: Path, tmp_path: Path) -> Newcomer:
    """Somebody who has never seen the checkout."""
    return Newcomer(installed, tmp_path)


@pytest.fixture
def cluster(newcomer: Newcomer, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`memsync dev`, as it is; only its ports are free ones."""
    offset = choose_free(Ports(peers=1, servers=1, gateways=0)).offset
    output = tmp_path / "output"
    with open(output, "wb") as file:
        process = subprocess.Popen(
            [newcomer.bin / "memsync", "dev", "--port-offset", str(offset)],
            cwd=newcomer.folder,
            env=newcomer.environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(
            lambda: process.poll() is not None or " is ready " in output.read_text(),
            "the cluster is ready",
            READY_S,
        )
        assert process.poll() is None, output.read_text()
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(ENDED_S)
    assert process.returncode == 0, output.read_text()


def test_what_the_wheel_holds(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    folders = {name.partition("/")[0] for name in names}
    assert {name for name in folders if not name.endswith(".dist-info")} == {"memsync"}
    carried = {
        str(path.relative_to(TOP))
        for pattern in ("*.py", "*.tmpl", "*.md", "py.typed", "Procfile")
        for path in (TOP / "memsync").rglob(pattern)
    }
    assert carried <= names
    assert not [name for name in names if "/tests/" in name or name.endswith((".pyc", ".creds"))]


def test_its_metadata_are_those_of_the_project(wheel: Path) -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    archive = zipfile.ZipFile(wheel)
    [folder] = {name.partition("/")[0] for name in archive.namelist() if ".dist-info" in name}
    metadata = Parser().parsestr(archive.read(f"{folder}/METADATA").decode())
    needed = [one for one in metadata.get_all("Requires-Dist", []) if "extra ==" not in one]
    without_spaces = [re.sub(r"[\s\"']", "", one) for one in needed]
    assert without_spaces == [re.sub(r"[\s\"']", "", one) for one in project["dependencies"]]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE", "THIRD_PARTY_NOTICES"]
    for name in ("LICENSE", "THIRD_PARTY_NOTICES"):
        assert archive.read(f"{folder}/licenses/{name}") == (TOP / name).read_bytes()
    entries = archive.read(f"{folder}/entry_points.txt").decode()
    assert "memsync = memsync.cli.main:main" in entries
    assert "[pytest11]\nmemsync = memsync.testing.plugin" in entries


def test_it_needs_what_the_lock_names_and_no_more(installed: Path) -> None:
    run(*PIP, "--python", installed / "bin/python", "check", cwd=installed)
    [packages] = installed.glob("lib/python*/site-packages")
    assert not (packages / "nodes").exists()
    assert not (packages / "pytest").exists()


def test_a_newcomer_in_an_empty_folder(
    newcomer: Newcomer, cluster: subprocess.Popen[bytes]
) -> None:
    assert newcomer.run("memsync", "--version").startswith("memsync ")
    identifier = newcomer.run("memsync", "add", "the cat is called Turing").strip()
    found = json.loads(newcomer.run("memsync", "recall", "what is the cat's name?", "--json"))
    assert [str(memory["id"]) for memory in found["memories"]] == [identifier]
    assert not found["degraded_components"]
    pids = [process_table.read_pid(path) for path in newcomer.home.pid_files()]
    assert len(pids) == 4
    for pid in [cluster.pid, *filter(None, pids)]:
        place = Path(f"/proc/{pid}")
        for file in ("cmdline", "environ", "maps"):
            assert str(TOP).encode() not in (place / file).read_bytes(), (pid, file)
        assert not (place / "cwd").resolve().is_relative_to(TOP)
    assert not list(newcomer.folder.iterdir())


def test_no_file_of_the_checkout_is_imported(newcomer: Newcomer) -> None:
    path, files = json.loads(newcomer.run("python", "-c", WHERE_FROM))
    assert len([file for file in files if "/memsync/" in file]) > 50
    assert [place for place in (*path, *files) if place.startswith(str(TOP))] == []


def test_the_throwaway_cluster_needs_no_pytest(newcomer: Newcomer) -> None:
    assert newcomer.run("python", "-c", THROWAWAY) == "the fuse box is in the cellar\n"
