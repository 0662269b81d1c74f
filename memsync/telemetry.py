"""Structured logs and the helpers around metrics. Metrics themselves stand beside what they
measure.

Events are named `noun.verb_past`; one failure is one line, where it is handled. No memory text, no
secret, no tenant in a label.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
from pathlib import Path
from typing import Any, cast

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
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=name)


def _file(name: str, log_dir: str) -> logging.Handler:
    path = Path(log_dir) / f"{name}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return logging.handlers.RotatingFileHandler(
            path, maxBytes=LOG_BYTES_MAX, backupCount=LOG_FILES_KEPT
        )
    except OSError as error:
        raise ConfigurationError(f"log_dir: {path} cannot be written ({error.strerror})") from error


def logger() -> structlog.stdlib.BoundLogger:
    """The logger of this process. In a program that uses the client library, and whose logs are
    not ours to set up, events go to the standard library's logger "memsync", which is silent
    unless that program listens to it."""
    if structlog.is_configured():
        return cast(structlog.stdlib.BoundLogger, structlog.get_logger())
    logging.getLogger(LIBRARY).addHandler(_NOBODY)
    return cast(
        structlog.stdlib.BoundLogger,
        structlog.wrap_logger(
            logging.getLogger(LIBRARY),
            processors=[structlog.stdlib.render_to_log_kwargs],
            wrapper_class=structlog.stdlib.BoundLogger,
        ),
    )


def describe(error: BaseException) -> dict[str, Any]:
    """An error as fields of an event, also where it has no message of its own."""
    return {"error": type(error).__name__, "reason": str(error)[:500]}
