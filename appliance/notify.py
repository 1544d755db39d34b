"""Talking to systemd: one datagram per message to $NOTIFY_SOCKET (sd_notify(3)), and the watchdog's period.

Outside systemd nothing is sent and no watchdog runs.  What the messages mean is the daemon's business.
"""

from __future__ import annotations

import array
import os
import select
import socket
from typing import Final

STORED_FUSE: Final = "fuse"  # the name under which systemd keeps the mount's descriptor (premount.py)
STORED_CONTROL: Final = "fuse-control"  # and that of its control file (connections.py)
FIRST_PASSED: Final = 3  # sd_listen_fds(3)
BARRIER_TIMEOUT: Final = 5  # seconds: sd_notify_barrier(3) is given as much by systemd-notify(1)


def notify(message: str, descriptor: int | None = None) -> bool:
    """Sends e.g. "READY=1"; True if somebody listens.  Never raises: a service manager that went away stops nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagram:
        try:
            datagram.connect(address)
            rights = (
                [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
            )
            datagram.sendmsg([message.encode()], rights)
        except OSError:
            return False
    return True


def watchdog_period() -> float | None:
    """Seconds between two WATCHDOG=1, a third of systemd's patience; None when it does not watch this process."""
    patience, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not patience.isdigit() or (process and process != str(os.getpid())):
        return None
    return int(patience) / 1e6 / 3


def store_descriptor(name: str, descriptor: int) -> bool:
    """Leaves a descriptor with systemd for the unit's next process; True if systemd has taken note of it.

    FDPOLL=0: else systemd drops the descriptor at the first error that poll(2) shows, as /dev/fuse may."""
    return notify(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", descriptor) and taken_note()


def forget_descriptor(name: str) -> bool:
    """Takes it back."""
    return notify(f"FDSTOREREMOVE=1\nFDNAME={name}") and taken_note()


def taken_note() -> bool:
    """Waits until systemd has read what was sent before (sd_notify_barrier(3)); False after BARRIER_TIMEOUT.

    It knows a message's unit by the sender: one from a process that has ended meanwhile is nobody's, and dropped."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            sent = notify("BARRIER=1", writer)
        finally:
            os.close(writer)
        poll = select.poll()
        poll.register(reader, 0)  # POLLHUP: systemd has closed its end, the last
        return sent and bool(poll.poll(BARRIER_TIMEOUT * 1000))
    finally:
        os.close(reader)


def passed_descriptor(name: str) -> int | None:
    """The descriptor that systemd has handed to this process under `name` (sd_listen_fds_with_names(3))."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    return FIRST_PASSED + names.index(name) if name in names else None
