"""Changes of names that were answered and are not in the catalogue yet.

POSIX makes mkdir, unlink, rename and the like visible when they return, and durable with fsync(2) of the directory.  So
the mount answers them as it answers close(2): when the change is submitted, not when its batch's barrier is over; then
what a program does in a row shares a batch.  Order of submission is order of commit, so a crash leaves a prefix of what
was done; who comes through the other door waits (H2: `store.leave`), and so does fsync of a directory, or of the file.

It may be answered early only if the file was not synced (`synced`), and if it cannot fail but with the devices:
nothing that the other door changes is under way, the bucket's keys have neither versions nor locks nor a quota, and
what the command will find is known from here.  What fails all the same is logged, told to the next fsync of the
directory, and the kernel forgets it.

Until then the catalogue lacks the change; `Pending` reads it as it will be: `node`, `entry` and `entries` answer as the
store's do, with what is pending over it.  A row is worth nothing from the moment its ticket is settled, whoever has
noticed: so no reader sees a change twice or not at all.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from appliance import settings
from appliance.errors import Code, StoreError
from appliance.model import BodyKind, Bucket, Entry, Node
from fusefs.writeback import WriteBack

if TYPE_CHECKING:
    from appliance.store import ObjectStore, Ticket

log = logging.getLogger(__name__)

CHANGES_MAX: Final = 1024  # that wait for their barrier; above, each is waited for
GONE: Final = 0
SYNCED_MAX: Final = 4096  # files of which is known that a program synced them

type_rows = Mapping[tuple[int, bytes], int]
"""(directory, row name) -> the node that it leads to, or GONE.  A directory's row name ends with "/"."""


class Row:
    """What a name will lead to, or a node will be."""

    __slots__ = ("node", "number", "ticket")

    def __init__(self, ticket: Ticket, number: int, node: Node | None = None) -> None:
        self.ticket = ticket
        self.number = number
        self.node = node


class Change:
    """One command."""

    __slots__ = ("again", "bucket", "nodes", "rows", "ticket")

    def __init__(
        self, bucket: Bucket, ticket: Ticket, rows: type_rows, nodes: Sequence[Node], *, again: bool = False
    ) -> None:
        self.bucket = bucket
        self.ticket = ticket
        self.rows = rows
        self.nodes = nodes
        self.again = again  # it failed once


class Pending:
    """The catalogue with what is pending over it."""

    def __init__(self, store: ObjectStore, files: WriteBack) -> None:
        self.store = store
        self.files = files
        self.failed: Callable[[Change], None] = lambda change: None  # the kernel knows what did not happen
        self._rows: dict[int, dict[bytes, Row]] = {}
        self.nodes: dict[int, Row] = {}  # by number: what they will be
        self._changes: deque[Change] = deque()
        self._added = trio.Event()
        self._synced: dict[int, None] = {}  # files, in the order of their last fsync
        self._errors: dict[int, StoreError] = {}  # directory -> what nobody was told
        files.before_again = self._take_in_settled

    @property
    def waiting(self) -> int:
        """Changes that the catalogue lacks."""
        return len(self._changes)

    def accepts(self, bucket: Bucket) -> bool:
        """Whether a change in the bucket may be answered before its barrier."""
        if len(self._changes) >= CHANGES_MAX or self.files.durable_close or not self.store.quiet:
            return False
        return not bucket.settings or not (self.store.versioned(bucket.id) or settings.QUOTA in bucket.settings)

    def synced(self, number: int) -> None:
        """A program synced the file.

        Who does that counts on what it does next with its name, too: SQLite commits by removing its synced journal,
        others by moving a synced file over the old one, and hardly anybody syncs the directory.  So those wait."""
        self._synced.pop(number, None)
        self._synced[number] = None
        if len(self._synced) > SYNCED_MAX:
            del self._synced[next(iter(self._synced))]

    def is_synced(self, number: int) -> bool:
        """Whether a program synced the file lately."""
        return number in self._synced

    def add(self, bucket: Bucket, ticket: Ticket, rows: type_rows, nodes: Sequence[Node]) -> None:
        """A submitted command makes `rows` and `nodes` what they are here."""
        self._add(Change(bucket, ticket, rows, nodes))

    def _add(self, change: Change) -> None:
        ticket, rows, nodes = change.ticket, change.rows, change.nodes
        for (parent, name), number in rows.items():
            self._rows.setdefault(parent, {})[name] = Row(ticket, number)
        for node in nodes:
            self.nodes[node.id] = Row(ticket, node.id, node)
        self.store.leave(change.bucket.id, ticket)
        self._changes.append(change)
        self._added.set()

    def touched(self, directory: int, now_ns: int, directories: int = 0) -> Node:
        """A directory whose names change; it gets so many more subdirectories."""
        node = self.node(directory)
        return msgspec.structs.replace(
            node,
            links=node.links + directories,
            mtime_ns=max(node.mtime_ns, now_ns),
            ctime_ns=max(node.ctime_ns, now_ns),
        )

    def report(self, directory: int) -> None:
        """Raises what failed in it, once."""
        error = self._errors.pop(directory, None)
        if error is not None:
            raise error

    # ------------------------------------------------------------------ reading
    def node(self, number: int) -> Node:
        """As `store.node`.  A file that no commit has reached yet is as memory has it."""
        row = self.nodes.get(number)
        if row is not None and not row.ticket.settled:
            assert row.node is not None
            if row.node.links == 0 and self.files.get(number) is None:
                raise StoreError(Code.NO_SUCH_NODE)
            return row.node
        try:
            return self.store.node(number)
        except StoreError:
            file = self.files.get(number)
            if file is None or not file.pending:
                raise
            times = file.atime_ns, file.mtime_ns, file.ctime_ns, file.ctime_ns
            owner = file.mode, file.uid, file.gid
            return Node(number, *owner, 1, file.size, *times, 0, "", BodyKind.EMPTY, 0, b"", 0, b"", file.bucket.id)

    def entry(self, parent: int, name: bytes, directory: bool) -> Entry | None:
        """As `store.entry`."""
        if parent in self._rows:
            row = self._rows[parent].get(name + b"/" if directory else name)
            if row is not None and not row.ticket.settled:
                entry = self._entry(row, name, directory)
                if entry is not None or row.number == GONE:
                    return entry
        found = self.store.entry(parent, name, directory)
        return self._shown(found) if found is not None and self.nodes else found

    def changes(self, directory: int) -> bool:
        """Whether the catalogue may lack a change of a name in it."""
        return directory in self._rows

    def _entry(self, row: Row, name: bytes, directory: bool) -> Entry | None:
        """What an unsettled row leads to.  None also when that is gone: only a change behind this one can have taken
        it, so both are committed, and the catalogue, of which the loop is about to be told, knows better."""
        if row.number == GONE:
            return None
        try:
            return Entry(name, directory, self.node(row.number))
        except StoreError as error:
            if error.code is not Code.NO_SUCH_NODE:
                raise
            return None

    def entries(self, parent: int, after: tuple[bytes, bool] | None, limit: int) -> list[Entry]:
        """As `store.entries`."""
        rows = {name: row for name, row in self._rows.get(parent, {}).items() if not row.ticket.settled}
        if not rows:
            found = self.store.entries(parent, after, limit)
            return [self._shown(entry) for entry in found] if self.nodes else found
        merged: list[Entry] = []
        reach = limit + sum(row.number == GONE for row in rows.values())  # enough in one step, usually
        while len(merged) < limit:
            step = self.store.entries(parent, after, reach)
            low, whole = after, len(step) < reach
            after = None if whole else (step[-1].name, step[-1].directory)
            by_row = {_row(entry.name, entry.directory): entry for entry in step}
            for name, row in rows.items():
                if (low is None or name > _row(*low)) and (after is None or name <= _row(*after)):
                    entry = self._entry(row, name.removesuffix(b"/"), name.endswith(b"/"))
                    if entry is not None:
                        by_row[name] = entry
                    elif row.number == GONE:
                        by_row.pop(name, None)
            merged += [self._shown(by_row[name]) for name in sorted(by_row)]
            if whole:
                break
        return merged[:limit]

    def _shown(self, entry: Entry) -> Entry:
        row = self.nodes.get(entry.node.id)
        if row is None or row.ticket.settled:
            return entry
        assert row.node is not None
        return Entry(entry.name, entry.directory, row.node)

    # ------------------------------------------------------------------ settling
    async def run(self) -> None:
        """Takes in what is settled; ends only by cancellation."""
        while True:
            while self._changes:
                change = self._changes[0]
                with suppress(Exception):  # looked at below
                    await change.ticket.wait(patient=True)
                self._take_in_settled()
            self._added = trio.Event()
            await self._added.wait()

    async def make_durable(self) -> None:
        """What was answered so far, and what was closed, is durable or has failed for good (`report`)."""
        closed = list(self.files.commits)
        await self.store.settle()
        self._take_in_settled()  # here, not when the task above comes to it: who called asks what failed
        if closed:
            await self.files.wait(closed[-1])
        tried_again = any(change.again for change in self._changes)
        for commit in closed:
            if commit.again:
                await self.files.commit(commit.file)
                tried_again = True
        if tried_again:
            await self.store.settle()
            self._take_in_settled()

    async def named(self, number: int) -> None:
        """The last change of a node's own names is durable, or has failed for good (`report` of the directory).

        fsync(2) promises a file's bytes alone, but programs that rename and then sync the file count on both, as ext4,
        XFS and Btrfs have them."""
        for change in reversed(self._changes):
            if number in change.rows.values() or any(node.id == number for node in change.nodes):
                await change.ticket.wait_done()
                if change.ticket.error is not None:
                    await self.make_durable()
                return

    def _take_in_settled(self) -> None:
        while self._changes and self._changes[0].ticket.settled:
            self._take_in(self._changes.popleft())

    def _is_tried_again(self, change: Change) -> bool:
        """A batch fails as a whole when a device does, and programs have heard nothing wrong: the next try goes to the
        others, unless one of the names was changed once more meanwhile."""
        error = change.ticket.error
        if change.again or getattr(error, "code", None) not in (Code.UNAVAILABLE, Code.NO_SUCH_NODE):
            return False
        for parent, name in change.rows:
            row = self._rows.get(parent, {}).get(name)
            if row is None or row.ticket is not change.ticket or name in self.files.names.get(parent, {}):
                return False
        log.warning("a change of names is tried again: %r", error)
        ticket = self.store.again(change.ticket)
        self._add(Change(change.bucket, ticket, change.rows, change.nodes, again=True))
        return True

    def _take_in(self, change: Change) -> None:
        if change.ticket.error is not None and self._is_tried_again(change):
            return
        for parent, name in change.rows:
            rows = self._rows.get(parent)
            if rows is not None and name in rows and rows[name].ticket is change.ticket:
                del rows[name]
                if not rows:
                    del self._rows[parent]
        for node in change.nodes:
            row = self.nodes.get(node.id)
            if row is not None and row.ticket is change.ticket:
                del self.nodes[node.id]
        error = change.ticket.error
        if error is None:
            return
        log.error("a change of names that was answered failed: %r", error)
        for parent, _ in change.rows:
            self._errors[parent] = error if isinstance(error, StoreError) else StoreError(Code.IO_ERROR)
        for node in change.nodes:
            file = self.files.get(node.id)
            if file is not None and file.orphan and not file.nameless:
                self.files.restored(file)
        self.failed(change)


def _row(name: bytes, directory: bool) -> bytes:
    return name + b"/" if directory else name
