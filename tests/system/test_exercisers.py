"""The exercisers of `tests/torture`, shortened: what they find is found again with `scripts/torture`."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fusefs.compiled import build
from tests.rows import rows
from tests.system.box import Box, running
from tests.torture import crowd, fsx, mail, programs, stress, writers
from tests.torture.places import Place, place_in

pytestmark = [pytest.mark.system, pytest.mark.slow]


@pytest.fixture(scope="module")
def box(fuse: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """With everything that the compiled part of the mount adds, and with access control lists."""
    build()
    with running(tmp_path_factory.mktemp("box"), TIERCE_MOUNT_ALLOW_OTHER="yes") as started:
        yield started


@pytest.fixture
def place(box: Box, request: pytest.FixtureRequest) -> Place:
    """A bucket for the test."""
    return place_in(box, request.node.name.replace("_", "-").lower()[:63].strip("-"))


def of_fsx(queue: Any, place: Place, names: list[str]) -> None:
    """A process of its own: two exercise at once."""
    try:
        exerciser = fsx.Exerciser(place)
        assert not exerciser.absent, f"not exercised: {exerciser.absent}"
        queue.put((sum(exerciser.run(1991, name) for name in names), ""))
    except BaseException as error:
        queue.put((0, "\n".join((repr(error), *getattr(error, "__notes__", ())))))


def test_fsx_finds_every_byte_where_it_was_written(place: Place, box: Box) -> None:
    """100,000 operations, half of them encrypted."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    names = list(fsx.PROFILES)
    places = place, place_in(box, "fsx-encrypted", "encrypted")
    processes = [context.Process(target=of_fsx, args=(queue, places[part], names[part::2])) for part in range(2)]
    for process in processes:
        process.start()
    said = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    assert not "".join(words for _, words in said), "\n".join(words for _, words in said)
    assert sum(count for count, _ in said) >= 100_000


@rows("kind", ["plain", "versioned"])
def test_fsstress_leaves_the_tree_that_each_process_made(box: Box, kind: str) -> None:
    assert stress.run(place_in(box, f"stress-{kind}", kind), 1, steps=400) == 8 * 400


@rows("run", [writers.run, mail.run])
def test_what_many_write_is_whole(place: Place, run: Callable[[Place, int], int]) -> None:
    assert run(place, 1)


def test_twenty_thousand_files_in_one_directory(place: Place) -> None:
    phases = crowd.crowd(place, 20_000)
    assert [phase.name for phase in phases] == ["create", "list", "list by S3", "stat", "remove"]


def test_two_hundred_directories_in_one_another(place: Place) -> None:
    crowd.deep(place, 200)


@rows("name", list(programs.PROGRAMS))
def test_programs_do_their_work_and_find_nothing_wrong(place: Place, name: str) -> None:
    assert programs.acls(place.directory)
    programs.one(place, name, 1, size=120)


def test_a_crowd_is_as_large_as_there_is_time_for() -> None:
    """As `scripts/torture` shares its time among its parts."""
    assert crowd.next_count(20_000, took=20.0, left=600.0) == 480_000
    assert crowd.next_count(20_000, took=20.0, left=10_000.0) == 1_000_000
    assert crowd.next_count(20_000, took=20.0, left=49.0) == 0, "hardly more than was tried already"
    assert crowd.next_count(20_000, took=20.0, left=-1.0) == 0
