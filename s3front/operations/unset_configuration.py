"""The configurations of buckets that cannot be set here, as AWS answers them when nobody set them.

Clients probe these before they do anything (backup programs versioning and lock, SDKs the location, consoles the rest)
and take NotImplemented for a broken server; "unset" is the truth.  Setting any of them answers NotImplemented.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from appliance.authority import Action
from s3front import xml
from s3front.errors import S3Error
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route


class Unset(NamedTuple):
    """One GET: either `error`, or a document `root` with `content`; of a list, `one` is the name of the GET by `id`."""

    name: str
    action: Action
    route: Route
    error: str = ""
    root: str = ""
    content: str = ""
    one: str = ""


def _bucket(name: str, action: Action, query: str, *, error: str = "", root: str = "", content: str = "") -> Unset:
    return Unset(name, action, Route("GET", Level.BUCKET, query), error=error, root=root, content=content)


def _list(kind: str, action: Action, query: str, root: str) -> Unset:
    """The reports and tiers of which a bucket may have many: none."""
    name, one = f"ListBucket{kind}Configurations", f"GetBucket{kind}Configuration"
    route = Route("GET", Level.BUCKET, query)
    return Unset(name, action, route, root=root, content="<IsTruncated>false</IsTruncated>", one=one)


UNSET: Final[tuple[Unset, ...]] = (
    _bucket(
        "GetBucketReplication",
        Action.GET_REPLICATION_CONFIGURATION,
        "replication",
        error="ReplicationConfigurationNotFoundError",
    ),
    _bucket(
        "GetBucketRequestPayment",
        Action.GET_BUCKET_REQUEST_PAYMENT,
        "requestPayment",
        root="RequestPaymentConfiguration",
        content="<Payer>BucketOwner</Payer>",
    ),
    _bucket("GetBucketLogging", Action.GET_BUCKET_LOGGING, "logging", root="BucketLoggingStatus"),
    _bucket(
        "GetBucketNotificationConfiguration",
        Action.GET_BUCKET_NOTIFICATION,
        "notification",
        root="NotificationConfiguration",
    ),
    _list("Analytics", Action.GET_ANALYTICS_CONFIGURATION, "analytics", "ListBucketAnalyticsConfigurationResult"),
    _list("Inventory", Action.GET_INVENTORY_CONFIGURATION, "inventory", "ListInventoryConfigurationsResult"),
    _list("Metrics", Action.GET_METRICS_CONFIGURATION, "metrics", "ListMetricsConfigurationsResult"),
    _list(
        "IntelligentTiering",
        Action.GET_INTELLIGENT_TIERING_CONFIGURATION,
        "intelligent-tiering",
        "ListBucketIntelligentTieringConfigurationsOutput",
    ),
)

_BY_PLACE: Final = {(unset.route.level, unset.route.query): unset for unset in UNSET}


async def operate(door: Door, request: Request) -> Response:
    """Raises the code that says "unset", NoSuchConfiguration (a report by its id)."""
    (unset,) = (_BY_PLACE[request.level, name] for name in request.query if (request.level, name) in _BY_PLACE)
    if unset.one and "id" in request.query:
        raise S3Error("NoSuchConfiguration", details=(("BucketName", request.bucket_name),))
    if unset.error:
        raise S3Error(unset.error, details=(("BucketName", request.bucket_name),))
    return answer(xml.document(unset.root, unset.content))
