"""A box with several users, and what they ask of it: for the tests of access."""

from __future__ import annotations

import json
import re
from typing import Any

from appliance.model import AccessKey, User
from tests.s3front.box import KEY, Answer, Box

OTHER, THIRD = "AKIAOTHER", "AKIATHIRD"
OWNER_USER = User("owner", "main", "The Owner", "main@example.org", 1)
OTHER_USER = User("oth", "other", "Other One", "other@example.org", 1)
XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'


def introduce(box: Box) -> Box:
    for user in (OWNER_USER, OTHER_USER, User("thi", "third", "Third", "", 1)):
        box.run(box.store.put_user, user)
    box.run(box.store.put_access_key, AccessKey(OTHER, "other", "oth", 0, b"sealed-4"))
    box.run(box.store.put_access_key, AccessKey(THIRD, "third", "thi", 0, b"sealed-5"))
    return box


def ask(box: Box, who: str, method: str, path: str, query: str = "", body: bytes = b"", **headers: str) -> Answer:
    """`who` is a key, or empty for anonymous."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return box.send(method, path, query, fields, body, key=who or KEY, sign=bool(who))


def status(box: Box, who: str, method: str, path: str, query: str = "", body: bytes = b"", **headers: str) -> int:
    return ask(box, who, method, path, query, body, **headers).status


def policy(effect: str = "Allow", action: object = "s3:*", principal: object = "*", **more: Any) -> bytes:
    statement = {
        "Effect": effect, "Principal": principal, "Action": action, "Resource": ["arn:aws:s3:::b", "arn:aws:s3:::b/*"],
    }  # fmt: skip
    return json.dumps({"Version": "2012-10-17", "Statement": [{**statement, **more}]}).encode()


def put_policy(box: Box, *documents: bytes) -> None:
    statements = [json.loads(document)["Statement"][0] for document in documents]
    body = json.dumps({"Version": "2012-10-17", "Statement": statements}).encode()
    answer = box.send("PUT", "/b", "policy=", body=body)
    assert (answer.status, answer.code) == (204, "")


def grants(answer: Answer) -> list[tuple[str, str]]:
    """(grantee, permission) in order."""
    assert answer.status == 200, answer.body
    found = re.findall(r"<Grantee [^>]*>(.*?)</Grantee><Permission>(\w+)</Permission>", answer.body.decode())
    return [(re.sub(r".*<(?:ID|URI)>(.*?)</.*", r"\1", grantee), permission) for grantee, permission in found]


def acl_document(owner: str, *rows: tuple[str, str]) -> bytes:
    listed = "".join(
        f"<Grant><Grantee {XSI} xsi:type='x'>{grantee}</Grantee><Permission>{permission}</Permission></Grant>"
        for grantee, permission in rows
    )
    return (
        f'<AccessControlPolicy xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Owner><ID>{owner}</ID></Owner>'
        f"<AccessControlList>{listed}</AccessControlList></AccessControlPolicy>"
    ).encode()
