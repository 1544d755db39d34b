"""Object lock: whether a version may go, which change of a retention is allowed, and by what time.  Pure.

Everything fails closed.  What cannot be read is locked; a mode that is not known protects as COMPLIANCE does.  Time is
the part that others can move, so it is read twice: `Clock.granting` is never before what was reached already, so that a
retention that begins under a clock set back lasts as long as it says; `Clock.releasing` never runs ahead of the time
that the box itself has run, so that a clock set forward frees nothing.

Source: "Locking objects with Object Lock" and "Object Lock considerations", Amazon S3 User Guide.
"""

from __future__ import annotations

import functools
from typing import Final

import msgspec

from appliance.errors import Code, StoreError
from appliance.model import Attributes, Frozen, unpack_attributes

GOVERNANCE: Final = "GOVERNANCE"
COMPLIANCE: Final = "COMPLIANCE"
MODES: Final = (GOVERNANCE, COMPLIANCE)
ON, OFF = "ON", "OFF"  # a legal hold; an object that was never asked about has ""

DAY_NS: Final = 24 * 3600 * 1_000_000_000
DAYS_MAX: Final = 36_500  # AWS's bounds of a default retention
YEARS_MAX: Final = 100

# How long a box may have been off and still be believed about the time: a longer absence, like a clock set forward,
# makes retentions last longer by what is beyond.
ABSENCE_MAX_NS: Final = 31 * DAY_NS


class Default(Frozen, frozen=True):
    """What a bucket's lock gives to each new version: nothing (`mode` ""), or a mode for so many days or years."""

    mode: str = ""
    days: int = 0
    years: int = 0


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Default)


def pack_default(default: Default) -> bytes:
    """The body of the bucket's setting LOCK: its presence is the lock."""
    return _encoder.encode(default)


@functools.lru_cache(maxsize=256)
def default_of(body: bytes) -> Default:
    """The reverse.  Raises DAMAGED: what is written without its retention would be unprotected for ever."""
    try:
        default = _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreError(Code.DAMAGED, "the bucket's object lock cannot be read", cause=str(error)) from error
    if default.mode not in ("", *MODES):
        raise StoreError(Code.DAMAGED, "the bucket's object lock cannot be read", cause=repr(default))
    return default


def retained(attributes: Attributes, default: Default, now_ns: int) -> Attributes:
    """With the bucket's default retention, unless the object came with one of its own."""
    if attributes.retention_mode or not default.mode:
        return attributes
    until = now_ns + (default.days + 365 * default.years) * DAY_NS
    return msgspec.structs.replace(attributes, retention_mode=default.mode, retain_until_ns=until)


def unlocked(attributes: Attributes) -> Attributes:
    """Without retention and hold: a copy inherits neither."""
    if not attributes.retention_mode and not attributes.legal_hold:
        return attributes
    return msgspec.structs.replace(attributes, retention_mode="", retain_until_ns=0, legal_hold="")


def protects(attributes: Attributes, now_ns: int, *, bypass: bool = False) -> bool:
    """Whether a version must stay as it is.  `bypass`: somebody who may asks to overrule GOVERNANCE."""
    if attributes.legal_hold not in ("", OFF):
        return True
    if not attributes.retention_mode or now_ns >= attributes.retain_until_ns:
        return False
    return not (bypass and attributes.retention_mode == GOVERNANCE)


def require_free(packed: bytes, now_ns: int, *, bypass: bool = False) -> None:
    """Raises LOCKED unless the version with these attributes may be removed or changed."""
    if not packed:
        return
    try:
        held = protects(unpack_attributes(packed), now_ns, bypass=bypass)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreError(Code.LOCKED, "the object's lock cannot be read", cause=str(error)) from error
    if held:
        raise StoreError(Code.LOCKED)


def may_change(before: Attributes, mode: str, until_ns: int, now_ns: int, *, bypass: bool = False) -> bool:
    """Whether a version's retention may become this one (`mode` "": none).  It can always be begun or prolonged;
    COMPLIANCE is never shortened, weakened or ended before its time, GOVERNANCE only by who may bypass it."""
    if not before.retention_mode or now_ns >= before.retain_until_ns:
        return True
    if before.retention_mode == GOVERNANCE and bypass:
        return True
    return mode == before.retention_mode and until_ns >= before.retain_until_ns


class Clock:
    """The box's two readings of the time, from the wall's and the machine's own.

    `seen_ns` is the latest releasing time that the catalogue has kept, 0 in a new pool.
    """

    def __init__(self, seen_ns: int, wall_ns: int, ran_ns: int) -> None:
        self._bound = seen_ns + ABSENCE_MAX_NS if seen_ns else wall_ns
        self._since = ran_ns
        self._reached = seen_ns

    def granting(self, wall_ns: int) -> int:
        """By which a retention begins."""
        return max(self._reached, wall_ns)

    def releasing(self, wall_ns: int, ran_ns: int) -> int:
        """By which a retention ends; `ran_ns` is the machine's monotonic time.  It never goes back: what was free once
        stays so."""
        self._reached = max(self._reached, min(wall_ns, self._bound + ran_ns - self._since))
        return self._reached
