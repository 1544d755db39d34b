"""Places in directories: cookies, and the names that they stand for, as long as somebody may come back to them.

Knows nothing of what is in a directory now."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final
from zlib import crc32

KEPT_MAX: Final = 65_536  # names remembered of one directory, and half of those of all that were closed
SELF: Final = 1  # the cookie of "."
PARENT: Final = 2  # of ".."


def cookie_of(row: bytes) -> int:
    """The cookie of a row name (a directory's ends with "/"): 62 bits, above those of "." and "..".

    Forwards and backwards, CRC-32 is as good as one of 64 bits.  Two of a million names have one cookie in one of ten
    million directories; who comes back to it is then led to one of the two, while going on from a reply never asks."""
    return PARENT + 1 + ((crc32(row) << 32 | crc32(row[::-1])) >> 2)


class Places:
    """Which names the cookies of one directory stand for: at least the `KEPT_MAX` that were listed last, however
    often each was; at most twice as many.  In two generations: a full one becomes the elder, and that goes."""

    __slots__ = ("_elder", "_young")

    def __init__(self) -> None:
        self._young: dict[int, bytes] = {}  # cookie -> row name
        self._elder: dict[int, bytes] = {}

    def give(self, cookies: Iterable[int], rows: Iterable[bytes]) -> None:
        """A reply has these."""
        self._young.update(zip(cookies, rows, strict=True))
        if len(self._young) >= KEPT_MAX:
            self._young, self._elder = {}, self._young

    def find(self, cookie: int) -> bytes | None:
        """The row name; None when it is remembered no more."""
        return self._young.get(cookie) or self._elder.get(cookie)

    def __len__(self) -> int:
        return len(self._young) + len(self._elder)

    def rows(self) -> set[bytes]:
        """All that are remembered."""
        return {*self._young.values(), *self._elder.values()}


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
            self._kept -= len(places)
        self._open[directory] = handles + 1, places
        return places

    def closed(self, directory: int) -> None:
        """One handle less.  Somebody may still come back, through another."""
        handles, places = self._open.pop(directory)
        if handles > 1:
            self._open[directory] = handles - 1, places
        elif places:
            self._closed[directory] = places
            self._kept += len(places)
            while self._kept > 2 * KEPT_MAX:
                _, forgotten = self._closed.popitem(last=False)
                self._kept -= len(forgotten)
