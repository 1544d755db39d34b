"""The compiled part (extra.c, reads.c), loaded where the linker finds it before it finds libfuse.

Has to be imported before pyfuse3, whose calls are bound when it is loaded.  Where the package was installed without a
compiler or libfuse's headers `library` is None, and `MISSING` says what that means and what to do about it.

Knows neither pyfuse3 nor what the handlers do.
"""

from __future__ import annotations

import ctypes
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

MODULE: Final = "fusefs._extra"
LOST: Final = "fallocate, SEEK_HOLE and SEEK_DATA, copy_file_range without copying, O_TMPFILE, df of a bucket"
MISSING: Final = (
    f"the mount lacks {LOST}: fusefs/extra.c was not compiled, or is not as it was, when tierce was installed; install "
    "gcc, pkg-config, libfuse3-dev and libxxhash-dev, then install tierce again"
)
NOT_BOUND: Final = (
    f"the mount lacks {LOST}: pyfuse3 does not call libfuse by the functions that fusefs/extra.c replaces"
)

Seek: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int64, ctypes.c_int)
Allocate: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
Copy: Final = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_uint64,
    ctypes.c_int64,
    ctypes.c_uint64,
    ctypes.c_int64,
    ctypes.c_size_t,
    ctypes.c_int,
)
List: Final = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int64, ctypes.c_size_t)
Read: Final = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int64, ctypes.c_size_t)
# these keep the interpreter's lock; the reply as pyfuse3's do: whoever took it meanwhile would not give it back at once
Reply: Final = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
Sync: Final = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int)
Arrived: Final = ctypes.PYFUNCTYPE(ctypes.py_object)
Take: Final = ctypes.PYFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_uint64,
    ctypes.c_int64,
    ctypes.c_size_t,
    ctypes.c_int64,
)
Ended: Final = ctypes.PYFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
# this is called by a thread that is not Python's
Failed: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int64, ctypes.c_size_t)
Offer: Final = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
InRoom: Final = ctypes.PYFUNCTYPE(ctypes.c_size_t)


def _load() -> ctypes.CDLL | None:
    found = PathFinder.find_spec(MODULE, [str(Path(__file__).parent)])  # of this source, not of another installation
    if found is None or found.origin is None:
        return None
    try:
        return _declared(ctypes.CDLL(found.origin, mode=ctypes.RTLD_GLOBAL))
    except (OSError, AttributeError):  # of an older source, or for another libfuse: as if it were not there
        return None


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    library.extra_install.argtypes = [Seek, Allocate, Copy, List, Read, Sync]
    library.extra_install.restype = None
    library.extra_write_back.argtypes = [ctypes.c_uint64, ctypes.c_int64]
    library.extra_asked.restype = ctypes.c_uint64
    if has_reads(library):
        library.reads_install.argtypes = [Failed]
        library.reads_window.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
        library.reads_window.restype = ctypes.c_void_p
        library.reads_busy.argtypes = library.reads_free.argtypes = [ctypes.c_void_p]
        library.reads_busy.restype = ctypes.c_uint
    Arrived(("extra_arrived", library))
    Offer(("extra_offer", library))
    InRoom(("extra_in_room", library))
    for name, arguments in (
        ("fuse_reply_err", [ctypes.c_void_p, ctypes.c_int]),
        ("fuse_reply_lseek", [ctypes.c_void_p, ctypes.c_int64]),
        ("fuse_reply_write", [ctypes.c_void_p, ctypes.c_size_t]),
        ("fuse_reply_buf", [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]),
    ):
        getattr(library, name).argtypes = arguments  # libfuse's own: the library is linked against it
    return library


def has_reads(library: ctypes.CDLL) -> bool:
    """Whether reads.c is in it.  It may be of an older source: then long reads are answered like all others."""
    return hasattr(library, "reads_take")


library: Final = _load()
