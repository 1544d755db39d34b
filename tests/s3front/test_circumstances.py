"""What each condition key says of a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from appliance.access.conditions import GLOBAL_KEYS, S3_KEYS
from appliance.authority import Action
from appliance.model import Bucket, User
from s3front.circumstances import DOCUMENTS, Circumstances, of_document
from s3front.request import Request, parse_copy_source
from s3front.verified import SignedRequest
from tests.s3front.signing import NOW, check, sign_by_header, sign_by_query

ANNA = User("a1", "anna", "Anna", "", 1)
SCOPE: dict[str, Any] = {"client": ("192.0.2.7", 1), "scheme": "https"}


def seen(
    signed: SignedRequest, *, user: User | None = ANNA, said: dict[str, Sequence[str]] | None = None
) -> Circumstances:
    async def receive() -> None:
        raise AssertionError("nobody asks for a body")

    request = Request(SCOPE, receive, check(signed))
    request.locate(b"")
    if b"x-amz-copy-source" in request.headers:
        request.source = parse_copy_source(request.headers[b"x-amz-copy-source"])
    return Circumstances(request, Bucket(1, "p", "bucket", 0, 1, "own"), user, NOW + 5, "eu-1", said or {})


HEADERS = {
    "x-amz-acl": "private", "x-amz-grant-read": "id=x", "x-amz-copy-source": "/other/a%20b?versionId=null",
    "x-amz-metadata-directive": "COPY", "x-amz-server-side-encryption": "AES256", "x-amz-storage-class": "STANDARD",
    "x-amz-tagging": "Team=red&Cost=1", "x-amz-object-lock-mode": "GOVERNANCE",
    "x-amz-object-lock-retain-until-date": "2027-01-17T08:00:05Z", "x-amz-object-lock-legal-hold": "ON",
    "x-amz-website-redirect-location": "/x", "if-match": '"e"', "if-none-match": "*",
    "referer": "http://r/", "user-agent": "u",
    "x-amz-server-side-encryption-customer-algorithm": "AES256",
}  # fmt: skip
QUERY = "prefix=a%2Fb&delimiter=%2F&max-keys=7&versionId=null"

# The request above is of 2027-01-15 08:00:00, seen five seconds later.
SAID: dict[str, Sequence[str] | None] = {
    "s3:prefix": ("a/b",), "s3:delimiter": ("/",), "s3:max-keys": ("7",), "s3:versionid": ("null",),
    "s3:x-amz-acl": ("private",), "s3:x-amz-grant-read": ("id=x",), "s3:x-amz-grant-write": None,
    "s3:x-amz-copy-source": ("other/a b",), "s3:x-amz-metadata-directive": ("COPY",),
    "s3:x-amz-server-side-encryption": ("AES256",), "s3:x-amz-storage-class": ("STANDARD",),
    "s3:x-amz-server-side-encryption-customer-algorithm": ("AES256",),
    "s3:x-amz-website-redirect-location": ("/x",),
    "s3:requestobjecttag/team": ("red",), "s3:requestobjecttag/other": None,
    "s3:requestobjecttagkeys": ("Cost", "Team"),
    "s3:existingobjecttag/team": ("blue",), "s3:existingobjecttag/cost": None, "s3:buckettag/team": None,
    "s3:object-lock-mode": ("GOVERNANCE",), "s3:object-lock-legal-hold": ("ON",),
    "s3:object-lock-retain-until-date": ("2027-01-17T08:00:05Z",), "s3:object-lock-remaining-retention-days": ("2",),
    "s3:if-match": ('"e"',), "s3:if-none-match": ("*",), "s3:authtype": ("REST-HEADER",), "s3:signatureage": ("5000",),
    "s3:signatureversion": ("AWS4-HMAC-SHA256",), "s3:resourceaccount": ("own",), "aws:resourceaccount": ("own",),
    "aws:sourceip": ("192.0.2.7",), "aws:securetransport": ("true",), "aws:referer": ("http://r/",),
    "aws:useragent": ("u",), "aws:currenttime": ("2027-01-15T08:00:05Z",), "aws:epochtime": ("1800000005",),
    "aws:requestedregion": ("eu-1",), "aws:username": ("anna",), "aws:userid": ("a1",), "aws:principalaccount": ("a1",),
    "aws:principalarn": ("arn:aws:iam::a1:user/anna",), "aws:principaltype": ("User",),
    "aws:principalisawsservice": ("false",), "aws:viaawsservice": ("false",), "aws:sourcevpc": None,
    "aws:multifactorauthpresent": None, "aws:principalorgid": None, "s3:nothing": None,
}  # fmt: skip


def test_every_key_says_what_it_should() -> None:
    circumstances = seen(sign_by_header("PUT", "/bucket/key", QUERY, headers=HEADERS))
    circumstances.tags = {"Team": "blue"}
    found = {key: circumstances(key) for key in SAID}
    assert {key: tuple(value) if value is not None else None for key, value in found.items()} == SAID


def test_every_key_of_the_reference_can_be_asked() -> None:
    """Of a request that says next to nothing, by somebody and by nobody: never an error."""
    plain = SignedRequest("GET", b"/bucket/key", b"", [(b"host", b"box")])
    for circumstances in (seen(sign_by_header()), seen(sign_by_query()), seen(plain, user=None)):
        for key in S3_KEYS | GLOBAL_KEYS:
            value = circumstances(key + "team" if key.endswith("/") else key)
            assert value is None or (value and all(isinstance(text, str) for text in value)), key
    anonymous = seen(plain, user=None)
    assert anonymous("aws:principaltype") == ("Anonymous",)
    for key in ("aws:username", "aws:userid", "aws:principalarn", "s3:authtype", "s3:signatureage"):
        assert anonymous(key) is None, key
    assert anonymous("s3:x-amz-content-sha256") == ("UNSIGNED-PAYLOAD",)
    assert seen(sign_by_query())("s3:authtype") == ("REST-QUERY-STRING",)


def test_a_document_says_what_is_to_be_of_its_object() -> None:
    tags = b"<Tagging><TagSet><Tag><Key>Team</Key><Value>red</Value></Tag></TagSet></Tagging>"
    rows: list[tuple[Action, bytes, dict[str, Sequence[str]]]] = [
        (
            Action.PUT_OBJECT_TAGGING,
            tags,
            {"s3:requestobjecttag/team": ("red",), "s3:requestobjecttagkeys": ("Team",)},
        ),
        (Action.PUT_OBJECT_TAGGING, b"<Tagging><TagSet/></Tagging>", {}),
        (
            Action.PUT_OBJECT_RETENTION,
            b"<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2030-01-01T00:00:00Z</RetainUntilDate></Retention>",
            {"s3:object-lock-mode": ("COMPLIANCE",), "s3:object-lock-retain-until-date": ("2030-01-01T00:00:00Z",)},
        ),
        (
            Action.PUT_OBJECT_LEGAL_HOLD,
            b"<LegalHold><Status>ON</Status></LegalHold>",
            {"s3:object-lock-legal-hold": ("ON",)},
        ),
        *((action, b"<", {}) for action in DOCUMENTS),  # the operation refuses it
    ]
    for action, document, wanted in rows:
        assert of_document(action, document) == wanted, (action, document)
    circumstances = seen(sign_by_header(), said=rows[2][2])
    assert circumstances("s3:object-lock-remaining-retention-days") == ("1082",)


def test_no_blank_hides_a_date_from_a_condition() -> None:
    """A document's dates are read without the blanks around them; so they are judged."""
    document = (
        b"<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>\n 2027-01-25T08:00:00Z </RetainUntilDate></Retention>"
    )
    said = of_document(Action.PUT_OBJECT_RETENTION, document)
    request = sign_by_header("PUT", "/bucket/k", "retention=")
    values = seen(request, said=dict(said))
    assert values("s3:object-lock-retain-until-date") == ("2027-01-25T08:00:00Z",)
    assert values("s3:object-lock-remaining-retention-days") == ("10",)
