"""What the command line shows: tables for people, JSON for programs, progress bars only on a terminal.

Knows nothing of what it shows.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class Shown(Protocol):
    """Takes the lines of progress that the engine reports: {"stage": …, "done": …, "total": …}."""

    def __call__(self, event: Mapping[str, Any]) -> None: ...


def show_json(value: object) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def show_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str]], nothing: str) -> None:
    """A table of (key, heading) columns; keys that end in _ns are times, known byte counts get units."""
    if not rows:
        print(nothing)
        return
    if not sys.stdout.isatty():  # one line a row, tabs between: cut(1) and awk(1) read it
        print("\t".join(heading for _, heading in columns))
        for row in rows:
            print("\t".join(_cell(key, row.get(key)) for key, _ in columns))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for key, heading in columns:
        table.add_column(heading, justify="right" if isinstance(rows[0].get(key), int) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(key, row.get(key)) for key, _ in columns))
    Console(highlight=False).print(table)


def show_facts(facts: Mapping[str, object]) -> None:
    """`name  value` lines."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):<{width}}  {value}")


def bytes_text(count: float) -> str:
    """1536 -> "1.5 KiB"."""
    for unit in UNITS:
        if abs(count) < 1024 or unit == UNITS[-1]:
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"


@contextlib.contextmanager
def progress(title: str, *, quiet: bool = False) -> Iterator[Shown]:
    """A progress bar on standard error while the block runs; nothing when that is no terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda event: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)

        def shown(event: Mapping[str, Any]) -> None:
            stage, done, total = event.get("stage", ""), event.get("done", 0), event.get("total")
            bar.update(task, description=f"{title}: {stage}" if stage else title, completed=done, total=total)

        yield shown


def _cell(key: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and key.endswith("_ns"):
        return dt.datetime.fromtimestamp(value / 1e9, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, int) and key in ("size", "free", "bytes", "available", "pages_size", "quota_size"):
        return bytes_text(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
