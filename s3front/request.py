"""One request as an operation sees it: bucket, key and query decoded exactly once, headers as one dictionary.

What is authorised and what is acted on is the same decoded string (SECURITY: no second decoding of `%2F`).

`Door` is what every operation may reach: the store and this door's settings.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple, Protocol

from appliance.limits import KEY_LENGTH_MAX
from s3front.errors import S3Error, invalid_argument
from s3front.router import Level
from s3front.target import check_version, decode_once, key_too_long, parse_query, split_target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.authority import Action
    from appliance.model import Bucket, Node
    from appliance.store import ObjectStore
    from s3front.asgi import Receive, Scope
    from s3front.form import Form
    from s3front.post_policy import Policy
    from s3front.verified import Verified


class Admission(Protocol):
    """Why a request was let in, as far as its operation asks again (admission.py)."""

    async def judge(self, key: bytes, version_id: str, headers: Mapping[bytes, bytes]) -> None:
        """May the caller act on this key, and do what the headers ask beside?  Raises StoreError ACCESS_DENIED."""

    async def allow(self, action: Action, key: bytes, version_id: str) -> None:
        """Another action on the same key.  Raises StoreError ACCESS_DENIED."""

    async def also(self, action: Action, key: bytes) -> None:
        """Another action on another key of the bucket.  Raises StoreError ACCESS_DENIED."""

    def recheck(self, key: bytes, node: Node) -> None:
        """The object as it is now, before it is shown.  Raises StoreError ACCESS_DENIED."""


class Posted(NamedTuple):
    """A form whose policy holds, standing at its file.  `policy` is None for one that nobody signed."""

    form: Form
    policy: Policy | None


class Door:
    """What every operation may reach.  `region` is the name that this box gives its region; `renames` what client
    tokens stood for (operations/rename_object.py)."""

    __slots__ = ("region", "renames", "store")

    def __init__(self, store: ObjectStore, region: str) -> None:
        self.store = store
        self.region = region
        self.renames: OrderedDict[tuple[str, bytes], tuple[object, ...]] = OrderedDict()


class Source:
    """The object that a copy reads: from x-amz-copy-source, decoded exactly once.  `bucket` once it was authorised."""

    __slots__ = ("admission", "bucket", "bucket_name", "key", "version_id")

    def __init__(self, bucket_name: str, key: bytes, version_id: str = "") -> None:
        self.bucket_name = bucket_name
        self.key = key
        self.version_id = version_id  # empty: the current one
        self.bucket: Bucket
        self.admission: Admission | None = None  # None: the caller owns the bucket, and nothing else decides


class Request:
    """A request whose signature held.  `locate` reads its target; app.py then sets `bucket` and, for a copy, `source`.

    `headers` are lower-case names to values, repeated ones joined by commas: the very mapping that was verified.
    """

    __slots__ = (
        "admission", "bucket", "bucket_name", "bytes_in", "document", "headers", "key", "level", "method",
        "posted", "query", "receive", "scope", "source", "verified", "version_id",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, verified: Verified) -> None:
        self.scope = scope
        self.receive = receive
        self.verified = verified
        self.method = verified.method
        self.headers = verified.headers
        self.level = Level.SERVICE
        self.bucket_name = ""
        self.key = b""
        self.query: dict[str, str] = {}
        self.bucket: Bucket
        self.source: Source
        self.posted: Posted  # of a form only
        self.admission: Admission | None = None  # None: the caller owns the bucket, and nothing else decides
        self.document: bytes | None = None  # once it was read
        self.version_id = ""  # the version that the request names
        self.bytes_in = 0

    @property
    def caller(self) -> str:
        """Whose key signed: a user's id; empty for nobody."""
        principal = self.verified.principal
        return principal.owner if principal is not None else ""

    def locate(self, domain_suffix: bytes) -> None:
        """Reads the target: level, bucket, key, query.  `domain_suffix` is b".s3.example.org" or b"".

        Raises InvalidURI and KeyTooLongError.
        """
        path = self.verified.path
        if domain_suffix or path[:1] != b"/":
            first, rest = split_target(path, self.headers.get(b"host", b""), domain_suffix)
        else:
            first, _, rest = path[1:].partition(b"/")
        if first:
            plain = b"%" not in path and path.isascii()  # most are: there is nothing to decode
            self.bucket_name = first.decode() if plain else decode_once(first).decode()
            if rest:
                self.level = Level.OBJECT
                self.key = rest if plain else decode_once(rest)
                if len(self.key) > KEY_LENGTH_MAX:
                    raise key_too_long(self.key)
            else:
                self.level = Level.BUCKET
        elif rest:
            raise S3Error("InvalidBucketName", details=(("BucketName", ""),))
        query = self.verified.query
        if query:
            self.query = parse_query(query)

    def header_text(self, name: bytes) -> str | None:
        """A header's value as text (latin-1, so never an error); None without it."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def number(self, name: str, default: int, minimum: int, maximum: int) -> int:
        """A numeric query parameter.  Raises InvalidArgument unless it is a plain integer within the bounds."""
        text = self.query.get(name)
        if text is None or text == "":
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 10 and minimum <= int(text) <= maximum):
            raise invalid_argument(f"Argument {name} must be an integer between {minimum} and {maximum}", name, text)
        return int(text)


def parse_copy_source(value: bytes) -> Source:
    """`[/]bucket/key[?versionId=ID]`, percent-encoded.  Raises InvalidArgument, KeyTooLongError.

    A `+` is a space, as in AWS: s5cmd writes spaces so, and whoever means a plus writes %2B.

    The version is split off before decoding: a `?` of a key arrives as %3F.
    """
    path, _, parameters = value.partition(b"?")
    bucket, _, key = path.removeprefix(b"/").partition(b"/")
    if not bucket or not key:
        raise _bad_source(value)
    try:
        name, decoded = decode_once(bucket).decode(), decode_once(key.replace(b"+", b" "))
        version = parse_query(parameters).get("versionId") if parameters else None
    except S3Error:
        raise _bad_source(value) from None
    if len(decoded) > KEY_LENGTH_MAX:
        raise key_too_long(decoded)
    return Source(name, decoded, "" if version is None else check_version(version))


def _bad_source(value: bytes) -> S3Error:
    return invalid_argument(
        "Copy Source must mention the source bucket and key: sourcebucket/sourcekey",
        "x-amz-copy-source",
        value.decode("latin-1"),
    )
