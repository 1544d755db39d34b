"""Versions and what protects them: the S3 door's verbs on what a key was, is, and must stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from appliance import lock, settings
from appliance.catalogue import commands, names, versions
from appliance.engine import version_listing
from appliance.errors import Code, StoreError
from appliance.model import (
    MARKER,
    Attributes,
    Bucket,
    Deleted,
    Deletion,
    Node,
    Precondition,
    VersionPage,
    pack_attributes,
    unpack_attributes,
)
from appliance.verbs.base import NO_LOCK, PAST, now
from appliance.verbs.objects import ObjectVerbs


class VersionVerbs(ObjectVerbs):
    """Versions, delete markers, retentions, holds."""

    async def change_attributes(
        self, bucket: Bucket, key: bytes, change: Callable[[Node, Attributes], Attributes], *, version_id: str = ""
    ) -> Node:
        """Rewrites what is said about an object or one version (tags, ACL, retention): bytes, ETag and LastModified
        stay.  `change` may be asked again when somebody else was faster; what it raises stops.  Returns the node as it
        was changed.  Raises NO_SUCH_KEY, NO_SUCH_VERSION."""
        while True:
            node = await self.look_up_version(bucket, key, version_id)
            packed = pack_attributes(change(node, unpack_attributes(node.packed)))
            command = commands.ChangeAttributes(
                node=node.id, version=node.version, before=node.packed, packed=packed, now_ns=now()
            )
            try:
                await self.commit(command)
            except StoreError as error:
                if error.code not in (Code.CONFLICT, Code.NO_SUCH_NODE):
                    raise
            else:
                return msgspec.structs.replace(node, packed=packed)

    async def look_up_version(self, bucket: Bucket, key: bytes, version_id: str) -> Node:
        """The object, or one version of it.  `version_id` "" is the current one.

        Raises NO_SUCH_KEY, NO_SUCH_VERSION.  A delete marker is a Node with the flag MARKER: only its own id finds it.
        """
        if not version_id:
            return await self.look_up(bucket, key)
        try:
            node = await self.look_up(bucket, key)
        except StoreError as error:
            if error.code is not Code.NO_SUCH_KEY:
                raise
        else:
            if node.version_id == version_id:
                return node
        found = versions.node_of(self.one, bucket.id, key, version_id) if bucket.settings else None
        if found is None:
            raise StoreError(Code.NO_SUCH_VERSION)
        return found

    def delete_marker(self, bucket: Bucket, key: bytes) -> Node | None:
        """What hides the key, after `look_up` said NO_SUCH_KEY: its newest delete marker; None without any version."""
        row = versions.newest(self.one, bucket.id, key) if bucket.settings else None
        return names.node_by_id(self.one, row[1]) if row is not None and row[2] & MARKER else None

    async def delete_object(
        self,
        bucket: Bucket,
        key: bytes,
        *,
        version_id: str = "",
        precondition: Precondition | None = None,
        owner: str = "",
        bypass: bool = False,
    ) -> Deleted:
        """In a bucket with versions a key is hidden by a delete marker of `owner`; with a `version_id` that version is
        gone for good, unless it is retained or held, and the next one takes its place; `bypass` overrules GOVERNANCE.
        Without precondition what is not there is success.

        Raises NO_SUCH_BUCKET, PRECONDITION_FAILED, NO_SUCH_KEY (a condition on nothing), LOCKED."""
        deleted: Deleted = await self.commit(
            self._deletion(bucket, Deletion(key, version_id, precondition), owner, bypass)
        )
        return deleted

    async def delete_objects(
        self, bucket: Bucket, targets: Sequence[Deletion], *, owner: str = "", bypass: bool = False
    ) -> list[Deleted | Exception]:
        """One result per target; they share batches."""
        tickets = [
            self.engine.submit(self._deletion(bucket, target, owner, bypass), announce=True) for target in targets
        ]
        results: list[Deleted | Exception] = []
        for ticket in tickets:
            try:
                results.append(await ticket.wait())
            except StoreError as error:
                results.append(error)
        return results

    def _deletion(self, bucket: Bucket, target: Deletion, owner: str, bypass: bool) -> commands.DeleteObject:
        marked = bucket.settings and not target.version_id and owner and owner != bucket.owner
        return commands.DeleteObject(
            bucket=bucket.id,
            root=bucket.root,
            key=target.key,
            now_ns=now(),
            precondition=target.precondition,
            version_id=target.version_id,
            packed=pack_attributes(Attributes(owner=owner)) if marked else b"",
            lock_ns=self.releasing() if target.version_id and bucket.settings else 0,
            bypass=bypass,
        )

    def older_version(self, bucket: Bucket, key: bytes, version_id: str) -> Node | None:
        """A version that is not current; None without one, and for a delete marker."""
        node = versions.node_of(self.one, bucket.id, key, version_id)
        return None if node is None or node.flags & MARKER else node

    def older_versions(
        self, bucket: Bucket, prefix: bytes, after_key: bytes, after_version: str, limit: int
    ) -> list[tuple[bytes, Node | None]]:
        """One level of the older versions, delimited by "/": (key, node), or (common prefix, None)."""
        return version_listing.older(self.every, bucket.id, prefix, after_key, after_version, limit)

    async def list_versions(
        self,
        bucket: Bucket,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        after_key: bytes = b"",
        after_version: str = "",
        limit: int = 1000,
    ) -> VersionPage:
        """Versions and delete markers by key, then newest first: those of keys > `after_key` and, with
        `after_version`, the older ones of that key.  Common prefixes as in `list_objects`."""
        if self.unsettled:
            await self.settled(bucket)
        page: VersionPage = await self.engine.scans.call(
            self.snapshot, version_listing.list_versions, bucket, prefix, delimiter, after_key, after_version, limit
        )
        await self.listed(bucket, prefix, b"" if after_version else after_key)
        return page

    # ------------------------------------------------------------------ object lock
    def require_unlocked(self, node: Node) -> None:
        """Raises LOCKED for a version that is retained or held at this moment."""
        lock.require_free(node.packed, self.releasing())

    async def set_retention(
        self, bucket: Bucket, key: bytes, mode: str, until_ns: int, *, version_id: str = "", bypass: bool = False
    ) -> Node:
        """Retains a version in a mode of appliance/lock.py until then (`mode` "": no longer).

        Raises NO_SUCH_KEY, NO_SUCH_VERSION, NOT_LOCKABLE (the bucket), LOCKED (weaker than what there is),
        INVALID_ARGUMENT (a time that is past)."""
        self._require_lockable(bucket)
        if mode and until_ns <= self.granting(now()):
            raise StoreError(Code.INVALID_ARGUMENT, PAST)

        def change(_: Node, held: Attributes) -> Attributes:
            if not lock.may_change(held, mode, until_ns, self.releasing(), bypass=bypass):
                raise StoreError(Code.LOCKED)
            return msgspec.structs.replace(held, retention_mode=mode, retain_until_ns=until_ns if mode else 0)

        return await self.change_attributes(bucket, key, change, version_id=version_id)

    async def set_legal_hold(self, bucket: Bucket, key: bytes, status: str, *, version_id: str = "") -> Node:
        """lock.ON or lock.OFF.  Raises NO_SUCH_KEY, NO_SUCH_VERSION, NOT_LOCKABLE."""
        self._require_lockable(bucket)
        assert status in (lock.ON, lock.OFF), status

        def change(_: Node, held: Attributes) -> Attributes:
            return msgspec.structs.replace(held, legal_hold=status)

        return await self.change_attributes(bucket, key, change, version_id=version_id)

    def _require_lockable(self, bucket: Bucket) -> None:
        if settings.LOCK not in bucket.settings:
            raise StoreError(Code.NOT_LOCKABLE, NO_LOCK)
