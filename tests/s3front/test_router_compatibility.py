"""COMPATIBILITY.md against the routing table, and both against what botocore knows of S3."""

from __future__ import annotations

import re
import urllib.parse
from pathlib import Path

import botocore.session

import s3front
from s3front.operations import table
from s3front.operations.unset_configuration import UNSET
from s3front.router import ABSENT, SUBRESOURCES

DOCUMENT = (Path(s3front.__file__).parent / "COMPATIBILITY.md").read_text()
MODEL = botocore.session.get_session().get_service_model("s3")
OTHER_HOST = {"WriteGetObjectResponse", "ListDirectoryBuckets"}
OLDER_NAMES = {"GetBucketLifecycle", "PutBucketLifecycle", "GetBucketNotification", "PutBucketNotification"}
SAME_ROUTE = {"ListObjectAnnotations"}  # a query parameter chooses between Get and List: one route stands for both


def rows(section: str) -> list[str]:
    """The first cells of a section's table."""
    text = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert text, section
    cells = re.findall(r"^\| ([^|]+?) \|", text[1], re.MULTILINE)
    return [cell for cell in cells if not cell.startswith("Operation")]


def test_the_served_are_those_listed() -> None:
    unset = {one.name for one in UNSET}
    by_id = {one.one for one in UNSET if one.one}
    assert sorted(rows("Served")) == sorted(o.name for o in table.OPERATIONS if o.name not in unset)
    assert sorted(rows("Unset")) == sorted(unset | by_id)


def test_an_unset_row_names_its_error() -> None:
    for one in UNSET:
        if one.error:
            assert f"| {one.name} | `{one.error}` |" in DOCUMENT


def test_the_absent_are_those_listed() -> None:
    listed = [name for cell in rows("501") for name in cell.split(", ")]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(ABSENT.values()) | SAME_ROUTE


def test_every_operation_of_s3_has_its_line() -> None:
    listed = {*rows("Served"), *rows("Unset"), *(name for cell in rows("501") for name in cell.split(", "))}
    assert set(MODEL.operation_names) - listed - OTHER_HOST - OLDER_NAMES == set()
    for name in OTHER_HOST | OLDER_NAMES:
        assert name in DOCUMENT


def test_every_subresource_of_s3_is_known() -> None:
    """A new S3 operation must not fall through to PutObject or DeleteBucket."""
    for name in MODEL.operation_names:
        uri = MODEL.operation_model(name).http["requestUri"]
        for parameter, value in urllib.parse.parse_qsl(uri.partition("?")[2], keep_blank_values=True):
            if parameter not in ("x-id", "select-type"):
                assert parameter in SUBRESOURCES, (name, parameter, value)
