"""Every document that a request may carry, with one thing in it that S3 does not know: refused whole, nothing stored.

Rule 12.  The operations are those of the routing table, so that one that is added must say here what its document is.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator

import pytest

from appliance.verbs import objects
from s3front.operations.table import Operation, router
from s3front.router import Level, Route
from tests.s3front.box import Answer, Box

ACL = (
    "<AccessControlPolicy><Owner><ID>owner</ID></Owner><AccessControlList><Grant><Grantee"
    ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="Group">'
    "<URI>http://acs.amazonaws.com/groups/global/AllUsers</URI></Grantee>"
    "<Permission>READ</Permission></Grant></AccessControlList></AccessControlPolicy>"
)
TAGGING = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"
LOCK = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>"
ETAG = hashlib.md5(b"part", usedforsecurity=False).hexdigest()
# operation -> its document, as S3 takes it
DOCUMENTS: dict[str, str] = {
    "CreateBucket": "<CreateBucketConfiguration><LocationConstraint>eu-test-1</LocationConstraint><Tags><Tag>"
    "<Key>a</Key><Value>b</Value></Tag></Tags></CreateBucketConfiguration>",
    "PutBucketEncryption": "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>"
    "AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault><BucketKeyEnabled>false</BucketKeyEnabled></Rule>"
    "</ServerSideEncryptionConfiguration>",
    "PutBucketVersioning": "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
    "PutObjectLegalHold": "<LegalHold><Status>ON</Status></LegalHold>",
    "PutObjectLockConfiguration": "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule>"
    "<DefaultRetention><Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>",
    "PutObjectRetention": "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2040-01-01T00:00:00Z</RetainUntilDate>"
    "</Retention>",
    "DeleteObjects": "<Delete><Object><Key>k</Key></Object><Quiet>true</Quiet></Delete>",
    "CompleteMultipartUpload": f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{ETAG}</ETag></Part>"
    "</CompleteMultipartUpload>",
    "PutObjectTagging": TAGGING,
    "PutBucketTagging": TAGGING,
    "PutBucketCors": "<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>*</AllowedOrigin>"
    "</CORSRule></CORSConfiguration>",
    "PutBucketLifecycleConfiguration": "<LifecycleConfiguration><Rule><ID>a</ID><Status>Enabled</Status><Filter><And>"
    "<Prefix>p</Prefix><Tag><Key>a</Key><Value>b</Value></Tag></And></Filter><Expiration><Days>1</Days></Expiration>"
    "<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration></Rule>"
    "</LifecycleConfiguration>",
    "PutBucketAccelerateConfiguration": "<AccelerateConfiguration><Status>Enabled</Status></AccelerateConfiguration>",
    "PutBucketRequestPayment": "<RequestPaymentConfiguration><Payer>BucketOwner</Payer></RequestPaymentConfiguration>",
    "PutBucketLogging": "<BucketLoggingStatus></BucketLoggingStatus>",
    "PutBucketNotificationConfiguration": "<NotificationConfiguration></NotificationConfiguration>",
    "PutBucketWebsite": "<WebsiteConfiguration><IndexDocument><Suffix>i</Suffix></IndexDocument><RoutingRules>"
    "<RoutingRule><Condition><KeyPrefixEquals>k</KeyPrefixEquals></Condition><Redirect><HostName>o</HostName></Redirect>"
    "</RoutingRule></RoutingRules></WebsiteConfiguration>",
    "PutBucketAcl": ACL,
    "PutObjectAcl": ACL,
    "PutBucketOwnershipControls": "<OwnershipControls><Rule><ObjectOwnership>ObjectWriter</ObjectOwnership></Rule>"
    "</OwnershipControls>",
    "PutPublicAccessBlock": "<PublicAccessBlockConfiguration><BlockPublicAcls>true</BlockPublicAcls>"
    "</PublicAccessBlockConfiguration>",
}
# A body that is an object's bytes, a form, or none at all.
WITHOUT = {
    "PutObject", "PostObject", "RenameObject", "CreateMultipartUpload", "UploadPart", "CopyObject", "UploadPartCopy",
    "PutBucketPolicy",
}  # fmt: skip
LOCKED = {"PutObjectLegalHold", "PutObjectLockConfiguration", "PutObjectRetention"}  # the store's double locks nothing
POLICY = {
    "Version": "2012-10-17",
    "Statement": {"Effect": "Deny", "Principal": {"AWS": "x"}, "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/*",
                  "Condition": {"StringEquals": {"aws:username": "x"}}},
}  # fmt: skip


def prepare(box: Box, operation: str) -> str:
    """Makes what the operation's document speaks of; the id of an upload."""
    if operation in LOCKED:
        for query, body in (
            ("versioning=", DOCUMENTS["PutBucketVersioning"]),
            ("object-lock=", LOCK),
        ):
            assert put(box, "PUT", "/b", query, body).status == 200
    box.send("PUT", "/b/k", body=b"content")
    begun = re.search(rb"<UploadId>([^<]+)", box.send("POST", "/b/m", "uploads=").body)
    assert begun is not None
    upload = begun[1].decode()
    assert box.send("PUT", "/b/m", f"partNumber=1&uploadId={upload}", body=b"part").status == 200
    return upload


def put(box: Box, method: str, path: str, query: str, body: str) -> Answer:
    digest = base64.b64encode(hashlib.md5(body.encode(), usedforsecurity=False).digest()).decode()
    return box.send(method, path, query, {"content-md5": digest}, body.encode())


def asked(box: Box, upload: str, route: Route, operation: Operation, body: str) -> Answer:
    path = "/b-new" if operation.name == "CreateBucket" else "/b" if route.level is Level.BUCKET else "/b/k"
    query = f"{route.query}=" if route.query else ""
    if route.query == "uploadId":
        path, query = "/b/m", f"uploadId={upload}"
    return put(box, route.method, path, query, body)


def state(box: Box) -> list[object]:
    """What any of these documents could change, as it is shown."""
    shown: list[object] = [box.store.buckets()]
    for path in ("/b/k", "/b/m"):
        for query in ("", "acl=", "tagging=", "retention=", "legal-hold="):
            shown.append(re.sub(rb"<RequestId>[^<]*", b"", box.send("GET", path, query).body))
    return shown


def with_a_stranger(document: str) -> Iterator[str]:
    """The document with one more element, in each of its elements that has others, or none at all."""
    for found in re.finditer("(?<=>)</", document):
        yield document[: found.start()] + "<Surprise>1</Surprise>" + document[found.start() :]
    root = document[1 : document.index(">")]
    yield f"<{root}s>" + document[len(root) + 2 : -len(root) - 3] + f"</{root}s>"


def test_every_document_is_in_the_table() -> None:
    taking = {operation.name for route, operation in router().names() if route.method in ("PUT", "POST")}
    assert taking == set(DOCUMENTS) | WITHOUT


@pytest.mark.slow
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_with_an_unknown_element_is_refused_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "BUCKET_NAME_MIN", 1)  # the bucket of these tests is called b
    ((route, operation),) = [each for each in router().names() if each[1].name == name]
    with Box(real=name in LOCKED) as box:
        upload = prepare(box, name)
        before = state(box)
        bent = list(with_a_stranger(DOCUMENTS[name]))
        assert len(bent) >= 2
        for document in bent:
            answer = asked(box, upload, route, operation, document)
            assert answer.status == 400, document
            assert answer.code == ("MalformedACLError" if name.endswith("Acl") else "MalformedXML"), document
        assert state(box) == before
        whole = asked(box, upload, route, operation, DOCUMENTS[name])
        assert whole.status in (200, 204), (whole.body, "the table's own document")


def test_a_policy_with_an_unknown_element_is_refused_whole() -> None:
    box = Box()
    statement: dict[str, object] = POLICY["Statement"]  # type: ignore[assignment]
    bent = [
        {**POLICY, "Surprise": 1},
        {**POLICY, "Statement": {**statement, "Surprise": 1}},
        {**POLICY, "Statement": {**statement, "Principal": {"AWS": "x", "Surprise": "x"}}},
        {**POLICY, "Statement": {**statement, "Condition": {"Surprise": {"aws:username": "x"}}}},
        {**POLICY, "Statement": {**statement, "Condition": {"StringEquals": {"aws:surprise": "x"}}}},
    ]
    for document in bent:
        answer = box.send("PUT", "/b", "policy=", body=json.dumps(document).encode())
        assert (answer.status, answer.code) == (400, "MalformedPolicy"), document
    assert box.send("GET", "/b", "policy=").code == "NoSuchBucketPolicy"
    assert box.send("PUT", "/b", "policy=", body=json.dumps(POLICY).encode()).status == 204
