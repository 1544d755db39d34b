"""A request as conditions see it: the values of its condition keys, looked up when a policy asks for one.

What a key means is S3's ("Actions, resources, and condition keys for Amazon S3") or IAM's ("AWS global condition
context keys").  A key that this box can say nothing about has no value, as a request to AWS from outside a VPC has no
`aws:SourceVpc`: conditions decide what that means, never this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from appliance.access.actions import Action
from s3front import object_lock, sigv4, xml
from s3front.dates import NS
from s3front.errors import S3Error
from s3front.tagging import HEADER as TAGGING
from s3front.tagging import OBJECT_TAGS_MAX, from_header, parse
from s3front.verified import Payload

if TYPE_CHECKING:
    from appliance.model import Bucket, User
    from s3front.request import Request

# Keys that are a parameter of the query, and those that are a header, word for word.
_PARAMETERS: Final = {
    "s3:prefix": "prefix",
    "s3:delimiter": "delimiter",
    "s3:max-keys": "max-keys",
}
_HEADERS: Final[dict[str, bytes]] = {
    **{
        "s3:" + name: name.encode()
        for name in (
            "x-amz-acl", "x-amz-grant-full-control", "x-amz-grant-read", "x-amz-grant-read-acp",
            "x-amz-grant-write", "x-amz-grant-write-acp", "x-amz-metadata-directive", "x-amz-object-ownership",
            "x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id",
            "x-amz-server-side-encryption-customer-algorithm", "x-amz-storage-class",
            "x-amz-website-redirect-location", "if-match", "if-none-match",
        )
    },
    "s3:object-lock-mode": b"x-amz-object-lock-mode",
    "s3:object-lock-retain-until-date": b"x-amz-object-lock-retain-until-date",
    "s3:object-lock-legal-hold": b"x-amz-object-lock-legal-hold",
    "aws:referer": b"referer",
    "aws:useragent": b"user-agent",
}  # fmt: skip
_DAY: Final = 86_400


class Circumstances:
    """Callable: a condition key in lower case to its values, or None.

    `said` are keys that the request's document gives (tags, retention); `tags` those of the object that is there;
    `version_id` names the version that is judged: of a copy's source or of a key of a deletion it is not the query's.
    """

    __slots__ = ("bucket", "now", "region", "request", "said", "tags", "user", "version_id")

    def __init__(
        self,
        request: Request,
        bucket: Bucket,
        user: User | None,
        now: float,
        region: str,
        said: Mapping[str, Sequence[str]],
    ) -> None:
        self.request = request
        self.bucket = bucket
        self.user = user
        self.now = now
        self.region = region
        self.said = said
        self.tags: Mapping[str, str] = {}
        self.version_id = request.query.get("versionId", "")

    def __call__(self, key: str) -> Sequence[str] | None:
        said = self.said.get(key)
        if said is not None:
            return said
        header = _HEADERS.get(key)
        if header is not None:
            return _one(self.request.header_text(header))
        parameter = _PARAMETERS.get(key)
        if parameter is not None:
            return _one(self.request.query.get(parameter))
        kind, slash, name = key.partition("/")
        if slash:
            return self._tag(kind, name)
        value = self._of_principal(key) if key in _OF_PRINCIPAL else self._of_request(key)
        return _one(value)

    def with_said(self, said: Mapping[str, Sequence[str]]) -> Circumstances:
        """The same request, with other values of some keys."""
        other = Circumstances(self.request, self.bucket, self.user, self.now, self.region, {**self.said, **said})
        other.tags = self.tags
        other.version_id = self.version_id
        return other

    def _tag(self, kind: str, name: str) -> Sequence[str] | None:
        if kind == "s3:existingobjecttag":
            return _one(_folded(self.tags).get(name))
        if kind == "s3:requestobjecttag":
            return _one(_folded(self._request_tags() or {}).get(name))
        return None

    def _request_tags(self) -> Mapping[str, str] | None:
        """Of the header; a tagging document's come by `said`.  A header that is no tag set fails the operation."""
        header = self.request.headers.get(TAGGING)
        if header is None:
            return None
        try:
            return from_header(header)
        except S3Error:
            return None

    def _of_principal(self, key: str) -> str | None:
        user = self.user
        if user is None:
            return "Anonymous" if key == "aws:principaltype" else None
        return {
            "aws:username": user.name,
            "aws:userid": user.id,
            "aws:principalaccount": user.id,
            "aws:principalarn": f"arn:aws:iam::{user.id}:user/{user.name}",
            "aws:principaltype": "User",
        }[key]

    def _of_request(self, key: str) -> str | Sequence[str] | None:
        request = self.request
        match key:
            case "aws:sourceip":
                client = request.scope.get("client")
                return client[0] if client else None
            case "aws:securetransport":
                return "true" if request.scope.get("scheme") == "https" else "false"
            case "aws:currenttime":
                return datetime.fromtimestamp(int(self.now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            case "aws:epochtime":
                return str(int(self.now))
            case "aws:requestedregion":
                return self.region
            case "aws:principalisawsservice" | "aws:viaawsservice":
                return "false"
            case "s3:versionid":
                return self.version_id or None
            case "s3:resourceaccount" | "aws:resourceaccount":
                return self.bucket.owner
            case "s3:x-amz-copy-source":
                source = getattr(request, "source", None)  # only a copy has one, whoever sends the header
                return None if source is None else f"{source.bucket_name}/{source.key.decode('utf-8', 'replace')}"
            case "s3:requestobjecttagkeys":
                tags = self._request_tags()
                return tuple(tags) if tags else None
            case "s3:object-lock-remaining-retention-days":
                return self._remaining_days()
            case "s3:x-amz-content-sha256":
                promised = request.header_text(b"x-amz-content-sha256")
                return promised or request.query.get("X-Amz-Content-Sha256") or Payload.UNSIGNED.value
            case "s3:authtype" | "s3:signatureversion" | "s3:signatureage":
                return self._of_signature(key)
        return None

    def _of_signature(self, key: str) -> str | None:
        verified = self.request.verified
        if verified.principal is None:
            return None
        version_4 = bool(verified.timestamp)  # a form's policy may be signed by version 2, which has none
        if key == "s3:signatureversion":
            return sigv4.ALGORITHM.decode() if version_4 else "AWS"
        if key == "s3:signatureage":  # milliseconds
            age = self.now - sigv4.parse_timestamp(verified.timestamp) if version_4 else None
            return None if age is None else str(max(0, int(age * 1000)))
        if verified.payload is Payload.FORM:
            return "POST"
        return "REST-QUERY-STRING" if verified.presigned else "REST-HEADER"

    def _remaining_days(self) -> str | None:
        """Whole days, rounded up as AWS does, until the date that the request would have an object kept."""
        found = self("s3:object-lock-retain-until-date")
        if not found:
            return None
        until_ns = object_lock.parse_moment(found[0])  # as the operation will read it
        if until_ns is None:
            return None
        return str(max(0, -int((self.now - until_ns / NS) // _DAY)))


_OF_PRINCIPAL: Final = frozenset(
    {"aws:username", "aws:userid", "aws:principalaccount", "aws:principalarn", "aws:principaltype"}
)

# What a PUT says of an object in its document, where conditions may be about it.
DOCUMENTS: Final = frozenset({Action.PUT_OBJECT_TAGGING, Action.PUT_OBJECT_RETENTION, Action.PUT_OBJECT_LEGAL_HOLD})


def of_document(action: Action, document: bytes) -> Mapping[str, Sequence[str]]:
    """The condition keys that the document of one of DOCUMENTS gives.  One that is wrong gives none: the operation
    refuses it."""
    try:
        if action is Action.PUT_OBJECT_TAGGING:
            tags = parse(document, OBJECT_TAGS_MAX)
            said: dict[str, Sequence[str]] = {f"s3:requestobjecttag/{key.lower()}": (tags[key],) for key in tags}
            return {**said, "s3:requestobjecttagkeys": tuple(tags)} if tags else {}
        if action is Action.PUT_OBJECT_LEGAL_HOLD:
            status = xml.parse(document, "LegalHold").get("Status")
            return {} if status is None else {"s3:object-lock-legal-hold": (status,)}
        retention = xml.parse(document, "Retention")
        mode, until = retention.get("Mode"), retention.get("RetainUntilDate")
    except S3Error:
        return {}
    if until is not None:
        until = until.strip()  # as object_lock.parse_moment does: a blank must not hide a date from a condition
    found = {"s3:object-lock-mode": mode, "s3:object-lock-retain-until-date": until}
    return {key: (value,) for key, value in found.items() if value is not None}


def _one(value: str | Sequence[str] | None) -> Sequence[str] | None:
    return (value,) if isinstance(value, str) else value


def _folded(tags: Mapping[str, str]) -> dict[str, str]:
    """By lower-case key: condition keys know no case, so neither does the tag's name in one."""
    return {name.lower(): value for name, value in tags.items()}
