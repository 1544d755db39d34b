"""Mounting with FUSE_INIT flags that libfuse 3.14 or pyfuse3 cannot ask for.  Root only.

As soon as a file system has extended attributes, the kernel asks for `security.capability` before every write(2): 20 us
and more instead of 1.5.  A file system that clears set-user-ID bits itself, as this one does on every change of
content, size or owner, may say so by FUSE_HANDLE_KILLPRIV_V2 (linux/fuse.h, protocol 7.33) and is not asked.

libfuse does not know the flag, and pyfuse3 asks for access control lists without the umask that they need.  So the
first exchange passes through our hands: we mount(2) ourselves, hand the kernel's INIT to libfuse over a socket that it
takes for /dev/fuse (a mount point `/dev/fd/N` is a descriptor already mounted), set the flags in its reply, give that
to the kernel, and put /dev/fuse in the socket's place.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Final

from appliance import mountpoints
from appliance.errors import Code, StoreError

DONT_MASK: Final = 1 << 6  # linux/fuse.h; the umask has no say where a directory has a default list: it comes to us
POSIX_ACL: Final = 1 << 20
KILLPRIV_V2: Final = 1 << 28
REQUEST_MAX: Final = 1 << 21  # /dev/fuse wants a buffer for the largest request, whatever it is asked for
OUT_HEADER: Final = struct.Struct("<IiQ")  # fuse_out_header: length, error, unique
INIT_REQUEST_FLAGS: Final = 40 + 12  # fuse_in_header, then fuse_init_in: major, minor, max_readahead, flags
INIT_REPLY_FLAGS: Final = OUT_HEADER.size + 12  # fuse_init_out: major, minor, max_readahead, flags


class Handshake:
    """One mount.  `path` is the mount point for libfuse; call `step` whenever libfuse waits for a request."""

    def __init__(
        self,
        point: Path,
        options: set[str],
        kernel: int | None = None,
        *,
        lists: bool = False,
        read_only: bool = False,
    ) -> None:
        """Mounts, unless `kernel` is the /dev/fuse of a mount that was made for us; `lists`: the kernel shall enforce
        access control lists.  Raises UNAVAILABLE."""
        self._asked = KILLPRIV_V2 | (DONT_MASK | POSIX_ACL if lists else 0)
        self._kernel = self._open(point, options, read_only) if kernel is None else kernel
        theirs, self._ours = socket.socketpair()
        self._descriptor = theirs.detach()
        self._steps = 0
        self._offered = 0

    def _open(self, point: Path, options: set[str], read_only: bool) -> int:
        kernel = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        words = [f"fd={kernel}", "rootmode=40000", "user_id=0", "group_id=0", *sorted(options)]
        try:
            mountpoints.make(point, words, read_only=read_only)
        except OSError as error:
            os.close(kernel)
            raise StoreError(
                Code.UNAVAILABLE,
                f"the kernel refused to mount {point}: {error.strerror} (a container needs SYS_ADMIN)",
            ) from None
        return kernel

    @property
    def path(self) -> str:
        """The mount point that libfuse is given."""
        return f"/dev/fd/{self._descriptor}"

    def step(self) -> bool:
        """True while the exchange goes on (a request waits in the socket); False when /dev/fuse is in its place."""
        self._steps += 1
        if self._steps == 1:
            request = os.read(self._kernel, REQUEST_MAX)
            (self._offered,) = struct.unpack_from("<I", request, INIT_REQUEST_FLAGS)
            self._ours.sendall(request)
            return True
        reply = bytearray(self._ours.recv(1 << 16))
        length, error, _ = OUT_HEADER.unpack_from(reply)
        assert error == 0
        assert length == len(reply)
        (flags,) = struct.unpack_from("<I", reply, INIT_REPLY_FLAGS)
        struct.pack_into("<I", reply, INIT_REPLY_FLAGS, flags | (self._asked & self._offered))
        os.write(self._kernel, reply)
        os.dup2(self._kernel, self._descriptor, inheritable=False)
        os.close(self._kernel)
        self._ours.close()
        return False
