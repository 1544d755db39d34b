"""Website configurations, routing rules, locations and error pages."""

from __future__ import annotations

import pytest

from s3front import website
from s3front.errors import S3Error
from s3front.website import Redirect, Rule, Website

INDEX = "<IndexDocument><Suffix>index.html</Suffix></IndexDocument>"


def whole(content: str) -> bytes:
    return f"<WebsiteConfiguration>{content}</WebsiteConfiguration>".encode()


def rules(*each: str) -> bytes:
    return whole(
        f"{INDEX}<RoutingRules>{''.join(f'<RoutingRule>{rule}</RoutingRule>' for rule in each)}</RoutingRules>"
    )


def test_configurations_are_read_and_written() -> None:
    to = "<Redirect><HostName>other.org</HostName></Redirect>"
    for document, expected in (
        (whole(INDEX), Website("index.html")),
        (whole(INDEX + "<ErrorDocument><Key>e/rr.html</Key></ErrorDocument>"), Website("index.html", "e/rr.html")),
        (
            whole("<RedirectAllRequestsTo><HostName>o.org:8080</HostName></RedirectAllRequestsTo>"),
            Website(all_to=Redirect("o.org:8080")),
        ),
        (
            whole(
                "<RedirectAllRequestsTo><HostName>o.org</HostName><Protocol>https</Protocol></RedirectAllRequestsTo>"
            ),
            Website(all_to=Redirect("o.org", "https")),
        ),
        (
            rules(
                to,
                "<Condition><KeyPrefixEquals>docs/</KeyPrefixEquals></Condition>"
                "<Redirect><ReplaceKeyPrefixWith>documents/</ReplaceKeyPrefixWith></Redirect>",
                "<Condition><HttpErrorCodeReturnedEquals>404</HttpErrorCodeReturnedEquals></Condition><Redirect>"
                "<ReplaceKeyWith>gone.html</ReplaceKeyWith><HttpRedirectCode>302</HttpRedirectCode></Redirect>",
            ),
            Website(
                "index.html",
                rules=(
                    Rule("", 0, Redirect("other.org")),
                    Rule("docs/", 0, Redirect(replace_prefix="documents/")),
                    Rule("", 404, Redirect(replace_key="gone.html", status=302)),
                ),
            ),
        ),
    ):
        assert website.parse(document) == expected
        assert website.of_bucket(website.document(expected)) == expected


def test_what_is_no_configuration() -> None:
    everything = "<RedirectAllRequestsTo><HostName>o.org</HostName></RedirectAllRequestsTo>"
    to = "<Redirect><HostName>o.org</HostName></Redirect>"
    for document, code in (
        (b"", "MalformedXML"),
        (whole(""), "InvalidArgument"),
        (whole("<Else/>"), "MalformedXML"),
        (whole(INDEX + INDEX), "MalformedXML"),
        (whole("<IndexDocument/>"), "MalformedXML"),
        (whole("<IndexDocument><Suffix></Suffix></IndexDocument>"), "InvalidArgument"),
        (whole("<IndexDocument><Suffix>a/b</Suffix></IndexDocument>"), "InvalidArgument"),
        (whole(INDEX + "<ErrorDocument><Key></Key></ErrorDocument>"), "InvalidArgument"),
        (whole(INDEX + everything), "InvalidRequest"),
        (whole("<RedirectAllRequestsTo/>"), "MalformedXML"),
        (whole(everything.replace("o.org", "o.org/path")), "InvalidRequest"),
        (whole(everything.replace("o.org", "o\r\n.org")), "InvalidRequest"),
        (rules(""), "MalformedXML"),
        (rules("<Redirect/>"), "MalformedXML"),
        (rules("<Condition/>" + to), "InvalidRequest"),
        (rules(to.replace("<HostName>", "<Protocol>ftp</Protocol><HostName>")), "InvalidRequest"),
        (
            rules(
                "<Redirect><ReplaceKeyWith>a</ReplaceKeyWith><ReplaceKeyPrefixWith>b</ReplaceKeyPrefixWith></Redirect>"
            ),
            "InvalidRequest",
        ),
        (rules("<Redirect><HttpRedirectCode>300</HttpRedirectCode></Redirect>"), "InvalidRequest"),
        (rules("<Redirect><HttpRedirectCode>x</HttpRedirectCode></Redirect>"), "InvalidRequest"),
        (
            rules("<Condition><HttpErrorCodeReturnedEquals>200</HttpErrorCodeReturnedEquals></Condition>" + to),
            "InvalidRequest",
        ),
        (rules(*[to] * 51), "InvalidRequest"),
    ):
        with pytest.raises(S3Error) as caught:
            website.parse(document)
        assert caught.value.code == code, document
    assert len(website.parse(rules(*[to] * 50)).rules) == 50


def test_paths_mean_keys() -> None:
    site = Website("i.html")
    for path, key in ((b"", b"i.html"), (b"a/", b"a/i.html"), (b"a", b"a"), (b"a//", b"a//i.html")):
        assert website.object_key(site, path) == key


def test_rules_lead_somewhere() -> None:
    site = Website(
        "i",
        rules=(
            Rule("docs/", 0, Redirect(replace_prefix="documents/")),
            Rule("ask", 404, Redirect("ec2.org", "https", replace_prefix="report-404/")),
            Rule("", 403, Redirect(replace_key="ü b.html", status=307)),
        ),
    )
    for key, error, expected in (
        (b"docs/a/b", 0, b"http://w.org/documents/a/b"),
        (b"docs", 0, None),
        (b"ask.html", 0, None),
        (b"ask.html", 404, b"https://ec2.org/report-404/.html"),
        (b"docs/a", 404, None),
        (b"x", 403, b"http://w.org/%C3%BC%20b.html"),
    ):
        rule = website.redirect_of(site, key, error)
        found = rule and website.location(rule.redirect, rule.prefix, key, "http", "w.org")
        assert found == expected, (key, error)
    assert (
        website.location(Redirect("o.org"), "", b"a\r\nb?", "http", "w.org", b"q=1") == b"http://o.org/a%0D%0Ab%3F?q=1"
    )


def test_an_error_page_says_all_and_lets_nothing_in() -> None:
    error = S3Error("NoSuchKey", details=(("Key", "<script>"),))
    page = website.error_page(error, "ID", "ID2").decode()
    assert "<title>404 Not Found</title>" in page
    assert "<li>Code: NoSuchKey</li>\n<li>Message: The specified key does not exist.</li>" in page
    assert "<li>Key: &lt;script&gt;</li>\n<li>RequestId: ID</li>\n<li>HostId: ID2</li>" in page
    assert "Custom Error Document" not in page
    page = website.error_page(error, "ID", "ID2", S3Error("AccessDenied"), "<e>").decode()
    assert "<h3>An Error Occurred While Attempting to Retrieve a Custom Error Document</h3>" in page
    assert "<li>Code: AccessDenied</li>\n<li>Message: Access Denied</li>\n<li>Key: &lt;e&gt;</li>" in page
