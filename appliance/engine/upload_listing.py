"""Listings of multipart uploads: by key, then by upload id, at the cost of what is shown.

Their table has whole keys, so a common prefix is passed over by seeking its successor.  Pure over `every(sql,
parameters)`, which must see one state (H4).
"""

from __future__ import annotations

from appliance.engine.listing import STEP_MAX, successor, type_every
from appliance.model import Upload, UploadPage


def list_uploads(
    every: type_every,
    columns: str,
    bucket: int,
    prefix: bytes,
    delimiter: bytes,
    after_key: bytes,
    after_upload: str,
    limit: int,
) -> UploadPage:
    """One page of a bucket's uploads, by key, then by upload id (S3 API, "ListMultipartUploads")."""
    uploads: list[Upload] = []
    prefixes: list[bytes] = []
    key, upload = after_key, after_upload
    inclusive = prefix > after_key
    if inclusive:
        key, upload = prefix, ""
    next_key, next_upload = b"", ""
    step = 2 if delimiter else limit + 1
    while limit > 0:
        # after (key, upload); without an upload marker every upload of the marker's key is passed over
        where = "(key, id)>(?, ?)" if upload or inclusive else "key>?"  # a row of values is sought in the index
        bounds = (key, upload) if upload or inclusive else (key,)
        rows = every(
            f"SELECT {columns} FROM upload WHERE bucket=? AND {where} ORDER BY key, id LIMIT ?", (bucket, *bounds, step)
        )
        leapt = False
        seek: bytes | None = None
        for row in rows:
            found = Upload(*row)
            if not found.key.startswith(prefix):
                return UploadPage(uploads, prefixes, False, b"", "")
            at = found.key.find(delimiter, len(prefix)) if delimiter else -1
            common = found.key[: at + len(delimiter)] if at >= 0 else b""
            if common and after_key.startswith(common):
                leapt, seek = True, successor(common)
                break
            if len(uploads) + len(prefixes) == limit:
                return UploadPage(uploads, prefixes, True, next_key, next_upload)
            if common:
                prefixes.append(common)
                next_key, next_upload = common, ""
                leapt, seek = True, successor(common)
                break
            uploads.append(found)
            next_key, next_upload = found.key, found.id
        if leapt:
            if seek is None:  # nothing sorts behind that prefix
                break
            key, upload, inclusive = seek, "", True
            step = 2  # the next may be the last before another leap
        elif len(rows) < step:
            break
        else:
            key, upload, inclusive = rows[-1][2], rows[-1][0], False
            step = min(step * 4, STEP_MAX)
    return UploadPage(uploads, prefixes, False, b"", "")
