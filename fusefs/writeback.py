"""From dirty files to commits.

Three movements, each under the file's own lock, so that one file's bytes leave in order:

    stage    whole 8 MiB runs go to devices as soon as they are complete, uncommitted (staging.py): a long sequential
             write needs little memory
    commit   what is left is gathered into as few chunks as possible, and everything since the last commit is submitted
             as one change
    settle   when its ticket is done, memory lets go of what the catalogue shows now; on failure the error is kept for
             whoever closes, syncs or writes next

A commit takes size, cut, holes and bytes of one moment, between two awaits: so what a crash leaves of a file is a
prefix of what was done to it (H8), and a new size never comes without its bytes.

Commits are submitted in the order in which files were closed and never waited for by close(2) (unless `durable_close`);
one task waits for the oldest and takes in all that are done.  Memory is bounded per file and in all: a writer above a
bound waits while its bytes are staged.  A dirty file is committed at the latest `AGE` seconds after its first change.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance.errors import Code, StoreError
from appliance.limits import CHUNK_SIZE, GATHER_MAX, MIB, PATCH_MAX
from appliance.model import Bucket, NewChunk, Node
from fusefs.again import given_up, require_done, taken_back
from fusefs.answered import BeingRemoved
from fusefs.dirty import Gathering, Segment, gather, lower
from fusefs.handles import NOT_DIRTY, Commit, File
from fusefs.ownership import ROOTS, Ownership
from fusefs.pieces import chunks_of, punched_of, slices_of
from fusefs.promises import Promises
from fusefs.reading import whole_small
from fusefs.staging import Staging, is_commit_due, whole_chunks
from fusefs.times import Times, clock_ns

if TYPE_CHECKING:
    from appliance.store import ObjectStore, Ticket

log = logging.getLogger(__name__)

AGE: Final = 5.0  # seconds a change may wait for its commit
TICK: Final = 1.0
FILE_MEMORY_MAX: Final = 64 * MIB
TOTAL_MEMORY_MAX: Final = 256 * MIB


class WriteBack:
    """All files in memory."""

    def __init__(self, store: ObjectStore, *, durable_close: bool = False, ownership: Ownership = ROOTS) -> None:
        self.store = store
        self.ownership = ownership
        self.durable_close = durable_close
        self.files: dict[int, File] = {}
        self.names: dict[int, dict[bytes, File]] = {}  # parent -> uncommitted files by catalogue name
        self.memory = 0  # of all overlays
        self._dirty: dict[int, File] = {}  # in the order of their first change
        self._tokens = count(1)
        self.stagings: dict[File, Staging] = {}  # of whole chunks, while the file is written
        self.commits: deque[Commit] = deque()
        self._submitted = trio.Event()
        self._nursery: trio.Nursery | None = None
        self.promises = Promises(store)
        self.times = Times(store)
        self.before_again: Callable[[], None] = lambda: None  # changes of names that failed come first again

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The background: ends only by cancellation."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._settle_in_order)
            nursery.start_soon(self._commit_aged)
            nursery.start_soon(self.times.run)
            task_status.started()

    # ------------------------------------------------------------------ opening
    def get(self, inode: int) -> File | None:
        """The file, if memory has it."""
        return self.files.get(inode)

    def add(self, file: File) -> File:
        """Takes it into memory.  Held until it is let go: an unlinked or overwritten file keeps its bytes.

        Raises BeingRemoved when the other door's commit under way removes it, or the directory it would be made in, and
        QUOTA_EXCEEDED when there is no room for one more."""
        if file.create is not None:
            self.promises.require(file, 0)
        elif file.orphan:
            self.promises.orphaned(file)
        if not self.store.hold(file.inode):
            self.promises.drop(file)
            raise BeingRemoved(self.store.settle)
        if file.name is not None:
            try:
                self._show(file, *file.name)
            except BeingRemoved:
                self.store.release(file.inode)
                self.promises.drop(file)
                raise
        self.files[file.inode] = file
        return file

    def name(self, file: File, parent: int, name: bytes) -> None:
        """A file without a name gets one; a commit of it is due.  Raises BeingRemoved, of the directory, and
        QUOTA_EXCEEDED."""
        file.name = file.create = file.place = (parent, name)
        file.made_ns = file.ctime_ns = clock_ns()
        file.orphan = False
        try:
            self.promises.require(file, file.size)
            self._show(file, parent, name)
        except BaseException:
            file.name = file.create = file.place = None
            file.orphan = True
            self.promises.orphaned(file)
            raise
        self.touch(file)

    def _show(self, file: File, parent: int, name: bytes) -> None:
        """A directory has an uncommitted file."""
        if parent not in self.names:
            if not self.store.hold(parent):  # held, it stays, though all its keys be deleted
                raise BeingRemoved(self.store.settle)
            self.names[parent] = {}
        self.names[parent][name] = file

    def of_node(self, node: Node, bucket: Bucket) -> File:
        """The file of a committed node."""
        found = self.files.get(node.id)
        if found is None:
            found = self.add(File.of_node(node, bucket, self.ownership))
            found.atime_ns = self.times.read.get(node.id, node.atime_ns)
        return found

    def let_go(self, file: File) -> None:
        """Drops the file from memory if nothing needs it any more."""
        if not file.idle or self.files.get(file.inode) is not file:
            return
        self._discard(file)
        self.promises.drop(file)
        del self.files[file.inode]
        self.store.release(file.inode)

    # ------------------------------------------------------------------ changing
    def touch(self, file: File) -> None:
        """A commit of it is due from now on."""
        if file.dirty_since == NOT_DIRTY:
            file.dirty_since = time.monotonic()
            self._dirty[file.inode] = file

    def write(self, file: File, offset: int, data: bytes | memoryview, now_ns: int) -> None:
        """`data` at `offset`: in memory only.  Call `make_room` first.  Raises QUOTA_EXCEEDED."""
        self.promises.require(file, max(file.size, offset + len(data)))
        file.overlay.write(offset, data)
        self._count(file)
        file.size = max(file.size, offset + len(data))
        file.mtime_ns = file.ctime_ns = now_ns
        self.touch(file)
        if file.overlay.fresh >= max(CHUNK_SIZE, file.scan_at):
            file.scan_at = file.overlay.fresh + CHUNK_SIZE // 2
            self._stage_runs(file)

    def truncate(self, file: File, size: int, now_ns: int) -> None:
        """The file ends at `size`; it may grow by a hole.  Raises QUOTA_EXCEEDED."""
        self.promises.require(file, size)
        if size < file.size:
            file.overlay.truncate(size)
            file.cut = lower(size, file.cut)
        self._count(file)
        file.size = size
        self.promises.shrink(file)
        file.mtime_ns = file.ctime_ns = now_ns
        self.touch(file)

    def punch(self, file: File, start: int, end: int, now_ns: int) -> None:
        """[start, end) becomes a hole; the size stays.  Raises QUOTA_EXCEEDED: it may begin a version."""
        self.promises.require(file, file.size)
        file.overlay.punch(start, end)
        self._count(file)
        file.mtime_ns = file.ctime_ns = now_ns
        self.touch(file)

    async def promise(self, file: File, size: int) -> None:
        """The file may have `size` bytes by its bucket's quota.  What other files are about to free is waited for: who
        has truncated one may fill another.  Raises QUOTA_EXCEEDED."""
        try:
            self.promises.require(file, size)
        except StoreError:
            freeing = [other for other in self.files.values() if self.promises.frees(other, file.bucket.id)]
            if not freeing:
                raise
            for other in freeing:
                commit = await self.commit(other)
                if commit is not None:
                    await self.wait(commit)
            self.promises.require(file, size)

    async def make_room(self, file: File) -> None:
        """Waits until both bounds allow another write.  Raises what staging raises: NO_SPACE, IO_ERROR."""
        while file.overlay.memory >= FILE_MEMORY_MAX or self.memory >= TOTAL_MEMORY_MAX:
            victim = file
            if file.overlay.memory < FILE_MEMORY_MAX:
                victim = max(self.files.values(), key=lambda other: other.overlay.memory)
            if victim in self.stagings:
                await self.stagings[victim].progress()
            elif victim.overlay.memory > GATHER_MAX and (victim.overlay.fresh or victim.lock.locked()):
                async with victim.lock:
                    if victim.overlay.memory >= FILE_MEMORY_MAX or self.memory >= TOTAL_MEMORY_MAX:
                        await self._staging(victim, owner=0).everything()
            elif self.commits:
                commit = self.commits[0]
                await self.wait(commit)
                require_done(commit)
            elif named := [other for other in self._dirty.values() if not other.orphan]:
                for other in named:  # many small bodies: they leave memory only with their commits
                    await self.commit(other)
            elif nameless := [other for other in self.files.values() if other.orphan and other.overlay.fresh]:
                victim = max(nameless, key=lambda other: other.overlay.fresh)
                async with victim.lock:  # no commit will take its small body out of memory
                    await self._staging(victim, owner=0).everything()
            else:
                return  # all of it is under way

    def renamed(self, file: File) -> None:
        """A name of it was changed, or another one made.  The other door may have removed it since."""
        try:
            file.rebase(self.store.node(file.inode))
        except StoreError as error:
            if error.code is not Code.NO_SUCH_NODE:
                raise

    def unlinked(self, file: File, *, last: bool = False) -> None:
        """One of its names is gone; `last`: its only one, by a commit that is submitted."""
        self._forget_name(file)
        if last or (file.base is None and not file.pending):
            file.orphan = True
        else:
            try:
                node = self.store.node(file.inode)
                file.rebase(node)
                file.orphan = node.links == 0
            except StoreError:
                file.orphan = True
        if file.orphan:
            file.dirty_since = NOT_DIRTY
            self._leave(file)

    def _leave(self, file: File) -> None:
        """It has no name: no commit of it follows, and who has it open keeps its bytes."""
        self._dirty.pop(file.inode, None)
        self.let_go(file)
        if self.files.get(file.inode) is file:
            self.promises.orphaned(file)

    def moved(self, file: File) -> None:
        """It has another name by a commit that is submitted: its first one, if that is under way, comes before."""
        self._forget_name(file)

    def restored(self, file: File) -> None:
        """Its last name was not taken after all."""
        with suppress(StoreError):
            node = self.store.node(file.inode)
            file.rebase(node)
            file.orphan = node.links == 0
            self.promises.shrink(file)
            if not file.orphan and (file.overlay.fresh or file.cut is not None):
                self.touch(file)

    # ------------------------------------------------------------------ committing
    async def commit(self, file: File, *, synced: bool = False, late: bool = False) -> Commit | None:
        """Submits what is dirty; the last commit under way, if any.  Waits for devices, not for the barrier."""
        if file.orphan:
            return None
        if file.dirty or file.lock.locked():
            async with file.lock:
                if file.dirty and not self._is_orphan(file):
                    await self._submit(file, synced=synced, late=late)
        return file.pending[-1] if file.pending else None

    async def make_durable(self, file: File, *, late: bool = False) -> None:
        """Commits and waits for the barrier; `late`: not until its rows are shown.  Raises an error nobody was told."""
        commit = await self.commit(file, synced=True, late=late)
        if late and commit is not None and await commit.ticket.stands() and not file.has_failed:
            await self._take_in_settled()  # what was written before it may have failed
        elif commit is not None:
            await self.wait(commit)
            last = await self.commit(file) if commit.again else commit
            if last is not None:
                await self.wait(last)
                require_done(last)
        self.report(file)

    @asynccontextmanager
    async def quiet(self, file: File) -> AsyncIterator[None]:
        """Of an open file: inside, what was written before is durable, and no commit of it begins.

        Raises the error of a commit nobody was told about."""
        async with file.lock:
            if file.dirty and not self._is_orphan(file):
                await self._submit(file)
            last = file.pending[-1] if file.pending else None
            while file.pending:
                await self.wait(file.pending[-1])
            if last is not None:
                require_done(last)
            self.report(file)
            yield

    async def commit_all(self) -> None:
        """Everything that is dirty now is committed and durable.  Errors are logged, not raised."""
        for _ in range(2):  # once more what a failed device kept from being done
            for file in list(self._dirty.values()):
                await self._commit_quietly(file)
            while self.commits:
                await self.wait(self.commits[0])
        await self.times.commit()

    def report(self, file: File) -> None:
        """Raises the kept error, once."""
        error, file.error = file.error, None
        if error is not None:
            self.let_go(file)
            raise error

    # ------------------------------------------------------------------ background
    async def _settle_in_order(self) -> None:
        while True:
            while self.commits:
                await self.wait(self.commits[0], patient=True)
            self._submitted = trio.Event()
            await self._submitted.wait()

    async def _commit_aged(self) -> None:
        while True:
            await trio.sleep(TICK)
            oldest = time.monotonic() - AGE
            for file in list(self._dirty.values()):
                if file.dirty_since > oldest:
                    break
                await self._commit_quietly(file)

    async def _commit_quietly(self, file: File) -> None:
        try:
            await self.commit(file)
        except Exception as error:
            log.warning("inode %d stays in memory: %r", file.inode, error, exc_info=not isinstance(error, StoreError))
            file.error = error if isinstance(error, StoreError) else StoreError(Code.IO_ERROR)
            if file.dirty:  # try again after another while, behind the others
                file.dirty_since = time.monotonic()
                self._dirty[file.inode] = self._dirty.pop(file.inode)

    def _stage_runs(self, file: File) -> None:
        """Whole chunks leave memory while the file is written: with those under way, or as the first ones."""
        if file in self.stagings:
            if self.stagings[file].takes_more and not is_commit_due(file):
                self.stagings[file].add(whole_chunks(file, next(self._tokens)))
        elif self._nursery is not None and not file.lock.locked():
            staging = self._staging(file, owner=0, grows=True)
            gatherings = whole_chunks(file, staging.token)
            if gatherings:
                file.lock.take()
                self.stagings[file] = staging
                self._nursery.start_soon(self._stage_early, file, staging, gatherings)

    async def _stage_early(self, file: File, staging: Staging, gatherings: list[Gathering]) -> None:
        """Has the file's lock, as long as more chunks are complete and nobody waits for it."""
        try:
            try:
                await staging.run(gatherings)
            finally:
                del self.stagings[file]
            if is_commit_due(file):
                await self._submit(file)
        except Exception as error:
            log.warning(
                "inode %d: staging failed, its bytes stay in memory: %r",
                file.inode,
                error,
                exc_info=not isinstance(error, StoreError),
            )
        finally:
            file.lock.give_back()
        self.let_go(file)

    # ------------------------------------------------------------------ under the file's lock
    def _staging(self, file: File, owner: int, *, grows: bool = False) -> Staging:
        def staged(chunk: NewChunk | None) -> None:
            if chunk is not None:
                self.memory += len(chunk.data)
            self._count(file)

        return Staging(self.store, file, owner or next(self._tokens), owner, staged, grows=grows)

    async def _submit(self, file: File, *, synced: bool = False, late: bool = False) -> None:
        """Builds one commit of all that is dirty at this moment and submits it.  Somebody waits for it if `synced`."""
        token, size, cut = next(self._tokens), file.size, file.cut
        whole = None if synced and file.takes_patches else whole_small(self.store, file)
        if whole is not None:
            file.overlay.truncate(0)
            file.overlay.write(0, whole)
            self._count(file)
            cut = 0
        taken = file.overlay.claim(token)
        self._count(file)
        since, file.dirty_since, file.cut, file.building = file.dirty_since, NOT_DIRTY, None, size
        try:
            segments = [segment for segment in taken if segment.source is not None and not segment.in_memory]
            in_memory = [segment for segment in taken if segment.in_memory]
            segments += await self._staging(file, owner=token).run(gather(in_memory, CHUNK_SIZE))
            punched = [] if file.create else list(punched_of(taken, size if cut is None else min(cut, size)))
        except BaseException:
            self._take_back(file, token, since, cut)
            raise
        if not self._is_orphan(file):  # its last name may have gone while its bytes were staged
            self._enter(file, token, size, since, cut, segments, punched, late=late)

    def submit_little(self, file: File) -> Ticket | None:
        """As `commit` for `make_durable`, but without a wait.  None, and nothing is done: there is nothing to do, or it
        is not so little, or not so plain, as a database's page in a file of which S3 knows all but what was synced
        lately."""
        overlay, last = file.overlay, file.pending[-1].ticket if file.pending else None
        if not file.dirty or file.lock.locked() or file.cut is not None or file.orphan or file.staged or file.error:
            return None
        if not file.takes_patches or file.refused or not 0 < overlay.fresh <= PATCH_MAX or not overlay.is_plain:
            return None
        if last is not None and (not last.durable or last.done or file.pending[0].ticket.settled or file.has_failed):
            return None  # what fails is told by who waits, and so is what has failed and was not taken in
        token, size, since = next(self._tokens), file.size, file.dirty_since
        gathering = gather(overlay.claim(token), CHUNK_SIZE)[0]
        chunk = self.store.carried(gathering.pieces)
        file.staged.append(chunk)
        self.memory += len(chunk.data)
        overlay.stage(token, gathering.placements, chunk, token)
        self._count(file)
        file.dirty_since, file.building = NOT_DIRTY, size
        segments = [Segment(start, end, chunk, skip, token) for start, end, skip in gathering.placements]
        self._enter(file, token, size, since, None, segments, [], late=True)
        file.pending[-1].stood = True
        return file.pending[-1].ticket

    def _take_back(self, file: File, token: int, since: float, cut: int | None) -> None:
        file.overlay.unclaim(token)
        file.dirty_since = since
        file.cut, file.building = lower(cut, file.cut), 0

    def _enter(
        self,
        file: File,
        token: int,
        size: int,
        since: float,
        cut: int | None,
        segments: list[Segment],
        punched: list[tuple[int, int]],
        **how: Any,
    ) -> None:
        """What `token` took is submitted; `how` as `submit_file` has it."""
        assert all(segment.end <= size for segment in segments)
        try:
            chunks = chunks_of(segments)
            ids = {chunk.id for chunk in chunks}
            unused = [chunk for chunk in file.staged if chunk.id not in ids]
            if file.begins and file.base is not None:
                file.stays = file.base.version
            changed = bool(segments or punched) or cut is not None or file.base is None or size != file.base.size
            promised = self.promises.of_commit(file, size) if changed else (0, 0)
            ticket = self.store.submit_file(
                file.bucket,
                **file.as_submitted(),
                now_ns=time.time_ns(),
                size=size,
                cut=None if file.create else cut,
                chunks=chunks,
                slices=slices_of(segments),
                promised=promised,
                punched=punched,
                **how,
            )
        except BaseException:
            self._take_back(file, token, since, cut)
            raise
        file.staged = []
        makes, file.create, file.building = file.create is not None, None, 0
        attributes, file.attributes_changed = file.attributes_changed, False
        self._forfeit(unused)
        if not file.dirty:
            self._dirty.pop(file.inode, None)
        if changed:
            file.begins = False
            self.promises.taken(file, size, promised)
        commit = Commit(
            file, token, ticket, chunks, cut=cut, attributes=attributes, makes=makes, size=size, promised=promised
        )
        file.pending.append(commit)
        self.commits.append(commit)
        self._submitted.set()

    def _is_orphan(self, file: File) -> bool:
        return file.orphan

    # ------------------------------------------------------------------ settling
    async def wait(self, commit: Commit, *, patient: bool = False) -> None:
        """Waits for one ticket and takes in every commit up to it that is done."""
        with suppress(Exception):  # taken in below, where it is kept for the file
            await commit.ticket.wait(patient=patient)
        await self._take_in_settled()

    async def _take_in_settled(self) -> None:
        while self.commits and self.commits[0].ticket.settled:
            await self._take_in(self.commits.popleft())

    async def _take_in(self, commit: Commit) -> None:
        """`commit` is settled: memory follows."""
        file = commit.file
        file.pending.remove(commit)
        try:
            await commit.ticket.wait()  # settled: raises or returns at once
        except StoreError as error:
            file.begins = True  # perhaps it was this one that was to begin a version: better one more than one changed
            self.before_again()
            if taken_back(commit):
                log.warning("commit of inode %d is tried again: %r", file.inode, error)
                self._count(file)
                self.promises.again(commit)
                self.touch(file)
                return
            if error.code is Code.NO_SUCH_NODE and not commit.makes:
                log.info("inode %d was removed through the other door as it was opened here", file.inode)
            else:
                log.error("commit of inode %d failed: %r", file.inode, error)
                file.error = error
        except Exception:
            file.begins = True
            log.exception("commit of inode %d failed", file.inode)
            file.error = StoreError(Code.IO_ERROR)
        self.memory -= commit.carried
        file.ended.append(commit.token)
        following = file.pending[0].ticket if file.pending else None
        if commit.ticket.error is None and following is not None and following.settled and following.error is None:
            return  # it is taken in at once
        file.overlay.settle(frozenset(file.ended))
        file.ended.clear()
        self._count(file)
        if commit.ticket.error is None and file.idle and not file.orphan:
            self.let_go(file)  # nobody will ask what the catalogue has of it
            return
        try:
            node = self.store.node(file.inode)
            file.rebase(node)
            file.orphan = file.orphan or node.links == 0  # the commit that takes its last name may follow
        except StoreError:  # its making failed, or it is gone
            file.orphan = not file.pending
        if file.base is not None or file.orphan:
            self._forget_name(file)
        if commit.ticket.error is not None:
            given_up(commit)
            self.promises.failed(commit)
        if file.orphan:
            self._leave(file)
        self.let_go(file)

    def _forget_name(self, file: File) -> None:
        if file.name is not None:
            parent, name = file.name
            names = self.names.get(parent, {})
            if names.get(name) is file:
                del names[name]
                if not names:
                    del self.names[parent]
                    self.store.release(parent)
            file.name = file.create = None

    def _discard(self, file: File) -> None:
        file.overlay.discard()
        self._count(file)
        self._dirty.pop(file.inode, None)
        self._forget_name(file)
        self._forfeit(file.staged)
        file.staged = []

    def _count(self, file: File) -> None:
        """Called after every change of an overlay."""
        self.memory += file.overlay.memory - file.counted
        file.counted = file.overlay.memory

    def _forfeit(self, chunks: list[NewChunk]) -> None:
        if chunks:
            self.memory -= sum(len(chunk.data) for chunk in chunks)
            self.store.forfeit(chunks)
