"""The daemon keeps house: what a lifecycle rule makes due goes from both doors, by itself."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.system.box import running

pytestmark = [pytest.mark.system, pytest.mark.slow]


def test_what_is_due_goes_from_both_doors(fuse: None, tmp_path: Path) -> None:
    with running(tmp_path / "box", TIERCE_LIFECYCLE_DAY_SECONDS="1") as box:
        client = box.s3()
        client.create_bucket(Bucket="bucket")
        for key in ("logs/old", "kept/file"):
            client.put_object(Bucket="bucket", Key=key, Body=b"x" * 200_000)
        begun = client.create_multipart_upload(Bucket="bucket", Key="logs/unfinished")
        assert (box.mount / "bucket" / "logs" / "old").stat().st_size == 200_000
        client.put_bucket_lifecycle_configuration(
            Bucket="bucket",
            LifecycleConfiguration={
                "Rules": [
                    {
                        "Status": "Enabled",
                        "Filter": {"Prefix": "logs/"},
                        "Expiration": {"Days": 1},
                        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
                    }
                ]
            },
        )
        deadline = time.monotonic() + 120
        while (box.mount / "bucket" / "logs").exists() or client.list_multipart_uploads(Bucket="bucket").get("Uploads"):
            assert time.monotonic() < deadline, begun["UploadId"]
            time.sleep(0.05)
        listed = client.list_objects_v2(Bucket="bucket")["Contents"]
        assert [found["Key"] for found in listed] == ["kept/file"]
        assert (box.mount / "bucket" / "kept" / "file").stat().st_size == 200_000
