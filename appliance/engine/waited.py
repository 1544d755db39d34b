"""Whether a thread had to wait for the host's disk.

The catalogue's pages are most often in the kernel's cache; one that is not costs a hundred times what SQLite does with
it.  The loop keeps everybody waiting meanwhile, and so leaves the next ones to another thread.
"""

from __future__ import annotations

import resource

_BLOCK = 512  # getrusage(2): the unit of ru_inblock


def bytes_read() -> int:
    """Bytes that disks have read for the calling thread so far, read-ahead included (getrusage(2), RUSAGE_THREAD)."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_inblock * _BLOCK
