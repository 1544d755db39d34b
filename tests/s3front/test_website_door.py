"""Websites as a browser sees them: index and error documents, redirects, and nothing that is not public."""

from __future__ import annotations

import json

import pytest

from s3front import website
from s3front.website import Redirect, Rule, Website
from tests.s3front.box import WEBSITES, Answer, Box

HOST = f"b.{WEBSITES}:9000"
SITE = Website("index.html", "error.html")
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/*"},
        {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/private/*"},
    ],
}


def configure(box: Box, site: Website, *, listing: bool = True) -> None:
    """The site over public objects; with `listing` a visitor is told what is not there."""
    assert box.send("PUT", "/b", "website=", body=website.document(site)).status == 200
    statements = list(POLICY["Statement"])
    if listing:
        allowed = {"Effect": "Allow", "Principal": "*", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::b"}
        statements.append(allowed)
    policy = json.dumps(POLICY | {"Statement": statements}).encode()
    assert box.send("PUT", "/b", "policy=", body=policy).status == 204


@pytest.fixture
def box() -> Box:
    box = Box()
    for key in ("index.html", "a/index.html", "a/page", "private/index.html", "private/page", "error.html", "x y/é"):
        path = "/b/" + website.quoted(key.encode())
        box.send("PUT", path, headers={"content-type": "text/html"}, body=key.encode())
    configure(box, SITE)
    return box


def visit(
    box: Box, path: str, *, method: str = "GET", headers: dict[str, str] | None = None, host: str = HOST
) -> Answer:
    fields = [(b"host", host.encode())] + [(n.encode(), v.encode()) for n, v in (headers or {}).items()]
    path, _, query = path.partition("?")
    return box.raw(method, path, query, fields)


def test_paths_are_objects_and_folders_their_index_documents(box: Box) -> None:
    for path, key in (
        ("/", "index.html"),
        ("/index.html", "index.html"),
        ("/a/", "a/index.html"),
        ("/a/page", "a/page"),
        ("/a/page?acl&versionId=7&uploads", "a/page"),
        ("/x%20y/%C3%A9", "x y/é"),
    ):
        answer = visit(box, path)
        assert (answer.status, answer.body.decode()) == (200, key)
        assert answer.headers["content-type"] == "text/html"
        head = visit(box, path, method="HEAD")
        assert (head.status, head.headers["content-length"]) == (200, str(len(key.encode())))
    assert visit(box, "/", host=f"B.{WEBSITES.upper()}").body == b"index.html"
    answer = visit(box, "/a/page", headers={"range": "bytes=2-3"})
    assert (answer.status, answer.body) == (206, b"pa")
    assert visit(box, "/a/page", headers={"if-none-match": answer.headers["etag"]}).status == 304


def test_a_folder_is_led_to_its_slash(box: Box) -> None:
    answer = visit(box, "/a")
    assert (answer.status, answer.headers["location"], answer.body) == (302, "/a/", b"")
    configure(box, SITE, listing=False)
    assert visit(box, "/a").headers["location"] == "/a/"
    for path in ("/private", "/private/page", "/none"):
        assert visit(box, path).status == 403


def test_errors_are_pages_for_people_and_headers_for_programs(box: Box) -> None:
    configure(box, Website("index.html"))
    for path, status, code in (
        ("/none", 404, "NoSuchKey"),
        ("/none/", 404, "NoSuchKey"),
        ("/private/page", 403, "AccessDenied"),
        ("/%zz", 400, "InvalidURI"),
        ("/" + "k" * 1025, 400, "KeyTooLongError"),
    ):
        answer = visit(box, path)
        assert (answer.status, answer.headers["x-amz-error-code"]) == (status, code)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        page = answer.body.decode()
        assert f"<li>Code: {code}</li>" in page
        assert f"<li>RequestId: {answer.headers['x-amz-request-id']}</li>" in page
        assert visit(box, path, method="HEAD").body == b""
    for method in ("PUT", "POST", "DELETE", "PATCH"):
        answer = visit(box, "/a/page", method=method)
        assert (answer.status, answer.headers["x-amz-error-code"]) == (405, "MethodNotAllowed")
    assert visit(box, "/a/page").body == b"a/page"
    box.run(box.store.create_bucket, "second", "owner")
    for host, code in ((f"none.{WEBSITES}", "NoSuchBucket"), (f"second.{WEBSITES}", "NoSuchWebsiteConfiguration")):
        answer = visit(box, "/", host=host)
        assert (answer.status, answer.headers["x-amz-error-code"]) == (404, code)


def test_the_error_document_comes_with_the_errors_status(box: Box) -> None:
    for path, status in (("/none", 404), ("/private/page", 403)):
        answer = visit(box, path, headers={"range": "bytes=0-1", "if-none-match": "*"})
        assert (answer.status, answer.body) == (status, b"error.html")
        assert answer.headers["x-amz-error-code"] in ("NoSuchKey", "AccessDenied")
    for key, code in (("private/page", "AccessDenied"), ("gone.html", "NoSuchKey")):
        configure(box, Website("index.html", key))
        answer = visit(box, "/none")
        assert answer.status == 404
        page = answer.body.decode()
        assert "An Error Occurred While Attempting to Retrieve a Custom Error Document" in page
        assert f"<li>Code: {code}</li>\n" in page.partition("<h3>")[2]


def test_redirects(box: Box) -> None:
    rules = (
        Rule("docs/", 0, Redirect(replace_prefix="documents/")),
        Rule("old", 404, Redirect("other.org", "https", replace_key="new", status=307)),
        Rule("private/", 403, Redirect(replace_key="login.html", status=302)),
    )
    configure(box, Website("index.html", "", None, rules))
    for path, status, location in (
        ("/docs/a%20b", 301, f"http://{HOST}/documents/a%20b"),
        ("/old/thing", 307, "https://other.org/new"),
        ("/private/page", 302, f"http://{HOST}/login.html"),
        ("/none", 404, None),
    ):
        answer = visit(box, path)
        assert (answer.status, answer.headers.get("location")) == (status, location), path
    configure(box, Website(all_to=Redirect("o.org", "https")))
    for method in ("GET", "HEAD"):
        answer = visit(box, "/a/page?q=1", method=method)
        assert (answer.status, answer.headers["location"]) == (301, "https://o.org/a/page?q=1")


def test_an_object_leads_elsewhere(box: Box) -> None:
    for target in ("/a/page", "https://other.org/x?y=z#f", "/ü"):
        headers = {"x-amz-website-redirect-location": target}
        assert box.send("PUT", "/b/lead", headers=headers, body=b"x" * 2_000_000).status == 200
        answer = visit(box, "/lead")
        assert (answer.status, answer.body) == (301, b"")
        assert answer.headers["location"] == target.replace("ü", "%C3%BC")
    assert box.send("GET", "/b/lead").status == 200  # only websites obey it


def test_a_visitor_is_nobody(box: Box) -> None:
    """Credentials are not looked at, and open nothing."""
    for path in ("/private/page", "/none"):
        signed = box.send("GET", path, headers={"host": HOST})
        assert signed.status == visit(box, path).status
    assert box.send("DELETE", "/a/page", headers={"host": HOST}).status == 405
    assert box.send("DELETE", "/b", "policy=").status == 204
    assert visit(box, "/").headers["x-amz-error-code"] == "AccessDenied"


def test_websites_are_shared_by_the_buckets_rules(box: Box) -> None:
    document = (
        b"<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>*</AllowedOrigin>"
        b"</CORSRule></CORSConfiguration>"
    )
    asked = {"origin": "https://a.org", "access-control-request-method": "GET"}
    assert visit(box, "/a/page", method="OPTIONS", headers=asked).status == 403
    box.send("PUT", "/b", "cors=", body=document)
    assert visit(box, "/a/page", method="OPTIONS", headers=asked).headers["access-control-allow-origin"] == "*"
    for path, status in (("/a/page", 200), ("/none", 404)):
        answer = visit(box, path, headers={"origin": "https://a.org"})
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, "*")
