"""`advise` for a daemon that has no rights: `python -m fusefs.advising`, started by systemd for each connection to
SOCKET (tierce-advise.socket, tierce-advise@.service) with CAP_DAC_READ_SEARCH and nothing else.

The connection is its standard input and output.  The client says first which file system it means, by device number;
then it speaks as to `advise`.  What a client can bring about is that the kernel asks *itself* for parts of its own
files, or hands them over: the file system must be a Tierce mount that was mounted for the client's user (mountinfo,
SO_PEERCRED: both are the kernel's word), and who answers for a FUSE file system sees and says all that is in it anyway.
No path comes from the client, no byte of a file and no descriptor goes to it.

A unit of its own and not a process of the daemon's unit: the pages that it has the kernel read are charged to its own
control group, not to the daemon's with its MemoryHigh; and the daemon keeps its empty set of capabilities.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import Final

from appliance import mountpoints
from fusefs import advise

SOCKET: Final = "/run/tierce-advise.socket"
ASKED: Final = struct.Struct("<Q")  # a device number (stat(2), st_dev)
CREDENTIALS: Final = struct.Struct("=iII")  # struct ucred: process, user, group


def main() -> int:
    """The exit code."""
    with socket.socket(fileno=os.dup(0)) as connection:
        _, user, _ = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
        asked = connection.recv(ASKED.size)
    if len(asked) != ASKED.size:
        return 0  # it has ended
    (device,) = ASKED.unpack(asked)
    point = place(device, user, mountpoints.mounts())
    if point is None:
        print(
            f"user {user} has no Tierce mount {os.major(device)}:{os.minor(device)} that is seen here", file=sys.stderr
        )
        return 1
    advise.main(point, device)
    return 0


def place(device: int, user: int, mounts: list[mountpoints.Mounted]) -> str | None:
    """Where that file system is mounted, if it is a mount of ours that was made for that user."""
    name = f"{os.major(device)}:{os.minor(device)}"
    sought = name, mountpoints.FILE_SYSTEM, user
    return next((each.point for each in mounts if (each.device, each.type, each.owner[0]) == sought), None)


if __name__ == "__main__":
    sys.exit(main())
