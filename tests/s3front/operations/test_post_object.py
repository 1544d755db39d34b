"""PostObject: what a browser may upload by a signed policy, how it is answered, and what it may not do at all."""

from __future__ import annotations

import hashlib
import time
import urllib.parse
from typing import Any

import pytest

from appliance.errors import Code, StoreError
from appliance.limits import GATHER_MAX
from s3front.operations import table
from s3front.router import Level
from tests.rows import rows
from tests.s3front.box import HOST, KEY, NOW, READER, REGION, SECRET, Answer, Box, boto
from tests.s3front.posting import BOUNDARY, Part, multipart, policy_text, signed_v2, signed_v4, v4_conditions

LARGE = GATHER_MAX + 300_001
CONDITIONS: list[Any] = [{"bucket": "b"}, ["starts-with", "$key", "u/"]]
KEY_FIELD: Part = ("key", "u/${filename}")


def signed(*conditions: Any, key: str = KEY, expires: float = NOW + 60, **how: Any) -> list[Part]:
    text = policy_text([*CONDITIONS, *v4_conditions(), *conditions], expires)
    return signed_v4(text, key, how.pop("secret", SECRET), how.pop("region", REGION), how.pop("at", NOW), **how)


def post(box: Box, *parts: Part, path: str = "/b", query: str = "", pieces: int = 1, **how: Any) -> Answer:
    body = multipart(parts, **how)
    headers = [
        (b"host", HOST.encode()),
        (b"content-type", b"multipart/form-data; boundary=" + BOUNDARY),
        (b"content-length", b"%d" % len(body)),
        (b"x-amz-copy-source", b"/b/secret"),  # nothing that only HTTP says counts
        (b"x-amz-acl", b"public-read-write"),
    ]
    return box.raw("POST", path, query, headers, body, pieces)


def stored(box: Box, key: str) -> tuple[bytes, dict[str, str]]:
    got = box.send("GET", "/b/" + key)
    assert got.status == 200, got
    return got.body, got.headers


def nothing(box: Box, key: str = "u/a.txt") -> None:
    assert box.send("HEAD", "/b/" + key).status == 404


@pytest.mark.parametrize("size", [0, 5, GATHER_MAX, GATHER_MAX + 1, LARGE])
@pytest.mark.parametrize("pieces", [1, 7])
def test_a_file_arrives_whole(box: Box, size: int, pieces: int) -> None:
    content = (hashlib.sha256(b"content").digest() * (size // 32 + 1))[:size]
    answer = post(
        box, KEY_FIELD, ("Content-Type", "text/x"), ("x-amz-meta-Of", "anna"),
        *signed({"content-type": "text/x"}, {"x-amz-meta-of": "anna"}, ["content-length-range", size, size]),
        ("file", content), pieces=pieces,
    )  # fmt: skip
    assert (answer.status, answer.body) == (204, b""), answer
    assert answer.headers["location"] == f"http://{HOST}/b/u/a.txt"
    body, headers = stored(box, "u/a.txt")
    assert body == content
    assert headers["etag"] == answer.headers["etag"] == f'"{hashlib.md5(content).hexdigest()}"'
    assert (headers["content-type"], headers["x-amz-meta-of"]) == ("text/x", "anna")


@pytest.mark.slow
def test_a_form_made_by_boto3_is_taken(double: Box) -> None:
    """The oracle of version 4: nothing of these fields is ours."""
    with boto(double) as client:
        made = client.generate_presigned_post(
            "b",
            "u/${filename}",
            Fields={"Content-Type": "text/x", "x-amz-meta-a": "b", "success_action_status": "201"},
            Conditions=[
                {"Content-Type": "text/x"},
                ["starts-with", "$x-amz-meta-a", ""],
                {"success_action_status": "201"},
                ["content-length-range", 1, 9],
            ],
            ExpiresIn=60,
        )
    assert "x-amz-signature" in made["fields"]
    answer = post(double, *made["fields"].items(), ("file", b"content"))
    assert answer.status == 201, answer
    body, headers = stored(double, "u/a.txt")
    assert (body, headers["content-type"], headers["x-amz-meta-a"]) == (b"content", "text/x", "b")
    assert post(double, *made["fields"].items(), ("file", b"")).code == "EntityTooSmall"
    double.now = time.time() + 61  # by the clock that boto3 read
    assert post(double, *made["fields"].items(), ("file", b"content")).code == "AccessDenied"


def test_version_2_signs_forms_too(box: Box) -> None:
    text = policy_text(CONDITIONS, NOW + 60)
    assert post(box, KEY_FIELD, *signed_v2(text, KEY, SECRET), ("file", b"x")).status == 204
    assert stored(box, "u/a.txt")[0] == b"x"


@rows(
    "wish,status",
    [("200", 200), ("201", 201), ("204", 204), ("404", 204), ("", 204), ("0x201", 204)],
)
def test_the_form_chooses_its_answer(double: Box, wish: str, status: int) -> None:
    conditions = ["starts-with", "$success_action_status", ""]
    answer = post(double, ("key", "u/ä&b"), ("success_action_status", wish), *signed(conditions), ("file", b"x"))
    assert answer.status == status
    if status == 201:
        location = f"http://{HOST}/b/u/%C3%A4%26b"
        etag = hashlib.md5(b"x").hexdigest()
        assert answer.headers["content-type"] == "application/xml"
        assert answer.body.decode() == (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<PostResponse><Location>{location}</Location><Bucket>b</Bucket><Key>u/ä&amp;b</Key>"
            f"<ETag>&quot;{etag}&quot;</ETag></PostResponse>"
        )
    else:
        assert answer.body == b""


@rows(
    "wish,start",
    [
        ("https://a.example/done", "https://a.example/done?"),
        ("http://a.example/done?x=1&y", "http://a.example/done?x=1&y&"),
        ("https://a.example/é#top", "https://a.example/%C3%A9?"),
        ("javascript:alert(1)", None),
        ("/done", None),
        ("https:///x", None),
        ("https://[a", None),
        ("https://a.example/\r\nset-cookie: a=b", None),
        ("https://a.example/a b", None),
    ],
)
def test_a_form_is_sent_on_to_a_url_and_nothing_else(double: Box, wish: str, start: str | None) -> None:
    for field in ("success_action_redirect", "redirect"):
        parts = [("key", "u/a b"), (field, wish), *signed(["starts-with", f"${field}", ""]), ("file", b"x")]
        answer = post(double, *parts)
        if start is None:
            assert answer.status == 204
            assert answer.headers["location"] == f"http://{HOST}/b/u/a%20b"
        else:
            assert answer.status == 303
            etag = hashlib.md5(b"x").hexdigest()
            query = f"bucket=b&key=u%2Fa%20b&etag=%22{etag}%22"
            assert answer.headers["location"] == start + query + ("#top" if "#" in wish else "")
            sent = urllib.parse.urlsplit(answer.headers["location"])
            assert urllib.parse.parse_qs(sent.query)["key"] == ["u/a b"]


def test_what_is_refused_is_not_stored(box: Box) -> None:
    file = ("file", b"content")
    expected = {
        "AccessDenied": [
            (KEY_FIELD, file),  # nobody's
            (KEY_FIELD, *signed(expires=NOW), file),
            (KEY_FIELD, *signed({"acl": "private"}), file),
            (KEY_FIELD, ("x-amz-meta-a", "b"), *signed(), file),
            (("key", "other"), *signed(), file),
            (KEY_FIELD, *signed(at=NOW + 901), file),
            (KEY_FIELD, *signed(at=NOW - 604_801), file),
            (KEY_FIELD, *signed(key=READER), file),  # a key that may only read signs no upload
        ],
        "EntityTooLarge": [(KEY_FIELD, *signed(["content-length-range", 0, 6]), file)],
        "EntityTooSmall": [(KEY_FIELD, *signed(["content-length-range", 8, 9]), file)],
        "SignatureDoesNotMatch": [
            (KEY_FIELD, *signed(secret="other"), file),
            (KEY_FIELD, *signed_v2(policy_text(CONDITIONS, NOW + 60), KEY, "other"), file),
            (KEY_FIELD, *[(n, f"{v!s}x" if n == "policy" else v) for n, v in signed()], file),
        ],
        "InvalidAccessKeyId": [
            (KEY_FIELD, *signed(key="AKIANOBODY"), file),
            (KEY_FIELD, *signed_v2(policy_text(CONDITIONS, NOW + 60), "AKIANOBODY", SECRET), file),
        ],
        "InvalidPolicyDocument": [
            (KEY_FIELD, *signed_v2("no base64", KEY, SECRET), file),
            (KEY_FIELD, *signed_v2("e30=", KEY, SECRET), file),
        ],
        "AuthorizationQueryParametersError": [
            (KEY_FIELD, *signed(region="elsewhere"), file),
            (KEY_FIELD, *signed(service="iam"), file),
            (KEY_FIELD, *signed(date="20200101"), file),
            (KEY_FIELD, *[(n, "AWS4" if n == "x-amz-algorithm" else v) for n, v in signed()], file),
            (KEY_FIELD, *[(n, "x" if n == "x-amz-credential" else v) for n, v in signed()], file),
            (KEY_FIELD, *[(n, "x" if n == "x-amz-date" else v) for n, v in signed()], file),
        ],
        "InvalidToken": [(KEY_FIELD, ("x-amz-security-token", "t"), *signed(), file)],
        "InvalidArgument": [
            *((KEY_FIELD, *[(n, v) for n, v in signed() if n != name], file) for name, _ in signed()),
            (KEY_FIELD, ("signature", "x"), *signed(), file),
            (KEY_FIELD, ("policy", policy_text(CONDITIONS, NOW + 60)), file),
            (*signed_v2(policy_text(CONDITIONS[:1], NOW + 60), KEY, SECRET), file),  # no key
        ],
        "BadDigest": [(KEY_FIELD, ("x-amz-checksum-crc32", "AAAAAA=="), *signed(), file)],
        "IncorrectNumberOfFilesInPostRequest": [(KEY_FIELD, *signed()), (KEY_FIELD, *signed(), file, file)],
    }  # fmt: skip
    for code, forms in expected.items():
        for parts in forms:
            answer = post(box, *parts)
            assert answer.code == code, (code, parts, answer)
    nothing(box)
    nothing(box, "other")


def test_a_form_that_breaks_off_stores_nothing(box: Box) -> None:
    for size in (7, LARGE):
        answer = post(box, KEY_FIELD, *signed(), ("file", b"x" * size), closed=False)
        assert answer.code == "MalformedPOSTRequest"
    nothing(box)


def test_too_much_is_refused_while_it_comes(box: Box) -> None:
    limit = ["content-length-range", 0, GATHER_MAX + 100]
    answer = post(box, KEY_FIELD, *signed(limit), ("file", b"x" * LARGE), ("after", b"never read"), pieces=9)
    assert (answer.status, answer.code) == (400, "EntityTooLarge")
    nothing(box)


def test_checksums_in_a_form_are_checked_and_kept(box: Box) -> None:
    conditions = [["starts-with", "$x-amz-checksum-algorithm", ""]]
    answer = post(box, KEY_FIELD, ("x-amz-checksum-algorithm", "SHA1"), *signed(*conditions), ("file", b"abc"))
    assert answer.status == 204, answer
    headers = box.send("GET", "/b/u/a.txt", headers={"x-amz-checksum-mode": "ENABLED"}).headers
    assert headers["x-amz-checksum-sha1"] == "qZk+NkcGgWq6PiVxeFDCbJzQ2J0="
    assert post(
        box, KEY_FIELD, ("x-amz-checksum-algorithm", "MD4"), *signed(*conditions), ("file", b"abc")
    ).code == "InvalidRequest"  # fmt: skip
    # a promise about the bytes needs no condition: it can only make the upload fail
    good = ("x-amz-checksum-sha256", "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=")
    assert post(box, KEY_FIELD, good, *signed(), ("file", b"abc")).status == 204
    assert post(box, KEY_FIELD, good, *signed(), ("file", b"abd")).code == "BadDigest"
    assert stored(box, "u/a.txt")[0] == b"abc"


def test_a_form_opens_no_other_operation(box: Box) -> None:
    box.send("PUT", "/b/secret", body=b"secret")
    parts = [KEY_FIELD, *signed(), ("file", b"<Delete><Object><Key>secret</Key></Object></Delete>")]
    paths = {Level.SERVICE: "/", Level.BUCKET: "/b", Level.OBJECT: "/b/secret"}
    others = [
        (paths[route.level], f"{route.query}=x", "AccessDenied")
        for route, operation in table.router().names()
        if route.method == "POST" and operation.name != "PostObject"
    ]
    assert len(others) >= 3
    for path, query, code in (
        *others,
        ("/b/secret", "", "MethodNotAllowed"),
        ("/", "", "AccessDenied"),
        ("/elsewhere", "", "AccessDenied"),
    ):
        answer = post(box, *parts, path=path, query=query)
        assert answer.code == code, (path, query, answer)
    assert box.send("GET", "/b/secret").body == b"secret"


def test_a_post_that_is_no_form_is_told_so(box: Box) -> None:
    assert box.send("POST", "/b", body=b"x").code == "PreconditionFailed"
    assert box.send("POST", "/b", body=b"x", sign=False).code == "AccessDenied"


def test_keys_are_bounded_and_opaque(box: Box) -> None:
    text = policy_text([{"bucket": "b"}, ["starts-with", "$key", ""]], NOW + 60)
    for key, code in (("k" * 1025, "KeyTooLongError"), ("", "InvalidArgument")):
        assert post(box, ("key", key), *signed_v2(text, KEY, SECRET), ("file", b"x")).code == code
    for key in ("../../etc/passwd", "a//b", "ü%2F?x"):
        assert post(box, ("key", key), *signed_v2(text, KEY, SECRET), ("file", b"x")).status == 204
        assert stored(box, urllib.parse.quote(key, safe="/"))[0] == b"x"


def test_a_full_pool_refuses_a_form(double: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object, **__: object) -> None:
        raise StoreError(Code.NO_SPACE)

    monkeypatch.setattr(double.store, "put_object", full)
    assert post(double, KEY_FIELD, *signed(), ("file", b"x")).status == 507
