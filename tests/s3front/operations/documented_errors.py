"""The errors that S3 documents, operation by operation, each with one request that provokes it: data, no test.

A row's error is the status and the code as the API reference has them.  The request is the operation's own, one that
would succeed (`BASE`), but for what the row gives.  Names in braces are what the scene of test_documented_errors.py
has made: the uploads {upload} of b/m and {taken} of b/k, the delete markers {marker} of versions/k and
{locked_marker} of locked/k, and {held}, the version of locked/held.

Sources: Amazon S3 API Reference, the "Errors" of each operation and "List of error codes"; Amazon S3 User Guide, "How
Object Lock works", "Controlling ownership of objects", "Working with delete markers", where those name the code.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Final, NamedTuple

from s3front.operations.table import Operation
from s3front.router import Level, Route
from tests.s3front.box import KEY, NOW, READER, REGION, SECRET
from tests.s3front.operations.people import THIRD
from tests.s3front.posting import BOUNDARY, Part, multipart, policy_text, signed_v4, v4_conditions
from tests.security.test_documents import DOCUMENTS, ETAG, POLICY


class Row(NamedTuple):
    """One error and how to meet it.  What is None is as in `BASE`; headers come on top of those there, and a header
    whose value is None is left out.  `query` has no sub-resource.  `who` is a key, or empty: nobody."""

    error: str
    path: str | None = None
    query: str | None = None
    headers: dict[str, str | None] = {}
    body: str | bytes | None = None
    who: str = KEY
    payload: str = ""


NO_VERSION: Final = "versionId=00000000000000ff"
DIGEST: Final = "1B2M2Y8AsgTpgAmY7PhCfg=="  # of nothing
WRONG: Final = "0" * 64
LONG: Final = "k" * 1025
SSE_C: Final = "x-amz-server-side-encryption-customer-"
PAST: Final = "2020-01-01T00:00:00Z"
LATER: Final = "2140-01-01T00:00:00.000Z"
PUBLIC: Final = {"x-amz-acl": "public-read"}

# What a request of the operation is that would succeed: (path, query, headers, body).  Documents come from DOCUMENTS.
BASE: Final[dict[str, tuple[str, str, dict[str, str], bytes]]] = {
    "DeleteBucket": ("/with.dot", "", {}, b""),
    "DeleteObjectTagging": ("/enforced/k", "", {}, b""),
    "CreateBucket": ("/new-bucket", "", {}, b""),
    "PutObject": ("/b/new", "", {}, b"content"),
    "PostObject": ("/b", "", {"content-type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}, b""),
    "CopyObject": ("/b/new", "", {"x-amz-copy-source": "/b/k"}, b""),
    "CreateMultipartUpload": ("/b/new", "", {}, b""),
    "UploadPart": ("/b/m", "partNumber=1&uploadId={upload}", {}, b"part"),
    "UploadPartCopy": ("/b/m", "partNumber=1&uploadId={upload}", {"x-amz-copy-source": "/b/k"}, b""),
    "CompleteMultipartUpload": ("/b/m", "uploadId={upload}", {}, b""),
    "AbortMultipartUpload": ("/b/k", "uploadId={taken}", {}, b""),
    "ListParts": ("/b/m", "uploadId={upload}", {}, b""),
    "RenameObject": ("/b/new", "", {"x-amz-rename-source": "/b/renamed"}, b""),
    "GetObjectAttributes": ("/b/k", "", {"x-amz-object-attributes": "ETag"}, b""),
    "PutBucketPolicy": ("/b", "", {}, json.dumps(POLICY).encode()),
    "GetObjectLegalHold": ("/locked/held", "", {}, b""),
    "PutObjectLegalHold": ("/locked/free", "", {}, b""),
    "GetObjectRetention": ("/locked/held", "", {}, b""),
    "PutObjectRetention": ("/locked/free", "", {}, b""),
    "GetObjectLockConfiguration": ("/locked", "", {}, b""),
    "PutObjectLockConfiguration": ("/locked", "", {}, b""),
}
ANYBODY: Final = {
    "CreateBucket": "every user may",
    "PostObject": "a form is signed by its policy: its rows are its own",
    "DeleteObjects": "answers for each key",
}  # operation -> why a stranger is not refused by AccessDenied
BYTES: Final = {"PutObject", "UploadPart"}  # operations whose body is an object's bytes


def general(route: Route, operation: Operation) -> list[Row]:
    """The errors that the reference lists once for all operations of a kind."""
    name = operation.name
    found = []
    if operation.needs_bucket:
        found.append(Row("404 NoSuchBucket", "/no-such-bucket" + ("/k" if route.level is Level.OBJECT else "")))
    if name not in ANYBODY:
        found.append(Row("403 AccessDenied", who=""))
        if route.level is not Level.SERVICE:
            found.append(Row("403 AccessDenied", who=THIRD))
    if route.method in ("PUT", "POST", "DELETE") and name not in {"PostObject", "DeleteObjects"}:
        found.append(Row("403 AccessDenied", who=READER))
    if name in DOCUMENTS or name in BYTES or name == "PutBucketPolicy":
        found += [
            Row("400 BadDigest", headers={"content-md5": DIGEST}),
            Row("400 InvalidDigest", headers={"content-md5": "none"}),
            Row("400 XAmzContentSHA256Mismatch", payload=WRONG),
            Row("400 IncompleteBody", headers={"content-length": "4000"}),
        ]
    if name in DOCUMENTS:
        wanted = "400 MalformedACLError" if name.endswith("Acl") else "400 MalformedXML"
        found += [Row(wanted, body="<Unclosed>"), Row(wanted, body="<Surprise></Surprise>")]
        found.append(Row("400 MaxMessageLengthExceeded", headers={"content-length": str(8 * 2**20)}))
    return found


def customer(secret: bytes, algorithm: str = "AES256") -> dict[str, str | None]:
    """The headers of SSE-C with a key made of `secret`."""
    key = hashlib.sha256(secret).digest()
    digest = base64.b64encode(hashlib.md5(key, usedforsecurity=False).digest()).decode()
    return {
        SSE_C + "algorithm": algorithm,
        SSE_C + "key": base64.b64encode(key).decode(),
        SSE_C + "key-md5": digest,
    }


def tags(count: int, key: str = "k{}") -> str:
    listed = "".join(f"<Tag><Key>{key.format(number)}</Key><Value>v</Value></Tag>" for number in range(count))
    return f"<Tagging><TagSet>{listed}</TagSet></Tagging>"


def versions() -> list[Row]:
    """Of an operation on an object or one of its versions."""
    return [
        Row("404 NoSuchKey", "/b/none"),
        Row("404 NoSuchKey", "/versions/k"),  # hidden by a delete marker
        Row("404 NoSuchVersion", "/versions/k", NO_VERSION),
        Row("405 MethodNotAllowed", "/versions/k", "versionId={marker}"),
        Row("400 InvalidArgument", "/versions/k", "versionId=none"),
    ]


def locks() -> list[Row]:
    """Of an operation on an object's lock."""
    return [
        Row("404 NoSuchKey", "/locked/none"),
        Row("404 NoSuchVersion", "/locked/held", NO_VERSION),
        Row("405 MethodNotAllowed", "/locked/k", "versionId={locked_marker}"),
        Row("400 InvalidRequest", "/b/k"),  # a bucket without Object Lock
    ]


def new_object() -> list[Row]:
    """Of an operation whose headers describe an object to be."""
    lock: dict[str, str | None] = {"x-amz-object-lock-mode": "GOVERNANCE"}
    until: dict[str, str | None] = {"x-amz-object-lock-retain-until-date": LATER}
    replace: dict[str, str | None] = {"x-amz-metadata-directive": "REPLACE", "x-amz-tagging-directive": "REPLACE"}
    return [
        Row("400 KeyTooLongError", f"/b/{LONG}"),
        Row("400 MetadataTooLarge", headers={**replace, "x-amz-meta-a": "v" * 2048}),
        Row("400 InvalidTag", headers={**replace, "x-amz-tagging": "aws:a=b"}),
        Row("400 InvalidTag", headers={**replace, "x-amz-tagging": "&".join(f"{n}=v" for n in range(11))}),
        Row("400 InvalidStorageClass", headers={"x-amz-storage-class": "COLD"}),
        Row("400 InvalidArgument", headers={"x-amz-acl": "everybody"}),
        Row("400 InvalidRequest", headers={**PUBLIC, "x-amz-grant-read": 'id="oth"'}),
        Row("400 UnresolvableGrantByEmailAddress", headers={"x-amz-grant-read": 'emailAddress="no@example.org"'}),
        Row("400 AccessControlListNotSupported", "/enforced/new", headers={**PUBLIC}),
        Row("403 AccessDenied", "/closed/new", headers={**PUBLIC}),  # BlockPublicAcls
        Row("400 InvalidArgument", headers={"x-amz-server-side-encryption": "AES512"}),
        Row("400 InvalidArgument", headers={SSE_C + "algorithm": "AES256"}),
        Row("400 InvalidEncryptionAlgorithmError", headers=customer(b"other", "AES192")),
        Row("501 NotImplemented", headers={"x-amz-server-side-encryption": "aws:kms"}),
        Row("400 InvalidRequest", headers={**lock, **until}),  # a bucket without Object Lock
        Row("400 InvalidArgument", "/locked/new", headers=lock),
        Row("400 InvalidArgument", "/locked/new", headers={**lock, "x-amz-object-lock-retain-until-date": PAST}),
    ]


def bytes_of() -> list[Row]:
    """Of an operation that receives an object's bytes."""
    chunked = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    return [
        Row("400 BadDigest", headers={"x-amz-checksum-crc32": "AAAAAA=="}),
        Row("400 BadDigest", headers={"x-amz-checksum-sha256": "A" * 43 + "="}),
        Row("400 InvalidRequest", headers={"x-amz-checksum-crc32": "AAAAAA==", "x-amz-checksum-crc32c": "AAAAAA=="}),
        Row("400 InvalidRequest", headers={"x-amz-sdk-checksum-algorithm": "CRC31"}),
        Row("400 EntityTooLarge", headers={"content-length": str(5 * 2**30 + 1)}),
        Row("411 MissingContentLength", payload=chunked),
        Row("400 IncompleteBody", headers={"x-amz-decoded-content-length": "4"}, body=b"4\r\npa", payload=chunked),
    ]


def write_conditions() -> list[Row]:
    """Of an operation that replaces an object on condition."""
    return [
        Row("412 PreconditionFailed", "/b/renamed", headers={"if-none-match": "*"}),
        Row("412 PreconditionFailed", "/b/renamed", headers={"if-match": '"other"'}),
        Row("404 NoSuchKey", "/b/none", headers={"if-match": f'"{ETAG}"'}),
    ]


def lists(limit: str) -> list[Row]:
    return [
        Row("400 InvalidArgument", query=f"{limit}=-1"),
        Row("400 InvalidArgument", query=f"{limit}=many"),
        Row("400 InvalidArgument", query="encoding-type=base64"),
    ]


def acl(path: str) -> list[Row]:
    stranger = DOCUMENTS["PutBucketAcl"].replace('xsi:type="Group"', 'xsi:type="CanonicalUser"')
    stranger = stranger.replace("<URI>http://acs.amazonaws.com/groups/global/AllUsers</URI>", "<ID>nobody</ID>")
    return [
        Row("400 AccessControlListNotSupported", f"/enforced{path}", headers={**PUBLIC}, body=b""),
        Row("403 AccessDenied", f"/closed{path}", headers={**PUBLIC}, body=b""),
        Row("400 InvalidArgument", headers={"x-amz-acl": "everybody"}, body=b""),
        Row("400 InvalidArgument", body=stranger),
        Row("400 InvalidRequest", headers={**PUBLIC, "x-amz-grant-read": 'id="oth"'}, body=b""),
        Row("400 UnexpectedContent", headers={**PUBLIC}),
        Row("400 MissingSecurityHeader", body=b""),
        Row("400 UnresolvableGrantByEmailAddress", headers={"x-amz-grant-read": 'emailAddress="no@x.org"'}, body=b""),
    ]


def form(error: str, *parts: Part, **headers: str | None) -> Row:
    """A form: signed, if at all, by its fields."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Row(error, headers=named, body=multipart(parts), who="")


def signed(*conditions: object, key: str = KEY, secret: str = SECRET) -> list[Part]:
    """The fields of a form before its file: a key, and a policy that allows it and has these conditions too."""
    text = policy_text([{"bucket": "b"}, ["starts-with", "$key", ""], *v4_conditions(), *conditions], NOW + 60)
    return [("key", "new"), *signed_v4(text, key, secret, REGION, NOW)]


def retention(mode: str, until: str) -> str:
    return f"<Retention><Mode>{mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>"


def lock_rule(period: str) -> str:
    return (
        "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>"
        f"<Mode>GOVERNANCE</Mode>{period}</DefaultRetention></Rule></ObjectLockConfiguration>"
    )


def lifecycle(content: str) -> str:
    return f"<LifecycleConfiguration><Rule><ID>a</ID><Status>Enabled</Status>{content}</Rule></LifecycleConfiguration>"


def parts(*listed: tuple[int, str]) -> str:
    rows = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>" for number, etag in listed)
    return f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>"


def create(content: str) -> str:
    return f"<CreateBucketConfiguration>{content}</CreateBucketConfiguration>"


def statement(**changed: object) -> str:
    base: dict[str, object] = POLICY["Statement"]  # type: ignore[assignment]
    return json.dumps({**POLICY, "Statement": {**base, **changed}})


COPY_CONDITIONS: Final = [
    Row("412 PreconditionFailed", headers={"x-amz-copy-source-if-match": '"other"'}),
    Row("412 PreconditionFailed", headers={"x-amz-copy-source-if-none-match": "*"}),
    Row("412 PreconditionFailed", headers={"x-amz-copy-source-if-unmodified-since": "Thu, 01 Jan 1998 00:00:00 GMT"}),
]
COPY_SOURCES: Final = [
    Row("404 NoSuchKey", headers={"x-amz-copy-source": "/b/none"}),
    Row("404 NoSuchBucket", headers={"x-amz-copy-source": "/no-such-bucket/k"}),
    Row("404 NoSuchVersion", headers={"x-amz-copy-source": f"/versions/k?{NO_VERSION}"}),
    Row("400 InvalidRequest", headers={"x-amz-copy-source": "/versions/k?versionId={marker}"}),
    Row("400 InvalidArgument", headers={"x-amz-copy-source": "b"}),
    Row("403 AccessDenied", headers={"x-amz-copy-source": "/others/k"}),
    Row("400 InvalidRequest", headers={"x-amz-copy-source": "/b/sealed"}),  # no key of its customer's
]
READ_CONDITIONS: Final = [
    Row("412 PreconditionFailed", headers={"if-match": '"other"'}),
    Row("412 PreconditionFailed", headers={"if-unmodified-since": "Thu, 01 Jan 1998 00:00:00 GMT"}),
    Row("304 ", headers={"if-none-match": "*"}),
    Row("304 ", headers={"if-modified-since": "Fri, 01 Jan 2140 00:00:00 GMT"}),
]
SEALED: Final = [
    Row("400 InvalidRequest", "/b/sealed"),  # no key of its customer's, another one, and where none was
    Row("400 InvalidRequest", "/b/sealed", headers=customer(b"other")),
    Row("400 InvalidRequest", "/b/k", headers=customer(b"other")),
    Row("400 InvalidEncryptionAlgorithmError", "/b/sealed", headers=customer(b"other", "AES192")),
]
READ: Final = [
    *versions(),
    *READ_CONDITIONS,
    *SEALED,
    Row("416 InvalidRange", headers={"range": "bytes=4000-"}),
    Row("400 InvalidArgument", query="partNumber=0"),
    Row("400 InvalidPart", query="partNumber=99"),
    Row("400 InvalidRequest", query="partNumber=1", headers={"range": "bytes=0-1"}),
]
UPLOAD: Final = [
    Row("404 NoSuchUpload", query="partNumber=1&uploadId=none"),
    Row("404 NoSuchUpload", "/b/k"),
    Row("400 InvalidArgument", query="partNumber=0&uploadId={upload}"),
    Row("400 InvalidArgument", query="partNumber=10001&uploadId={upload}"),
]

OWN: Final[dict[str, list[Row]]] = {
    "ListBuckets": [
        Row("400 InvalidArgument", query="max-buckets=0"),
        Row("400 InvalidArgument", query="continuation-token=!"),
    ],
    "CreateBucket": [
        Row("403 AccessDenied", who=""),
        Row("409 BucketAlreadyOwnedByYou", "/versions"),
        Row("409 BucketAlreadyExists", "/others"),
        Row("400 InvalidBucketName", "/Upper"),
        Row("400 InvalidBucketName", "/two..dots"),
        Row("400 InvalidBucketName", "/" + "n" * 64),
        Row("400 InvalidBucketName", "/192.0.2.1"),
        Row("400 IllegalLocationConstraintException", body=create("<LocationConstraint>mars</LocationConstraint>")),
        Row("400 InvalidTag", body=create("<Tags><Tag><Key>aws:a</Key><Value>b</Value></Tag></Tags>")),
        Row("400 InvalidArgument", headers={"x-amz-object-ownership": "Nobody"}),
        Row("400 InvalidArgument", headers={"x-amz-acl": "everybody"}),
        Row(
            "400 InvalidBucketAclWithObjectOwnership",
            headers={**PUBLIC, "x-amz-object-ownership": "BucketOwnerEnforced"},
        ),
    ],
    "DeleteBucket": [Row("409 BucketNotEmpty", "/b")],
    "GetBucketEncryption": [Row("404 ServerSideEncryptionConfigurationNotFoundError")],
    "PutBucketEncryption": [
        Row("400 MalformedXML", body=DOCUMENTS["PutBucketEncryption"].replace("AES256", "AES512")),
        Row("501 NotImplemented", body=DOCUMENTS["PutBucketEncryption"].replace("AES256", "aws:kms")),
    ],
    "PutBucketVersioning": [
        Row("400 MissingRequestBodyError", body=b""),
        Row("400 MalformedXML", body=DOCUMENTS["PutBucketVersioning"].replace("Enabled", "On")),
        Row("400 IllegalVersioningConfigurationException", body="<VersioningConfiguration/>"),
        Row("409 InvalidBucketState", "/locked", body=DOCUMENTS["PutBucketVersioning"].replace("Enabled", "Suspended")),
    ],
    "GetObjectLegalHold": [*locks(), Row("404 NoSuchObjectLockConfiguration", "/locked/free")],
    "GetObjectRetention": [*locks(), Row("404 NoSuchObjectLockConfiguration", "/locked/free")],
    "PutObjectLegalHold": [
        *locks(),
        Row("400 MissingRequestBodyError", body=b""),
        Row("400 MalformedXML", body="<LegalHold><Status>on</Status></LegalHold>"),
    ],
    "PutObjectRetention": [
        *locks(),
        Row("400 MissingRequestBodyError", body=b""),
        Row("400 MalformedXML", body=retention("governance", LATER)),
        Row("400 InvalidArgument", body=retention("GOVERNANCE", PAST)),
        Row("403 AccessDenied", "/locked/held", body=retention("COMPLIANCE", "2139-01-01T00:00:00Z")),
    ],
    "GetObjectLockConfiguration": [Row("404 ObjectLockConfigurationNotFoundError", "/b")],
    "PutObjectLockConfiguration": [
        Row("409 InvalidBucketState", "/b"),
        Row("400 MissingRequestBodyError", body=b""),
        Row("400 InvalidRetentionPeriod", body=lock_rule("<Days>0</Days>")),
        Row("400 InvalidRetentionPeriod", body=lock_rule("<Years>101</Years>")),
        Row("400 MalformedXML", body=lock_rule("<Days>1</Days><Years>1</Years>")),
    ],
    "ListObjects": lists("max-keys"),
    "ListObjectsV2": [*lists("max-keys"), Row("400 InvalidArgument", query="continuation-token=!")],
    "ListObjectVersions": [*lists("max-keys"), Row("400 InvalidArgument", query="version-id-marker=null")],
    "ListMultipartUploads": lists("max-uploads"),
    "DeleteObjects": [
        Row("400 MissingRequestBodyError", headers={"content-md5": DIGEST}, body=b""),
        Row("400 InvalidRequest", headers={"content-md5": None}),
        Row("400 MalformedXML", body="<Delete></Delete>"),
        Row("400 MalformedXML", body="<Delete>" + "<Object><Key>k</Key></Object>" * 1001 + "</Delete>"),
    ],
    "GetObject": [
        *READ,
        Row("400 InvalidRequest", "/public/k", "response-content-type=text/plain", who=""),
        Row("403 AccessDenied", "/b/none", who=THIRD),  # who may not list is not told what is there
    ],
    "HeadObject": [*READ, Row("403 AccessDenied", "/b/none", who=THIRD)],
    "GetObjectAttributes": [
        *versions(),
        *READ_CONDITIONS,
        *SEALED,
        Row("400 InvalidArgument", headers={"x-amz-object-attributes": "Colour"}),
        Row("400 InvalidArgument", headers={"x-amz-object-attributes": None}),
        Row("400 InvalidArgument", headers={"x-amz-max-parts": "many"}),
    ],
    "PutObject": [*new_object(), *bytes_of(), *write_conditions()],
    "PostObject": [
        form("404 NoSuchBucket", ("key", "a"), ("file", "x"))._replace(path="/no-such-bucket"),
        form("403 AccessDenied", ("key", "a"), ("file", "x")),
        form("400 InvalidArgument", ("file", "x")),
        form("400 IncorrectNumberOfFilesInPostRequest", ("key", "a"))._replace(path="/public"),
        form("400 EntityTooLarge", *signed(["content-length-range", 0, 1]), ("file", "xx")),
        form("400 EntityTooSmall", *signed(["content-length-range", 3, 4]), ("file", "xx")),
        form("403 AccessDenied", *signed(["eq", "$key", "other"]), ("file", "xx")),
        form("400 InvalidPolicyDocument", *signed(["near", "$key", "other"]), ("file", "xx")),
        form("403 SignatureDoesNotMatch", *signed(secret="other"), ("file", "xx")),
        form("403 InvalidAccessKeyId", *signed(key="AKIANOBODY"), ("file", "xx")),
        form("403 AccessDenied", *signed(key=READER), ("file", "xx")),
        form("400 InvalidStorageClass", *signed(["eq", "$x-amz-storage-class", "COLD"]),
             ("x-amz-storage-class", "COLD"), ("file", "xx")),
        form("400 InvalidTag", *signed(["starts-with", "$tagging", ""]), ("tagging", tags(11)), ("file", "xx")),
        form("400 BadDigest", *signed(), ("x-amz-checksum-crc32", "AAAAAA=="), ("file", "xx")),
        form("400 KeyTooLongError", ("key", LONG), ("file", "x"))._replace(path="/public"),
        form("400 MalformedPOSTRequest", content_type="multipart/form-data"),
        Row("412 PreconditionFailed", headers={"content-type": "text/plain"}, body=b"no form"),
    ],
    "CopyObject": [
        *new_object(),
        *COPY_SOURCES,
        *COPY_CONDITIONS,
        *write_conditions(),
        Row("400 InvalidRequest", "/b/k"),  # onto itself, with nothing changed
        Row("400 InvalidArgument", headers={"x-amz-metadata-directive": "KEEP"}),
        Row("400 InvalidArgument", headers={"x-amz-tagging-directive": "KEEP"}),
        Row("400 InvalidRequest", headers={"x-amz-checksum-algorithm": "CRC31"}),
    ],
    "DeleteObject": [
        Row("412 PreconditionFailed", headers={"if-match": '"other"'}),
        Row("412 PreconditionFailed", headers={"x-amz-if-match-size": "1"}),
        Row("400 InvalidArgument", headers={"x-amz-if-match-size": "many"}),
        Row("404 NoSuchKey", "/b/none", headers={"if-match": '"other"'}),
        Row("400 InvalidArgument", "/versions/k", "versionId=none"),
        Row("403 AccessDenied", "/locked/held", "versionId={held}"),
    ],
    "RenameObject": [
        Row("404 NoSuchKey", headers={"x-amz-rename-source": "/b/none"}),
        Row("412 PreconditionFailed", "/b/sealed", headers={"if-none-match": "*"}),
        Row("412 PreconditionFailed", headers={"x-amz-rename-source-if-match": '"other"'}),
        Row("400 InvalidRequest", headers={"x-amz-rename-source": "/versions/k"}),
        Row("400 InvalidArgument", headers={"x-amz-rename-source": None}),
        Row("400 KeyTooLongError", f"/b/{LONG}"),
        Row("400 IdempotencyParameterMismatch", headers={"x-amz-client-token": "once"}),
        Row("403 AccessDenied", "/locked/new", headers={"x-amz-rename-source": "/locked/held"}),
    ],
    "CreateMultipartUpload": [
        *new_object(),
        Row("400 InvalidRequest", headers={"x-amz-checksum-algorithm": "CRC31"}),
        Row(
            "400 InvalidRequest", headers={"x-amz-checksum-algorithm": "SHA256", "x-amz-checksum-type": "FULL_OBJECT"}
        ),
    ],
    "UploadPart": [*UPLOAD, *bytes_of()],
    "UploadPartCopy": [
        *UPLOAD,
        *COPY_SOURCES,
        *COPY_CONDITIONS,
        Row("416 InvalidRange", headers={"x-amz-copy-source-range": "bytes=0-4000"}),
        Row("400 InvalidArgument", headers={"x-amz-copy-source-range": "all"}),
    ],
    "CompleteMultipartUpload": [
        Row("404 NoSuchUpload", query="uploadId=none"),
        Row("404 NoSuchUpload", "/b/k"),
        Row("400 InvalidPart", body=parts((1, "0" * 32))),
        Row("400 InvalidPart", body=parts((3, ETAG))),
        Row("400 InvalidPartOrder", body=parts((2, ETAG), (1, ETAG))),
        Row("400 EntityTooSmall", body=parts((1, ETAG), (2, ETAG))),
        Row("400 MalformedXML", body=parts()),
        Row("400 InvalidRequest", headers={"x-amz-mp-object-size": "1"}),
        Row("412 PreconditionFailed", headers={"if-none-match": "*"}, query="uploadId={taken}", path="/b/k"),
        Row("412 PreconditionFailed", headers={"if-match": '"other"'}, query="uploadId={taken}", path="/b/k"),
        Row("404 NoSuchKey", headers={"if-match": '"other"'}),
        Row("400 BadDigest", headers={"x-amz-checksum-crc64nvme": "AAAAAAAAAAA="}),
    ],
    "AbortMultipartUpload": [Row("404 NoSuchUpload", query="uploadId=none"), Row("404 NoSuchUpload", "/b/m")],
    "ListParts": [
        Row("404 NoSuchUpload", query="uploadId=none"),
        Row("404 NoSuchUpload", "/b/k"),
        Row("400 InvalidArgument", query="uploadId={upload}&max-parts=-1"),
        Row("400 InvalidArgument", query="uploadId={upload}&part-number-marker=none"),
    ],
    "GetObjectTorrent": [Row("404 NoSuchKey")],
    "GetObjectTagging": versions(),
    "PutObjectTagging": [
        *versions(),
        Row("400 InvalidTag", body=tags(11)),
        Row("400 InvalidTag", body=tags(2, "same")),
        Row("400 InvalidTag", body=tags(1, "aws:a")),
        Row("400 InvalidTag", body=tags(1, "k" * 129)),
    ],
    "DeleteObjectTagging": versions(),
    "GetBucketTagging": [Row("404 NoSuchTagSet")],
    "PutBucketTagging": [
        Row("400 InvalidTag", body=tags(51)),
        Row("400 InvalidTag", body=tags(2, "same")),
        Row("400 InvalidTag", body=tags(1, "aws:a")),
    ],
    "GetBucketCors": [Row("404 NoSuchCORSConfiguration")],
    "PutBucketCors": [
        Row("400 MalformedXML", body="<CORSConfiguration></CORSConfiguration>"),
        Row("400 InvalidRequest", body=DOCUMENTS["PutBucketCors"].replace("GET", "FETCH")),
        Row("400 InvalidRequest", body=DOCUMENTS["PutBucketCors"].replace(">*<", ">*.*<")),
    ],
    "GetBucketLifecycleConfiguration": [Row("404 NoSuchLifecycleConfiguration")],
    "PutBucketLifecycleConfiguration": [
        Row("400 InvalidArgument", body=lifecycle("<Filter/><Expiration><Days>0</Days></Expiration>")),
        Row("400 InvalidRequest", body=lifecycle("<Filter/>")),
        Row("400 MalformedXML", body=lifecycle("<Expiration><Days>1</Days></Expiration>")),
    ],
    "PutBucketAccelerateConfiguration": [
        Row("400 MalformedXML", body="<AccelerateConfiguration><Status>On</Status></AccelerateConfiguration>"),
        Row("400 InvalidRequest", "/with.dot"),
    ],
    "PutBucketRequestPayment": [
        Row("400 MalformedXML", body=DOCUMENTS["PutBucketRequestPayment"].replace("BucketOwner", "Me")),
        Row("501 NotImplemented", body=DOCUMENTS["PutBucketRequestPayment"].replace("BucketOwner", "Requester")),
    ],
    "PutBucketLogging": [
        Row(
            "501 NotImplemented",
            body="<BucketLoggingStatus><LoggingEnabled><TargetBucket>b</TargetBucket><TargetPrefix/></LoggingEnabled>"
            "</BucketLoggingStatus>",
        )
    ],
    "PutBucketNotificationConfiguration": [
        Row(
            "501 NotImplemented",
            body="<NotificationConfiguration><EventBridgeConfiguration/></NotificationConfiguration>",
        )
    ],
    "GetBucketWebsite": [Row("404 NoSuchWebsiteConfiguration")],
    "PutBucketWebsite": [
        Row("400 InvalidArgument", body="<WebsiteConfiguration/>"),
        Row("400 InvalidArgument", body=DOCUMENTS["PutBucketWebsite"].replace(">i<", ">a/i<")),
    ],
    "GetObjectAcl": versions(),
    "PutBucketAcl": acl(""),
    "PutObjectAcl": [*versions(), *acl("/k")],
    "GetBucketPolicy": [Row("404 NoSuchBucketPolicy")],
    "PutBucketPolicy": [
        Row("400 MissingRequestBodyError", body=b""),
        Row("400 MalformedPolicy", body="{"),
        Row("400 MalformedPolicy", body=statement(Effect="Maybe")),
        Row("400 MalformedPolicy", body=statement(Action="s3:Fly")),
        Row("400 MalformedPolicy", body=statement(Resource="arn:aws:s3:::other/*")),
        Row("403 AccessDenied", "/closed", body=statement(Effect="Allow", Principal="*", Condition={}).replace(
            ":::b/", ":::closed/"
        )),  # BlockPublicPolicy
    ],
    "GetBucketOwnershipControls": [Row("404 OwnershipControlsNotFoundError")],
    "PutBucketOwnershipControls": [
        Row("400 MalformedXML", body=DOCUMENTS["PutBucketOwnershipControls"].replace("ObjectWriter", "Nobody")),
        Row(
            "400 InvalidBucketAclWithObjectOwnership",
            "/public",
            body=DOCUMENTS["PutBucketOwnershipControls"].replace("ObjectWriter", "BucketOwnerEnforced"),
        ),
    ],
    "GetPublicAccessBlock": [Row("404 NoSuchPublicAccessBlockConfiguration")],
    "PutPublicAccessBlock": [
        Row("400 MalformedXML", body=DOCUMENTS["PutPublicAccessBlock"].replace("true", "perhaps"))
    ],
    "GetBucketReplication": [Row("404 ReplicationConfigurationNotFoundError")],
    **{
        f"ListBucket{kind}Configurations": [Row("404 NoSuchConfiguration", query="id=any")]
        for kind in ("Analytics", "Inventory", "Metrics", "IntelligentTiering")
    },
}  # fmt: skip

# Operations without errors of their own, and why.
GENERAL_ONLY: Final[dict[str, str]] = {
    "HeadBucket": "tells only whether the bucket is there and open to the caller",
    "GetBucketLocation": "every bucket has one",
    "GetBucketVersioning": "an unset one is an empty document",
    "GetBucketAccelerateConfiguration": "an unset one is an empty document",
    "GetBucketAcl": "every bucket has one",
    "GetBucketPolicyStatus": "tells of the ACL where there is no policy (COMPATIBILITY.md)",
    "GetBucketRequestPayment": "unset: the owner pays",
    "GetBucketLogging": "unset: an empty document",
    "GetBucketNotificationConfiguration": "unset: an empty document",
    **dict.fromkeys(
        (
            "DeleteBucketEncryption", "DeleteBucketTagging", "DeleteBucketLifecycle", "DeleteBucketCors",
            "DeleteBucketWebsite", "DeleteBucketPolicy", "DeleteBucketOwnershipControls", "DeletePublicAccessBlock",
        ),
        "deleting what is not set succeeds",
    ),
}  # fmt: skip

# The door's codes that belong to no operation, or need more than one request, and the test that meets each.
ELSEWHERE: Final[dict[str, str]] = {
    **dict.fromkeys(("AccessForbidden", "BadRequest"), "s3front/operations/test_cors.py"),  # preflights
    **dict.fromkeys(
        ("AuthorizationHeaderMalformed", "AuthorizationQueryParametersError", "InvalidToken", "RequestTimeTooSkewed"),
        "s3front/test_gate.py",
    ),
    **dict.fromkeys(("InvalidChunkSizeError", "MalformedTrailerError"), "s3front/test_aws_chunked.py"),
    **dict.fromkeys(("InternalError", "SlowDown"), "s3front/operations/test_objects.py"),
    **dict.fromkeys(("InsufficientStorage", "QuotaExceeded"), "system/test_limits.py"),
    "InvalidURI": "s3front/test_app.py",
    "MaxPostPreDataLengthExceeded": "s3front/test_form.py",
    "OperationAborted": "s3front/operations/test_policies.py",
    "RequestTimeout": "s3front/test_connection.py",
    "ServiceUnavailable": "s3front/operations/test_documented_errors.py",
}
