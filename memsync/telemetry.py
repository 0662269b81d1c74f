"""Structured logs and the helpers around metrics. Metrics themselves stand beside what they
measure.

Events are named `noun.verb_past`; one failure is one line, where it is handled. No memory text, no
secret, no tenant in a label.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import msgspec
import structlog

from memsync.errors import ConfigurationError

LOG_BYTES_MAX = 10_000_000
LOG_FILES_KEPT = 5
LIBRARY = "memsync"
_NOBODY = logging.NullHandler()


def configure_logging(name: str, log_dir: str) -> None:
    """Send this process's events to `log_dir`/`name`.log (rotated), or to standard error for "".

    Raises `ConfigurationError` where that file cannot be written."""
    handler = _file(name, log_dir) if log_dir else logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("nats", "httpx", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_as_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: (
            _Straight(handler.line) if isinstance(handler, LogFile) else logging.getLogger()
        ),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=name)
    _own.cache_clear()


class LogFile(logging.handlers.RotatingFileHandler):
    """A rotated file that counts what it holds: the standard handler asks the file system twice for
    each line. Events of ours come straight to `line`, without a record of the standard library's,
    which takes four times as long."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=LOG_BYTES_MAX, backupCount=LOG_FILES_KEPT, encoding="utf-8")
        self._size = path.stat().st_size

    def line(self, text: str) -> None:
        """Write a line; one that the disk does not take is lost."""
        self.acquire()
        try:
            if self._size + len(text) >= self.maxBytes:
                self.doRollover()
                self._size = 0
            if self.stream is None:  # a rotation that failed halfway
                self.stream = self._open()
            self.stream.write(text + "\n")
            self.stream.flush()
            self._size += len(text) + 1
        except (OSError, ValueError):
            pass  # there is nowhere to say so
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record of a library."""
        self.line(self.format(record))


class _Straight:
    """A logger as structlog wants one; whatever the level, the line goes to `write`."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = write


def _as_json(event: dict[str, Any], **named: Any) -> str:
    try:
        return msgspec.json.encode(event, enc_hook=repr).decode()
    except (ValueError, TypeError):  # half of a character, a key that is no string
        return json.dumps(event, **named)


def _file(name: str, log_dir: str) -> LogFile:
    path = Path(log_dir) / f"{name}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return LogFile(path)
    except OSError as error:
        raise ConfigurationError(f"log_dir: {path} cannot be written ({error.strerror})") from error


def logger() -> structlog.stdlib.BoundLogger:
    """The logger of this process. In a program that uses the client library, and whose logs are
    not ours to set up, events go to the standard library's logger "memsync", which is silent
    unless that program listens to it."""
    if structlog.is_configured():
        return _own()
    logging.getLogger(LIBRARY).addHandler(_NOBODY)
    return cast(
        structlog.stdlib.BoundLogger,
        structlog.wrap_logger(
            logging.getLogger(LIBRARY),
            processors=[structlog.stdlib.render_to_log_kwargs],
            wrapper_class=structlog.stdlib.BoundLogger,
        ),
    )


@cache
def _own() -> structlog.stdlib.BoundLogger:
    """One logger for all events: made at each, it takes longer than the event."""
    return cast(structlog.stdlib.BoundLogger, structlog.get_logger())


def describe(error: BaseException) -> dict[str, Any]:
    """An error as fields of an event, also where it has no message of its own."""
    return {"error": type(error).__name__, "reason": str(error)[:500]}
