"""The chores by the clock: trio's own mock clock, a store that writes down what it was asked."""

from __future__ import annotations

import trio
import trio.testing

from appliance.chores import run_chores
from appliance.errors import Code, StoreError
from appliance.model import Bucket
from appliance.settings import LOCK


class Asked:
    """What the chores may ask of a store."""

    def __init__(self, expired: list[int], *, locks: bool = False) -> None:
        self.snapshots: list[float] = []
        self.expiries: list[int] = []
        self.key_looks: list[float] = []
        self.times: list[float] = []
        self._expired = expired
        self.read_only = False
        self._settings = {LOCK: b"{}"} if locks else {}

    def buckets(self) -> list[Bucket]:
        return [
            Bucket(1, "default", "plain", 0, 2, "owner"),
            Bucket(3, "default", "b", 0, 4, "o", settings=self._settings),
        ]

    async def keep_time(self) -> None:
        self.times.append(trio.current_time())
        if len(self.times) == 1:
            raise StoreError(Code.NO_SPACE)

    def checkpoint(self) -> None:
        self.snapshots.append(trio.current_time())

    async def renew_data_key(self) -> bool:
        self.key_looks.append(trio.current_time())
        if len(self.key_looks) == 1:
            raise StoreError(Code.UNAVAILABLE)
        return True

    async def expire_uploads(self, before_ns: int, limit: int) -> int:
        self.expiries.append(before_ns)
        if self.read_only:
            raise StoreError(Code.READ_ONLY)
        return self._expired.pop(0) if self._expired else 0


def run_for(store: Asked, seconds: float, *, upload_expiry: float) -> None:
    async def main() -> None:
        with trio.move_on_after(seconds):
            await run_chores(store, snapshot_interval=3600, upload_expiry=upload_expiry)  # type: ignore[arg-type]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_snapshot_comes_every_interval() -> None:
    store = Asked([])
    run_for(store, 3 * 3600 + 600, upload_expiry=0)
    gaps = [later - earlier for earlier, later in zip(store.snapshots, store.snapshots[1:], strict=False)]
    assert len(store.snapshots) == 3
    assert all(3600 <= gap <= 3720 for gap in gaps)
    assert store.expiries == []  # 0 keeps uploads for ever


def test_expired_uploads_are_ended_until_none_is_left() -> None:
    store = Asked([100, 100, 7])
    run_for(store, 90, upload_expiry=86_400)
    assert len(store.expiries) == 4  # three that found some, one that found none


def test_the_data_key_is_looked_at_once_a_day() -> None:
    """A day without its master key does not end the chores."""
    store = Asked([])
    run_for(store, 3 * 86_400 + 600, upload_expiry=0)
    assert len(store.key_looks) == 3
    assert len(store.snapshots) >= 70


def test_the_time_is_kept_where_objects_are_locked() -> None:
    for locks, expected in ((False, 0), (True, 3)):
        store = Asked([], locks=locks)
        run_for(store, 2 * 3600 + 600, upload_expiry=0)
        assert len(store.times) == expected


def test_a_pool_that_takes_no_more_changes_keeps_its_chores() -> None:
    store = Asked([7])
    store.read_only = True
    run_for(store, 4000, upload_expiry=86_400)
    assert len(store.expiries) == 66  # one look a round, and each round comes
    assert len(store.snapshots) == 1
