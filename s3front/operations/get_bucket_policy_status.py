"""GetBucketPolicyStatus: GET /bucket?policyStatus.  Whether everybody is let in, by the policy or by the list."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.access import acl, blocks, policy
from appliance.authority import Action
from appliance.model import Bucket
from s3front import xml
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "GetBucketPolicyStatus"
ACTION: Final = Action.GET_BUCKET_POLICY_STATUS
ROUTES: Final = (Route("GET", Level.BUCKET, "policyStatus"),)


async def operate(door: Door, request: Request) -> Response:
    """What the public-access block ignores lets nobody in."""
    public = "true" if is_public(request.bucket) else "false"
    return answer(xml.document("PolicyStatus", f"<IsPublic>{public}</IsPublic>"))


def is_public(bucket: Bucket) -> bool:
    """ "The meaning of 'public'" (Amazon S3 User Guide)."""
    held = bucket.settings
    block = blocks.parse(held.get(settings.PUBLIC_ACCESS_BLOCK))
    if settings.POLICY in held and not block.restrict_public_buckets and policy.parse(held[settings.POLICY]).public:
        return True
    enforced = blocks.parse_ownership(held.get(settings.OWNERSHIP)) == blocks.ENFORCED
    if settings.ACL not in held or enforced or block.ignore_public_acls:
        return False
    return acl.public(acl.parse(held[settings.ACL]))
