"""Adding a device to a running pool.

The journal stays where it began (the SSDs, or the HDDs of a pool without any): a new device of that tier whose ring is
as long carries it too, and gets every record that is still needed before anybody counts on it.
"""

from __future__ import annotations

import uuid

from appliance.device.device import BlockDevice
from appliance.engine import journal
from appliance.engine.engine import Engine
from appliance.engine.pool import PoolDevice
from appliance.engine.startup import clear_ring
from appliance.errors import Code, StoreError
from appliance.ondisk.geometry import plan
from appliance.ondisk.superblock import Tier


async def add_device(engine: Engine, path: str, device: BlockDevice, tier: Tier) -> PoolDevice:
    """Makes an open, empty device a member.  The caller has made sure that nobody's data is there.

    Raises WRONG_DEVICE (too small), IO_ERROR, READ_ONLY.
    """
    engine.require_writable()
    pool = engine.pool
    carries = any(member.journal and member.tier == tier for member in pool.devices.values())
    ring = pool.ring_length if carries and pool.ring_length <= device.size // 2 else None
    zones = plan(device.size, journal=ring is not None, ring_length=ring)
    number = max(pool.devices) + 1
    member = PoolDevice(number, uuid.uuid4().bytes, tier, zones, device, path, "online")
    await engine.lanes.call(clear_ring, member)
    await engine.between_batches(lambda: _admit(engine, member))
    return member


def _admit(engine: Engine, member: PoolDevice) -> None:
    """In the writer's thread: the ring stands still."""
    pool, ring = engine.pool, engine.ring
    if member.journal and ring.live:
        source = next((device for device in pool.journals if device.journal), None)
        if source is None:
            raise StoreError(Code.READ_ONLY, "no journal device can be read")
        found = journal.read_ring(source, pool.uuid, pool.ring_length, *ring.tail)
        journal.copy_records(member, found)
    pool.admit(member)
    if not member.online:
        raise StoreError(Code.IO_ERROR, f"{member.path} failed while it was added: see the log")
