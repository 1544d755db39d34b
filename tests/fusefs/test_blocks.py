"""st_blocks of files, a part of which is in memory and a part in the catalogue."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from appliance.limits import MIB
from fusefs.ranges import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
from tests.fusefs.scenes import run_on_pool
from tests.fusefs.unmounted import Unmounted


def test_a_hole_has_none_before_memory_has_heard_of_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue has the hole already, and the number of the file before it is remembered still."""

    async def scene(mount: Unmounted) -> None:
        heard = trio.Event()
        await mount.write_file("photos/f", os.urandom(9 * MIB))
        await mount.ops.files.commit_all()
        fh = await mount.open("photos/f", os.O_RDWR)
        assert (await mount.stat("photos/f")).st_blocks * 512 == 9 * MIB

        async def take_in() -> None:
            await heard.wait()
            await through()

        through = mount.ops.files._take_in_settled
        monkeypatch.setattr(mount.ops.files, "_take_in_settled", take_in)
        monkeypatch.setattr(mount.store.engine.filled, "follow", lambda tickets: None)
        await mount.ops.fallocate(fh, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1 * MIB, 2 * MIB)
        await mount.close(fh)
        await mount.store.settle()
        assert (await mount.stat("photos/f")).st_blocks * 512 == 7 * MIB
        heard.set()

    run_on_pool(scene, tmp_path)
