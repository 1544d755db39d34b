"""What the kernel knows of us: inode numbers, how often it looked each up, and what it keeps in its caches.

An inode's number is its node's number; the mount's root is 1, which is no node's.  The kernel counts the lookups that
we answered and forgets them in lumps; while a count is above zero it may use the number.  Since only what it knows can
be stale, an S3 change that touches nothing here costs a dict look-up and no system call (H5).

Pure: the numbers and names only.  Who tells the kernel, and when, is the shell's business.
"""

from __future__ import annotations

from collections import deque
from typing import Final

ROOT: Final = 1
PAST: Final = (0, b"")  # the place of an older version: under no name of the catalogue
NEGATIVES_MAX: Final = (
    65_536  # remembered names that do not exist; above, answers are given without permission to cache
)
SLACK: Final = 10.0  # seconds in which the kernel has taken in an answer, however busy the machine is


class Known:
    """One inode that the kernel has a reference to."""

    __slots__ = ("bucket", "cached", "lookups", "opened", "place")

    def __init__(self, bucket: int) -> None:
        self.bucket = bucket  # the bucket it lives in; 0 for the root
        self.lookups = 0
        self.cached = False  # the kernel may hold its attributes
        self.opened = False  # ... and its bytes
        self.place: tuple[int, bytes] | None = None  # (directory, catalogue name): of files where keys have versions


class FadingNames:
    """Names that are remembered for so many seconds, at least."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._expiry: dict[tuple[int, bytes], float] = {}
        self._order: deque[tuple[float, tuple[int, bytes]]] = deque()

    def __len__(self) -> int:
        return len(self._expiry)

    def add(self, name: tuple[int, bytes], now: float, most: int | None = None) -> bool:
        """Remembers (directory, name) from now on.  False, and not, when there are `most` already."""
        order, expiry = self._order, self._expiry
        while order and order[0][0] < now:
            end, old = order.popleft()
            if expiry.get(old) == end:
                del expiry[old]
        if most is not None and (len(expiry) >= most or len(order) >= 2 * most):
            return False
        expiry[name] = end = now + self.seconds
        order.append((end, name))
        return True

    def take(self, name: tuple[int, bytes]) -> bool:
        """Whether it is remembered; from here on it is not."""
        return self._expiry.pop(name, None) is not None


class Inodes:
    """The kernel's references.

    `absent`: names of which the kernel may remember that there is nothing.  `answered`: names that a request of its own
    changed just now, so that for a moment it may hold what they were."""

    def __init__(self, timeout: float = 60.0) -> None:
        """`timeout`: seconds for which the kernel may remember what it is told."""
        root = Known(0)
        root.lookups = 1
        self._known: dict[int, Known] = {ROOT: root}
        self.absent = FadingNames(timeout + SLACK)  # its clock begins when it hears the answer
        self.answered = FadingNames(SLACK)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, number: int) -> bool:
        return number in self._known

    def bucket(self, number: int) -> int | None:
        """The bucket of an inode the kernel knows; None if it knows none of that number."""
        known = self._known.get(number)
        return None if known is None else known.bucket

    def place(self, number: int) -> tuple[int, bytes] | None:
        """Where the inode was found last, if that was noted."""
        known = self._known.get(number)
        return None if known is None else known.place

    def placed(self, number: int, place: tuple[int, bytes]) -> None:
        """Notes where an inode is found."""
        known = self._known.get(number)
        if known is not None:
            known.place = place

    def looked_up(self, number: int, bucket: int) -> None:
        """The kernel was given this inode once more, with its attributes."""
        assert number > 0
        known = self._known.get(number)
        if known is None:
            known = self._known[number] = Known(bucket)
        known.lookups += 1
        known.cached = True

    def forget(self, number: int, count: int) -> bool:
        """The kernel dropped `count` references.  True when it knows the inode no longer."""
        if number == ROOT:
            return False
        known = self._known[number]
        assert known.lookups >= count, f"inode {number} forgotten more often than looked up"
        known.lookups -= count
        if known.lookups == 0:
            del self._known[number]
            return True
        return False

    def attributes_given(self, number: int) -> None:
        """The kernel was told the attributes."""
        known = self._known.get(number)
        if known is not None:
            known.cached = True

    def first_opened(self, number: int) -> bool:
        """Whether nobody has opened it since the kernel knows it."""
        known = self._known.get(number)
        if known is None or known.opened:
            return False
        known.opened = True
        return True

    def take_cached(self, number: int) -> bool:
        """Whether the kernel may hold attributes; from here on it is taken not to, until it is told again."""
        known = self._known.get(number)
        if known is None or not known.cached:
            return False
        known.cached = False
        return True

    def absent_given(self, parent: int, name: bytes, now: float) -> bool:
        """The kernel is about to be told that there is no `name`.  True if it may remember that for the time-out."""
        return self.absent.add((parent, name), now, NEGATIVES_MAX)
