"""Listings: the tree walked in key order, from any point, at the cost of what is shown.

Names sort as bytes and a directory's row ends with "/", so a depth-first walk is S3's key order.  What a statement
costs is mostly its being one, so one statement looks several directories deep (`_rows`), and common prefixes that end
within a name are skipped by SQLite itself, a seek for each (`_leaps`).  A common prefix is one seek however many keys
lie below it.  Pure over `every(sql, parameters)`, which must see one state (H4).
"""

from __future__ import annotations

import functools
import stat
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from appliance.engine.listed import listed
from appliance.model import Page

type_every = Callable[[str, tuple[Any, ...]], list[Any]]

_LEVELS: Final = 4  # directories that a walk's first statement looks into
_LEVELS_MIN: Final = 2  # and those that follow it, if they turned out to be flat: each costs 0.15 us a row
_LEVELS_MAX: Final = 16  # where directories turned out to be deeper than that
_PROBE: Final = 16  # rows of a walk's first statement, at most
_FEW: Final = (
    6  # rows that are enough to see how deep the directories are; keys that a page may drop before it shows any
)
STEP_MAX: Final = 1024  # rows of one statement
_LEAF_LEVELS: Final = 2  # first entries that are written out: SQLite's parser takes some five, a recursion costs more
_LEAPS_FIRST: Final = 4  # rows of the first statement that goes through a directory or its neighbours
_LEAPS_AGAIN: Final = 128  # at most, where the neighbours before gave as many
_PATIENCE: Final = 48  # keys of a common prefix that are dropped, at most, before the rest is leapt over: cost a leap

_COLUMNS: Final = "n.size, n.etag, n.written_ns, n.packed, n.flags, n.version"


def _is_directory(name: str) -> str:
    return f"substr({name}, -1)=x'2f'"


def _mode(name: str) -> str:
    """The mode of `n`, the node of a name.  One that is missing is no reason to leave the name out: who mirrors the
    bucket would remove it there (`listed`)."""
    return f"coalesce(n.mode, CASE WHEN {_is_directory(name)} THEN {stat.S_IFDIR} ELSE {stat.S_IFREG} END)"


def _leaf(name: str, node: str, level: int = 0) -> str:
    """The node itself, or a directory's first one below it: if that is a file, S3 sees the directory.

    NULL for a directory without entries; one that comes first in another is its own leaf: others may follow it.
    """
    if level == _LEAF_LEVELS:
        first = (
            f"SELECT x.name FROM entry x WHERE x.parent=d.node AND {_is_directory('d.name')} ORDER BY x.name LIMIT 1"
        )
        return (
            f"(WITH RECURSIVE d(name, node, depth) AS (SELECT {name}, {node}, 0 UNION ALL SELECT c.name, c.node,"
            f" depth + 1 FROM d CROSS JOIN entry c ON c.parent=d.node AND c.name=({first}))"
            " SELECT node FROM d ORDER BY depth DESC LIMIT 1)"
        )
    inner, child = _leaf(f"l{level}.name", f"l{level}.node", level + 1), f"l{level}"
    first = f"SELECT {inner} FROM entry {child} WHERE {child}.parent={node} ORDER BY {child}.name LIMIT 1"
    below = f"coalesce(({first}), {node})" if level else f"({first})"
    return f"CASE WHEN {_is_directory(name)} THEN {below} ELSE {node} END"


_LEAF_MODE: Final = f"coalesce(n.mode, CASE WHEN NOT {_is_directory('{name}')} THEN {stat.S_IFREG} END)"
_FIND: Final = "SELECT node FROM entry WHERE parent=? AND name=?"
_SPECIAL: Final = (  # whether a directory's bucket has anything but files and directories
    "SELECT 1 FROM node INDEXED BY node_special WHERE mode & 61440 NOT IN (16384, 32768)"
    " AND bucket=(SELECT bucket FROM node WHERE id=?) LIMIT 1"
)


@functools.cache
def _rows(levels: int, bounded: bool) -> str:
    """The statement for what lies in a directory, from a name on, `levels` deep: a row for each file, for each
    directory without entries, and for each directory at the last level.

    Parameters: ?1 the directory, ?2 the least name, ?3 the number of rows, if `bounded` ?4 a name that stops it.
    Columns: the first name, the node and `_COLUMNS`, then the names below, NULL where there are none.
    """
    names = "".join(f", e{level}.name" for level in range(2, levels + 1))
    node = f"coalesce({', '.join(f'e{level}.node' for level in range(levels, 0, -1))})"
    last = f"coalesce({', '.join(f'e{level}.name' for level in range(levels, 0, -1))})"
    below = " ".join(
        f"LEFT JOIN entry e{level} ON e{level}.parent="
        f"CASE WHEN {_is_directory(f'e{level - 1}.name')} THEN e{level - 1}.node END"
        for level in range(2, levels + 1)
    )
    return (
        f"SELECT e1.name, {node}, {_mode(last)}, {_COLUMNS}{names}"
        f" FROM entry e1 {below} LEFT JOIN node n ON n.id={node}"
        f" WHERE e1.parent=?1 AND e1.name>=?2{' AND e1.name<?4' if bounded else ''} ORDER BY e1.name{names} LIMIT ?3"
    )


@functools.cache
def _level_rows(bounded: bool) -> str:
    """The statement for the names of one directory.  Parameters as of `_rows`.

    Columns: name, node, mode, `_COLUMNS`, of a directory those of its `_leaf`: NULL where it has none.
    """
    return (
        f"SELECT e.name, e.node, {_LEAF_MODE.format(name='e.name')}, {_COLUMNS}"
        f" FROM entry e LEFT JOIN node n ON n.id={_leaf('e.name', 'e.node')}"
        f" WHERE e.parent=?1 AND e.name>=?2{' AND e.name<?4' if bounded else ''} ORDER BY e.name LIMIT ?3"
    )


@functools.cache
def _leaps(bounded: bool, lean: bool) -> str:
    """The same, leaping over the names that share a common prefix: each costs a seek however many they are.

    Further parameters: ?5 where in a name the delimiter may begin (from 1), ?6 the delimiter, ?7 its successor.
    `lean`: the node of a file that has a common prefix is not looked into: for buckets without specials.
    """
    stop = " AND x.name<?4" if bounded else ""
    at = "instr(substr({}, ?5), ?6)"
    following = (
        "CASE WHEN s.at THEN CAST(substr(s.name, 1, ?5 - 2 + s.at) || ?7 AS BLOB)"
        " ELSE CAST(s.name || x'00' AS BLOB) END"
    )
    leaf = _leaf("s.name", "s.node")
    if lean:
        leaf = f"CASE WHEN s.at AND NOT {_is_directory('s.name')} THEN NULL ELSE {leaf} END"
    return (
        f"WITH RECURSIVE s(name, node, at) AS (SELECT name, node, {at.format('name')} FROM ("
        f"SELECT x.name, x.node FROM entry x WHERE x.parent=?1 AND x.name>=?2{stop} ORDER BY x.name LIMIT 1)"
        f" UNION ALL SELECT e.name, e.node, {at.format('e.name')} FROM s CROSS JOIN entry e ON e.parent=?1 AND e.name="
        f"(SELECT x.name FROM entry x WHERE x.parent=?1 AND x.name>={following}{stop} ORDER BY x.name LIMIT 1)"
        f" LIMIT ?3) SELECT s.name, s.node, {_LEAF_MODE.format(name='s.name')}, {_COLUMNS}"
        f" FROM s LEFT JOIN node n ON n.id={leaf}"
    )


@functools.cache
def _heads(bounded: bool, lean: bool) -> str:
    """The statement for the first entry in each directory of a directory.  Parameters as of `_rows`.

    Columns: both names, the second NULL where there is none; the mode of the second's `_leaf`; the name of the
    directory's last entry.  `lean`: no node is looked into, and the mode is a file's: for buckets without specials.
    """
    end = f"SELECT x.name FROM entry x WHERE x.parent=e.node AND {_is_directory('e.name')} ORDER BY x.name"
    shown, joined = f"({end} LIMIT 1), {stat.S_IFREG}", ""
    if not lean:
        shown = "c.name, n.mode"
        joined = (
            f" LEFT JOIN entry c ON c.parent=e.node AND c.name=({end} LIMIT 1)"
            f" LEFT JOIN node n ON n.id={_leaf('c.name', 'c.node')}"
        )
    return (
        f"SELECT e.name, {shown}, ({end} DESC LIMIT 1) FROM entry e{joined}"
        f" WHERE e.parent=?1 AND e.name>=?2{' AND e.name<?4' if bounded else ''} ORDER BY e.name LIMIT ?3"
    )


class _Scan:
    """The names of one directory from `first` on, and all below them."""

    __slots__ = ("base", "directory", "first", "following", "rows", "stop")

    def __init__(self, directory: int, base: bytes, first: bytes, stop: bytes | None) -> None:
        self.directory = directory
        self.base = base
        self.first = first
        self.stop = stop
        self.rows: Iterator[Any] | None = None  # not read yet
        self.following: bytes | None = None  # where to go on after `rows`, if they were not all


def find(every: type_every, directory: int, path: bytes) -> int | None:
    """The directory at `path`, which ends with "/" or is empty, below another; None if there is none."""
    for segment in path.split(b"/")[:-1]:
        rows = every(_FIND, (directory, segment + b"/"))
        if not rows:
            return None
        directory = rows[0][0]
    return directory


def _opened(every: type_every, directory: int, base: bytes, lower: bytes, stop: bytes | None) -> list[_Scan]:
    """The scans that together begin at `lower` within a directory: its own last, those of what follows first."""
    scans: list[_Scan] = []
    *above, name = lower.split(b"/")
    for segment in above:
        segment += b"/"
        scans.append(_Scan(directory, base, segment + b"\0", stop))
        rows = every(_FIND, (directory, segment))
        if not rows:
            return scans
        directory, base, stop = rows[0][0], base + segment, None
    scans.append(_Scan(directory, base, name, stop))
    return scans


def walk(
    every: type_every,
    root: int,
    lower: bytes,
    step: int,
    base: bytes = b"",
    stop: bytes | None = None,
    wish: Callable[[], int] | None = None,
) -> Iterator[tuple[bytes, Any]]:
    """(key, row) of every object in the directory `root` whose path there is >= `lower`, in key order.

    A row has size, ETag, time, packed attributes, flags and version at 3…8.  `step`: how many the caller is likely to
    take; `wish`: how many more, once there were some.  `base` is put before each path; names of `root` from `stop` on
    are left out.
    """
    stack = [] if stop is not None and lower >= stop else _opened(every, root, base, lower, stop)
    given, levels, probed = 0, _LEVELS, False
    while stack:
        scan = stack[-1]
        if scan.rows is None:
            wanted = wish() if wish is not None and given else step - given if step > given else 3 * given
            width = max(min(wanted, STEP_MAX if given else _PROBE), 2)
            bound = () if scan.stop is None else (scan.stop,)
            rows = every(_rows(levels, bool(bound)), (scan.directory, scan.first, width, *bound))
            while rows and _unresolved(rows[0]) and levels < _LEVELS_MAX:
                levels *= 2
                rows = every(_rows(levels, bool(bound)), (scan.directory, scan.first, width, *bound))
            if not probed and len(rows) >= _FEW:
                levels = max(_LEVELS_MIN, *[levels - row[9:].count(None) for row in rows])
                probed = True
            scan.rows = iter(rows)
            if len(rows) == width:
                path = b"".join([name for name in (rows[-1][0], *rows[-1][9:]) if name is not None])
                scan.following = path[:-1] + b"0" if stat.S_ISDIR(rows[-1][2]) else path + b"\0"
        for row in scan.rows:
            key = scan.base + row[0]
            if row[9] is not None:
                for name in row[9:]:  # a list of them, joined, would cost twice as much
                    if name is None:
                        break
                    key += name
            if stat.S_ISREG(row[2]):
                given += 1
                yield key, row
            elif _unresolved(row):
                levels = min(levels * 2, _LEVELS_MAX)
                stack.append(_Scan(row[1], key, b"", None))
                break
        else:
            stack.pop()
            if scan.following is not None:
                stack += _opened(every, scan.directory, scan.base, scan.following, scan.stop)


def _unresolved(row: Any) -> bool:
    """Whether a row of `_rows` is a directory that lay too deep to be looked into."""
    return row[-1] is not None and stat.S_ISDIR(row[2])


def successor(prefix: bytes) -> bytes | None:
    """The least key greater than every key that begins with `prefix`; None if there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None


class _Asked(NamedTuple):
    """What a page is asked for, and where: the directory `base` that the prefix begins with."""

    directory: int
    base: bytes
    prefix: bytes
    delimiter: bytes
    after: bytes
    lower: bytes  # within the directory
    stop: bytes | None  # the least name there that has not the prefix


class Found(NamedTuple):
    """A page: objects as they were asked for, common prefixes, whether more follow, and the last of both."""

    objects: list[Any]
    prefixes: list[bytes]
    more: bool
    last: bytes


class _Collected:
    """A page in the making; `make` gives an object's form from its key and row."""

    __slots__ = ("last", "limit", "make", "objects", "prefixes", "run")

    def __init__(self, limit: int, make: Callable[[bytes, Any], Any]) -> None:
        self.limit = limit
        self.make = make
        self.objects: list[Any] = []
        self.prefixes: list[bytes] = []
        self.last = b""
        self.run = 0  # neighbouring directories that the last statements for them gave: the next will give as many

    @property
    def room(self) -> int:
        return self.limit - len(self.objects) - len(self.prefixes)

    def add(self, key: bytes, row: Any) -> None:
        self.objects.append(self.make(key, row))
        self.last = key

    def add_prefix(self, prefix: bytes) -> None:
        self.prefixes.append(prefix)
        self.last = prefix

    def page(self, *, more: bool) -> Found:
        return Found(self.objects, self.prefixes, more, self.last)


def list_objects(every: type_every, root: int, prefix: bytes, delimiter: bytes, after: bytes, limit: int) -> Page:
    """One page: `store.ObjectStore.list_objects`."""
    found = current(every, root, prefix, delimiter, after, limit, listed)
    return Page(found.objects, found.prefixes, found.more, found.last if found.more else b"")


def current(
    every: type_every,
    root: int,
    prefix: bytes,
    delimiter: bytes,
    after: bytes,
    limit: int,
    make: Callable[[bytes, Any], Any],
) -> Found:
    """One page of what is in the tree, each object in the form that `make` gives it."""
    base = prefix[: prefix.rfind(b"/") + 1]
    directory = find(every, root, base) if limit > 0 else None
    if directory is None or (after > base and not after.startswith(base)):
        return Found([], [], False, b"")
    lower = tail = prefix[len(base) :]
    if after and after.startswith(base):
        lower = max(tail, after[len(base) :] + b"\0")
    asked = _Asked(directory, base, prefix, delimiter, after, lower, successor(tail) if tail else None)
    page = _Collected(limit, make)
    if delimiter == b"/":
        return _level(every, asked, page)
    if not delimiter:
        return _plain(every, asked, page)
    return _delimited(every, asked, page)


def _plain(every: type_every, asked: _Asked, page: _Collected) -> Found:
    walked = walk(every, asked.directory, asked.lower, page.limit + 1, asked.base, asked.stop)
    found = list(islice(walked, page.limit))
    make = page.make
    objects = [make(key, row) for key, row in found]
    return Found(objects, [], next(walked, None) is not None, found[-1][0] if found else b"")


def _level(every: type_every, asked: _Asked, page: _Collected) -> Found:
    """Delimiter "/": one directory's rows are the answer."""
    head, slash, _ = asked.lower.partition(b"/")
    lower = head + b"/\0" if slash else head  # a directory that the marker is in was given before
    bound = () if asked.stop is None else (asked.stop,)
    base = asked.base
    while True:
        room = page.room
        width = room + 1
        rows = every(_level_rows(bool(bound)), (asked.directory, lower, width, *bound))
        for row in rows:
            name = row[0]
            is_directory = name.endswith(b"/")
            if not _is_seen(every, row[2], row[1] if is_directory else 0):
                continue
            if not room:
                return page.page(more=True)
            room -= 1
            if is_directory:
                page.add_prefix(base + name)
            else:
                page.add(base + name, row)
        if len(rows) < width:
            return page.page(more=False)
        lower = rows[-1][0] + b"\0"


def _is_seen(every: type_every, mode: int | None, directory: int) -> bool:
    """Whether S3 sees a name, from the mode of its `_leaf`: a directory (0: it is none) is seen if it holds an object,
    and where its first leaf is no file, one has to look."""
    if mode is not None and stat.S_ISREG(mode):
        return True
    return bool(directory) and next(walk(every, directory, b"", 1), None) is not None


def _delimited(every: type_every, asked: _Asked, page: _Collected) -> Found:
    """Any delimiter: keys are walked, and of those that share a common prefix the first is shown.  Others are read
    and dropped, never more than were shown: that is cheaper than a seek for each.  Where there are many they are leapt
    over."""
    base, delimiter, start, long = asked.base, asked.delimiter, len(asked.prefix), len(asked.delimiter)
    every = _remembering(every)
    lower: bytes | None = asked.lower
    objects, make = page.objects, page.make
    room, shown, step = page.room, 0, 2
    credit = patience = _FEW  # keys that may be dropped: of all, and of the next common prefix

    def wish() -> int:
        return min(max(2 * shown, _FEW), room + 1 + _PATIENCE)

    while lower is not None:
        shown, common = 0, b""
        for key, row in walk(every, asked.directory, lower, step, base, asked.stop, wish):
            if common and key.startswith(common):
                if not patience:
                    break
                patience -= 1
                credit -= 1
                continue
            at = key.find(delimiter, start)
            if at >= 0:
                common = key[: at + long]
                patience = min(credit, _PATIENCE)
                if asked.after.startswith(common):
                    continue
            else:
                common = b""
            if not room:
                return page.page(more=True)
            room -= 1
            shown += 1
            credit += shown > 1  # the first had the cost of a leap
            page.last = common or key
            if common:
                page.prefixes.append(common)
            else:
                objects.append(make(key, row))
        else:
            break
        lower = _beyond(every, asked, page, common)
        room = page.room
        step = min(shown, room) + 1  # what is shown between two leaps: likely as much as the last time
    return page.page(more=False)


def _remembering(every: type_every) -> type_every:
    """The same for one page: one path leads to many places, and a page sees one state."""
    known: dict[tuple[Any, ...], list[Any]] = {}

    def look(sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        if sql is not _FIND and sql is not _SPECIAL:
            return every(sql, parameters)
        rows = known.get(parameters)
        if rows is None:
            rows = known[parameters] = every(sql, parameters)
        return rows

    return look


def _beyond(every: type_every, asked: _Asked, page: _Collected, common: bytes) -> bytes | None:
    """Where the walk goes on (a path in the page's directory) after a common prefix; None if nothing follows.

    What follows often looks alike: more common prefixes in the same directory, or one in each of its neighbours.
    `page` takes them as long as that can be told without looking deeper: one statement for many.
    """
    following = successor(common)
    if following is None or not following.startswith(asked.base):
        return None
    within = common[: common.rfind(b"/", 0, -1) + 1]  # the directory in which the delimiter ends
    past = successor(asked.delimiter)
    if past is None:
        return following[len(asked.base) :]
    directory = find(every, asked.directory, within[len(asked.base) :])
    assert directory is not None, "a key was found there"
    stop = asked.stop if within == asked.base else None
    name = following[len(within) :]
    if len(common) - len(asked.delimiter) >= len(within):
        place = _leap(every, asked, page, _Place(directory, within, name, stop), past)
    else:
        bound = () if stop is None else (stop,)
        rows = every(_level_rows(bool(bound)), (directory, name, 1, *bound))
        place = following if rows else None
    if place is None and within != asked.base:
        *_, name = within[:-1].rpartition(b"/")
        within = within[: -1 - len(name)]
        directory = find(every, asked.directory, within[len(asked.base) :])
        assert directory is not None, "it has the directory above"
        stop = asked.stop if within == asked.base else None
        place = _neighbours(every, asked, page, _Place(directory, within, name + b"/\0", stop), past)
        if place is None and within != asked.base:
            place = within[:-1] + b"0"
    return None if place is None else place[len(asked.base) :]


class _Place(NamedTuple):
    """Where in a directory to go on."""

    directory: int
    base: bytes
    first: bytes
    stop: bytes | None


def _leap(every: type_every, asked: _Asked, page: _Collected, place: _Place, past: bytes) -> bytes | None:
    """Takes what follows in a directory whose names the delimiter divides; the key to walk on from, None at its end."""
    start = max(len(asked.prefix) - len(place.base), 0)
    first, width = place.first, _LEAPS_FIRST
    base, delimiter = place.base, asked.delimiter
    lean = not every(_SPECIAL, (asked.directory,))
    statement = _leaps(place.stop is not None, lean)
    while True:
        width = min(width, page.room + 1)
        rows = every(statement, (place.directory, first, width, place.stop, start + 1, delimiter, past))
        room, objects = page.room, len(page.objects)
        for row in rows:
            name: bytes = row[0]
            at = name.find(delimiter, start)
            is_directory = name.endswith(b"/")
            if not room or (at < 0 and is_directory) or not _is_seen(every, row[2], row[1] if is_directory else 0):
                return base + name  # a directory to look into, or what S3 does not see
            room -= 1
            if at >= 0:
                page.add_prefix(base + name[: at + len(delimiter)])
                first = name[:at] + past
            else:
                page.add(base + name, row)
                first = name + b"\0"
        if len(rows) < width:
            return None
        if 2 * (len(page.objects) - objects) > width:
            return base + first  # mostly keys without a common prefix: walking is cheaper
        width *= 8


def _neighbours(every: type_every, asked: _Asked, page: _Collected, place: _Place, past: bytes) -> bytes | None:
    """Takes the common prefixes of directories that have one each; the key to walk on from, None at the end."""
    first, width = place.first, max(_LEAPS_FIRST, min(page.run + 1, _LEAPS_AGAIN))
    delimiter, long, begin, least = asked.delimiter, len(asked.delimiter), len(asked.prefix), len(place.base)
    bound = () if place.stop is None else (place.stop,)
    base, add, taken = place.base, page.prefixes.append, len(page.prefixes)
    lean = not every(_SPECIAL, (asked.directory,))
    while True:
        width = min(width, page.room + 1)
        rows = every(_heads(bool(bound), lean), (place.directory, first, width, *bound))
        name: bytes
        room, deeper = page.room, False
        for name, below, mode, last in rows:
            directory = base + name
            if lean and below and below.endswith(b"/"):
                following, deeper = directory, True  # whether a file lies below has to be seen
                break
            key = directory + below if below else directory
            at = key.find(delimiter, begin)
            end = at + long
            if not room or at < least or end <= len(directory) or mode is None or not stat.S_ISREG(mode):
                following = directory  # it divides somewhere else, or nothing there
                break
            room -= 1
            common = key[:end]
            add(common)
            following = key[:at] + past
            if directory + last >= following:
                break
        else:
            following = b""
        page.run = len(page.prefixes) - taken
        if page.run:
            page.last = page.prefixes[-1]
        if deeper:
            lean, first = False, name
            continue
        if following:
            return following
        if len(rows) < width:
            return None
        first = rows[-1][0] + b"\0"
        width *= 8
