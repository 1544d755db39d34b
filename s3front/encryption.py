"""Server-side encryption as requests ask for it: SSE-S3, SSE-C, a bucket's default.

S3 User Guide, "Protecting data with server-side encryption".

    a new object   `for_write` reads headers (or a form's fields) and the bucket's default: a `Sealing`, or None
    a part         `for_part`: as its upload was begun; the same customer's key with every part
    a read         `for_read`: nothing for SSE-S3; for SSE-C the key, and it must be the right one

A customer's key is used, turned into the engine's key and a verifier, and forgotten: neither it nor its MD5 is stored
or logged.  The ETag of an SSE-C object is no MD5, as in AWS: it would tell whoever reads the catalogue what is inside.
Here it is one keyed with the customer's key, so that equal bodies under one key still have equal ETags.

SSE-KMS needs a key management service, and there is none: asking for it is NotImplemented, so that nobody believes that
their own key was used.  AWS refuses SSE-C over plain HTTP; this door allows it, because a box at home often stands
behind a proxy that ends TLS, or has none.

It deliberately doesn't know how bytes are sealed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec
from blake3 import blake3

from appliance import encryption
from appliance.model import AES256, SSE_C, Attributes, Bucket, DataKey, Node, Upload, unpack_attributes
from appliance.settings import ENCRYPTION
from s3front.errors import S3Error, invalid_argument
from s3front.request import Door
from s3front.response import Headers

METHOD: Final = b"x-amz-server-side-encryption"

_KMS_KEY: Final = METHOD + b"-aws-kms-key-id"
_KMS_CONTEXT: Final = METHOD + b"-context"
_BUCKET_KEY: Final = METHOD + b"-bucket-key-enabled"
_CUSTOMER: Final = METHOD + b"-customer-"
_SOURCE: Final = b"x-amz-copy-source-server-side-encryption-customer-"
_CUSTOMERS: Final = tuple(_CUSTOMER + name for name in (b"algorithm", b"key", b"key-md5"))
_SOURCES: Final = tuple(_SOURCE + name for name in (b"algorithm", b"key", b"key-md5"))

READ: Final = frozenset({METHOD, *_CUSTOMERS})
"""Headers of a read that concern this module: without them, and without SSE-C on the object, nothing is checked."""

WRITE: Final = frozenset({METHOD, _KMS_KEY, _KMS_CONTEXT, _BUCKET_KEY, *_CUSTOMERS})
"""Those of a write: without them the bucket alone decides."""

_MD5: Final = re.compile(r"[0-9a-f]{32}")
_SHOWN_AES256: Final[Headers] = [(METHOD, AES256.encode())]


class Customer(NamedTuple):
    """A customer's key as it came with a request: 32 bytes, and the base64 of its MD5."""

    raw: bytes
    md5: bytes

    def __repr__(self) -> str:
        return "Customer(...)"

    @property
    def key(self) -> DataKey:
        """What opens the object's bytes."""
        return encryption.customer_key(self.raw)

    @property
    def headers(self) -> Headers:
        """What every answer about the object says."""
        return [(_CUSTOMERS[0], AES256.encode()), (_CUSTOMERS[2], self.md5)]


class Sealing(NamedTuple):
    """How a new object or part is encrypted."""

    key: DataKey
    customer: Customer | None  # None: by the box's key
    verifier: bytes = b""

    @property
    def headers(self) -> Headers:
        """What the answer says: a new list."""
        return _SHOWN_AES256.copy() if self.customer is None else self.customer.headers

    def etag(self, etag: str) -> str:
        """The ETag to show for one that may be the MD5 of the body."""
        if self.customer is None or not _MD5.fullmatch(etag):
            return etag
        return blake3(etag.encode(), key=self.key.secret).hexdigest(length=16)


# ---------------------------------------------------------------------- new objects


async def for_write(door: Door, bucket: Bucket, headers: Mapping[bytes, bytes]) -> Sealing | None:
    """How an object that these headers (or form fields) make is encrypted; None for not at all.

    Raises InvalidArgument, InvalidEncryptionAlgorithmError, NotImplemented (SSE-KMS).
    """
    if WRITE.isdisjoint(headers):
        if not bucket.settings or ENCRYPTION not in bucket.settings:
            return None
        return Sealing(await door.store.data_key(), None)
    method = headers.get(METHOD)
    customer = _customer(headers, _CUSTOMERS)
    if customer is not None:
        if method is not None:
            raise invalid_argument(
                "Server Side Encryption with Customer provided key is incompatible with the encryption method "
                "specified",
                METHOD.decode(),
                method.decode("latin-1"),
            )
        return await _by_customer(door, customer)
    if method not in (None, b"AES256", b"aws:kms", b"aws:kms:dsse"):
        raise invalid_argument(
            "The encryption method specified is not supported", METHOD.decode(), method.decode("latin-1")
        )
    for name in (_KMS_KEY, _KMS_CONTEXT):
        if name in headers and method in (None, b"AES256"):
            raise invalid_argument(
                f"Server Side Encryption with AWS KMS managed key requires HTTP header {METHOD.decode()} : aws:kms",
                name.decode(),
                headers[name].decode("latin-1"),
            )
    if method is None:  # only x-amz-server-side-encryption-bucket-key-enabled, which is about KMS
        return Sealing(await door.store.data_key(), None) if ENCRYPTION in bucket.settings else None
    if method != b"AES256":
        raise S3Error("NotImplemented", "SSE-KMS is not implemented.", details=(("Header", METHOD.decode()),))
    return Sealing(await door.store.data_key(), None)


def described(attributes: Attributes, sealing: Sealing | None) -> Attributes:
    """The same, saying how the object is encrypted and no longer how another was."""
    if sealing is None:
        return msgspec.structs.replace(attributes, sse="", sse_verifier=b"") if attributes.sse else attributes
    if sealing.customer is None:
        return msgspec.structs.replace(attributes, sse=AES256, sse_verifier=b"")
    verifier = sealing.verifier or encryption.new_verifier(sealing.customer.raw)
    return msgspec.structs.replace(attributes, sse=SSE_C, sse_verifier=verifier)


# ---------------------------------------------------------------------- parts


async def for_part(door: Door, upload: Upload, headers: Mapping[bytes, bytes]) -> Sealing | None:
    """How a part is encrypted: as its upload was begun.  Raises InvalidRequest, InvalidArgument."""
    if METHOD in headers:
        raise _not_here(headers)
    begun = upload.attributes
    customer = _of_upload(begun, headers)
    if customer is not None:
        return await _by_customer(door, customer, begun.sse_verifier)
    return Sealing(await door.store.data_key(), None) if begun.sse else None


def of_completion(upload: Upload, headers: Mapping[bytes, bytes]) -> Headers:
    """What CompleteMultipartUpload answers about encryption.  The customer's key must come again, as with every part.

    Raises InvalidRequest, InvalidArgument.
    """
    begun = upload.attributes
    customer = _of_upload(begun, headers)
    if begun.sse == AES256:
        return _SHOWN_AES256.copy()
    return customer.headers if customer is not None else []


def of_completed(node: Node, headers: Mapping[bytes, bytes]) -> Headers:
    """The same where the upload has become this object before: it takes the same key.

    Raises InvalidRequest, InvalidArgument.
    """
    customer = _checked(node, _customer(headers, _CUSTOMERS))
    if customer is not None:
        return customer.headers
    return _SHOWN_AES256.copy() if node.attributes.sse == AES256 else []


def shows_digests(upload: Upload, headers: Mapping[bytes, bytes]) -> bool:
    """Whether ListParts tells the parts' checksums, which say much of the bytes: under SSE-C only with the key.

    Raises InvalidRequest (not the one), InvalidArgument.
    """
    begun = upload.attributes
    if begun.sse != SSE_C:
        return True
    return not frozenset(_CUSTOMERS).isdisjoint(headers) and _of_upload(begun, headers) is not None


def _of_upload(begun: Attributes, headers: Mapping[bytes, bytes]) -> Customer | None:
    customer = _customer(headers, _CUSTOMERS)
    if begun.sse != SSE_C:
        if customer is not None:
            raise _not_applicable()
        return None
    if customer is None:
        raise S3Error(
            "InvalidRequest",
            "The multipart upload initiate requested encryption. Subsequent part requests must include the appropriate "
            "encryption parameters.",
        )
    if not encryption.is_key(customer.raw, begun.sse_verifier):
        raise _another_key()
    return customer


# ---------------------------------------------------------------------- reads


def for_read(node: Node, headers: Mapping[bytes, bytes]) -> Customer | None:
    """The customer's key for GetObject, HeadObject, GetObjectAttributes; None where none is needed.

    Raises InvalidRequest (missing, not the one, not applicable), InvalidArgument, InvalidEncryptionAlgorithmError.
    """
    if METHOD in headers:
        raise _not_here(headers)
    return _checked(node, _customer(headers, _CUSTOMERS))


def for_source(node: Node, headers: Mapping[bytes, bytes]) -> Customer | None:
    """The same for the object that a copy reads."""
    return _checked(node, _customer(headers, _SOURCES))


def _checked(node: Node, customer: Customer | None) -> Customer | None:
    if not node.customers:
        if customer is not None:
            raise _not_applicable()
        return None
    if customer is None:
        raise S3Error(
            "InvalidRequest",
            "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to "
            "retrieve the object.",
        )
    if not encryption.is_key(customer.raw, unpack_attributes(node.packed).sse_verifier):
        raise _another_key()
    return customer


def of_copy(source: Attributes, sealing: Sealing | None) -> Headers:
    """What CopyObject answers: as the copy is encrypted.  Without a wish of its own it keeps the box's."""
    if sealing is not None:
        return sealing.headers
    return _SHOWN_AES256.copy() if source.sse == AES256 else []


# ---------------------------------------------------------------------- customers' headers


async def _by_customer(door: Door, customer: Customer, verifier: bytes = b"") -> Sealing:
    return Sealing(await door.store.customer_key(customer.raw), customer, verifier)


def _customer(headers: Mapping[bytes, bytes], names: tuple[bytes, ...]) -> Customer | None:
    """The three headers together, each checked."""
    algorithm, key, md5 = (headers.get(name) for name in names)
    if algorithm is None and key is None and md5 is None:
        return None
    prefix = "Requests specifying Server Side Encryption with Customer provided keys must provide "
    if algorithm is None:
        raise invalid_argument(prefix + "a valid encryption algorithm.", names[0].decode(), "null")
    if algorithm != b"AES256":
        raise S3Error(
            "InvalidEncryptionAlgorithmError",
            "The encryption request you specified is not valid. The valid value is AES256.",
            details=(("ArgumentName", names[0].decode()), ("ArgumentValue", algorithm.decode("latin-1"))),
        )
    if key is None:
        raise invalid_argument(prefix + "an appropriate secret key.", names[1].decode(), "null")
    if md5 is None:
        raise invalid_argument(prefix + "the client calculated MD5 of the secret key.", names[2].decode(), "null")
    raw = _decoded(key)
    if raw is None or len(raw) != encryption.KEY:  # what came is no key, but might be half of one: not repeated
        raise invalid_argument("The secret key was invalid for the specified algorithm.", names[1].decode(), "")
    computed = hashlib.md5(raw, usedforsecurity=False).digest()
    if not hmac.compare_digest(_decoded(md5) or b"", computed):
        raise invalid_argument(
            "The calculated MD5 hash of the key did not match the hash that was provided.",
            names[2].decode(),
            md5.decode("latin-1"),
        )
    return Customer(raw, base64.b64encode(computed))


def _decoded(text: bytes) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


# ---------------------------------------------------------------------- errors


def _not_here(headers: Mapping[bytes, bytes]) -> S3Error:
    return invalid_argument(
        "x-amz-server-side-encryption header is not supported for this operation.",
        METHOD.decode(),
        headers[METHOD].decode("latin-1"),
    )


def _not_applicable() -> S3Error:
    return S3Error("InvalidRequest", "The encryption parameters are not applicable to this object.")


def _another_key() -> S3Error:
    return S3Error("InvalidRequest", "The provided encryption parameters did not match the ones used originally.")
