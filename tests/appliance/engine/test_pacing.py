"""When the writer gets what was submitted: the rules of `Pacing`, without a writer, by a clock of their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
import trio.testing

from appliance.catalogue.commands import Reap
from appliance.engine.pacing import CROWD, LINGER_COMMANDS, PATIENCE, Pacing
from appliance.engine.ticket import Ticket


class Bench:
    """A pacing, and what its writer was given."""

    def __init__(self) -> None:
        self.given: list[Ticket] = []
        self.pacing = Pacing(self.given.append)

    def add(self, *, patient: bool = False, late: bool = False) -> Ticket:
        ticket = Ticket(Reap(node=1, now_ns=0), 0, announce=False)
        ticket.late = late
        self.pacing.add(ticket, patient=patient)
        return ticket

    def finish(self) -> None:
        """The writer has done what it was given."""
        for ticket in self.given:
            ticket.settle()
        self.given.clear()
        self.pacing.follow()

    async def gather_crowd(self, count: int = CROWD, took: float = 1000 * PATIENCE) -> None:
        """So many have waited for one batch."""
        for _ in range(count):
            self.add()
        await trio.sleep(took)
        self.finish()


def run(main: Callable[[Bench], Awaitable[None]]) -> None:
    async def begin() -> None:
        await main(Bench())

    trio.run(begin, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_few_wait_for_nobody() -> None:
    async def main(bench: Bench) -> None:
        for _ in range(CROWD - 1):
            assert bench.add() in bench.given
        bench.finish()
        assert bench.add() in bench.given

    run(main)


def test_a_crowd_comes_again_before_the_writer_goes_on() -> None:
    async def main(bench: Bench) -> None:
        await bench.gather_crowd(CROWD + 2)
        added = []
        for _ in range(CROWD):
            added.append(bench.add())
            assert not bench.given, "the others may be on their way"
            await trio.sleep(PATIENCE / 2)
        await trio.sleep(2 * PATIENCE)
        assert bench.given == added, "nobody else came, and they wait"
        bench.finish()
        added = [bench.add() for _ in range(CROWD)]
        assert bench.given == added, "all who were there are here again, and wait"

    run(main)


def test_what_comes_while_the_writer_works_is_the_next_batch_with_what_follows_it() -> None:
    async def main(bench: Bench) -> None:
        await bench.gather_crowd()
        first = [bench.add() for _ in range(CROWD)]
        second = [bench.add() for _ in range(CROWD - 1)]
        await trio.sleep(3 * PATIENCE)
        assert bench.given == first
        bench.finish()
        second.append(bench.add())
        assert not bench.given, "twice as many were there"
        await trio.sleep(2 * PATIENCE)
        assert bench.given == second

    run(main)


def test_what_may_be_ahead_of_the_index_never_waits_and_overtakes_nothing() -> None:
    async def main(bench: Bench) -> None:
        await bench.gather_crowd()
        added = [bench.add(), bench.add(patient=True), bench.add(late=True)]
        assert bench.given == added
        assert not bench.pacing.holds
        later = bench.add()
        assert bench.pacing.holds, "the loop must hear of the batch"
        await trio.sleep(3 * PATIENCE)
        assert bench.given == added, "the writer works"
        for ticket in added:
            ticket.stand()  # durable, and not in the index yet
        bench.given.clear()
        bench.pacing.follow()
        await trio.sleep(2 * PATIENCE)
        assert bench.given == [later]

    run(main)


def test_who_syncs_many_times_is_no_crowd() -> None:
    """The loop hears of all of them at once."""

    async def main(bench: Bench) -> None:
        for _ in range(2 * CROWD):
            bench.add(late=True)
        bench.finish()
        bench.add(late=True)
        assert bench.add() in bench.given

    run(main)


def test_a_crowd_that_has_gone_makes_nobody_wait() -> None:
    async def main(bench: Bench) -> None:
        await bench.gather_crowd()
        alone = bench.add()
        assert not bench.given
        await trio.sleep(2 * PATIENCE)
        assert bench.given == [alone]
        bench.finish()
        assert bench.add() in bench.given

    run(main)


def test_a_crowd_is_awaited_no_longer_than_two_batches_take() -> None:
    async def main(bench: Bench) -> None:
        await bench.gather_crowd(10 * CROWD, took=3 * PATIENCE)
        added = []
        for _ in range(10):
            assert not bench.given
            added.append(bench.add())
            await trio.sleep(PATIENCE * 0.61)
        assert bench.given == added

    run(main)


def test_a_crowd_without_end_is_cut() -> None:
    async def main(bench: Bench) -> None:
        await bench.gather_crowd(2 * LINGER_COMMANDS)
        added = []
        for _ in range(LINGER_COMMANDS):
            assert not bench.given
            added.append(bench.add())
            await trio.sleep(PATIENCE / 2)
        assert bench.given == added

    run(main)


def test_what_nobody_waits_for_is_no_crowd_and_goes_when_somebody_does() -> None:
    async def main(bench: Bench) -> None:
        lingering = [bench.add(patient=True) for _ in range(2 * CROWD)]
        assert not bench.given
        assert lingering[0].hurry is not None
        lingering[0].hurry()
        assert bench.given == lingering
        bench.finish()
        assert bench.add() in bench.given

    run(main)
