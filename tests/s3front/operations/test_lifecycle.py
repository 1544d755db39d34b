"""A bucket's lifecycle configuration through the door, and the header by which a client learns when an object goes."""

from __future__ import annotations

from tests.s3front.box import Box

RULE = "<Rule><ID>r 1</ID><Filter><Prefix>logs/</Prefix></Filter><Status>Enabled</Status>{}</Rule>"
ONE = RULE.format("<Expiration><Days>1</Days></Expiration>")


def put(box: Box, rules: str, headers: dict[str, str] | None = None) -> str:
    body = f"<LifecycleConfiguration>{rules}</LifecycleConfiguration>".encode()
    return box.send("PUT", "/b", "lifecycle=", headers=headers, body=body).code


def test_a_configuration_is_kept_and_goes(box: Box) -> None:
    assert box.send("GET", "/b", "lifecycle=").code == "NoSuchLifecycleConfiguration"
    assert put(box, ONE) == ""
    got = box.send("GET", "/b", "lifecycle=")
    assert ONE in got.body.decode()
    assert got.headers["x-amz-transition-default-minimum-object-size"] == "all_storage_classes_128K"
    assert put(box, ONE, {"x-amz-transition-default-minimum-object-size": "varies_by_storage_class"}) == ""
    minimum = box.send("GET", "/b", "lifecycle=").headers["x-amz-transition-default-minimum-object-size"]
    assert minimum == "varies_by_storage_class"
    assert put(box, ONE, {"x-amz-transition-default-minimum-object-size": "1"}) == "InvalidArgument"
    assert put(box, ONE.replace("Days", "Dayz")) == "MalformedXML"
    assert ONE in box.send("GET", "/b", "lifecycle=").body.decode()  # what was refused changed nothing
    assert put(box, ONE.replace("<ID>r 1</ID>", "")) == ""
    assert "<ID></ID>" not in box.send("GET", "/b", "lifecycle=").body.decode()
    for _ in range(2):
        assert box.send("DELETE", "/b", "lifecycle=").status == 204
    assert box.send("GET", "/b", "lifecycle=").status == 404


def test_a_client_is_told_when_an_object_goes(box: Box) -> None:
    assert "x-amz-expiration" not in box.send("PUT", "/b/logs/a", body=b"x").headers
    tagged = RULE.replace("<Prefix>logs/</Prefix>", "<Tag><Key>a</Key><Value>b</Value></Tag>").replace("r 1", "r 2")
    assert put(box, ONE + tagged.format("<Expiration><Date>2025-01-01</Date></Expiration>")) == ""
    sent = box.send("PUT", "/b/logs/a", body=b"x").headers
    expected = 'expiry-date="Thu, 16 Nov 2023 00:00:00 GMT", rule-id="r%201"'
    assert sent["x-amz-expiration"] == expected
    for method in ("GET", "HEAD"):
        assert box.send(method, "/b/logs/a").headers["x-amz-expiration"] == expected
    copied = box.send("PUT", "/b/logs/copy", headers={"x-amz-copy-source": "/b/logs/a"})
    assert copied.headers["x-amz-expiration"] == expected
    upload = box.send("POST", "/b/logs/parts", "uploads=").body.decode().partition("<UploadId>")[2].partition("<")[0]
    etag = box.send("PUT", "/b/logs/parts", f"partNumber=1&uploadId={upload}", body=b"x").headers["etag"]
    part = f"<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
    document = f"<CompleteMultipartUpload>{part}</CompleteMultipartUpload>".encode()
    done = box.send("POST", "/b/logs/parts", f"uploadId={upload}", body=document)
    assert done.headers["x-amz-expiration"] == expected
    assert "x-amz-expiration" not in box.send("PUT", "/b/other", body=b"x").headers
    assert "x-amz-expiration" not in box.send("HEAD", "/b/other").headers
    dated = box.send("PUT", "/b/other", headers={"x-amz-tagging": "a=b"}, body=b"x").headers
    assert dated["x-amz-expiration"] == 'expiry-date="Wed, 01 Jan 2025 00:00:00 GMT", rule-id="r%202"'
    assert box.send("HEAD", "/b/other").headers["x-amz-expiration"] == dated["x-amz-expiration"]
