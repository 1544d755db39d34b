"""Object lock's rules as tables (SECURITY rule 16: it fails closed)."""

from __future__ import annotations

import pytest

from appliance import lock
from appliance.errors import Code, StoreError
from appliance.lock import ABSENCE_MAX_NS, COMPLIANCE, DAY_NS, GOVERNANCE, OFF, ON, Clock, Default
from appliance.model import NO_ATTRIBUTES, Attributes, pack_attributes

NOW = 1_000


def retained(mode: str, until: int, hold: str = "") -> Attributes:
    return Attributes(retention_mode=mode, retain_until_ns=until, legal_hold=hold)


def test_what_protects_a_version() -> None:
    for attributes, bypass, expected in (
        (NO_ATTRIBUTES, False, False),
        (retained(GOVERNANCE, NOW + 1), False, True),
        (retained(GOVERNANCE, NOW + 1), True, False),
        (retained(GOVERNANCE, NOW), False, False),
        (retained(COMPLIANCE, NOW + 1), False, True),
        (retained(COMPLIANCE, NOW + 1), True, True),
        (retained(COMPLIANCE, NOW), False, False),
        (retained("", 0, ON), True, True),
        (retained("", 0, OFF), False, False),
        (retained(GOVERNANCE, NOW - 1, ON), True, True),
        (retained(COMPLIANCE, NOW + 1, OFF), True, True),
        (retained("SOMETHING", NOW + 1), True, True),  # a mode that is not known is not weaker than the strongest
        (retained("", 0, "something"), True, True),
    ):
        assert lock.protects(attributes, NOW, bypass=bypass) is expected, (attributes, bypass)


def test_unreadable_is_locked() -> None:
    whole = pack_attributes(retained(COMPLIANCE, NOW + 1))
    for packed in (whole[:-1], b"\xc1", b"\xff" * 9, whole.replace(b"COMPLIANCE", b"COMPLIANC\xff")):
        with pytest.raises(StoreError) as caught:
            lock.require_free(packed, NOW + DAY_NS, bypass=True)
        assert caught.value.code is Code.LOCKED, packed
    lock.require_free(b"", NOW)
    lock.require_free(whole, NOW + 1)
    for body in (b"", b"{", b'{"mode":"LATER"}', b'{"days":"x"}'):
        with pytest.raises(StoreError) as caught:
            lock.default_of(body)
        assert caught.value.code is Code.DAMAGED, body


def test_how_a_retention_may_change() -> None:
    for before, mode, until, bypass, expected in (
        (NO_ATTRIBUTES, COMPLIANCE, NOW + 1, False, True),
        (retained(GOVERNANCE, NOW + 5), GOVERNANCE, NOW + 5, False, True),
        (retained(GOVERNANCE, NOW + 5), GOVERNANCE, NOW + 6, False, True),
        (retained(GOVERNANCE, NOW + 5), GOVERNANCE, NOW + 4, False, False),
        (retained(GOVERNANCE, NOW + 5), GOVERNANCE, NOW + 4, True, True),
        (retained(GOVERNANCE, NOW + 5), COMPLIANCE, NOW + 6, False, False),
        (retained(GOVERNANCE, NOW + 5), COMPLIANCE, NOW + 6, True, True),
        (retained(GOVERNANCE, NOW + 5), "", 0, False, False),
        (retained(GOVERNANCE, NOW + 5), "", 0, True, True),
        (retained(COMPLIANCE, NOW + 5), COMPLIANCE, NOW + 6, False, True),
        (retained(COMPLIANCE, NOW + 5), COMPLIANCE, NOW + 4, True, False),
        (retained(COMPLIANCE, NOW + 5), GOVERNANCE, NOW + 6, True, False),
        (retained(COMPLIANCE, NOW + 5), "", 0, True, False),
        (retained(COMPLIANCE, NOW), "", 0, False, True),
        (retained("SOMETHING", NOW + 5), GOVERNANCE, NOW + 6, True, False),
    ):
        assert lock.may_change(before, mode, until, NOW, bypass=bypass) is expected, (before, mode, until, bypass)


def test_defaults() -> None:
    for default in (Default(), Default(GOVERNANCE, days=3), Default(COMPLIANCE, years=2)):
        assert lock.default_of(lock.pack_default(default)) == default
    own = retained(GOVERNANCE, 7)
    assert lock.retained(own, Default(COMPLIANCE, days=1), NOW) is own
    assert lock.retained(NO_ATTRIBUTES, Default(), NOW) is NO_ATTRIBUTES
    assert lock.retained(NO_ATTRIBUTES, Default(COMPLIANCE, days=1), NOW) == retained(COMPLIANCE, NOW + DAY_NS)
    assert lock.retained(NO_ATTRIBUTES, Default(GOVERNANCE, years=1), 0).retain_until_ns == 365 * DAY_NS
    held = Attributes(content_type="text/plain", legal_hold=ON, retention_mode=GOVERNANCE, retain_until_ns=1)
    assert lock.unlocked(held) == Attributes(content_type="text/plain")


def test_a_clock_set_forward_frees_nothing() -> None:
    wall = 1_000 * DAY_NS
    clock = Clock(wall - DAY_NS, wall, 50)
    assert clock.releasing(wall, 50) == wall  # it was off for a day
    assert clock.releasing(wall + 5, 55) == wall + 5
    ahead = clock.releasing(wall + 900 * DAY_NS, 60)  # somebody set it
    assert ahead == wall - DAY_NS + ABSENCE_MAX_NS + 10
    again = Clock(wall, wall + 900 * DAY_NS, 0)  # and started the box anew
    assert again.releasing(wall + 900 * DAY_NS, 0) == wall + ABSENCE_MAX_NS
    assert again.releasing(wall, 7) == wall + ABSENCE_MAX_NS  # what was free stays free
    new = Clock(0, wall, 3)
    assert new.releasing(wall + DAY_NS, 4) == wall + 1


def test_a_clock_set_back_shortens_nothing() -> None:
    wall = 1_000 * DAY_NS
    clock = Clock(wall, 5, 0)
    assert clock.granting(5) == wall
    assert clock.granting(wall + 9) == wall + 9
    assert clock.granting(9) == wall
    assert clock.releasing(5, 1) == wall
