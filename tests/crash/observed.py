"""What a store does hold: read from its catalogue and its devices, with an audit that shares nothing with the product.

`observe` gives a `State` to compare with the model's, every byte by a verified read.  `audit` counts everything again:
references, usage, extents, free space (I7), and reads every copy of every page.  `dump` is the whole catalogue, to
compare one that was rebuilt with one that was recovered.
"""

from __future__ import annotations

import collections
import sqlite3
import stat
from collections.abc import Callable, Collection
from typing import Any

from appliance import limits
from appliance.catalogue.content import data_sum
from appliance.catalogue.schema import TABLES
from appliance.device.buffers import scratch
from appliance.engine.plan import Step
from appliance.engine.pool import PageRef, page_room
from appliance.errors import StoreError
from appliance.limits import MIB
from appliance.model import MARKER, BodyKind, version_id
from appliance.ondisk.damaged import DamagedError
from appliance.store import ObjectStore
from tests.crash.model import Name, State

WHOLE, MAPPED = int(BodyKind.CHUNK), int(BodyKind.MAP)
type_rows = Callable[..., list[Any]]


class Broken(AssertionError):
    """A promise was not kept."""


def names(store: ObjectStore) -> tuple[dict[Name, int], set[Name]]:
    """Files with their nodes, and directories."""
    rows = _reader(store)
    files: dict[Name, int] = {}
    directories: set[Name] = set()
    for bucket, root in rows("SELECT id, root FROM bucket"):
        todo = [(root, b"")]
        while todo:
            directory, path = todo.pop()
            for name, node_id in rows("SELECT name, node FROM entry WHERE parent=?", (directory,)):
                if name.endswith(b"/"):
                    directories.add((bucket, path + name))
                    todo.append((node_id, path + name))
                    continue
                files[bucket, path + name] = node_id
    return files, directories


def observe(store: ObjectStore) -> State:
    """The state that clients can see.  Raises Broken when bytes cannot be had."""
    rows = _reader(store)
    files, directories = names(store)
    contents: dict[int, bytes] = {}
    etags: dict[int, str] = {}
    for node_id in set(files.values()):
        node = store.node(node_id)
        if not stat.S_ISREG(node.mode):
            raise Broken(f"node {node_id} is no file")
        try:
            with store.reader(node) as reader:
                contents[node_id] = reader.read_now()
        except StoreError as error:
            raise Broken(f"node {node_id} cannot be read: {error!r}") from error
        etags[node_id] = node.etag
    return State(
        files,
        contents,
        etags,
        frozenset(directories),
        {upload: (bucket, key) for upload, bucket, key in rows("SELECT id, bucket, key FROM upload")},
        {
            (upload, number): _content(store, kind, ref, size)
            for upload, number, kind, ref, size in rows("SELECT upload, number, kind, ref, size FROM part")
        },
        frozenset(name for (name,) in rows("SELECT name FROM bucket")),
        {
            (bucket, key, version_id(version, flags)): None if flags & MARKER else _bytes(store, node)
            for bucket, key, version, node, flags in rows("SELECT bucket, key, version, node, flags FROM version")
        },
    )


def _bytes(store: ObjectStore, number: int) -> bytes:
    try:
        with store.reader(store.node(number)) as reader:
            return reader.read_now()
    except StoreError as error:
        raise Broken(f"node {number} cannot be read: {error!r}") from error


def _reader(store: ObjectStore) -> type_rows:
    execute = store.engine.reader.execute
    return lambda sql, parameters=(): execute(sql, parameters).fetchall()


def _content(store: ObjectStore, kind: int, ref: int, size: int) -> bytes:
    """A part's bytes."""
    if not kind:
        return b""
    retrieval = store.engine.retrieval
    steps: list[Step] = retrieval.plan(kind, ref, 0, size)
    pieces: list[bytes] = []
    with scratch(page_room(0, MIB)) as room:
        for step in steps:
            if not step.copies:
                pieces.append(bytes(step.length))
                continue
            try:
                view = retrieval.pool.read_any(step.copies, step.start, step.start + step.length, room)
            except StoreError as error:
                raise Broken(f"a part cannot be read: {error!r}") from error
            pieces.append(bytes(view))
    return b"".join(pieces)


def unlinked(store: ObjectStore) -> list[int]:
    """Nodes without a name that nobody has reaped."""
    return [node for (node,) in _reader(store)("SELECT id FROM node WHERE links=0")]


def difference(wanted: State, found: State) -> str:
    """What differs, for people; empty when nothing does."""
    lines = []
    for field, one, other in zip(State._fields, wanted, found, strict=True):
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
            lines += [f"{field}[{key!r}]: wanted {_show(one.get(key))}, found {_show(other.get(key))}" for key in keys]
        else:
            assert isinstance(one, frozenset)
            assert isinstance(other, frozenset)
            lines.append(f"{field}: wanted {one - other}, found {other - one}")
    return "\n".join(lines[:12])


def _show(value: object) -> str:
    if isinstance(value, bytes) and len(value) > 40:
        return f"{len(value)} bytes {value[:12]!r}...{value[-12:]!r}"
    return repr(value)


# ---------------------------------------------------------------------- the audit


def audit(
    store: ObjectStore, *, absent: Collection[int] = (), excused: Callable[[int], bool] = lambda chunk: False
) -> tuple[set[int], set[int]]:
    """Raises Broken.  Copies on devices in `absent` are not asked.  A chunk that is `excused` (an unacknowledged batch
    may have been recovered by its good copies) may have bad ones as long as one is good.  Returns the chunks of which
    every copy is good, and the others."""
    rows = _reader(store)
    _audit_references(rows)
    _audit_usage(rows)
    _audit_space(store, rows)
    return _audit_pages(store, rows, absent, excused)


def _require(name: str, wanted: object, found: object) -> None:
    if wanted != found:
        raise Broken(f"audit: {name}: counted {wanted}, the catalogue says {found}")


def _audit_references(rows: type_rows) -> None:
    chunks: collections.Counter[int] = collections.Counter()
    maps: collections.Counter[int] = collections.Counter()
    named = rows("SELECT kind, ref FROM node WHERE mode BETWEEN 32768 AND 36863 UNION ALL SELECT kind, ref FROM part")
    for kind, ref in [*named, *rows("SELECT kind, ref FROM slice")]:
        if kind == WHOLE:
            chunks[ref] += 1
        elif kind == MAPPED:
            maps[ref] += 1
    _require("references of chunks", dict(chunks), dict(rows("SELECT id, refs FROM chunk")))
    _require("references of maps", dict(maps), dict(rows("SELECT id, refs FROM map")))
    _require("slices of no map", [], rows("SELECT map FROM slice WHERE map NOT IN (SELECT id FROM map)"))
    _require("pages of no chunk", [], rows("SELECT dev, off FROM page WHERE chunk NOT IN (SELECT id FROM chunk)"))
    _require("entries of no node", [], rows("SELECT * FROM entry WHERE node NOT IN (SELECT id FROM node)"))
    _require("entries of no parent", [], rows("SELECT * FROM entry WHERE parent NOT IN (SELECT id FROM node)"))
    roots = "SELECT root FROM bucket"
    places = "SELECT node FROM entry UNION ALL SELECT node FROM version"
    stray = f"SELECT id FROM node WHERE id NOT IN ({places}) AND id NOT IN ({roots}) AND links>0"
    _require("nodes without a name", [], rows(stray))
    _require("parts of no upload", [], rows("SELECT * FROM part WHERE upload NOT IN (SELECT id FROM upload)"))
    (top,) = rows("SELECT max(coalesce((SELECT max(id) FROM node), 0), coalesce((SELECT max(id) FROM chunk), 0))")[0]
    promised = rows("SELECT value FROM meta WHERE name='next_id'")
    if top and (not promised or promised[0][0] <= top):
        raise Broken(f"audit: id {top} is in use and was not promised: {promised}")


def _audit_usage(rows: type_rows) -> None:
    counted = rows(
        "SELECT n.bucket, count(*), sum(n.size) FROM"
        " (SELECT node FROM entry UNION ALL SELECT node FROM version) e JOIN node n ON n.id=e.node"
        " WHERE n.mode BETWEEN 32768 AND 36863 GROUP BY 1 ORDER BY 1"
    )
    _require("usage", counted, rows("SELECT bucket, objects, bytes FROM usage WHERE objects OR bytes ORDER BY 1"))
    parts = rows("SELECT u.bucket, sum(p.size) FROM part p JOIN upload u ON u.id=p.upload GROUP BY 1 ORDER BY 1")
    _require(
        "usage by parts",
        [row for row in parts if row[1]],
        rows("SELECT bucket, parts FROM usage WHERE parts ORDER BY 1"),
    )


def _audit_space(store: ObjectStore, rows: type_rows) -> None:
    """I7: rows and held extents do not overlap, lie in the pages, and leave what the free map says.  At rest only the
    snapshot's pages are held; where the last journal failed while a superblock was to name another snapshot, both are:
    nobody knows which it names."""
    pool = store.engine.pool
    snapshot: collections.Counter[int] = collections.Counter()
    for device_id, _ in store.engine.checkpointer._extents:
        snapshot[device_id] += 1
    for device in pool.devices.values():
        claimed = rows("SELECT off, len FROM page WHERE dev=?", (device.id,))
        held = pool.allocator.held(device.id)
        if pool.journals or len(held) < snapshot[device.id]:
            _require(f"extents held on device {device.id}", snapshot[device.id], len(held))
        position = device.geometry.pages_start
        for offset, length in sorted([*claimed, *held]):
            if offset < position:
                raise Broken(f"audit: extents overlap on device {device.id} at {offset}")
            position = offset + length
        if position > device.geometry.pages_end:
            raise Broken(f"audit: an extent of device {device.id} ends at {position}, beyond the pages")
        used = sum(length for _, length in (*claimed, *held))
        _require(
            f"free bytes of device {device.id}", pool.allocator.size(device.id) - used, pool.allocator.free(device.id)
        )


def _audit_pages(
    store: ObjectStore, rows: type_rows, absent: Collection[int], excused: Callable[[int], bool]
) -> tuple[set[int], set[int]]:
    partly: set[int] = set()
    parts: dict[tuple[int, int], list[PageRef]] = collections.defaultdict(list)
    for device, offset, length, index, hsum, chunk in rows("SELECT dev, off, len, idx, hsum, chunk FROM page"):
        parts[chunk, index].append(PageRef(device, offset, length, index, hsum))
    wanted = {chunk: (length, copies) for chunk, length, copies in rows("SELECT id, len, copies FROM chunk")}
    patches = rows("SELECT chunk, data, dsum FROM patch")
    for chunk, data, total in patches:
        _require(f"the sum of patch {chunk}", data_sum(data), total)
        _require(f"the length of patch {chunk}", wanted.pop(chunk)[0], len(data))
        _require(f"pages of patch {chunk}", [], [part for part in parts if part[0] == chunk])
    _require("bytes of patches", sum(len(row[1]) for row in patches), store.engine.committer.patched)
    payload = _payload()
    for chunk, (length, copies) in wanted.items():
        for index in range(-(-length // payload)):
            refs = parts.get((chunk, index), [])
            devices = {ref.device for ref in refs}
            if len(devices) != len(refs) or len(refs) != copies:
                raise Broken(f"audit: page {index} of chunk {chunk} lies on {devices}, wanted {copies} copies")
            part = min(payload, length - index * payload)
            bad = [ref.device for ref in refs if ref.device not in absent and not _is_good(store, ref, part)]
            if bad and (not excused(chunk) or len(bad) == len(refs)):
                raise Broken(f"audit: page {index} of chunk {chunk} is damaged on {bad}: {refs}")
            if bad or devices & set(absent):
                partly.add(chunk)
    return set(wanted) - partly, partly


def _is_good(store: ObjectStore, ref: PageRef, length: int) -> bool:
    with scratch(page_room(0, length)) as room:
        try:
            store.engine.pool.read_page_part(ref, 0, length, room, in_clear=False)
        except (DamagedError, OSError):
            return False
    return True


def _payload() -> int:
    """The size in force: see scale.py."""
    return limits.PAGE_PAYLOAD


def dump(connection: sqlite3.Connection) -> dict[str, list[Any]]:
    """Every row of every table."""
    return {
        table.name: sorted(connection.execute(f"SELECT * FROM {table.name}").fetchall(), key=repr) for table in TABLES
    }
