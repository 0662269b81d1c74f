"""The example of the client library's documentation, as it stands there."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import memsync.client
from tests.system.conftest import Cluster

ENDED_S = 60.0


def blocks() -> list[str]:
    """The indented blocks of the documentation, in order."""
    found: list[list[str]] = []
    is_inside = False
    for line in (memsync.client.__doc__ or "").splitlines():
        if line.startswith("    ") or (is_inside and not line):
            if not is_inside:
                found.append([])
            found[-1].append(line)
            is_inside = True
        else:
            is_inside = False
    return [textwrap.dedent("\n".join(block)).strip() + "\n" for block in found]


def run(cluster: Cluster, code: str, folder: Path, user: str) -> str:
    """What a program prints that knows nothing but where the cluster's home is."""
    path = folder / "example.py"
    path.write_text(code)
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        env=cluster.environment | {"MEMSYNC_END_USER": user},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=ENDED_S,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_the_example_prints_what_stands_under_it(cluster: Cluster, tmp_path: Path) -> None:
    example, printed, script = blocks()
    own = example.replace('end_user="ada"', 'end_user="example-ada"')
    assert own != example
    assert run(cluster, own, tmp_path, "unused") == printed
    own = "import memsync\n" + script.replace('end_user="ada"', "")
    assert run(cluster, own + "    print(memory.list().total)\n", tmp_path, "example-bo") == "1\n"
