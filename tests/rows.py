"""Tables of tests whose rows cost microseconds: one test tries every row and names each that fails.

A parametrised test costs milliseconds a row to collect, set up and report, on every worker.  `rows` is written like
`pytest.mark.parametrize` and means the same, with two differences: fixtures are made once for all rows (so it is for
tests that leave nothing behind), and the table is one test in the count.  Several of them stack to a product.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest


def rows(
    names: str | Sequence[str],
    table: Iterable[Any],
    *,
    ids: Callable[[Any], object] | Iterable[str] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Try a test with every row of a table; arguments as of `pytest.mark.parametrize`.

    The test raises a group of what its rows raised, each with its row's name; what is no failure (an interrupt) passes.
    """
    arguments = tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else tuple(names)
    values, labels = [], []
    for row in table:
        given = isinstance(row, type(pytest.param()))
        assert not (given and row.marks), "a row that needs a mark needs a test of its own"
        value = row.values if given else ((row,) if len(arguments) == 1 else tuple(row))
        assert len(value) == len(arguments), f"{value!r} is no row of {arguments}"
        values.append(value)
        labels.append(row.id if given and row.id else "-".join(label(item, ids) for item in value))
    if ids is not None and not callable(ids):
        labels = list(ids)
        assert len(labels) == len(values)
    assert values, "a table without rows tests nothing"

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function)
        assert set(arguments) <= set(signature.parameters), f"{function.__name__} does not take {arguments}"

        @functools.wraps(function)
        def every(**fixtures: Any) -> None:
            failures: list[BaseException] = []
            for value, name in zip(values, labels, strict=True):
                try:
                    function(**fixtures, **dict(zip(arguments, value, strict=True)))
                except (Exception, pytest.fail.Exception) as error:
                    error.add_note(f"row: {name}")
                    failures.append(error)
            if failures:
                raise BaseExceptionGroup(f"{len(failures)} of {len(values)} rows failed", failures)

        every.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[p for name, p in signature.parameters.items() if name not in arguments]
        )
        return every

    return decorate


def label(value: object, ids: object) -> str:
    """The name of one value of a row."""
    named = ids(value) if callable(ids) else None
    if named is not None:
        return str(named)
    return value.__qualname__ if inspect.isroutine(value) or inspect.isclass(value) else repr(value)
