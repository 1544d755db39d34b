"""Work that can wait does, while somebody is being served."""

from __future__ import annotations

from collections.abc import Callable

import trio
from trio.testing import MockClock

from appliance.upkeep.calm import BUSY, LOOK, PATIENCE, calm


async def _time_of(used: Callable[[], float]) -> float:
    began = trio.current_time()
    await calm(used=used)
    return trio.current_time() - began


def test_the_end_of_a_burst_is_waited_for_but_not_for_ever() -> None:
    rows: list[tuple[str, list[float], float]] = [
        ("nobody", [0.0], LOOK),
        ("little enough", [BUSY], LOOK),
        ("a burst", [1.0, 0.9, 2 * BUSY, BUSY / 2], 4 * LOOK),
        ("always busy", [1.0] * round(PATIENCE / LOOK + 1), PATIENCE),
    ]
    for what, shares, wanted in rows:
        shown = [0.0]  # each look reads it at its beginning and at its end
        for share in shares:
            shown += [shown[-1], shown[-1] + share * LOOK * 0.999]
        reads = iter(shown[1:])

        took = trio.run(_time_of, reads.__next__, clock=MockClock(autojump_threshold=0))
        assert abs(took - wanted) < LOOK / 2, (what, took)
