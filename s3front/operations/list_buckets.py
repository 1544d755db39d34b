"""ListBuckets: GET /.  The caller's own buckets that the key may be used on, by name."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action, visible
from s3front import owners, tokens, xml
from s3front.dates import NS, iso_date
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "ListBuckets"
ACTION: Final = Action.LIST_ALL_MY_BUCKETS
ROUTES: Final = (Route("GET", Level.SERVICE),)

BUCKETS_MAX: Final = 10_000  # AWS's largest page


async def operate(door: Door, request: Request) -> Response:
    """Raises InvalidArgument (max-buckets, token)."""
    principal = request.verified.principal
    assert principal is not None, "nobody lists without a key"
    prefix = request.query.get("prefix", "")
    limit = request.number("max-buckets", BUCKETS_MAX, 1, BUCKETS_MAX)
    after = tokens.decode(request.query.get("continuation-token"), "continuation-token").decode()
    region = request.query.get("bucket-region", door.region)
    found = [
        bucket
        for bucket in door.store.buckets()
        if bucket.owner == principal.owner
        and bucket.name > after
        and bucket.name.startswith(prefix)
        and visible(principal, bucket.name)
    ]
    await door.store.told_of()
    if region != door.region:
        found = []
    page = found[:limit]
    rows = "".join(
        f"<Bucket><Name>{xml.escape(bucket.name)}</Name>"
        f"<CreationDate>{iso_date(bucket.created_ns // NS)}</CreationDate>"
        f"<BucketRegion>{xml.escape(door.region)}</BucketRegion></Bucket>"
        for bucket in page
    )
    more = ""
    if len(found) > len(page):
        more = xml.element("ContinuationToken", tokens.encode(page[-1].name.encode()))
    content = (
        f"{owners.owner(door.store, principal.owner)}<Buckets>{rows}</Buckets>{more}{xml.optional('Prefix', prefix)}"
    )
    return answer(xml.document("ListAllMyBucketsResult", content))
