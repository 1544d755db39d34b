"""What the engine asks of a device: seven verbs and three facts.

All verbs block the calling thread; `lanes.py` brings them to trio.  Whatever implements this (a raw device, memory, the
simulated disk of the tests) can hold a pool.  Nothing here knows what the bytes mean.

Contract
- Offsets, lengths and the addresses of buffers are multiples of ALIGNMENT (direct I/O).  Asserted, not repaired.
- A read fills the whole buffer, a write stores all of it; anything less raises OSError.  After a failed write the
  range's content is unknown; after a failed flush so is everything written since the last good one: it must not be
  retried as if nothing had happened (fsync may report an error only once: "Can Applications Recover from fsync
  Failures?", USENIX ATC 2020).
- A read sees every completed write.  A write is durable only after a later flush has returned; before that it may be
  lost, kept or torn at any 512-byte boundary, in any order.
- Concurrent verbs on ranges that don't overlap are safe from any number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

ALIGNMENT: Final = 4096
PARTS_MAX: Final = 1024  # IOV_MAX of Linux

Buffer: TypeAlias = bytes | bytearray | memoryview  # collections.abc.Buffer came with Python 3.12


class BlockDevice(Protocol):
    """A device, or something that behaves like one."""

    @property
    def name(self) -> str:
        """For people: a path, or what an error should say."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def sector(self) -> int:
        """Bytes that the device writes without tearing, as far as it says: 512 or 4096."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fills `buffer` from `offset`.  Raises OSError."""

    def write(self, offset: int, buffer: Buffer) -> None:
        """Stores all of `buffer` at `offset`.  Raises OSError."""

    def write_parts(self, offset: int, parts: Sequence[Buffer]) -> None:
        """The same of what lies in several places of memory, each of them aligned: at most PARTS_MAX, one after the
        other."""

    def flush(self) -> None:
        """Everything written so far is on stable media when this returns.  Raises OSError."""

    def discard(self, offset: int, length: int) -> None:
        """The range's content no longer matters.  A hint: a device that can't do it returns silently."""

    def close(self) -> None:
        """Gives the device back.  Idempotent.  Doesn't flush."""


def check_range(offset: int, length: int, size: int) -> None:
    """Asserts the contract's alignment, and that the range lies on the device."""
    assert offset % ALIGNMENT == 0, f"offset {offset} is not aligned"
    assert length % ALIGNMENT == 0, f"length {length} is not aligned"
    assert 0 <= offset <= offset + length <= size, f"{offset}+{length} is not on a device of {size} bytes"
