"""A whole boto3 client against the application: what an SDK sends and how it reads the answers."""

from __future__ import annotations

import hashlib
import io
import urllib.parse
from typing import Any

import botocore.exceptions
import pytest

from appliance.access.acl import ALL_USERS
from appliance.limits import MIB
from tests.s3front.box import REGION, Box, boto
from tests.s3front.operations.people import introduce, policy

pytestmark = pytest.mark.slow  # in all


def code(caught: pytest.ExceptionInfo[botocore.exceptions.ClientError]) -> tuple[int, str]:
    answer: Any = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def test_the_life_of_a_bucket() -> None:
    box = Box()
    with boto(box) as client:
        client.create_bucket(Bucket="new", CreateBucketConfiguration={"LocationConstraint": REGION})  # type: ignore[typeddict-item]
        assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == ["b", "new"]
        assert client.get_bucket_location(Bucket="new")["LocationConstraint"] == REGION
        assert client.head_bucket(Bucket="new")["BucketRegion"] == REGION
        assert "Status" not in client.get_bucket_versioning(Bucket="new")
        assert client.get_bucket_acl(Bucket="new")["Grants"][0]["Permission"] == "FULL_CONTROL"
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            client.get_bucket_policy(Bucket="new")
        assert code(caught) == (404, "NoSuchBucketPolicy")
        with pytest.raises(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket="new", CreateBucketConfiguration={"LocationConstraint": REGION})
        client.delete_bucket(Bucket="new")
        with pytest.raises(client.exceptions.NoSuchBucket):
            client.list_objects_v2(Bucket="new")
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            client.head_bucket(Bucket="new")
        assert code(caught) == (404, "404")


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums_end_to_end(algorithm: Any) -> None:
    box = Box()
    body = b"content" * 50_000
    with boto(box) as client:
        put = client.put_object(Bucket="b", Key="k", Body=body, ChecksumAlgorithm=algorithm)
        got = client.get_object(Bucket="b", Key="k", ChecksumMode="ENABLED")
        assert got["Body"].read() == body
        field = f"Checksum{algorithm}"
        assert got[field] == put[field]  # type: ignore[literal-required]
        (listed,) = client.list_objects_v2(Bucket="b")["Contents"]
        assert listed["ChecksumAlgorithm"] == [algorithm]


def test_a_transfer_in_parts() -> None:
    box = Box()
    body = hashlib.shake_128(b"seed").digest(17 * MIB + 5)
    with boto(box) as client:
        client.upload_fileobj(io.BytesIO(body), "b", "big", ExtraArgs={"Metadata": {"a": "1"}})
        target = io.BytesIO()
        client.download_fileobj("b", "big", target)
        assert target.getvalue() == body
        head = client.head_object(Bucket="b", Key="big", ChecksumMode="ENABLED")
        assert head["ETag"].endswith('-3"')
        assert head["ChecksumCRC32"].endswith("-3")
        assert head["Metadata"] == {"a": "1"}
        client.copy({"Bucket": "b", "Key": "big"}, "b", "copied in parts")
        assert client.get_object(Bucket="b", Key="copied in parts")["Body"].read() == body
        attributes = client.get_object_attributes(Bucket="b", Key="big", ObjectAttributes=["ObjectParts", "ObjectSize"])
        assert attributes["ObjectParts"]["TotalPartsCount"] == 3
        assert [part["Size"] for part in attributes["ObjectParts"]["Parts"]] == [8 * MIB, 8 * MIB, MIB + 5]
        client.delete_objects(Bucket="b", Delete={"Objects": [{"Key": "big"}, {"Key": "copied in parts"}]})
        assert client.list_objects_v2(Bucket="b")["KeyCount"] == 0


def test_uploads_are_listed_and_aborted() -> None:
    box = Box()
    with boto(box) as client:
        made = client.create_multipart_upload(Bucket="b", Key="é +&k", ChecksumAlgorithm="SHA256")
        client.upload_part(
            Bucket="b", Key="é +&k", UploadId=made["UploadId"], PartNumber=3, Body=b"x", ChecksumAlgorithm="SHA256"
        )
        (upload,) = client.list_multipart_uploads(Bucket="b")["Uploads"]
        assert (upload["Key"], upload["UploadId"]) == ("é +&k", made["UploadId"])
        (part,) = client.list_parts(Bucket="b", Key="é +&k", UploadId=made["UploadId"])["Parts"]
        assert (part["PartNumber"], part["Size"]) == (3, 1)
        assert part["ChecksumSHA256"]
        client.abort_multipart_upload(Bucket="b", Key="é +&k", UploadId=made["UploadId"])
        assert "Uploads" not in client.list_multipart_uploads(Bucket="b")


def test_pages_of_every_listing() -> None:
    box = Box()
    with boto(box) as client:
        names = [f"{folder}/{n} +%" for folder in "abc" for n in range(7)]
        for name in names:
            client.put_object(Bucket="b", Key=name, Body=b"x")
        for verb, field, leaf in (
            ("list_objects", "Contents", "Key"),
            ("list_objects_v2", "Contents", "Key"),
            ("list_object_versions", "Versions", "Key"),
        ):
            pages = client.get_paginator(verb).paginate(Bucket="b", PaginationConfig={"PageSize": 4})  # type: ignore[call-overload]
            assert [entry[leaf] for page in pages for entry in page.get(field, [])] == names
            pages = client.get_paginator(verb).paginate(Bucket="b", Delimiter="/", PaginationConfig={"PageSize": 2})  # type: ignore[call-overload]
            assert [p["Prefix"] for page in pages for p in page.get("CommonPrefixes", [])] == ["a/", "b/", "c/"]


def test_a_presigned_url_is_enough() -> None:
    box = Box()
    with boto(box) as client:
        client.put_object(Bucket="b", Key="k é", Body=b"content")
        options = {"Bucket": "b", "Key": "k é", "ResponseContentDisposition": 'attachment; filename="x"'}
        url = urllib.parse.urlsplit(client.generate_presigned_url("get_object", Params=options))
    answer = box.raw("GET", url.path, url.query, [(b"host", url.netloc.encode())])
    assert (answer.status, answer.body) == (200, b"content")
    assert answer.headers["content-disposition"] == 'attachment; filename="x"'
    other = url.query.replace("filename", "fi1ename")
    assert box.raw("GET", url.path, other, [(b"host", url.netloc.encode())]).code == "SignatureDoesNotMatch"
    assert box.raw("PUT", url.path, url.query, [(b"host", url.netloc.encode())]).status == 403


def test_conditional_writes_by_sdk() -> None:
    box = Box()
    with boto(box) as client:
        etag = client.put_object(Bucket="b", Key="k", Body=b"1", IfNoneMatch="*")["ETag"]
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            client.put_object(Bucket="b", Key="k", Body=b"2", IfNoneMatch="*")
        assert code(caught) == (412, "PreconditionFailed")
        client.put_object(Bucket="b", Key="k", Body=b"3", IfMatch=etag)
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            client.delete_object(Bucket="b", Key="k", IfMatch=etag)
        assert code(caught) == (412, "PreconditionFailed")
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            client.get_object(Bucket="b", Key="k", IfMatch=etag)
        assert code(caught)[0] == 412


def test_access_through_an_sdk() -> None:
    """Grantees come back with their types, policies as texts, switches as truth values."""
    box = introduce(Box())
    with boto(box) as client:
        grantee: Any = {"Type": "CanonicalUser", "ID": "oth"}
        everybody: Any = {"Type": "Group", "URI": ALL_USERS}
        grants: Any = [{"Grantee": grantee, "Permission": "READ"}, {"Grantee": everybody, "Permission": "READ_ACP"}]
        client.put_bucket_acl(Bucket="b", AccessControlPolicy={"Grants": grants, "Owner": {"ID": "owner"}})
        found = client.get_bucket_acl(Bucket="b")
        assert found["Owner"] == {"ID": "owner", "DisplayName": "The Owner"}
        assert found["Grants"] == [
            {"Grantee": everybody, "Permission": "READ_ACP"},
            {"Grantee": {**grantee, "DisplayName": "Other One"}, "Permission": "READ"},
        ]
        client.put_object(Bucket="b", Key="k", Body=b"x", GrantRead='emailaddress="other@example.org"')
        assert client.get_object_acl(Bucket="b", Key="k")["Grants"] == [
            {"Grantee": {**grantee, "DisplayName": "Other One"}, "Permission": "READ"}
        ]
        client.put_bucket_policy(Bucket="b", Policy=policy(principal={"AWS": "oth"}).decode())
        assert client.get_bucket_policy(Bucket="b")["Policy"] == policy(principal={"AWS": "oth"}).decode()
        assert client.get_bucket_policy_status(Bucket="b")["PolicyStatus"] == {"IsPublic": True}  # by the list
        with pytest.raises(botocore.exceptions.ClientError, match=r"MalformedPolicy.*Invalid effect: Maybe"):
            client.put_bucket_policy(Bucket="b", Policy=policy("Maybe").decode())
        client.delete_bucket_policy(Bucket="b")
        switches: Any = {"BlockPublicAcls": True, "IgnorePublicAcls": False, "BlockPublicPolicy": True}
        client.put_public_access_block(Bucket="b", PublicAccessBlockConfiguration=switches)
        shown = client.get_public_access_block(Bucket="b")["PublicAccessBlockConfiguration"]
        assert shown == {**switches, "RestrictPublicBuckets": False}
        rules: Any = {"Rules": [{"ObjectOwnership": "BucketOwnerPreferred"}]}
        client.put_bucket_ownership_controls(Bucket="b", OwnershipControls=rules)
        assert client.get_bucket_ownership_controls(Bucket="b")["OwnershipControls"] == rules
        client.delete_public_access_block(Bucket="b")
        client.delete_bucket_ownership_controls(Bucket="b")
        asks: list[tuple[Any, str]] = [
            (client.get_public_access_block, "NoSuchPublicAccessBlockConfiguration"),
            (client.get_bucket_ownership_controls, "OwnershipControlsNotFoundError"),
            (client.get_bucket_policy, "NoSuchBucketPolicy"),
        ]
        for ask, missing in asks:
            with pytest.raises(botocore.exceptions.ClientError, match=missing):
                ask(Bucket="b")


def test_transfers_with_a_customers_key_and_with_the_boxs() -> None:
    """SDKs send the key with every request of a transfer, its MD5 added by themselves."""
    box = Box()
    body = hashlib.shake_128(b"t").digest(17 * MIB)
    extra: dict[str, Any] = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "0123456789abcdef" * 2}
    source = {f"CopySource{name}": value for name, value in extra.items()}
    with boto(box) as client:
        client.upload_fileobj(io.BytesIO(body), "b", "customer", ExtraArgs=extra)
        got = io.BytesIO()
        client.download_fileobj("b", "customer", got, ExtraArgs=extra)
        assert got.getvalue() == body
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            client.get_object(Bucket="b", Key="customer")
        assert code(caught) == (400, "InvalidRequest")
        client.copy(
            {"Bucket": "b", "Key": "customer"}, "b", "box", ExtraArgs={"ServerSideEncryption": "AES256", **source}
        )
        answer = client.get_object(Bucket="b", Key="box", Range="bytes=9000000-")
        assert (answer["ServerSideEncryption"], answer["Body"].read()) == ("AES256", body[9_000_000:])
