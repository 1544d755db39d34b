"""Settings that change nothing here: what may be put is what is true anyway; all else is refused and not kept."""

from __future__ import annotations

from s3front import tagging, website
from s3front.operations.unset_configuration import UNSET
from tests.s3front.box import Box


def test_what_changes_nothing_is_taken(box: Box) -> None:
    for query, document in (
        ("requestPayment=", b"<RequestPaymentConfiguration><Payer>BucketOwner</Payer></RequestPaymentConfiguration>"),
        ("logging=", b"<BucketLoggingStatus/>"),
        ("notification=", b"<NotificationConfiguration/>"),
    ):
        before = box.send("GET", "/b", query).body
        assert box.send("PUT", "/b", query, body=document).status == 200
        assert box.send("GET", "/b", query).body == before
    assert box.store.bucket("b").settings == {}


def test_what_would_change_something_is_refused(box: Box) -> None:
    target = b"<LoggingEnabled><TargetBucket>b</TargetBucket><TargetPrefix/></LoggingEnabled>"
    for query, document, code in (
        (
            "requestPayment=",
            b"<RequestPaymentConfiguration><Payer>Requester</Payer></RequestPaymentConfiguration>",
            501,
        ),
        ("requestPayment=", b"<RequestPaymentConfiguration><Payer>Me</Payer></RequestPaymentConfiguration>", 400),
        ("requestPayment=", b"", 400),
        ("logging=", b"<BucketLoggingStatus>" + target + b"</BucketLoggingStatus>", 501),
        ("logging=", b"<BucketLoggingStatus><Else/></BucketLoggingStatus>", 400),
        ("notification=", b"<NotificationConfiguration><EventBridgeConfiguration/></NotificationConfiguration>", 501),
        ("notification=", b"<NotificationConfiguration><Else/></NotificationConfiguration>", 400),
        ("accelerate=", b"<AccelerateConfiguration/>", 400),
        ("accelerate=", b"<AccelerateConfiguration><Status>On</Status></AccelerateConfiguration>", 400),
        ("analytics=&id=a", b"<AnalyticsConfiguration/>", 501),
    ):
        answer = box.send("PUT", "/b", query, body=document)
        assert (answer.status, answer.code) == (code, {400: "MalformedXML", 501: "NotImplemented"}[code]), document
    assert box.store.bucket("b").settings == {}


def test_acceleration_is_kept_and_shown(box: Box) -> None:
    assert b"<Status>" not in box.send("GET", "/b", "accelerate=").body
    for status in (b"Enabled", b"Suspended"):
        document = b"<AccelerateConfiguration><Status>%b</Status></AccelerateConfiguration>" % status
        assert box.send("PUT", "/b", "accelerate=", body=document).status == 200
        assert b"<Status>%b</Status>" % status in box.send("GET", "/b", "accelerate=").body
    box.run(box.store.create_bucket, "with.dot", "owner")
    assert box.send("PUT", "/with.dot", "accelerate=", body=document).code == "InvalidRequest"


def test_reports_and_tiers_are_none(box: Box) -> None:
    lists = [one for one in UNSET if one.one]
    assert len(lists) == 4
    for one in lists:
        assert box.send("GET", "/b", f"{one.route.query}=").status == 200
        answer = box.send("GET", "/b", f"{one.route.query}=&id=any")
        assert (answer.status, answer.code) == (404, "NoSuchConfiguration")


def test_a_bucket_is_made_with_tags(box: Box) -> None:
    def create(content: str, headers: dict[str, str] | None = None) -> str:
        document = f"<CreateBucketConfiguration>{content}</CreateBucketConfiguration>".encode()
        answer = box.send("PUT", "/tagged", headers=headers, body=document)
        return answer.code or str(answer.status)

    tag = "<Tag><Key>a</Key><Value>1</Value></Tag>"
    for content, code in (
        (f"<Tags>{tag}{tag}</Tags>", "InvalidTag"),
        ("<Tags><Tag><Key>a</Key></Tag></Tags>", "MalformedXML"),
        ("<Tags><Else/></Tags>", "MalformedXML"),
        ("<Location><Type>AvailabilityZone</Type></Location>", "NotImplemented"),
    ):
        assert create(content) == code, content
        assert box.send("HEAD", "/tagged").status == 404
    assert create("", {"x-amz-bucket-namespace": "account-regional"}) == "NotImplemented"
    assert create(f"<Tags>{tag}</Tags>", {"x-amz-bucket-namespace": "global"}) == "200"
    assert box.send("GET", "/tagged", "tagging=").body == tagging.document({"a": "1"})


def test_a_website_is_kept(box: Box) -> None:
    site = website.Website("index.html", "error.html", None, (website.Rule("a", 0, website.Redirect("o.org")),))
    assert box.send("GET", "/b", "website=").code == "NoSuchWebsiteConfiguration"
    assert box.send("PUT", "/b", "website=", body=website.document(site)).status == 200
    assert box.send("GET", "/b", "website=").body == website.document(site)
    assert box.send("PUT", "/b", "website=", body=b"<WebsiteConfiguration/>").code == "InvalidArgument"
    assert box.send("PUT", "/b", "website=", body=b"").code == "MalformedXML"
    assert box.send("GET", "/b", "website=").body == website.document(site)
    for _ in range(2):
        assert box.send("DELETE", "/b", "website=").status == 204
        assert box.send("GET", "/b", "website=").code == "NoSuchWebsiteConfiguration"
