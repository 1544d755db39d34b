"""Websites: what a browser gets from a bucket under the website domain.

A visitor is nobody (authentication is neither asked for nor looked at), may only read, and is authorised as any
anonymous request is: a site is public because a policy or an ACL says so.  Objects come through GetObject and
HeadObject, so conditions, ranges and versions mean the same here; only errors are pages, and paths mean index
documents.

What happens to a request, in AWS's order: all requests redirected; a routing rule for the key; the object, or where its
own redirect leads; for a missing one the folder of that name; a routing rule for the error; the error document; the
error page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote_from_bytes

from appliance import settings
from appliance.authority import Action
from appliance.errors import Code, StoreError
from s3front import preflight, website
from s3front.admission import admit
from s3front.errors import S3Error, from_store
from s3front.operations import get_object, head_object
from s3front.request import Request
from s3front.response import Headers, Response
from s3front.router import Level
from s3front.target import decode_once, virtual_host
from s3front.verified import SignedRequest, verify_nobody
from s3front.website import Redirect, Website

if TYPE_CHECKING:
    from appliance.model import Bucket
    from s3front.asgi import Receive, Scope
    from s3front.request import Door

NAME: Final = "WebsiteRequest"

_HTML: Final = (b"content-type", b"text/html; charset=utf-8")
_LOCATION: Final = b"x-amz-website-redirect-location"
# What of a visitor's headers means something to a read.
_KEPT: Final = frozenset(
    {
        b"host", b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since",
        b"referer", b"user-agent", b"origin",
    }
)  # fmt: skip
_OF_ANY_OBJECT: Final = (b"host", b"referer", b"user-agent", b"origin")  # for an error document


def serves(scope: Scope, suffix: bytes) -> bool:
    """Whether the request is for a website: its host is below the website domain."""
    return virtual_host(_header(scope, b"host"), suffix) is not None


class Visit:
    """One request to a website.  `id` and `id_2` are what the answer says of itself."""

    def __init__(
        self, door: Door, scope: Scope, receive: Receive, suffix: bytes, now: float, id: bytes, id_2: bytes
    ) -> None:
        self._door = door
        self._scope = scope
        self._receive = receive
        self._suffix = suffix
        self._now = now
        self._ids = (id.decode(), id_2.decode())
        self._host = _header(scope, b"host").decode("latin-1")
        self.bucket: Bucket

    async def answer(self) -> Response:
        """An object, a redirect or a page.  Raises nothing of S3's; what is unexpected passes."""
        if self._scope["method"] == "OPTIONS":
            try:
                return preflight.operate(self._door, self._scope, self._suffix)
            except S3Error as error:
                return self._page(error)
        try:
            site, key = self._locate()
        except StoreError as error:
            return self._page(from_store(error))
        except S3Error as error:
            return self._page(error)
        if site.all_to is not None:
            return self._redirect(site.all_to, "", key, self._scope["query_string"])
        rule = website.redirect_of(site, key)
        if rule is not None:
            return self._redirect(rule.redirect, rule.prefix, key)
        wanted = website.object_key(site, key)
        try:
            return await self._object(wanted, _KEPT)
        except StoreError as refused:
            return await self._failed(site, key, from_store(refused, key=wanted))
        except S3Error as failed:
            return await self._failed(site, key, failed)

    def _locate(self) -> tuple[Website, bytes]:
        """The site and the key.  Raises NoSuchBucket, NoSuchWebsiteConfiguration, MethodNotAllowed, InvalidURI."""
        name = virtual_host(self._host.encode("latin-1"), self._suffix)
        assert name is not None, "who calls has asked"
        self.bucket = self._door.store.bucket(name.decode("latin-1"))
        document = self.bucket.settings.get(settings.WEBSITE)
        if document is None:
            raise S3Error("NoSuchWebsiteConfiguration", details=(("BucketName", self.bucket.name),))
        if self._scope["method"] not in ("GET", "HEAD"):
            raise S3Error("MethodNotAllowed", headers=((b"allow", b"GET, HEAD, OPTIONS"),))
        return website.of_bucket(document), decode_once(self._scope["raw_path"].removeprefix(b"/"))

    async def _failed(self, site: Website, key: bytes, error: S3Error) -> Response:
        """What follows an error: a folder, a rule, the error document, the page."""
        if error.status in (403, 404) and key and not key.endswith(b"/") and await self._is_folder(site, key):
            return Response(302, [(b"location", b"/" + website.quoted(key + b"/").encode())])
        rule = website.redirect_of(site, key, error.status)
        if rule is not None:
            return self._redirect(rule.redirect, rule.prefix, key)
        if not site.error or not 400 <= error.status < 500:
            return self._page(error)
        try:
            response = await self._object(site.error.encode(), _OF_ANY_OBJECT)
        except StoreError as refused:
            return self._page(error, from_store(refused), site.error)
        except S3Error as failed:
            return self._page(error, failed, site.error)
        if response.status == 200:
            response.status = error.status
        response.headers += _told(error)
        return response

    async def _is_folder(self, site: Website, key: bytes) -> bool:
        """Whether nothing is at the key, and an index document that the visitor may read is below it."""
        try:
            await self._door.store.look_up(self.bucket, key)
        except StoreError as error:
            if error.code is not Code.NO_SUCH_KEY:
                raise
        else:
            return False
        index = key + b"/" + site.suffix.encode()
        try:
            await self._door.store.look_up(self.bucket, index)
            request = self._request(index, _OF_ANY_OBJECT)
            await admit(self._door, request, Action.GET_OBJECT, self._now)
        except StoreError as error:
            if error.code not in (Code.NO_SUCH_KEY, Code.ACCESS_DENIED):
                raise
            return False
        return True

    async def _object(self, key: bytes, kept: frozenset[bytes] | tuple[bytes, ...]) -> Response:
        """The object, or where it leads.  Raises as GetObject."""
        request = self._request(key, kept)
        request.admission = await admit(self._door, request, Action.GET_OBJECT, self._now)
        operate = get_object.operate if self._scope["method"] == "GET" else head_object.operate
        response = await operate(self._door, request)
        target = dict(response.headers).get(_LOCATION)
        if target is None:
            return response
        if response.reader is not None:
            response.reader.close()
        return Response(301, [(b"location", quote_from_bytes(target, safe=_IN_URL).encode())])

    def _request(self, key: bytes, kept: frozenset[bytes] | tuple[bytes, ...]) -> Request:
        """The read that a visit means: nobody's, without a query."""
        headers = [(name, value) for name, value in self._scope["headers"] if name in kept]
        path = b"/%b/%b" % (self.bucket.name.encode(), website.quoted(key).encode())
        head = SignedRequest(self._scope["method"], path, b"", headers)
        request = Request(self._scope, self._receive, verify_nobody(head))
        request.locate(b"")
        request.bucket = self.bucket
        assert (request.level, request.key) == (Level.OBJECT, key)
        return request

    def _redirect(self, redirect: Redirect, prefix: str, key: bytes, query: bytes = b"") -> Response:
        protocol = self._scope.get("scheme", "http")
        target = website.location(redirect, prefix, key, protocol, self._host, query)
        return Response(redirect.status or 301, [(b"location", target)])

    def _page(self, error: S3Error, document_error: S3Error | None = None, document_key: str = "") -> Response:
        headers: Headers = [_HTML, *error.headers, *_told(error)]
        if error.status == 304:
            return Response(304, list(error.headers))
        return Response(error.status, headers, website.error_page(error, *self._ids, document_error, document_key))


# What stands in a Location as it is: everything that a URL is made of, and its escapes.
_IN_URL: Final = "!#$%&'()*+,/:;=?@[]~-._"


def _told(error: S3Error) -> Headers:
    """The error as headers, for programs: pages are for people."""
    return [
        (b"x-amz-error-code", error.code.encode()),
        (b"x-amz-error-message", error.message.encode("ascii", "replace").replace(b"\n", b" ")),
    ]


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for known, value in scope["headers"] if known == name), b"")
