"""Listings: the tree walked in key order, from any point, at the cost of what is shown.

Names sort as bytes and a directory's row ends with "/", so a depth-first walk is S3's key order.  A common prefix is
one seek however many keys lie below it.  Pure over `every(sql, parameters)`, which must see one state (H4).
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from typing import Any, Final

from appliance.model import BodyKind, Entry, Listed, Node, Page, Upload, UploadPage, unpack_attributes

type_every = Callable[[str, tuple[Any, ...]], list[Any]]

_STEP_FIRST: Final = 16  # rows asked for at first in a directory that is only on the way
_STEP_MAX: Final = 1024

_ROWS: Final = (
    "SELECT e.name, e.node, n.mode, n.size, n.etag, n.written_ns, n.packed, n.flags, n.version"
    " FROM entry e JOIN node n ON n.id=e.node WHERE e.parent=? AND e.name>=? ORDER BY e.name LIMIT ?"
)
_LEVEL: Final = (
    "SELECT e.name, e.node, n.mode, n.size, n.etag, n.written_ns, n.packed,"
    " (SELECT m.mode FROM entry c JOIN node m ON m.id=c.node WHERE c.parent=e.node ORDER BY c.name LIMIT 1)"
    " FROM entry e JOIN node n ON n.id=e.node WHERE e.parent=? AND e.name>=? ORDER BY e.name LIMIT ?"
)
_ENTRIES: Final = (
    "SELECT e.name, n.* FROM entry e JOIN node n ON n.id=e.node WHERE e.parent=? AND e.name>? ORDER BY e.name LIMIT ?"
)


class _Frame:
    """One directory on the walk's way down."""

    __slots__ = ("base", "cursor", "directory", "done", "path", "rows", "step", "width")

    def __init__(self, directory: int, base: bytes, path: list[bytes], step: int) -> None:
        self.directory = directory
        self.base = base
        self.path = path  # what is left of the lower bound, for this directory
        self.cursor = (path[0] + b"/" if len(path) > 1 else path[0]) if path else b""
        self.rows: list[Any] = []
        self.done = 0
        self.step = step
        self.width = 0


def walk(every: type_every, root: int, lower: bytes, step: int) -> Iterator[tuple[bytes, Any]]:
    """(key, row) of every object with key >= lower, in key order.  `step`: how many the caller is likely to take."""
    stack = [_Frame(root, b"", lower.split(b"/") if lower else [], min(step, _STEP_FIRST) if lower else step)]
    while stack:
        frame = stack[-1]
        if frame.done == len(frame.rows):
            if frame.rows and len(frame.rows) < frame.width:
                stack.pop()
                continue
            frame.width = frame.step
            frame.rows = every(_ROWS, (frame.directory, frame.cursor, frame.width))
            frame.done = 0
            frame.step = min(frame.step * 4, _STEP_MAX)
            if not frame.rows:
                stack.pop()
                continue
            frame.cursor = frame.rows[-1][0] + b"\0"
        row = frame.rows[frame.done]
        frame.done += 1
        name = row[0]
        if name.endswith(b"/"):
            path = frame.path[1:] if len(frame.path) > 1 and name == frame.path[0] + b"/" else []
            frame.path = []
            stack.append(_Frame(row[1], frame.base + name, path, _STEP_FIRST if path else step))
        elif stat.S_ISREG(row[2]):
            yield frame.base + name, row


def listed(key: bytes, row: Any) -> Listed:
    """One key of a listing from a row of the walk."""
    _, _, _, size, etag, written, packed = row[:7]
    if not packed:
        return Listed(key, size, etag, written, "")
    attributes = unpack_attributes(packed)
    checksum = attributes.checksum
    return Listed(
        key,
        size,
        etag,
        written,
        attributes.storage_class,
        checksum.algorithm if checksum is not None else "",
        attributes.owner,
    )


def successor(prefix: bytes) -> bytes | None:
    """The least key greater than every key that begins with `prefix`; None if there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None


def list_objects(every: type_every, root: int, prefix: bytes, delimiter: bytes, after: bytes, limit: int) -> Page:
    """One page: `store.ObjectStore.list_objects`."""
    if limit <= 0:
        return Page([], [], False, b"")
    if delimiter == b"/":
        return _level(every, root, prefix, after, limit)
    objects: list[Listed] = []
    prefixes: list[bytes] = []
    last = b""
    lower: bytes | None = max(prefix, after + b"\0") if after else prefix
    while lower is not None:
        seek: bytes | None = None
        # with a delimiter the next key may be the last that is wanted before a seek
        step = _STEP_FIRST if delimiter else limit + 1 - len(objects) - len(prefixes)
        for key, row in walk(every, root, lower, step):
            if not key.startswith(prefix):
                return Page(objects, prefixes, False, b"")
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            common = key[: at + len(delimiter)] if at >= 0 else b""
            if common and after.startswith(common):
                seek = successor(common)
                break
            if len(objects) + len(prefixes) == limit:
                return Page(objects, prefixes, True, last)
            if common:
                prefixes.append(common)
                last = common
                seek = successor(common)
                break
            objects.append(listed(key, row))
            last = key
        else:
            return Page(objects, prefixes, False, b"")
        lower = seek
    return Page(objects, prefixes, False, b"")


def _find(every: type_every, root: int, base: bytes) -> int | None:
    directory = root
    for segment in base.split(b"/")[:-1]:
        rows = every("SELECT node FROM entry WHERE parent=? AND name=?", (directory, segment + b"/"))
        if not rows:
            return None
        directory = rows[0][0]
    return directory


def _level(every: type_every, root: int, prefix: bytes, after: bytes, limit: int) -> Page:
    """Delimiter "/": one directory's rows are the answer."""
    base = prefix[: prefix.rfind(b"/") + 1]
    wanted = prefix[len(base) :]
    directory = _find(every, root, base)
    objects: list[Listed] = []
    prefixes: list[bytes] = []
    if directory is None:
        return Page(objects, prefixes, False, b"")
    lower = wanted
    if after.startswith(base):
        rest = after[len(base) :]
        head, slash, _ = rest.partition(b"/")
        lower = max(lower, head + b"/\0" if slash else rest + b"\0")
    elif after > base:
        return Page(objects, prefixes, False, b"")
    last = b""
    while True:
        width = limit + 1 - len(objects) - len(prefixes)
        rows = every(_LEVEL, (directory, lower, width))
        for row in rows:
            name = row[0]
            if not name.startswith(wanted):
                return Page(objects, prefixes, False, b"")
            is_directory = name.endswith(b"/")
            if is_directory:
                if not _is_file(row[7]) and next(walk(every, row[1], b"", 1), None) is None:
                    continue  # made by mkdir, holds no object: S3 can't see it
            elif not stat.S_ISREG(row[2]):
                continue
            if len(objects) + len(prefixes) == limit:
                return Page(objects, prefixes, True, last)
            last = base + name
            if is_directory:
                prefixes.append(last)
            else:
                objects.append(listed(last, row))
        if len(rows) < width:
            return Page(objects, prefixes, False, b"")
        lower = rows[-1][0] + b"\0"


def _is_file(mode: int | None) -> bool:
    return mode is not None and stat.S_ISREG(mode)


def entries(every: type_every, parent: int, after: tuple[bytes, bool] | None, limit: int) -> list[Entry]:
    """`store.ObjectStore.entries`."""
    if after is None:
        start = b""
        rows = every(_ENTRIES.replace("e.name>?", "e.name>=?"), (parent, start, limit))
    else:
        rows = every(_ENTRIES, (parent, after[0] + b"/" if after[1] else after[0], limit))
    return [
        Entry(row[0][:-1], True, Node(*row[1:])) if row[0].endswith(b"/") else Entry(row[0], False, Node(*row[1:]))
        for row in rows
    ]


def allocated(every: type_every, node: Node) -> int:
    """Bytes of the node that are not holes."""
    if node.kind == BodyKind.MAP:
        return int(every("SELECT coalesce(sum(len), 0) FROM slice WHERE map=?", (node.ref,))[0][0])
    if node.kind == BodyKind.CHUNK:
        rows = every("SELECT len FROM chunk WHERE id=?", (node.ref,))
        return int(rows[0][0]) if rows else 0
    return len(node.data) if node.kind == BodyKind.INLINE else 0


def list_uploads(
    every: type_every,
    columns: str,
    bucket: int,
    prefix: bytes,
    delimiter: bytes,
    after_key: bytes,
    after_upload: str,
    limit: int,
) -> UploadPage:
    """One page of a bucket's uploads, by key, then by upload id (S3 API, "ListMultipartUploads")."""
    uploads: list[Upload] = []
    prefixes: list[bytes] = []
    key, upload = after_key, after_upload
    inclusive = prefix > after_key
    if inclusive:
        key, upload = prefix, ""
    next_key, next_upload = b"", ""
    while limit > 0:
        # after (key, upload); without an upload marker every upload of the marker's key is passed over
        where = "(key>? OR (key=? AND id>?))" if upload or inclusive else "key>?"
        bounds = (key, key, upload) if upload or inclusive else (key,)
        rows = every(
            f"SELECT {columns} FROM upload WHERE bucket=? AND {where} ORDER BY key, id LIMIT ?",
            (bucket, *bounds, limit + 1),
        )
        seek: bytes | None = None
        for row in rows:
            found = Upload(*row)
            if not found.key.startswith(prefix):
                return UploadPage(uploads, prefixes, False, b"", "")
            at = found.key.find(delimiter, len(prefix)) if delimiter else -1
            common = found.key[: at + len(delimiter)] if at >= 0 else b""
            if common and after_key.startswith(common):
                seek = successor(common)
                break
            if len(uploads) + len(prefixes) == limit:
                return UploadPage(uploads, prefixes, True, next_key, next_upload)
            if common:
                prefixes.append(common)
                next_key, next_upload = common, ""
                seek = successor(common)
                break
            uploads.append(found)
            next_key, next_upload = found.key, found.id
        if seek is None:
            if len(rows) <= limit:
                break
            key, upload, inclusive = rows[-1][2], rows[-1][0], False
            continue
        key, upload, inclusive = seek, "", True
    return UploadPage(uploads, prefixes, False, b"", "")
