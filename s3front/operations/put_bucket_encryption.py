"""PutBucketEncryption: PUT /bucket?encryption.  What new objects of the bucket get without asking (S3 API).

Only SSE-S3 can be the default here.  What is in the bucket stays as it is, as in AWS.
"""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from s3front import intake, xml
from s3front.errors import S3Error
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "PutBucketEncryption"
ACTION: Final = Action.PUT_ENCRYPTION_CONFIGURATION
ROUTES: Final = (Route("PUT", Level.BUCKET, "encryption"),)

_KMS: Final = frozenset({"aws:kms", "aws:kms:dsse"})


async def operate(door: Door, request: Request) -> Response:
    """Raises MalformedXML, InvalidArgument, NotImplemented (SSE-KMS)."""
    document = await intake.document(request)
    bucket_key = parse(document)
    await door.store.data_key()  # a box without its master key must not promise what it cannot do
    await door.store.set_bucket_setting(request.bucket, settings.ENCRYPTION, rendered(bucket_key))
    return Response(200, [])


def rendered(bucket_key: bool) -> bytes:
    """What is stored, and shown by GetBucketEncryption."""
    return xml.document(
        "ServerSideEncryptionConfiguration",
        "<Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm>"
        "</ApplyServerSideEncryptionByDefault>"
        f"<BucketKeyEnabled>{'true' if bucket_key else 'false'}</BucketKeyEnabled></Rule>",
    )


def parse(document: bytes) -> bool:
    """BucketKeyEnabled, which means nothing without KMS, of a document with one rule of SSE-S3; all others are
    refused."""
    rules = xml.parse(document, "ServerSideEncryptionConfiguration").only("Rule").children
    if len(rules) != 1:
        raise xml.malformed("There is one rule.")
    rule = rules[0].only("ApplyServerSideEncryptionByDefault", "BucketKeyEnabled")
    if rule.get("BucketKeyEnabled") not in (None, "", "true", "false"):
        raise xml.malformed("BucketKeyEnabled is true or false.")
    chosen = [child for child in rule.children if child.name == "ApplyServerSideEncryptionByDefault"]
    if len(chosen) != 1:
        raise xml.malformed("A rule says one ApplyServerSideEncryptionByDefault.")
    default = chosen[0].only("SSEAlgorithm", "KMSMasterKeyID")
    algorithm = default.need("SSEAlgorithm")
    if algorithm in _KMS:
        raise S3Error("NotImplemented", "SSE-KMS is not implemented.", details=(("SSEAlgorithm", algorithm),))
    if algorithm != "AES256":
        raise xml.malformed("SSEAlgorithm is AES256, aws:kms or aws:kms:dsse.")
    if default.get("KMSMasterKeyID"):
        raise S3Error(
            "InvalidArgument", "a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms"
        )
    return rule.get("BucketKeyEnabled") == "true"
