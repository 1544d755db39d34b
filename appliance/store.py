"""The only door between the fronts and the engine.

Reads of the catalogue are plain functions, run inline on the loop (4-20 us).  `async` means "may suspend".  A write
returns only after the barrier of the batch that did it (H1), unless it says `submit`.  Keys and names are bytes; a name
of the mount's verbs is the catalogue's: raw bytes without "/", of any length.  In one directory a file `a` and a
directory
`a` may both exist (keys `a` and `a/b`): hence the `directory` arguments.

The verbs stand in families (appliance/verbs); the doors see one object.  They know nothing below this file; the engine
knows nothing above it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from appliance.catalogue import commands
from appliance.device.buffers import aligned
from appliance.device.device import BlockDevice
from appliance.engine import membership
from appliance.engine.ingest import Ingest as Ingest
from appliance.engine.places import Place as Place
from appliance.engine.pool import PoolDevice
from appliance.engine.retrieve import Reader as Reader
from appliance.engine.ticket import Ticket as Ticket
from appliance.errors import Code, StoreError
from appliance.model import AccessKey, DeviceStatus, User
from appliance.ondisk.superblock import Tier
from appliance.verbs.files import FileVerbs
from appliance.verbs.keys import KeyVerbs
from appliance.verbs.objects import attributes_of_copy as attributes_of_copy
from appliance.verbs.objects import check_bucket_name as check_bucket_name
from appliance.verbs.objects import posix_of_copy as posix_of_copy
from appliance.verbs.quotas import QuotaVerbs
from appliance.verbs.uploads import UploadVerbs

DEFAULT_USER: Final = User("default", "default", "default", "", 0)  # who owns what was made without naming a user


class ObjectStore(FileVerbs, UploadVerbs, KeyVerbs, QuotaVerbs):
    """Buckets, objects, uploads, files, credentials, and the state of the box."""

    @staticmethod
    def memory(length: int) -> memoryview:
        """Zeros to write to, which `stage` need not copy; in huge pages, if they are many."""
        return aligned(length)

    # ------------------------------------------------------------------ credentials
    def access_key(self, key_id: str) -> AccessKey | None:
        """A dict look-up; None also for a revoked one."""
        return self.engine.access_keys.get(key_id)

    def access_keys(self) -> list[AccessKey]:
        """All, by name."""
        return list(self.engine.access_keys.values())

    async def put_access_key(self, key: AccessKey, *, replaces: bool = False) -> None:
        """Adds or replaces one.  Raises NO_SUCH_KEY when it `replaces` one that is gone."""
        await self.commit(commands.PutAccessKey(key=key, replaces=replaces))

    async def remove_access_key(self, key_id: str) -> None:
        """Raises NO_SUCH_KEY."""
        await self.commit(commands.RemoveAccessKey(id=key_id))

    # ------------------------------------------------------------------ users
    def user(self, user_id: str) -> User | None:
        """By canonical id; None for an unknown one.  `DEFAULT_USER` is always there."""
        return self.engine.users.get(user_id) or (DEFAULT_USER if user_id == DEFAULT_USER.id else None)

    def users(self) -> list[User]:
        """All, the built-in one first, then by name."""
        return [self.user(DEFAULT_USER.id) or DEFAULT_USER] + [
            user for user in self.engine.users.values() if user.id != DEFAULT_USER.id
        ]

    async def put_user(self, user: User) -> None:
        """Adds or replaces one.  Raises EXISTS when another has its name or e-mail address."""
        await self.commit(commands.PutUser(user=user))

    async def remove_user(self, user_id: str) -> None:
        """Raises NO_SUCH_KEY, NOT_EMPTY while the user owns a bucket or an access key."""
        await self.commit(commands.RemoveUser(id=user_id))

    # ------------------------------------------------------------------ the box
    @property
    def copies(self) -> int:
        """Of what lies in a bucket that does not say otherwise."""
        return self.engine.pool.copies

    def space(self, copies: int = 1) -> tuple[int, int]:
        """(total, available) bytes as a user of a bucket with so many copies sees them."""
        return self.engine.space(copies)

    def devices(self) -> list[DeviceStatus]:
        """Every member, attached or not."""
        return [self._status(device) for device in self.engine.pool.devices.values()]

    def _status(self, device: PoolDevice) -> DeviceStatus:
        allocator = self.engine.pool.allocator
        return DeviceStatus(
            device.id,
            device.uuid.hex(),
            device.path,
            device.tier,
            device.state,
            device.geometry.size,
            allocator.size(device.id),
            allocator.free(device.id),
            device.journal,
            device.read_errors,
            device.checksum_errors,
            device.write_errors,
        )

    async def add_device(self, path: str, device: BlockDevice, tier: Tier) -> DeviceStatus:
        """Makes an open device a member of the running pool; the pool closes it from then on.  The caller has made sure
        that nobody's data is there.  Raises WRONG_DEVICE (too small), IO_ERROR, READ_ONLY."""
        return self._status(await membership.add_device(self.engine, path, device, tier))

    def statistics(self) -> Mapping[str, float]:
        """Counters and gauges of the engine by name."""
        engine = self.engine
        usage = self.usage()
        devices = engine.pool.devices.values()
        return {
            "batches": engine.committer.batches,
            "batch_commands": engine.committer.batch_commands,
            "barrier_seconds": engine.committer.barrier_seconds,
            "record_bytes": engine.committer.record_bytes,
            "journal_used_bytes": engine.ring.used,
            "journal_size_bytes": engine.ring.length,
            "snapshots": engine.checkpointer.taken,
            "verify_failures": sum(device.checksum_errors for device in devices),
            "read_errors": sum(device.read_errors for device in devices),
            "write_errors": sum(device.write_errors for device in devices),
            "read_failovers": engine.pool.failovers,
            "cache_hits": engine.retrieval.cache.hits,
            "cache_misses": engine.retrieval.cache.misses,
            "cache_bytes": engine.retrieval.cache.bytes,
            "buffers_waiting": engine.pool.buffers.waiting,
            "patched_bytes": engine.committer.patched,
            "worn_maps": len(engine.worn.maps),
            "folded_bytes": engine.worn.folded_bytes,
            "folded_slices": engine.worn.folded_slices,
            "fold_conflicts": engine.worn.conflicts,
            "uploads_active": self.one("SELECT count(*) FROM upload")[0],
            "objects": usage.objects,
            "bytes": usage.bytes,
            "writable": 0.0 if engine.committer.failed is not None else 1.0,
        }

    def checkpoint(self) -> None:
        """Begins a snapshot of the catalogue, unless one is under way or nothing happened since the last."""
        self.engine.checkpoint()

    async def expire_uploads(self, before_ns: int, limit: int = 100) -> int:
        """Aborts at most `limit` multipart uploads begun before that time; how many it were.  Raises READ_ONLY,
        UNAVAILABLE."""
        rows = self.every("SELECT id FROM upload WHERE created_ns<? LIMIT ?", (before_ns, limit))
        tickets = [self.engine.submit(commands.AbortUpload(upload=row[0])) for row in rows]
        for ticket in tickets:
            try:
                await ticket.wait()
            except StoreError as error:
                if error.code is not Code.NO_SUCH_UPLOAD:  # its client ended it meanwhile
                    raise
        return len(tickets)

    async def check_ready(self, *, journals_only: bool = False) -> None:
        """The writer, the catalogue and the devices answer, all or those that every commit needs.  Raises StoreError;
        does not return while one of them hangs: cancel it."""
        self.engine.require_writable()
        self.one("SELECT 1 FROM meta LIMIT 1")
        await self.engine.answering.ask(journals_only=journals_only)
        await self.engine.pass_writer()
        await self.engine.settle()
