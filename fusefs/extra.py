"""Handlers that pyfuse3 does not install, joined to the mount by the compiled part (interposed.py, extra.c).

libfuse calls a handler while pyfuse3 takes in a request, in the loop's thread; the answer is a task of its own in the
mount's nursery, so a handler may wait like every other; one that needs not answers at once.  Each request is answered
once: with what the handler returns, with the number of its FUSEError, and with EIO when the mount ends first.

Without the compiled part all else works, and one warning says what is missing and how to get it.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

import trio
from pyfuse3 import FUSEError

from fusefs import interposed

log = logging.getLogger(__name__)

_kept: list[Any] = []  # callbacks of the one session that a process can have: ctypes does not keep them


class Handlers(Protocol):
    """What a mount can do beyond pyfuse3's operations; raises FUSEError only."""

    async def lseek(self, fh: int, offset: int, whence: int, /) -> int:
        """By SEEK_DATA or SEEK_HOLE: the new offset."""

    async def fallocate(self, fh: int, mode: int, offset: int, length: int, /) -> None:
        """fallocate(2)."""

    async def copy_file_range(
        self, fh_in: int, offset_in: int, fh_out: int, offset_out: int, length: int, flags: int, /
    ) -> int:
        """How many bytes."""

    def is_at_hand(self, fh: int, start: int, /) -> bool:
        """Whether `readdirplus` needs not wait."""

    async def readdirplus(self, fh: int, start: int, size: int, /) -> bytes:
        """Entries after the place `start`, as many as fit; none at the end."""

    async def read(self, fh: int, start: int, size: int, /) -> bytes:
        """pread(2)."""

    def read_directly(
        self,
        fh: int,
        start: int,
        size: int,
        reply: Callable[[bytes | memoryview], object],
        again: type_again,
        take: type_take,
        /,
    ) -> bytes | bool:
        """The bytes, if memory has them; True if a thread will `reply` or, if it could not read, the loop call `again`:
        then it is for `read`, as it is if False.  True also if `take(window, end)` has taken it (reads.c)."""

    async def fsync(self, fh: int, datasync: bool, /) -> None:
        """fsync(2), fdatasync(2)."""

    def sync_directly(self, fh: int, reply: Callable[[], object], again: type_again, /) -> bool:
        """Whether a thread will `reply` when all is durable or, if it fails, the loop call `again`: then it is for
        `fsync`, as it is if not."""


type_again = Callable[[], None]
type_take = Callable[[int, int], object]
type_start = Callable[..., object]
type_reply = Callable[[int | None, Any], object]


def install(library: ctypes.CDLL | None, handlers: Handlers, start: type_start) -> None:
    """Before pyfuse3.init: the session that it makes has the handlers.  `start(function, *arguments)` runs a task."""
    if library is None:
        log.warning("%s", interposed.MISSING)
        return
    fail: Final = library.fuse_reply_err
    reply_buffer: Final = interposed.Reply(
        ("fuse_reply_buf", library)
    )  # keeps the interpreter, as pyfuse3's replies do

    def answer(
        reply: type_reply,
        handler: Callable[..., Coroutine[Any, Any, Any]],
        is_at_hand: Callable[..., bool] = lambda *_: False,
    ) -> Callable[..., None]:
        async def work(request: int | None, *arguments: int) -> None:
            try:
                result = await handler(*arguments)
            except FUSEError as error:
                fail(request, error.errno)
            except BaseException:  # the mount ends; anything else is logged where it is caught
                fail(request, errno.EIO)
                raise
            else:
                reply(request, result)

        def begin(request: int | None, *arguments: int) -> None:
            if is_at_hand(*arguments):
                with suppress(StopIteration):
                    work(request, *arguments).send(None)
                    raise AssertionError("a handler waits for what was said to be at hand")
                return
            try:
                start(work, request, *arguments)
            except RuntimeError:  # trio: the nursery is closed
                fail(request, errno.ENOTCONN)

        return begin

    read_again = answer(lambda request, data: reply_buffer(request, data, len(data)), handlers.read)

    def reply_from_thread(request: int | None, data: bytes | memoryview) -> None:
        """Gives the interpreter to others while the kernel copies."""
        if isinstance(data, memoryview):
            library.fuse_reply_buf(request, ctypes.addressof(ctypes.c_char.from_buffer(data)), len(data))
        else:
            library.fuse_reply_buf(request, data, len(data))

    reads_take = interposed.Take(("reads_take", library)) if interposed.has_reads(library) else None
    token = trio.lowlevel.current_trio_token()

    def failed(request: int | None, fh: int, start: int, size: int) -> None:
        """In a thread of the compiled part's."""
        try:
            token.run_sync_soon(read_again, request, fh, start, size)
        except trio.RunFinishedError:
            fail(request, errno.EIO)

    def read(request: int | None, fh: int, start: int, size: int) -> int:
        reply, again = partial(reply_from_thread, request), partial(read_again, request, fh, start, size)

        def take(window: int, end: int) -> int:
            assert reads_take is not None, "there is a window"
            return int(reads_take(window, request, fh, start, size, end))

        taken = handlers.read_directly(fh, start, size, reply, again, take)
        if not isinstance(taken, bool):
            reply_buffer(request, taken, len(taken))
        return taken is not False

    sync_again = answer(lambda request, _: fail(request, 0), handlers.fsync)

    def sync(request: int | None, fh: int, datasync: int) -> int:
        return handlers.sync_directly(fh, partial(fail, request, 0), partial(sync_again, request, fh, bool(datasync)))

    callbacks = (
        interposed.Read(read),
        interposed.Sync(sync),
        interposed.Seek(answer(library.fuse_reply_lseek, handlers.lseek)),
        interposed.Allocate(answer(lambda request, _: fail(request, 0), handlers.fallocate)),
        interposed.Copy(answer(library.fuse_reply_write, handlers.copy_file_range)),
        interposed.List(
            answer(
                lambda request, entries: reply_buffer(request, entries, len(entries)),
                handlers.readdirplus,
                lambda fh, start, size: handlers.is_at_hand(fh, start),
            )
        ),
    )
    unanswered = interposed.Failed(failed)
    library.extra_install(*callbacks[2:], *callbacks[:2])
    if reads_take is not None:
        library.reads_install(unanswered)
    _kept[:] = [*callbacks, unanswered]


def is_in_place(library: ctypes.CDLL | None) -> bool:
    """Whether the session has the handlers."""
    return library is not None and bool(library.extra_in_place())


def check(library: ctypes.CDLL | None) -> None:
    """After pyfuse3.init: warns when the session was made without the handlers."""
    if library is not None and not is_in_place(library):
        log.warning("%s", interposed.NOT_BOUND)


def asked(library: ctypes.CDLL | None) -> int:
    """The inode of the statfs request that was taken in last; 0 where nobody can tell."""
    return int(library.extra_asked()) if library is not None and is_in_place(library) else 0


def write_back(library: ctypes.CDLL | None, inode: int, offset: int) -> None:
    """Has the kernel hand over what it holds of the inode from `offset` on: when this returns, its dirty pages have
    arrived as writes.  Blocks meanwhile: never on the loop.  Raises OSError."""
    assert library is not None, "asked for by a handler that it installed"
    failed = library.extra_write_back(inode, offset)
    if failed:
        raise OSError(-failed, os.strerror(-failed))
