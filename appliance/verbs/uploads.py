"""Multipart uploads: the S3 door's verbs (S3 API, "Multipart upload overview")."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from appliance.catalogue import commands, uploads
from appliance.engine import upload_listing
from appliance.errors import Code, StoreError
from appliance.model import (
    Attributes,
    Body,
    Bucket,
    Checksum,
    Node,
    Part,
    Precondition,
    Upload,
    UploadPage,
    Written,
    pack_attributes,
)
from appliance.verbs.base import Verbs, label, now
from appliance.verbs.objects import posix_of


class UploadVerbs(Verbs):
    """Multipart uploads."""

    async def create_upload(
        self,
        bucket: Bucket,
        key: bytes,
        attributes: Attributes,
        owner: str,
        *,
        checksum_algorithm: str = "",
        checksum_type: str = "",
    ) -> Upload:
        """Raises NO_SUCH_BUCKET, NOT_LOCKABLE, INVALID_ARGUMENT (a retention in the past)."""
        moment = now()
        self.check_lock(bucket, attributes, moment)
        command = commands.CreateUpload(
            id=secrets.token_urlsafe(24),
            bucket=bucket.id,
            key=key,
            owner=owner,
            packed=pack_attributes(attributes),
            checksum_algorithm=checksum_algorithm,
            checksum_type=checksum_type,
            now_ns=moment,
        )
        upload: Upload = await self.commit(command)
        return upload

    def upload(self, bucket: Bucket, key: bytes, upload_id: str) -> Upload:
        """Raises NO_SUCH_UPLOAD, also when the id belongs to another bucket or key."""
        found = uploads.find(self.one, upload_id)
        if found.bucket != bucket.id or found.key != key:
            raise StoreError(Code.NO_SUCH_UPLOAD)
        return found

    async def put_part(
        self, upload: Upload, number: int, body: Body, etag: str, checksum: Checksum | None = None
    ) -> Part:
        """Replaces a part of the same number.  Raises NO_SUCH_UPLOAD if it was ended meanwhile."""
        bucket = self.bucket_by_id(upload.bucket)
        command = commands.PutPart(
            upload=upload.id,
            number=number,
            body=body,
            copies=bucket.copies,
            etag=etag,
            checksum_algorithm=checksum.algorithm if checksum is not None else "",
            checksum=checksum.value if checksum is not None else b"",
            now_ns=now(),
            label=label(bucket, upload.key),
        )
        part: Part = await self.commit(command)
        return part

    async def copy_part(
        self,
        upload: Upload,
        number: int,
        source: Node,
        start: int,
        length: int,
        etag: str,
        checksum: Checksum | None = None,
    ) -> Part:
        """A part that shares the source's bytes [start, start+length): no data is read.  Raises NO_SUCH_UPLOAD,
        NO_SUCH_NODE (the source was replaced meanwhile), INVALID_ARGUMENT."""
        bucket = self.bucket_by_id(upload.bucket)
        command = commands.CopyPart(
            upload=upload.id,
            number=number,
            source=source.id,
            generation=source.generation,
            start=start,
            length=length,
            copies=bucket.copies,
            etag=etag,
            checksum_algorithm=checksum.algorithm if checksum is not None else "",
            checksum=checksum.value if checksum is not None else b"",
            now_ns=now(),
            label=label(bucket, upload.key),
        )
        part: Part = await self.commit(command)
        return part

    def parts(self, upload: Upload, after: int = 0, limit: int = 1000) -> tuple[list[Part], bool]:
        """Parts with number > after; whether more follow."""
        found = uploads.parts_after(self.every, upload.id, after, limit + 1)
        return found[:limit], len(found) > limit

    def uploads(
        self,
        bucket: Bucket,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        after_key: bytes = b"",
        after_upload: str = "",
        limit: int = 1000,
    ) -> UploadPage:
        """By key, then by upload id."""
        return upload_listing.list_uploads(
            self.every, uploads.UPLOAD_COLUMNS, bucket.id, prefix, delimiter, after_key, after_upload, limit
        )

    async def list_uploads(
        self,
        bucket: Bucket,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        after_key: bytes = b"",
        after_upload: str = "",
        limit: int = 1000,
    ) -> UploadPage:
        """`uploads` as a request wants them: beside the loop, as every listing."""
        columns = uploads.UPLOAD_COLUMNS
        page: UploadPage = await self.engine.scans.call(
            self.snapshot,
            upload_listing.list_uploads,
            columns,
            bucket.id,
            prefix,
            delimiter,
            after_key,
            after_upload,
            limit,
        )
        return page

    async def list_parts(self, upload: Upload, after: int = 0, limit: int = 1000) -> tuple[list[Part], bool]:
        """`parts`, likewise."""
        found: list[Part] = await self.engine.scans.call(
            self.snapshot, uploads.parts_after, upload.id, after, limit + 1
        )
        return found[:limit], len(found) > limit

    async def complete_upload(
        self,
        upload: Upload,
        parts: Sequence[tuple[int, str]],
        etag: str,
        attributes: Attributes,
        *,
        precondition: Precondition | None = None,
    ) -> Written:
        """O(parts).  `parts` are (number, ETag) in ascending order; the door computed the composite `etag` and has put
        checksum and part sizes into `attributes`.  Raises INVALID_PART, INVALID_PART_ORDER, PART_TOO_SMALL (any but
        the last under 5 MiB), TOO_LARGE, PRECONDITION_FAILED, NO_SUCH_UPLOAD."""
        moment = now()
        bucket = self.bucket_by_id(upload.bucket)
        attributes = self.retained(bucket, attributes, moment)
        mode, uid, gid, mtime_ns, atime_ns, flags = posix_of(attributes, None, moment)
        command = commands.CompleteUpload(
            upload=upload.id,
            root=bucket.root,
            key=upload.key,
            parts=tuple(parts),
            etag=etag,
            packed=pack_attributes(attributes),
            mode=mode,
            uid=uid,
            gid=gid,
            mtime_ns=mtime_ns,
            atime_ns=atime_ns,
            flags=flags,
            now_ns=moment,
            precondition=precondition,
        )
        written: Written = await self.commit(command)
        return written

    async def abort_upload(self, upload: Upload) -> None:
        """Frees its parts.  Raises NO_SUCH_UPLOAD."""
        await self.commit(commands.AbortUpload(upload=upload.id))
