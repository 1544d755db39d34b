"""Places in directories: cookies, and the names that they stand for, as long as somebody may come back to them.

Knows nothing of what is in a directory now."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final
from zlib import crc32

KEPT_MAX: Final = 65_536  # names remembered of one directory; and of all that were closed
SELF: Final = 1  # the cookie of "."
PARENT: Final = 2  # of ".."


def cookie_of(row: bytes) -> int:
    """The cookie of a row name (a directory's ends with "/"): 62 bits, above those of "." and "..".

    Forwards and backwards, CRC-32 is as good as one of 64 bits.  Two of a million names have one cookie in one of ten
    million directories; who comes back to it is then led to one of the two, while going on from a reply never asks."""
    return PARENT + 1 + ((crc32(row) << 32 | crc32(row[::-1])) >> 2)


class Places:
    """Which names the cookies of one directory stand for: those of its latest replies."""

    __slots__ = ("_replies", "count")

    def __init__(self) -> None:
        self._replies: OrderedDict[tuple[bytes, bytes], list[bytes]] = OrderedDict()  # by first and last row name
        self.count = 0  # row names

    def give(self, rows: list[bytes]) -> None:
        """A reply has these, at least one, in order."""
        key = rows[0], rows[-1]
        self.count += len(rows) - len(self._replies.pop(key, ()))
        self._replies[key] = rows
        while self.count > KEPT_MAX and len(self._replies) > 1:
            _, forgotten = self._replies.popitem(last=False)
            self.count -= len(forgotten)

    def find(self, cookie: int) -> bytes | None:
        """The row name; None when it is remembered no more."""
        for rows in reversed(self._replies.values()):
            for row in rows:
                if cookie_of(row) == cookie:
                    return row
        return None

    def rows(self) -> list[bytes]:
        """All that are remembered."""
        return [row for rows in self._replies.values() for row in rows]


class Positions:
    """The places of all directories that are open or were lately."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[int, Places]] = {}  # directory -> (handles, its places)
        self._closed: OrderedDict[int, Places] = OrderedDict()  # least lately closed first
        self._kept = 0  # names in `_closed`

    def opened(self, directory: int) -> Places:
        """For one more handle of it."""
        handles, places = self._open.get(directory, (0, None))
        if places is None:
            places = self._closed.pop(directory, None) or Places()
            self._kept -= places.count
        self._open[directory] = handles + 1, places
        return places

    def closed(self, directory: int) -> None:
        """One handle less.  Somebody may still come back, through another."""
        handles, places = self._open.pop(directory)
        if handles > 1:
            self._open[directory] = handles - 1, places
        elif places.count:
            self._closed[directory] = places
            self._kept += places.count
            while self._kept > KEPT_MAX:
                _, forgotten = self._closed.popitem(last=False)
                self._kept -= forgotten.count
