"""A small disk for a peer: a tmpfs on its data folder, inside the run's own mounts."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

from tests.chaos.network import CannotError

PAGE_BYTES = 4_096
ROOM_BYTES = 4 * 1024 * 1024 * 1024  # a tmpfs takes memory for what is in it only
LEFT_PAGES = 4


def mount(folder: Path) -> None:
    """Put the disk there; the folder must be empty or not exist."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _mount("-t", "tmpfs", "-o", f"size={ROOM_BYTES},mode=0700", "tmpfs", str(folder))


def fill(folder: Path) -> None:
    """Leave no room on it: its size becomes what is in it."""
    if not os.path.ismount(folder):
        raise CannotError("the peer has no disk of its own here")
    found = os.statvfs(folder)
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    _mount("-o", f"remount,size={used + LEFT_PAGES * PAGE_BYTES}", str(folder))


def is_full(folder: Path) -> bool:
    """Whether it takes nothing more: somebody tries."""
    probe = folder / "probe"
    try:
        with probe.open("wb") as file:
            file.write(bytes((2 * LEFT_PAGES + 1) * PAGE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno == errno.ENOSPC
    finally:
        probe.unlink(missing_ok=True)
    return False


def make_room(folder: Path) -> None:
    """Take `fill` back."""
    _mount("-o", f"remount,size={ROOM_BYTES}", str(folder))


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotError(f"mount: {done.stderr.strip()}")


def unmount(folder: Path) -> None:
    """Take the disk away, with all that is on it; nobody uses it any more."""
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)
