"""A process that ends the mount when the daemon dies, whatever the daemon's threads are waiting for.

Threads of the daemon wait in the kernel for its own mount, uninterruptibly: for a file's dirty pages, which arrive as
writes (SEEK_DATA, link(2) of a nameless file), and for a directory that a program's request holds until it is answered
(what S3 changed is forgotten).  The kernel has no other way to ask for either, and both happen as a write to /dev/fuse.
While the loop lives they end.  When it is killed in between, nobody answers, and the kernel does not end the connection
by itself, because the waiting threads hold /dev/fuse open: they, the process and everybody in the mount would wait for
ever (appliance/connections.py).

So the kernel is asked for a signal at the daemon's death (PR_SET_PDEATHSIG, prctl(2)), which it sends as soon as the
*thread* that started this process is gone: the loop's own.  Nobody else's signal is a death: an operator may send one
to all of a service.  What gets the signal must not wait itself: this process holds the connection's control file,
opened in time, and nothing else of the mount; it aborts the connection, the threads come back, and the daemon is gone.
A pipe or a pidfd would not do: both tell only when the last thread is gone.

Run as a program, `guard.py DESCRIPTOR DAEMON`; knows nothing of the rest.  Who kills it as well (a control group's last
SIGKILL) leaves the connection to the next start (appliance/mountpoints.py) and to the service's ExecStopPost.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Final

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
DEATH: Final = signal.SIGRTMIN  # one of those that queue: a stranger's, sent before, does not hide the kernel's
ARMED: Final = b"1"


class Guard:
    """One mount's.  Start it in the thread that answers the mount's requests."""

    def __init__(self, control: int) -> None:
        """`control`: the connection's control file (connections.opened); ours from now on.  Raises OSError."""
        self._control = control
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, str(control), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                cwd="/",
                pass_fds=(control,),
                start_new_session=True,  # a terminal's ^C is not for it
            )
        except BaseException:
            os.close(control)
            raise

    def wait_until_armed(self) -> None:
        """Blocks for some 20 ms: the mount answers nobody before.  Raises OSError if it did not start: it is gone."""
        assert self._process.stdout is not None
        if self._process.stdout.read(1) != ARMED:
            code = self._process.wait()
            self._close()
            raise OSError(errno.ESRCH, f"it ended with {code}")

    @property
    def pipe(self) -> int:
        """Can be read, once it is armed, when the process has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def another(self) -> Guard:
        """In the place of this one, which has ended.  From the same thread.  Raises OSError."""
        return Guard(os.dup(self._control))

    def end(self) -> None:
        """The mount is served no more: whoever still waits for it is told so.  Blocks for an instant."""
        os.write(self._control, b"1")  # where it is unmounted, nothing happens
        self.bury()

    def bury(self) -> None:
        """Of it nothing is left, whether it lives or not.  Blocks for an instant."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        os.close(self._control)
        assert self._process.stdout is not None
        self._process.stdout.close()


def main(control: int, daemon: int) -> None:
    """The program."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # what is meant for the daemon's group
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, DEATH, 0, 0, 0)
    if os.getppid() == daemon:  # otherwise it died before we asked
        with suppress(BrokenPipeError):  # it is dead already
            os.write(1, ARMED)
            while signal.sigwaitinfo({DEATH}).si_pid != daemon:
                pass
    os.write(control, b"1")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
