"""The product at a small scale: the same code with smaller sizes, so that a crash is simulated in milliseconds.

Devices of 8 MiB instead of 64, pages of 128 KiB instead of 4 MiB, chunks of two pages as in the product.  Every
relation that the code relies on stays: blocks of 64 KiB, short headers up to GATHER_MAX, pieces below it, a page well
inside a region.  Modules import such sizes by name, so each module's own name is replaced; nothing else is.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import appliance
from appliance.limits import KIB, MIB
from appliance.ondisk.geometry import UNIT
from appliance.ondisk.page import SHORT

SMALL: Final[Mapping[str, int | tuple[int, ...]]] = {
    "SIZE_MIN": 8 * MIB,
    "PATCH_MAX": 4 * KIB,
    "PATCHES_MAX": 12 * KIB,
    "GATHER_MAX": 8 * KIB,
    "PAGE_PAYLOAD": 128 * KIB,
    "CHUNK_SIZE": 256 * KIB,
    "UNCOVERED_MAX": 256 * KIB,
    "PIECE_MIN": 4 * KIB,
    "PART_SIZE_MIN": 16 * KIB,
    "GATHER_MEMORY": 4 * MIB,
    "SIZES": (64 * KIB, 16 * KIB, 4 * KIB, 2 * UNIT - SHORT, UNIT - SHORT),  # of a snapshot's pages
    "DROP_STEP": 1,
    "SLICES_MAX": 8,
    "JOINS_MIN": 2,
    "DEAD_MIN": 1 * KIB,
    "PATCHED_MAX": 4 * KIB,
}
ROOMS: Final = (
    "appliance.engine",
    "appliance.ondisk",
    "appliance.catalogue",
    "appliance.verbs",
    "appliance.limits",
    "appliance.upkeep",
    "fusefs",
)


@contextmanager
def scaled(sizes: Mapping[str, int | tuple[int, ...]] = SMALL) -> Iterator[None]:
    """Within the block every module of the engine's rooms has these sizes."""
    _import_all()
    replaced: list[tuple[Any, str, object]] = []
    for name, module in sorted(sys.modules.items()):
        if not name.startswith(ROOMS):
            continue
        for constant, value in sizes.items():
            if constant in vars(module):
                replaced.append((module, constant, getattr(module, constant)))
                setattr(module, constant, value)
    names = {constant for _, constant, _ in replaced}
    assert names == set(sizes), f"no module has {set(sizes) - names}"
    try:
        yield
    finally:
        for module, constant, old in replaced:
            setattr(module, constant, old)


def _import_all() -> None:
    """A module imported inside the block would keep the small sizes for ever."""
    for found in pkgutil.walk_packages(appliance.__path__, "appliance."):
        if found.name.startswith(ROOMS):
            importlib.import_module(found.name)
