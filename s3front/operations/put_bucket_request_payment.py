"""PutBucketRequestPayment: PUT /bucket?requestPayment.  The owner pays, as always here; nothing else can be said."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from s3front import intake, xml
from s3front.errors import S3Error
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "PutBucketRequestPayment"
ACTION: Final = Action.PUT_BUCKET_REQUEST_PAYMENT
ROUTES: Final = (Route("PUT", Level.BUCKET, "requestPayment"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises MalformedXML, NotImplemented (a requester who pays)."""
    tree = xml.parse(await intake.document(request), "RequestPaymentConfiguration").only("Payer")
    payer = tree.need("Payer")
    if payer not in ("BucketOwner", "Requester"):
        raise xml.malformed("Payer is BucketOwner or Requester.")
    if payer == "Requester":
        raise S3Error("NotImplemented", "Nobody pays for requests to this box.")
    return Response(200, [])
