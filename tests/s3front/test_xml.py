"""XML in and out: what is refused (SECURITY rule 12), what is escaped."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.limits import XML_MAX
from s3front import xml
from s3front.errors import S3Error
from tests.rows import rows

LAUGHS = b"""<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol">
<!ENTITY lol2 "&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;">
<!ENTITY lol3 "&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;">]><Delete>&lol3;</Delete>"""


@rows(
    "document",
    [
        pytest.param(LAUGHS, id="billion laughs"),
        pytest.param(
            b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><Delete><Object>&e;</Object></Delete>',
            id="external entity",
        ),
        pytest.param(b'<!DOCTYPE Delete SYSTEM "http://198.51.100.1/x.dtd"><Delete/>', id="external DTD"),
        pytest.param(b"<!DOCTYPE Delete><Delete/>", id="bare DOCTYPE"),
        pytest.param(b'<!DOCTYPE x [<!ENTITY % p SYSTEM "http://198.51.100.1/"> %p;]><Delete/>', id="parameter entity"),
        pytest.param(b"<Delete>&undefined;</Delete>", id="undefined entity"),
        pytest.param(b'<Delete><?php system("id")?></Delete>', id="processing instruction"),
        pytest.param(b"<Delete>" + b"<a>" * 15 + b"</a>" * 15 + b"</Delete>" + b"<a>", id="two roots"),
        pytest.param(b"<Delete>" + b"<a>" * 16 + b"</a>" * 16 + b"</Delete>", id="depth 17"),
        pytest.param(b"<a>" * 100_000, id="deep nesting"),
        pytest.param(b"<Delete>", id="torn"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xfe\xfd", id="noise"),
        pytest.param(b"<Delete>\xff</Delete>", id="not UTF-8"),
        pytest.param(b'<?xml version="1.0" encoding="utf-7"?><Delete/>', id="odd encoding"),
        pytest.param(b'<?xml version="1.0" encoding="no-such"?><Delete/>', id="unknown encoding"),
        pytest.param(b"<Delete>\x00</Delete>", id="NUL"),
        pytest.param(b'<Delete a="1" a="2"/>', id="attribute twice"),
        pytest.param(b"<Remove/>", id="other root"),
        pytest.param(b'<Delete xmlns="http://example.org/"/>', id="other namespace"),
    ],
)
def test_hostile_or_broken_documents_are_malformed(document: bytes) -> None:
    with pytest.raises(S3Error) as caught:
        xml.parse(document, "Delete")
    assert (caught.value.code, caught.value.status) == ("MalformedXML", 400)


@pytest.mark.slow
def test_a_document_of_too_many_elements_is_malformed() -> None:
    with pytest.raises(S3Error) as caught:
        xml.parse(b"<Delete>" + b"<a/>" * 70_000 + b"</Delete>", "Delete")
    assert caught.value.code == "MalformedXML"


def test_an_oversize_document_is_refused_unparsed() -> None:
    with pytest.raises(S3Error) as caught:
        xml.parse(b"<Delete>" + b" " * XML_MAX + b"</Delete>", "Delete")
    assert caught.value.code == "MaxMessageLengthExceeded"


def test_a_document_is_read_with_and_without_namespace() -> None:
    plain = b"<Delete><Quiet>true</Quiet><Object><Key>a&amp;b &#13;</Key></Object></Delete>"
    spaced = plain.replace(b"<Delete>", f'<Delete xmlns="{xml.NAMESPACE}">'.encode())
    for document in (plain, spaced, b'<?xml version="1.0" encoding="UTF-8"?>\n' + spaced):
        tree = xml.parse(document, "Delete").only("Quiet", "Object")
        assert tree.get("Quiet") == "true"
        assert [target.need("Key") for target in tree.all("Object")] == ["a&b \r"]
        assert tree.get("Missing") is None


@rows(
    "document",
    [
        b"<Delete><Quite>true</Quite></Delete>",  # a typo must not pass as absence
        b"<Delete>text<Quiet/></Delete>",
        b"<Delete><Quiet>a</Quiet><Quiet>b</Quiet></Delete>",
        b"<Delete><Quiet><Quiet/></Quiet></Delete>",
    ],
)
def test_unknown_and_repeated_elements_are_refused(document: bytes) -> None:
    with pytest.raises(S3Error):
        xml.parse(document, "Delete").only("Quiet").get("Quiet")
    with pytest.raises(S3Error):
        xml.parse(b"<Delete/>", "Delete").need("Quiet")


# What XML 1.0 can hold; tabs and line ends are references in ours, so that they survive.
legal = st.characters(exclude_categories=["Cs"]).filter(lambda c: ord(c) >= 32 and c not in "\ufffe\uffff")


@given(st.text(legal | st.sampled_from("\t\n\r&<>\"'")))
def test_what_is_escaped_is_read_back(text: str) -> None:
    document = xml.document("Root", xml.element("Leaf", text))
    leaf = ET.fromstring(document).find(f"{{{xml.NAMESPACE}}}Leaf")
    assert leaf is not None
    assert (leaf.text or "") == text
    assert xml.parse(document, "Root").need("Leaf") == text


def test_illegal_characters_become_references() -> None:
    assert xml.escape("a\x00\x1b\x7f\ufffe") == "a&#x0;&#x1b;&#x7f;&#xfffe;"
    assert xml.escape_key(b"\xff<") == "\\xff&lt;"


@given(st.text().filter(lambda t: max(t, default="") < "\ud800" or max(t, default="") > "\udfff"))
def test_url_encoding_is_plain_and_reversible(text: str) -> None:
    key = text.encode("utf-8", "replace")
    written = xml.url_key(key)
    assert written.isascii()
    assert xml.escape(written) == written
    assert unquote_to_bytes(written) == key
    assert written == quote(key, safe="/*-_.~")


@given(st.lists(st.binary(max_size=9) | st.text("ab/é &%~", max_size=9).map(str.encode), max_size=4))
def test_the_quickest_way_to_write_keys_writes_the_same(keys: list[bytes]) -> None:
    for write in (xml.escape_key, xml.url_key):
        quick = xml.quickest(write, keys)
        assert [quick(key) for key in keys] == [write(key) for key in keys]
    assert xml.quickest(xml.url_key, [b"plain/key-1~", b"*"]) == xml.quickest(xml.escape_key, [b"a b"]) == bytes.decode
    assert xml.quickest(xml.url_key, [b"plain", b"a b"]) is xml.url_key


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser(document: bytes) -> None:
    outcome = "Delete"
    try:
        outcome = xml.parse(document, "Delete").name
    except S3Error as error:
        outcome = error.code
    assert outcome in ("Delete", "MalformedXML")


@given(st.binary(max_size=20) | st.text(max_size=20).map(str.encode))
def test_what_needs_no_escape_is_shown_as_it_is(key: bytes) -> None:
    if xml.needs_no_escape(key):
        assert xml.escape_key(key) == key.decode()
    assert xml.needs_no_escape(b"a plain/key-1.\xc3\xa9")
    assert not xml.needs_no_escape(b"\xc3")
    assert not xml.needs_no_escape(b"a&b")
