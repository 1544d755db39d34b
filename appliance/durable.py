"""Small files of the state directory that outlive a power cut: whole under another name first, then under their own.

Deliberately unknown here: what is in them.
"""

from __future__ import annotations

import os
from pathlib import Path


def replace(path: Path, data: bytes) -> None:
    """Replaces the file atomically and durably; its owner's alone.  Raises OSError."""
    fresh(path, data).replace(path)
    flush_directory(path)


def fresh(path: Path, data: bytes) -> Path:
    """The bytes, durable, in a file of their own beside `path`, which still has to get that name.  One of a crash
    between the two steps is removed.  Raises OSError."""
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    return beside


def flush_directory(path: Path) -> None:
    """The name `path` is durable (fsync(2), notes: a directory's entries are its own).  Raises OSError."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
