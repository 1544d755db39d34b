"""S3's three ways of writing a moment (pure): HTTP dates, ISO dates in XML, and their parsing.

Times inside are integer nanoseconds since the epoch; everything S3 shows has whole seconds.  Formatting is remembered
by second, because a page of a listing and a burst of small answers repeat the same few moments.
"""

from __future__ import annotations

import datetime
import email.utils
import functools
from typing import Final

NS: Final = 1_000_000_000
_UTC: Final = datetime.UTC
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=_UTC)
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MINUTES: Final = tuple([f"T{minute // 60:02d}:{minute % 60:02d}:" for minute in range(24 * 60)])
_SECONDS: Final = tuple([f"{second:02d}.000Z" for second in range(60)])
_MONTHS: Final = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@functools.lru_cache(maxsize=4096)
def http_date(second: int) -> bytes:
    """IMF-fixdate of RFC 9110 §5.6.7."""
    t = _EPOCH + datetime.timedelta(seconds=second)
    day = f"{_DAYS[t.weekday()]}, {t.day:02d} {_MONTHS[t.month]} {t.year:04d}"
    return f"{day} {t.hour:02d}:{t.minute:02d}:{t.second:02d} GMT".encode()


@functools.lru_cache(maxsize=4096)
def iso_date(second: int) -> str:
    """`2009-10-12T17:50:30.000Z`: like AWS without a fraction, so that a listing and Last-Modified agree."""
    days, rest = divmod(second, 86_400)
    minute = rest // 60
    return _iso_day(days) + _MINUTES[minute] + _SECONDS[rest - 60 * minute]


@functools.lru_cache(maxsize=1024)
def _iso_day(days: int) -> str:
    """A page of a listing has a thousand moments and few days: the rest of each is two pieces from a table."""
    return (_EPOCH + datetime.timedelta(days=days)).date().isoformat()


def parse_date(text: str) -> int | None:
    """Seconds since the epoch of an HTTP date (all three forms of RFC 9110) or of an ISO 8601 one; None if neither."""
    text = text.strip()
    try:
        if text[:4].isdigit():
            moment = datetime.datetime.fromisoformat(text)
        else:
            moment = email.utils.parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=_UTC)
        return int((moment - _EPOCH).total_seconds() // 1)
    except (ValueError, OverflowError, TypeError):
        return None
