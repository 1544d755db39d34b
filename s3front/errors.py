"""S3's error codes, with their statuses and default messages, and the one table from the store's codes to them.

Whatever goes wrong in this door is raised as an `S3Error` and rendered in one place (app.py).  This module knows no
ASGI and no store: only names ("List of error codes", Amazon S3 API Reference).  Messages follow AWS's wording where
clients are known to look at it.
"""

from __future__ import annotations

from typing import Final

from appliance.errors import Code, StoreError

# code -> (status, default message)
ERRORS: Final[dict[str, tuple[int, str]]] = {
    "AccessControlListNotSupported": (400, "The bucket does not allow ACLs"),
    "AccessDenied": (403, "Access Denied"),
    "AccessForbidden": (403, "AccessForbidden"),
    "AuthorizationHeaderMalformed": (400, "The authorization header is malformed."),
    "AuthorizationQueryParametersError": (400, "The authorization query parameters are not valid."),
    "BadDigest": (400, "The Content-MD5 or checksum value that you specified did not match what the server received."),
    "BadRequest": (400, "Bad Request"),
    "BucketAlreadyExists": (409, "The requested bucket name is not available. Select a different name and try again."),
    "BucketAlreadyOwnedByYou": (409, "The bucket that you tried to create already exists, and you own it."),
    "BucketNotEmpty": (409, "The bucket that you tried to delete is not empty."),
    "EntityTooLarge": (400, "Your proposed upload exceeds the maximum allowed object size."),
    "EntityTooSmall": (400, "Your proposed upload is smaller than the minimum allowed object size."),
    "IdempotencyParameterMismatch": (
        400,
        "The client token was used for a previous request whose parameters were different.",
    ),
    "IllegalLocationConstraintException": (
        400,
        "The specified location constraint is incompatible for the region specific endpoint this request was sent to.",
    ),
    "IllegalVersioningConfigurationException": (400, "The versioning element must be specified"),
    "IncompleteBody": (400, "You did not provide the number of bytes specified by the Content-Length HTTP header."),
    "IncorrectNumberOfFilesInPostRequest": (400, "POST requires exactly one file upload per request."),
    "InsufficientStorage": (507, "There is not enough space left to store this object."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "InvalidAccessKeyId": (403, "The AWS Access Key Id you provided does not exist in our records."),
    "InvalidArgument": (400, "Invalid Argument"),
    "InvalidBucketAclWithObjectOwnership": (
        400,
        "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting",
    ),
    "InvalidBucketName": (400, "The specified bucket is not valid."),
    "InvalidBucketState": (409, "The request is not valid for the current state of the bucket."),
    "InvalidChunkSizeError": (403, "Only the last chunk is allowed to have a size less than 8192 bytes"),
    "InvalidDigest": (400, "The Content-MD5 or checksum value that you specified is not valid."),
    "InvalidEncryptionAlgorithmError": (400, "The encryption request that you specified is not valid."),
    "InvalidPart": (
        400,
        (
            "One or more of the specified parts could not be found.  "
            "The part may not have been uploaded, or the specified entity tag may not match the part's entity tag."
        ),
    ),
    "InvalidPartOrder": (
        400,
        "The list of parts was not in ascending order. The parts list must be specified in order by part number.",
    ),
    "InvalidPolicyDocument": (
        400,
        "The content of the form does not meet the conditions specified in the policy document.",
    ),
    "InvalidRange": (416, "The requested range is not satisfiable"),
    "InvalidRequest": (400, "Invalid Request"),
    "InvalidRetentionPeriod": (400, "Default retention period must be a positive integer value."),
    "InvalidStorageClass": (400, "The storage class you specified is not valid"),
    "InvalidTag": (400, "The tag provided was not a valid tag."),
    "InvalidToken": (400, "The provided token is malformed or otherwise not valid."),
    "InvalidURI": (400, "Couldn't parse the specified URI."),
    "KeyTooLongError": (400, "Your key is too long"),
    "MalformedACLError": (
        400,
        "The XML you provided was not well-formed or did not validate against our published schema",
    ),
    "MalformedPolicy": (400, "The policy is not well-formed or did not validate."),
    "MalformedPOSTRequest": (400, "The body of your POST request is not well-formed multipart/form-data."),
    "MalformedXML": (
        400,
        "The XML you provided was not well-formed or did not validate against our published schema",
    ),
    "MalformedTrailerError": (400, "The request contained trailing data that was not well-formed."),
    "MaxMessageLengthExceeded": (400, "Your request was too large."),
    "MaxPostPreDataLengthExceeded": (400, "Your POST request fields preceding the upload file were too large."),
    "MetadataTooLarge": (400, "Your metadata headers exceed the maximum allowed metadata size"),
    "MethodNotAllowed": (405, "The specified method is not allowed against this resource."),
    "MissingContentLength": (411, "You must provide the Content-Length HTTP header."),
    "MissingRequestBodyError": (400, "Request Body is empty"),
    "MissingSecurityHeader": (400, "Your request was missing a required header."),
    "NoSuchBucket": (404, "The specified bucket does not exist"),
    "NoSuchBucketPolicy": (404, "The bucket policy does not exist"),
    "NoSuchCORSConfiguration": (404, "The CORS configuration does not exist"),
    "NoSuchConfiguration": (404, "The specified configuration does not exist."),
    "NoSuchKey": (404, "The specified key does not exist."),
    "NoSuchLifecycleConfiguration": (404, "The lifecycle configuration does not exist"),
    "NoSuchObjectLockConfiguration": (404, "The specified object does not have a ObjectLock configuration"),
    "NoSuchPublicAccessBlockConfiguration": (404, "The public access block configuration was not found"),
    "NoSuchTagSet": (404, "The TagSet does not exist"),
    "NoSuchUpload": (
        404,
        (
            "The specified upload does not exist. "
            "The upload ID may be invalid, or the upload may have been aborted or completed."
        ),
    ),
    "NoSuchVersion": (404, "The specified version does not exist."),
    "NoSuchWebsiteConfiguration": (404, "The specified bucket does not have a website configuration"),
    "NotImplemented": (501, "A header or query you provided implies functionality that is not implemented."),
    "ObjectLockConfigurationNotFoundError": (404, "Object Lock configuration does not exist for this bucket"),
    "OperationAborted": (409, "A conflicting conditional operation is currently in progress against this resource."),
    "OwnershipControlsNotFoundError": (404, "The bucket ownership controls were not found"),
    "PreconditionFailed": (412, "At least one of the pre-conditions you specified did not hold"),
    "QuotaExceeded": (403, "The quota of this bucket or project is used up."),
    "ReplicationConfigurationNotFoundError": (404, "The replication configuration was not found"),
    "RequestTimeTooSkewed": (403, "The difference between the request time and the current time is too large."),
    "RequestTimeout": (
        400,
        "Your socket connection to the server was not read from or written to within the timeout period.",
    ),
    "ServerSideEncryptionConfigurationNotFoundError": (
        404,
        "The server side encryption configuration was not found",
    ),
    "ServiceUnavailable": (503, "Please reduce your request rate."),
    "SignatureDoesNotMatch": (
        403,
        (
            "The request signature we calculated does not match the signature you provided. "
            "Check your key and signing method."
        ),
    ),
    "SlowDown": (503, "Please reduce your request rate."),
    "UnexpectedContent": (400, "This request does not support content"),
    "UnresolvableGrantByEmailAddress": (
        400,
        "The e-mail address you provided does not match any account on record.",
    ),
    "XAmzContentSHA256Mismatch": (
        400,
        "The provided 'x-amz-content-sha256' header does not match what was computed.",
    ),
}

# Codes of a store that could not be opened never meet a request: InternalError, like any code without a line here.
STORE_CODES: Final[dict[Code, str]] = {
    Code.NO_SUCH_BUCKET: "NoSuchBucket",
    Code.NO_SUCH_KEY: "NoSuchKey",
    Code.NO_SUCH_VERSION: "NoSuchVersion",
    Code.NO_SUCH_UPLOAD: "NoSuchUpload",
    Code.NO_SUCH_NODE: "NoSuchKey",
    Code.BUCKET_EXISTS: "BucketAlreadyExists",
    Code.BUCKET_OWNED: "BucketAlreadyOwnedByYou",
    Code.BUCKET_NOT_EMPTY: "BucketNotEmpty",
    Code.EXISTS: "OperationAborted",
    Code.NOT_A_DIRECTORY: "InvalidRequest",
    Code.IS_A_DIRECTORY: "InvalidRequest",
    Code.NOT_EMPTY: "InvalidRequest",
    Code.CROSSES_BUCKETS: "InvalidRequest",
    Code.NAME_TOO_LONG: "KeyTooLongError",
    Code.NOT_SUPPORTED: "NotImplemented",
    Code.INVALID_NAME: "InvalidBucketName",
    Code.INVALID_ARGUMENT: "InvalidArgument",
    Code.PRECONDITION_FAILED: "PreconditionFailed",
    Code.CONFLICT: "OperationAborted",
    Code.LOCKED: "AccessDenied",
    Code.NOT_LOCKABLE: "InvalidRequest",
    Code.INVALID_PART: "InvalidPart",
    Code.INVALID_PART_ORDER: "InvalidPartOrder",
    Code.PART_TOO_SMALL: "EntityTooSmall",
    Code.TOO_LARGE: "EntityTooLarge",
    Code.ACCESS_DENIED: "AccessDenied",
    Code.MALFORMED_POLICY: "MalformedPolicy",
    Code.NO_SPACE: "InsufficientStorage",
    Code.QUOTA_EXCEEDED: "QuotaExceeded",
    Code.DAMAGED: "InternalError",
    Code.IO_ERROR: "InternalError",
    Code.UNAVAILABLE: "ServiceUnavailable",
    Code.READ_ONLY: "ServiceUnavailable",
}

# The store's own words help here; everywhere else AWS's wording is what clients know.
_TELLING: Final = frozenset(
    {
        Code.INVALID_ARGUMENT,
        Code.INVALID_NAME,
        Code.MALFORMED_POLICY,
        Code.NOT_LOCKABLE,
        Code.UNAVAILABLE,
        Code.READ_ONLY,
    }
)


class S3Error(Exception):
    """An answer that is an error: `code` one of S3's, `status` HTTP's, `message` for people.

    `details` become further elements of the XML (for example Condition); `headers` further response headers.
    """

    def __init__(
        self,
        code: str,
        message: str = "",
        *,
        status: int = 0,
        details: tuple[tuple[str, str], ...] = (),
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        known = ERRORS.get(code)
        assert known is not None or status, code
        self.code = code
        self.status = status or (known[0] if known else 500)
        self.message = message or (known[1] if known else code)
        self.details = details
        self.headers = headers
        super().__init__(self.message)

    def __repr__(self) -> str:
        return f"S3Error({self.code!r}, {self.status}, {self.message!r})"


def from_store(error: StoreError, bucket: str = "", key: bytes = b"") -> S3Error:
    """The store's error in S3's words, naming the bucket or key that was not there.  `error.cause` (devices, offsets)
    stays inside."""
    code = STORE_CODES.get(error.code, "InternalError")
    message = error.message if error.code in _TELLING and error.message != error.code.value else ""
    details: tuple[tuple[str, str], ...] = ()
    if code == "NoSuchKey" and key:
        details = (("Key", key.decode("utf-8", "backslashreplace")),)
    elif code == "NoSuchBucket" and bucket:
        details = (("BucketName", bucket),)
    return S3Error(code, message, details=details)


def invalid_argument(message: str, name: str = "", value: str = "") -> S3Error:
    """InvalidArgument with AWS's ArgumentName and ArgumentValue."""
    details = (("ArgumentName", name), ("ArgumentValue", value)) if name else ()
    return S3Error("InvalidArgument", message, details=details)
