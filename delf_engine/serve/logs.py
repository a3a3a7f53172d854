"""Logs as one JSON object a line, on standard error: no content of photographs, no token, no query."""

from __future__ import annotations

import json
import logging
from typing import Any

#: Attributes of records that are written beside time, level and message.
_FIELDS = ("request_id", "method", "route", "status", "ms", "bytes", "client", "job")

log = logging.getLogger("delf_engine.serve")


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        values: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        values |= {name: vars(record)[name] for name in _FIELDS if name in vars(record)}
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values)


def configure() -> None:
    """Let this package and uvicorn write such lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name in ("delf_engine.serve", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
