"""The home folder: private, locked by one cluster, never mistaken for somebody else's folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memsync.errors import ConfigurationError
from memsync.local import home as homes
from memsync.local.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that was just made."""
    made = Home(tmp_path / "home")
    homes.make(made)
    return made


def mode(path: Path) -> int:
    """The permission bits of a file."""
    return path.stat().st_mode & 0o777


def test_the_environment_names_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert homes.from_environment({"MEMSYNC_HOME": "/some/where"}).path == Path("/some/where")
    assert homes.from_environment({}).path == tmp_path.resolve() / ".memsync"
    assert homes.from_environment({"MEMSYNC_HOME": ""}).path == tmp_path.resolve() / ".memsync"


def test_every_folder_is_private(home: Home) -> None:
    folders = [home.path, *(home.path / name for name in homes.FOLDERS)]
    assert {mode(folder) for folder in folders} == {0o700}


def test_a_private_file_is_written_whole_and_for_nobody_else(home: Home) -> None:
    home.key.write_text("old")
    home.key.chmod(0o644)
    homes.write_private(home.key, "new")
    assert home.key.read_text() == "new"
    assert mode(home.key) == 0o600
    assert not list(home.path.glob("*.new"))


def test_a_folder_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigurationError, match=r"holds 'thesis\.txt' and is no home"):
        homes.make(Home(tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]
    assert mode(tmp_path) == 0o755


def test_a_file_in_the_place_of_the_home_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(ConfigurationError, match="is not a folder"):
        homes.make(Home(tmp_path / "home"))


def test_only_one_holds_the_lock_and_the_second_hears_who(home: Home) -> None:
    with (
        homes.locked(home),
        pytest.raises(ConfigurationError, match=rf"already runs here \(pid {os.getpid()}\)"),
        homes.locked(home),
    ):
        raise AssertionError("both hold the lock")


def test_the_lock_tells_whether_a_cluster_runs(home: Home) -> None:
    assert not homes.is_locked(home)
    with homes.locked(home):
        assert homes.is_locked(home)
        owner = homes.owner(home)
        assert owner
        assert owner.pid == os.getpid()
        assert owner.is_alive
    assert not homes.is_locked(home)


def test_a_later_process_with_the_same_id_is_not_the_owner(home: Home) -> None:
    with homes.locked(home):
        found = homes.owner(home)
    assert found
    assert not homes.Owner(found.pid, found.started_ticks - 1).is_alive


@pytest.mark.parametrize("content", ["", "{}", "[]", "not json", '{"pid": "x"}'])
def test_a_damaged_lock_file_names_no_owner(home: Home, content: str) -> None:
    home.lock.write_text(content)
    assert homes.owner(home) is None


def test_clearing_keeps_the_logs_and_the_lock(home: Home) -> None:
    with homes.locked(home):
        home.log("peer-1").write_text("line")
        home.data("peer-1").mkdir()
        home.key.write_text("key")
        homes.clear(home)
        assert home.log("peer-1").read_text() == "line"
        assert not home.data("peer-1").exists()
        assert not home.key.exists()
        assert homes.is_locked(home)


def test_purging_removes_the_home(home: Home) -> None:
    home.data("peer-1").mkdir()
    assert homes.purge(home) == []
    assert not home.path.exists()


def test_purging_leaves_what_is_not_ours(home: Home) -> None:
    (home.path / "notes.txt").write_text("mine")
    assert homes.purge(home) == ["notes.txt"]
    assert [entry.name for entry in home.path.iterdir()] == ["notes.txt"]


def test_purging_does_not_follow_links(home: Home, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("precious")
    (home.path / "data").rmdir()
    (home.path / "data").symlink_to(elsewhere)
    homes.purge(home)
    assert (elsewhere / "file").read_text() == "precious"
