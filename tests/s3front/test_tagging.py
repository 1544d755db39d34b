"""Tag sets: both spellings, every bound, every error."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3front import tagging
from s3front.errors import S3Error
from s3front.tagging import BUCKET_TAGS_MAX, KEY_MAX, OBJECT_TAGS_MAX, VALUE_MAX

texts = st.text("abZ09 +-=._:/@äß日\U0001f1e6", max_size=20).map(lambda text: text.replace("\U0001f1e6", "𐌰"))
keys = texts.filter(lambda text: text and not text.lower().startswith("aws:"))


def code_of(document: bytes, limit: int = OBJECT_TAGS_MAX) -> str:
    with pytest.raises(S3Error) as caught:
        tagging.parse(document, limit)
    return caught.value.code


@given(st.dictionaries(keys, texts, max_size=OBJECT_TAGS_MAX))
def test_a_set_survives_both_spellings(tags: dict[str, str]) -> None:
    document = tagging.document(tags)
    assert tagging.parse(document, OBJECT_TAGS_MAX) == tags
    header = "&".join(f"{quote(key)}={quote(value)}" for key, value in tags.items()).encode()
    assert tagging.from_header(header) == tags
    assert tagging.of_bucket(document) == tags


def test_equal_sets_are_equal_bytes() -> None:
    assert tagging.document(tagging.from_header(b"b=1&a=2")) == tagging.document(tagging.from_header(b"a=2&b=1"))


def test_bounds() -> None:
    def sized(count: int, key: int, value: int) -> bytes:
        return tagging.document({f"{number:0{key}}": "v" * value for number in range(count)})

    for limit in (OBJECT_TAGS_MAX, BUCKET_TAGS_MAX):
        full = sized(limit, KEY_MAX, VALUE_MAX)
        assert len(tagging.parse(full, limit)) == limit
        for wrong in (sized(limit + 1, 9, 9), sized(1, KEY_MAX + 1, 9), sized(1, 9, VALUE_MAX + 1)):
            assert code_of(wrong, limit) == "InvalidTag"
    # a character outside the basic plane takes two positions
    assert tagging.parse(tagging.document({"𐌰" * 64: ""}), 10)
    assert code_of(tagging.document({"𐌰" * 64 + "a": ""})) == "InvalidTag"


def test_what_is_no_tag_set() -> None:
    def tags(content: str) -> bytes:
        return f"<Tagging><TagSet>{content}</TagSet></Tagging>".encode()

    for document, code in (
        (b"", "MalformedXML"),
        (b"<Tagging/>", "MalformedXML"),
        (b"<Tags/>", "MalformedXML"),
        (b"<Tagging><TagSet/><TagSet/></Tagging>", "MalformedXML"),
        (tags("<Tag><Key>a</Key></Tag>"), "MalformedXML"),
        (tags("<Tag><Value>a</Value></Tag>"), "MalformedXML"),
        (tags("<Tag><Key>a</Key><Value>b</Value><Else/></Tag>"), "MalformedXML"),
        (tags("<Tog/>"), "MalformedXML"),
        (tags("<Tag><Key/><Value>b</Value></Tag>"), "InvalidTag"),
        (tags("<Tag><Key>a</Key><Value>b</Value></Tag>" * 2), "InvalidTag"),
        (tags("<Tag><Key>aws:a</Key><Value>b</Value></Tag>"), "InvalidTag"),
        (tags("<Tag><Key>AwS:a</Key><Value>b</Value></Tag>"), "InvalidTag"),
        (tags("<Tag><Key>a?</Key><Value>b</Value></Tag>"), "InvalidTag"),
        (tags("<Tag><Key>a</Key><Value>b*</Value></Tag>"), "InvalidTag"),
        (tags("<Tag><Key>a\n</Key><Value>b</Value></Tag>"), "InvalidTag"),
    ):
        assert code_of(document) == code, document
    assert tagging.parse(b"<Tagging><TagSet/></Tagging>", 10) == {}


def test_the_header() -> None:
    for header, expected in (
        (b"", {}),
        (b"foo=bar&bar", {"bar": "", "foo": "bar"}),
        (b"a+b=%C3%A4%2B&&", {"a b": "ä+"}),
        (b"a=b=c", {"a": "b=c"}),
    ):
        assert tagging.from_header(header) == expected
    for header, code in (
        (b"a=1&a=2", "InvalidArgument"),
        (b"a=%zz", "InvalidArgument"),
        (b"a=%FF", "InvalidArgument"),
        (b"=v", "InvalidTag"),
        (b"aws:x=v", "InvalidTag"),
        (b"a=%3F", "InvalidTag"),
        (b"&".join(b"%d" % number for number in range(11)), "InvalidTag"),
    ):
        with pytest.raises(S3Error) as caught:
            tagging.from_header(header)
        assert caught.value.code == code, header
