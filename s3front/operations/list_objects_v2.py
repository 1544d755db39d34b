"""ListObjectsV2: GET /bucket?list-type=2.  Pages by an opaque token; counts what it gives."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from s3front import tokens, xml
from s3front.errors import invalid_argument
from s3front.operations import list_objects
from s3front.owners import Owners
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "ListObjectsV2"
ACTION: Final = Action.LIST_BUCKET
ROUTES: Final = (Route("GET", Level.BUCKET, "list-type"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises InvalidArgument (list-type, max-keys, encoding-type, token)."""
    query = request.query
    if query["list-type"] not in ("2", "1"):
        raise invalid_argument("Invalid List Type specified in Request", "list-type", query["list-type"])
    if query["list-type"] == "1":
        return await list_objects.operate(door, request)
    write = list_objects.key_writer(request)
    token, start_after = query.get("continuation-token"), query.get("start-after", "")
    after = start_after.encode() if not token else tokens.decode(token, "continuation-token")
    page, limit = await list_objects.look(door, request, after)
    said = ""
    if token is not None:
        said += xml.element("ContinuationToken", token)
    if start_after:
        said += f"<StartAfter>{write(start_after.encode())}</StartAfter>"
    if page.truncated:
        said += f"<NextContinuationToken>{tokens.encode(page.next)}</NextContinuationToken>"
    whose = Owners(door.store, request.bucket) if query.get("fetch-owner") == "true" else None
    rows = await list_objects.contents(page.objects, write, whose)
    head = (
        f"{list_objects.heading(request, write, limit)}<KeyCount>{len(page.objects) + len(page.prefixes)}</KeyCount>"
        f"{said}<IsTruncated>{'true' if page.truncated else 'false'}</IsTruncated>"
    )
    prefixes = list_objects.common_prefixes(page.prefixes, write)
    return answer(xml.long_document("ListBucketResult", head, rows, prefixes))
