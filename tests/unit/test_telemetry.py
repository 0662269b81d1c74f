"""A process's own log: one JSON object a line, rotated, and never in the way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

# In a process of its own: logging is set up for a whole process.
SCRIPT = """
import logging, sys
from pathlib import Path
from memsync import telemetry

telemetry.configure_logging("first", "")
telemetry.logger().info("before.file", number=0)  # goes to standard error
telemetry.LOG_BYTES_MAX = 2_000
telemetry.configure_logging("peer-9", sys.argv[1])
log = telemetry.logger()
log.debug("not.shown")
log.info("text.odd", half="\\ud800", path=Path("/x"), numbers={1: 2}, umlaut="\\u00e4")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("it.failed", request_id="r")
logging.getLogger("a.library").warning("said by a %s", "library")
for number in range(40):
    log.warning("many.lines", number=number, filling="x" * 40)
(handler,) = logging.getLogger().handlers
class Full:
    def write(self, text):
        return open("/dev/full", "wb", buffering=0).write(text.encode())
stream, handler.stream = handler.stream, Full()
log.info("disk.full")
handler.stream = stream
log.error("last.line")
"""


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_events_are_lines_of_a_file_that_is_rotated(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "logs")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert json.loads(ended.stderr.splitlines()[0])["event"] == "before.file", ended.stderr
    files = sorted((tmp_path / "logs").iterdir())
    assert [path.name for path in files][:2] == ["peer-9.log", "peer-9.log.1"]
    assert all(path.stat().st_size <= 2_000 for path in files)
    lines = [line for path in reversed(files) for line in lines_of(path)]
    assert "said by a library" in lines
    events = [json.loads(line) for line in lines if line.startswith("{")]
    assert [event["event"] for event in events] == [
        "text.odd", "it.failed", *["many.lines"] * 40, "last.line"
    ]  # fmt: skip
    assert {event["process"] for event in events} == {"peer-9"}
    assert (events[0]["half"], events[0]["umlaut"]) == ("\ud800", "ä")
    assert events[0]["level"] == "info"
    assert "ZeroDivisionError" in events[1]["exception"]
    assert events[-1]["level"] == "error"
    assert [event["number"] for event in events[2:-1]] == list(range(40))
