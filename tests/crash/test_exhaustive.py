"""R3: all sequences of one and two operations, crashed everywhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from appliance.ondisk.superblock import Tier
from tests.crash import exhaustive, mutations
from tests.crash.exhaustive import ALPHABET, PLAIN, VERSIONED, Base, Operation
from tests.crash.observed import Broken
from tests.crash.simulation import small_world
from tests.crash.witness import Host

LAYOUTS: Final[tuple[tuple[tuple[Tier, ...], int], ...]] = (
    (("blaze", "bulk"), 2),
    (("blaze",), 1),
    (("blaze", "blaze"), 2),
)
STATES_MIN: Final = 5_000


@pytest.fixture
def world() -> Iterator[Path]:
    """The small scale."""
    with small_world() as directory:
        yield directory


def visit(base: Base, sequence: Sequence[Operation], host: Host) -> int:
    """Every state that a crash in the last operation may leave; how many there were."""
    states = 0
    names = ", ".join(operation.__name__ for operation in sequence)
    for number, moment in enumerate(exhaustive.moments(base, sequence, host)):
        for leftover in exhaustive.leftovers(moment):
            try:
                exhaustive.check(leftover, base.tiers, host)
            except BaseException as error:
                error.add_note(f"{names}: before device call {number}, {leftover.rule}, {'+'.join(base.tiers)}")
                raise
            states += 1
    return states


def bases(world: Path) -> list[tuple[Base, Host]]:
    """One pool of each layout."""
    made = []
    for number, (tiers, copies) in enumerate(LAYOUTS):
        (world / str(number)).mkdir()
        host = Host(world / str(number))
        made.append((exhaustive.make_base(tiers, copies, host), host))
    return made


@pytest.mark.slow
def test_an_overwrite_is_old_or_new_at_every_call(world: Path) -> None:
    base, host = bases(world)[0]
    assert visit(base, [exhaustive.overwrite], host) >= 10


@pytest.mark.slow
def test_a_lost_page_is_noticed(world: Path) -> None:
    """The visit itself is checked: without I3's verification a record would stand whose page was lost."""
    base, host = bases(world)[1]
    with mutations.no_verification(), pytest.raises(Broken, match="cannot be read"):
        visit(base, [exhaustive.put_gathered], host)


@pytest.mark.slow
def test_every_operation_alone(world: Path) -> None:
    for base, host in bases(world):
        for operation in ALPHABET:
            assert visit(base, [operation], host) >= 5


@pytest.mark.slow
def test_every_pair_of_operations(world: Path) -> None:
    """Each pair of one bucket's operations on two of the three layouts."""
    made = itertools.cycle(bases(world))
    states = 0
    for pair in (*itertools.product(PLAIN, repeat=2), *itertools.product(VERSIONED, repeat=2)):
        for base, host in itertools.islice(made, 2):
            states += visit(base, pair, host)
    assert states >= STATES_MIN
