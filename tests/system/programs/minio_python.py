"""What users of minio-py do: whole files, streams, parts, ranges, listings, copies, composition, presigned URLs.

Arguments: a bucket to make, a directory to keep.  Its settings come from the environment, as AWS's tools read them.
"""

from __future__ import annotations

import io
import os
import sys
from datetime import timedelta
from pathlib import Path

import urllib3
from minio import Minio
from minio.commonconfig import REPLACE, ComposeSource, CopySource
from minio.deleteobjects import DeleteObject
from minio.error import S3Error

MIB = 1 << 20


def main(bucket: str, tree: Path) -> None:
    client = Minio(
        endpoint=os.environ["AWS_ENDPOINT_URL"].removeprefix("http://"),
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        region=os.environ["AWS_REGION"],
        secure=False,
    )
    assert not client.bucket_exists(bucket_name=bucket)
    client.make_bucket(bucket_name=bucket)
    assert client.bucket_exists(bucket_name=bucket)
    assert bucket in [item.name for item in client.list_buckets()]

    paths = sorted(path for path in tree.rglob("*") if path.is_file())
    for path in paths:
        key = f"tree/{path.relative_to(tree)}"
        put = client.fput_object(
            bucket_name=bucket, object_name=key, file_path=str(path), part_size=5 * MIB, metadata={"colour": "blau"}
        )
        stat = client.stat_object(bucket_name=bucket, object_name=key)
        assert (stat.size, stat.etag) == (path.stat().st_size, put.etag), key
        assert stat.metadata["x-amz-meta-colour"] == "blau"
        with client.get_object(bucket_name=bucket, object_name=key) as answer:
            assert answer.read() == path.read_bytes(), key
    listed = [item.object_name for item in client.list_objects(bucket_name=bucket, prefix="tree/", recursive=True)]
    assert listed == sorted((f"tree/{path.relative_to(tree)}" for path in paths), key=str.encode)
    level = [item.object_name for item in client.list_objects(bucket_name=bucket, prefix="tree/")]
    assert level == [f"tree/dir {number}/" for number in range(3)], level

    # A stream of unknown length goes in parts.
    body = os.urandom(11 * MIB + 3)
    client.put_object(bucket_name=bucket, object_name="stream", data=io.BytesIO(body), length=-1, part_size=5 * MIB)
    with client.get_object(bucket_name=bucket, object_name="stream", offset=5 * MIB - 7, length=1000) as answer:
        assert answer.read() == body[5 * MIB - 7 :][:1000]

    client.copy_object(
        bucket_name=bucket,
        object_name="copy",
        source=CopySource(bucket_name=bucket, object_name="stream"),
        metadata={"new": "1"},
        metadata_directive=REPLACE,
    )
    assert client.stat_object(bucket_name=bucket, object_name="copy").metadata["x-amz-meta-new"] == "1"
    client.compose_object(
        bucket_name=bucket,
        object_name="composed",
        sources=[
            ComposeSource(bucket_name=bucket, object_name="stream", offset=0, length=6 * MIB),
            ComposeSource(bucket_name=bucket, object_name="copy", offset=6 * MIB),
        ],
    )
    with client.get_object(bucket_name=bucket, object_name="composed") as answer:
        assert answer.read() == body

    url = client.presigned_put_object(bucket_name=bucket, object_name="presigned", expires=timedelta(minutes=1))
    assert urllib3.request("PUT", url, body=b"presigned").status == 200
    url = client.presigned_get_object(
        bucket_name=bucket, object_name="presigned", extra_query_params={"response-content-type": "text/plain"}
    )
    answer = urllib3.request("GET", url)
    assert (answer.data, answer.headers["Content-Type"]) == (b"presigned", "text/plain")

    gone = client.remove_objects(
        bucket_name=bucket, delete_object_list=[DeleteObject("copy"), DeleteObject("presigned"), DeleteObject("absent")]
    )
    assert list(gone) == []
    try:
        client.stat_object(bucket_name=bucket, object_name="copy")
    except S3Error as error:
        if error.code != "NoSuchKey":
            raise
    else:
        raise AssertionError("the copy is still there")
    client.remove_object(bucket_name=bucket, object_name="composed")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
