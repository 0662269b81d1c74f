"""The README's examples run as printed; only ports and folders are those of the test's cluster."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conditions import wait_until
from tests.system.conftest import TOP, Cluster

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIMEOUT_S = 120.0
FINE_WITHIN_S = 60.0
ENTRY = "from memsync.cli.main import main; main()"


@pytest.fixture
def folder(cluster: Cluster, tmp_path: Path) -> Path:
    """A folder like a clone with a running cluster: `.memsync`, and `memsync` in `.venv/bin`."""
    (tmp_path / ".memsync").symlink_to(cluster.home)
    command = tmp_path / ".venv" / "bin" / "memsync"
    command.parent.mkdir(parents=True)
    command.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{ENTRY}' \"$@\"\n")
    command.chmod(0o755)
    return tmp_path


def run(folder: Path, cluster: Cluster, *command: str) -> str:
    """Run a command in the folder; what it wrote to standard output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MEMSYNC_")}
    done = subprocess.run(
        [part_for(cluster, part) for part in command],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(TOP)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def part_for(cluster: Cluster, text: str) -> str:
    """The text with the cluster's ports."""
    text = text.replace("127.0.0.1:8080", f"127.0.0.1:{8080 + cluster.offset}")
    return text.replace("127.0.0.1:4222", f"127.0.0.1:{4222 + cluster.offset}")


def blocks(language: str) -> list[str]:
    """The README's examples of one language."""
    text = (TOP / "README.md").read_text(encoding="utf-8")
    return [block for found, block in BLOCK.findall(text) if found == language]


@pytest.mark.skipif(shutil.which("curl") is None, reason="this machine has no curl")
def test_the_shell_examples(folder: Path, cluster: Cluster) -> None:
    command = [str(folder / ".venv" / "bin" / "memsync"), "status"]

    def is_fine() -> bool:  # servers as well, which other tests have killed
        ended = subprocess.run(command, env=cluster.environment, cwd=folder, capture_output=True)
        return ended.returncode == 0

    wait_until(is_fine, "all processes and stripes of the cluster are fine", FINE_WITHIN_S)
    said = run(folder, cluster, "bash", "-euo", "pipefail", "-c", "".join(blocks("sh")))
    assert "Ada prefers green tea in the morning" in said
    assert '"client_ref":"chat-17"' in said
    assert '"degraded":false' in said
    assert "2 created, 0 skipped, 0 rejected, 0 bad" in said
    assert "Bob moved to Oslo in May" in said
    assert "ms_live_" in said


def test_the_python_examples(folder: Path, cluster: Cluster) -> None:
    cluster.wait_ready()
    by_library, _, by_sdk = blocks("python")
    said = run(folder, cluster, sys.executable, "-c", by_library)
    assert said.startswith("Ada keeps bees behind the house\n")
    assert "Ada rows on the fjord on Sundays" in run(folder, cluster, sys.executable, "-c", by_sdk)


def test_the_example_of_a_test(folder: Path, cluster: Cluster) -> None:
    (folder / "test_agent.py").write_text(blocks("python")[1])
    # The entry point is in the wheel (test_wheel.py); a checkout names the plugin.
    pytest_run = (sys.executable, "-m", "pytest", "-q", "-p", "memsync.testing.plugin")
    assert "1 passed" in run(folder, cluster, *pytest_run, "-p", "no:asyncio", "test_agent.py")
