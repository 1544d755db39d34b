"""The daemon keeps house: what a lifecycle rule makes due goes from both doors, by itself."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from appliance.limits import MIB
from tests.system.box import Box, running

pytestmark = [pytest.mark.system, pytest.mark.slow]


def free(box: Box) -> int:
    """Bytes that `tierce pool status` says its devices have left."""
    status = json.loads(box.tierce("pool", "status", "--json").stdout)
    return sum(int(device["free"]) for device in status["devices"])


def test_what_is_due_goes_from_both_doors(fuse: None, tmp_path: Path) -> None:
    with running(tmp_path / "box", TIERCE_LIFECYCLE_DAY_SECONDS="1") as box:
        client, empty = box.s3(), free(box)
        client.create_bucket(Bucket="bucket")
        for key in ("logs/old", "kept/file"):
            client.put_object(Bucket="bucket", Key=key, Body=b"x" * 200_000)
        begun = client.create_multipart_upload(Bucket="bucket", Key="logs/unfinished")
        part = {"Bucket": "bucket", "Key": "logs/unfinished", "UploadId": begun["UploadId"]}
        client.upload_part(**part, PartNumber=1, Body=b"x" * 5 * MIB)  # type: ignore[arg-type]
        assert free(box) < empty - 5 * MIB
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
        while (
            free(box) < empty - MIB
        ):  # what is freed waits for the next snapshot or its readers, not for anybody's call
            assert time.monotonic() < deadline
            time.sleep(0.05)
