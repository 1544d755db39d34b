"""Talking to systemd: one datagram per message to $NOTIFY_SOCKET (sd_notify(3)), and the watchdog's period.

Outside systemd nothing is sent and no watchdog runs.  What the messages mean is the daemon's business.
"""

from __future__ import annotations

import os
import socket


def notify(message: str) -> bool:
    """Sends e.g. "READY=1"; True if somebody listens.  Never raises: a service manager that went away stops nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagram:
        try:
            datagram.connect(address)
            datagram.sendall(message.encode())
        except OSError:
            return False
    return True


def watchdog_period() -> float | None:
    """Seconds between two WATCHDOG=1, a third of systemd's patience; None when it does not watch this process."""
    patience, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not patience.isdigit() or (process and process != str(os.getpid())):
        return None
    return int(patience) / 1e6 / 3
