"""Logs on standard error: text that a person and a journal read well, or JSON, one object a line.

Every module logs through the standard library's `logging.getLogger(__name__)`, with facts as `extra={"facts": {...}}`
beside a constant message, so that a search finds every occurrence.  Under the journal the level is given by the "<6>"
prefix of sd-daemon(3) and the time is left to it.  No secret is ever logged: facts whose name says that they are one
are replaced, which is the second line of defence behind not passing them.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import Final, TextIO

REDACTED: Final = "(redacted)"
SECRET_WORDS: Final = ("secret", "password", "signature", "authorization", "token", "credential")

PRIORITIES: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""Levels as syslog priorities."""


def configure(form: str = "text", level: str = "info", stream: TextIO | None = None) -> None:
    """Sets up the root logger once, at the start of a process.  `form` is "text" or "json"."""
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter(journal=_is_journal(stream)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)


class TextFormatter(logging.Formatter):
    """`12:30:01.250 INFO  appliance.daemon: ready endpoint=http://…`."""

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        words = "".join(f" {name}={_quoted(value)}" for name, value in _facts(record).items())
        text = f"{record.name}: {record.getMessage()}{words}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if self._journal:
            priority = PRIORITIES.get(record.levelno, 6)
            return "\n".join(f"<{priority}>{line}" for line in text.splitlines())
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        return f"{time:%H:%M:%S}.{int(record.msecs):03d} {record.levelname:<7} {text}"


class JsonFormatter(logging.Formatter):
    """`{"time":"2026-01-01T12:30:01.250Z","level":"info","logger":"appliance.daemon","message":"ready",…}`."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, object] = {
            "time": f"{time:%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in _facts(record).items() if name not in line}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _facts(record: logging.LogRecord) -> Mapping[str, object]:
    """The record's facts, secrets replaced."""
    facts: Mapping[str, object] = getattr(record, "facts", {})
    return {
        name: REDACTED if any(word in name.lower() for word in SECRET_WORDS) else value for name, value in facts.items()
    }


def _quoted(value: object) -> str:
    """A value that cannot be mistaken for two, nor break the line."""
    text = str(value)
    plain = text.isprintable() and text and not any(character in text for character in ' "=')
    return text if plain else json.dumps(text, ensure_ascii=False)


def _is_journal(stream: TextIO) -> bool:
    """Whether the stream goes to the journal: it names its device and inode in $JOURNAL_STREAM (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError, AttributeError):  # a stream without a descriptor, in tests
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
