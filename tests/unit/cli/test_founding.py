"""`memsync init`: two files, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from memsync import ids
from memsync.wire import genesis
from tests.unit.cli.conftest import Shell

MEMBERS = ("--member", "peer-1", "--member", "peer-2", "--member", "peer-3")


def test_it_writes_a_genesis_file_and_its_key(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "new" / "cell"
    ended = shell("init", "--cell", "c1", "--region", "eu", *MEMBERS, "--org-env", "production",
                  "--out", str(out), "--json")  # fmt: skip
    assert ended.code == 0
    document = genesis.read(out / "genesis.json")
    assert (document.cell, document.region, document.members) == (
        "c1", "eu", ["peer-1", "peer-2", "peer-3"],
    )  # fmt: skip
    key = (out / "dev.key").read_text().strip()
    assert ids.secret_hash(key) == document.key.hash
    assert key.startswith("ms_live_")
    assert (out / "dev.key").stat().st_mode & 0o777 == 0o600
    assert ended.document["cell"] == genesis.identity(document)
    assert key not in ended.out + ended.err


@pytest.mark.parametrize("there", ["genesis.json", "dev.key"])
def test_it_overwrites_nothing(shell: Shell, tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    ended = shell("init", *MEMBERS, "--out", str(tmp_path))
    assert ended.code == 2
    assert there in ended.err
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [there]
    assert (tmp_path / there).read_text() == "precious"


@pytest.mark.parametrize(
    "wrong",
    [["--member", "Peer"], ["--member", "p", "--member", "p"], ["--member", "a", "--cell", "a.b"],
     ["--member", "a", "--region", "*"], ["--member", "a", "--org-env", "test"], [],
     [part for number in range(10) for part in ("--member", f"p{number}")]],
)  # fmt: skip
def test_wrong_names_are_refused_before_anything_is_written(
    shell: Shell, tmp_path: Path, wrong: list[str]
) -> None:
    out = tmp_path / "out"
    assert shell("init", *wrong, "--out", str(out)).code == 2
    assert not out.exists()


def test_a_place_that_cannot_be_written_is_named(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = shell("init", *MEMBERS, "--out", str(tmp_path / "file" / "below"))
    assert ended.code == 2
    assert "--out" in ended.err
