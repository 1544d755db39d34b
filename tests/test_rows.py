"""The tables' own test: every row is tried, every failing one is named, other arguments stay fixtures."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from tests.rows import rows


def test_every_failing_row_is_named_and_every_row_tried() -> None:
    tried = []

    @rows("number", range(5))
    def odd(number: int) -> None:
        tried.append(number)
        assert number % 2

    with pytest.RaisesGroup(AssertionError, AssertionError, AssertionError) as caught:
        odd()
    assert tried == [0, 1, 2, 3, 4]
    assert [error.__notes__ for error in caught.value.exceptions] == [["row: 0"], ["row: 2"], ["row: 4"]]
    assert "3 of 5 rows failed" in str(caught.value)


def test_a_row_that_raises_nothing_where_it_should_has_failed() -> None:
    """`pytest.raises` fails by an exception that is no Exception."""

    @rows(("text", "base"), [pytest.param("12", 10, id="decimal"), ("zz", 10)])
    def refused(text: str, base: int) -> None:
        with pytest.raises(ValueError, match="invalid literal"):
            int(text, base)

    with pytest.RaisesGroup(pytest.fail.Exception) as caught:
        refused()
    assert caught.value.exceptions[0].__notes__ == ["row: decimal"]


def test_an_interrupt_is_no_failing_row() -> None:
    @rows("_number", [1])
    def interrupted(_number: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_tables_stack_and_fixtures_stay(tmp_path: Path) -> None:
    seen = set()

    @rows("a", "xy")
    @rows("b", [1, 2], ids=["one", "two"])
    def both(a: str, tmp_path: Path, b: int) -> None:
        seen.add((a, b, tmp_path))

    assert list(inspect.signature(both).parameters) == ["tmp_path"]
    both(tmp_path=tmp_path)
    assert seen == {(a, b, tmp_path) for a in "xy" for b in (1, 2)}


@rows("number", [1, 2])
def test_pytest_runs_it(number: int, tmp_path: Path) -> None:
    (tmp_path / str(number)).touch(exist_ok=False)
    assert len(list(tmp_path.iterdir())) == number


@pytest.mark.parametrize("table", [[], [(1, 2), (3,)], [pytest.param(1, 2, marks=pytest.mark.slow)]])
def test_what_is_no_table_is_refused(table: list[object]) -> None:
    with pytest.raises(AssertionError):
        rows("a, b", table)
