"""Documents of bucket settings, bent: what is read is written and read again the same, what is not is S3's error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from s3front import cors, tagging, website
from s3front.errors import S3Error

Format = tuple[bytes, Callable[[bytes], Any], Callable[[Any], bytes]]

TAGGING = b"<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag><Tag><Key>b</Key><Value/></Tag></TagSet></Tagging>"
CORS = b"""<CORSConfiguration><CORSRule><ID>i</ID><AllowedMethod>GET</AllowedMethod><AllowedOrigin>http://*.o</AllowedOrigin>
<AllowedHeader>*</AllowedHeader><ExposeHeader>e</ExposeHeader><MaxAgeSeconds>9</MaxAgeSeconds></CORSRule>
</CORSConfiguration>"""
WEBSITE = b"""<WebsiteConfiguration><IndexDocument><Suffix>i</Suffix></IndexDocument><RoutingRules><RoutingRule>
<Condition><KeyPrefixEquals>k</KeyPrefixEquals><HttpErrorCodeReturnedEquals>404</HttpErrorCodeReturnedEquals></Condition>
<Redirect><HostName>o</HostName><HttpRedirectCode>302</HttpRedirectCode></Redirect></RoutingRule></RoutingRules>
</WebsiteConfiguration>"""
FORMATS: tuple[Format, ...] = (
    (TAGGING, tagging.parse_object, tagging.document),
    (CORS, cors.parse, cors.document),
    (WEBSITE, website.parse, website.document),
)
PIECES = st.one_of(
    st.binary(max_size=3),
    st.sampled_from(
        [b"<", b">", b"</", b"/>", b"&amp;", b"&#0;", b"*", b"\r\n", b"\xc3\xa9", b"<ID/>", b"<!--", b"-1"]
    ),
)


def read(parse: Callable[[bytes], Any], data: bytes) -> Any:
    """What it says, or S3's error."""
    try:
        return parse(data)
    except S3Error as error:
        return error


@given(st.sampled_from(FORMATS), st.lists(st.tuples(st.integers(0, 600), st.integers(0, 40), PIECES), max_size=4))
def test_a_bent_document_is_refused_or_understood(form: Format, bends: list[tuple[int, int, bytes]]) -> None:
    document, parse, write = form
    for start, length, piece in bends:
        document = document[:start] + piece + document[start + length :]
    value = read(parse, document)
    if isinstance(value, S3Error):
        assert 400 <= value.status < 500
    else:
        assert parse(write(value)) == value


@given(st.one_of(st.binary(max_size=40), st.text("ab=&%+20é", max_size=40).map(str.encode)))
def test_a_bent_tagging_header_is_refused_or_understood(header: bytes) -> None:
    tags = read(tagging.from_header, header)
    if isinstance(tags, S3Error):
        assert tags.code in ("InvalidArgument", "InvalidTag")
    else:
        assert tagging.parse_object(tagging.document(tags)) == tags
