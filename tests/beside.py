"""Programs that run beside the tests that come before the one that judges them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

TOP = Path(__file__).parents[1]
LOWEST = 19
END_S = 30.0  # a program takes down what it has started, when it is asked to end


class Ended(msgspec.Struct, frozen=True):
    """What became of a program, whose files are in `folder`."""

    folder: Path
    code: int
    out: str
    err: str


class Beside:
    """A module of ours that runs. With `is_idle` it takes only what nobody else wants of the
    processors."""

    def __init__(self, folder: Path, module: str, *arguments: str, is_idle: bool) -> None:
        self._folder, self._out, self._err = folder, folder / "out", folder / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=TOP,
                env=os.environ | {"PYTHONHASHSEED": "0"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=_be_idle if is_idle else None,
            )

    def ended(self, within_s: float | None) -> Ended:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""
        code = self._process.wait(within_s)
        return Ended(self._folder, code, self._out.read_text(), self._err.read_text())

    def end(self) -> None:
        """End it if nobody waited for it, with what it has started."""
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # nobody is left
        self._process.wait()


def _be_idle() -> None:
    """Of the class that runs where nobody else wants to, with what it starts; and as a session of
    the lowest priority, where the kernel shares out by sessions."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        Path("/proc/self/autogroup").write_text(str(LOWEST))
    except OSError:
        pass  # it does not
