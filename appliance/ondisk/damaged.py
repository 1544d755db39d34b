"""The one exception of this room: bytes that are not what their writer wrote.

It is a ValueError and not a StoreError because a damaged structure is usually no operating error: another slot,
another copy or the end of the journal answers for it.  Only the caller knows which, and turns it into a StoreError when
nothing does.
"""

from __future__ import annotations


class DamagedError(ValueError):
    """A magic, a digest, an identity or a bound does not hold.  The message names the structure and the check."""
