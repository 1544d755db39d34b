"""Whether a request is let in, where more decides than the caller being the bucket's owner.

app.py lets a bucket's owner in at once where the bucket has no policy and no ACL.  Every other request comes here: what
a policy, an ACL or an object's owner decides needs the object as it is, the request's circumstances, and sometimes its
document.  appliance/authority.py judges; this module gathers what it judges by.

A request that is let in because of the object it found is let in for that object: whoever reads it looks it up again
and asks `recheck`, which judges anew if somebody put another in its place meanwhile.

Whether there is an object at all is told only to those who may list: others get AccessDenied for what is not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from appliance import settings
from appliance.access.actions import OBJECT_ACTIONS, OF_VERSION
from appliance.authority import DECIDING, OBJECT_OWNERS, Action, Asked, Principal, authorize
from appliance.errors import Code, StoreError
from s3front import grants, intake, object_lock
from s3front.circumstances import DOCUMENTS, Circumstances, of_document
from s3front.errors import S3Error

if TYPE_CHECKING:
    from appliance.model import Bucket, Node
    from s3front.request import Door, Request, Source

# A header that asks for more than the operation: what else the caller must be allowed.
_ALSO: Final[dict[bytes, Action]] = {
    b"x-amz-tagging": Action.PUT_OBJECT_TAGGING,
    b"x-amz-object-lock-mode": Action.PUT_OBJECT_RETENTION,
    b"x-amz-object-lock-retain-until-date": Action.PUT_OBJECT_RETENTION,
    b"x-amz-object-lock-legal-hold": Action.PUT_OBJECT_LEGAL_HOLD,
}
# An operation that asks for more than its own action ("Required permissions for Amazon S3 API operations"): attributes
# are some of what GetObject gives, and a write that depends on an ETag, a date or a size tells whether it is that one.
_WITH: Final[dict[Action, Action]] = {Action.GET_OBJECT_ATTRIBUTES: Action.GET_OBJECT}
_GUESSES: Final = frozenset(
    {b"if-match", b"if-unmodified-since", b"x-amz-if-match-last-modified-time", b"x-amz-if-match-size"}
)
_CONDITIONAL: Final = frozenset({Action.PUT_OBJECT, Action.DELETE_OBJECT})
# What makes or finishes an object asks nothing about the one that is there.
_BLIND: Final = frozenset({Action.PUT_OBJECT, Action.ABORT_MULTIPART_UPLOAD, Action.LIST_MULTIPART_UPLOAD_PARTS})
_OF_UPLOAD: Final = frozenset({Action.ABORT_MULTIPART_UPLOAD, Action.LIST_MULTIPART_UPLOAD_PARTS})


class Admission:
    """Why a request was let in.  `judged` is the object that was found, None where it did not matter."""

    __slots__ = ("_acting", "_action", "_asked", "_bucket", "_circumstances", "_door", "_principal", "judged")

    def __init__(
        self, door: Door, principal: Principal | None, action: Action, bucket: Bucket, circumstances: Circumstances
    ) -> None:
        self._door = door
        self._principal = principal
        self._action = action
        self._acting = action  # with a version named
        self._bucket = bucket
        self._circumstances = circumstances
        name = circumstances.user.name if circumstances.user is not None else ""
        self._asked = Asked(name=name, values=circumstances)
        self.judged: Node | None = None

    async def judge(self, key: bytes, version_id: str, headers: Mapping[bytes, bytes], *, initiator: str = "") -> None:
        """May the caller act on this key, and do what the headers ask beside?  Raises StoreError ACCESS_DENIED."""
        await self._judge_alone(key, version_id, initiator)
        for other in _also(self._action, headers):
            await self.allow(other, key, version_id)

    async def _judge_alone(self, key: bytes, version_id: str, initiator: str) -> None:
        self._circumstances.version_id = version_id
        action = self._acting = OF_VERSION.get(self._action, self._action) if version_id else self._action
        if action not in OBJECT_ACTIONS:
            authorize(self._principal, action, self._bucket, self._asked)
            return
        node = self.judged = None
        if action in OBJECT_OWNERS or (settings.POLICY in self._bucket.settings and action not in _BLIND):
            node = await self._find(key, version_id)
            if node is None and action in OBJECT_OWNERS:
                self._may_know_of(key)
                return
        self._judge(action, key, node, initiator)
        self.judged = node

    async def allow(self, action: Action, key: bytes, version_id: str) -> None:
        """Another action on the same key.  Raises StoreError ACCESS_DENIED."""
        self._circumstances.version_id = version_id
        if version_id:
            action = OF_VERSION.get(action, action)
        node = self.judged
        if node is None and action in OBJECT_OWNERS:
            node = await self._find(key, version_id)
        self._judge(action, key, node, "")

    async def also(self, action: Action, key: bytes) -> None:
        """Another action on another key of the bucket.  Raises StoreError ACCESS_DENIED."""
        other = Admission(self._door, self._principal, action, self._bucket, self._circumstances)
        await other.judge(key, "", {})

    def recheck(self, key: bytes, node: Node) -> None:
        """The object as it is now, before it is shown.  Raises StoreError ACCESS_DENIED."""
        judged = self.judged
        if judged is None or judged.id != node.id or judged.packed != node.packed:
            self._judge(self._acting, key, node, "")
            self.judged = node

    def _judge(self, action: Action, key: bytes, node: Node | None, initiator: str) -> None:
        existing = None if node is None else node.attributes
        self._circumstances.tags = existing.tags if existing is not None else {}
        asked = msgspec.structs.replace(
            self._asked,
            key=key,
            existing=existing,
            initiator=initiator,
            making=self._action is Action.PUT_OBJECT,
        )
        authorize(self._principal, action, self._bucket, asked)

    def _may_know_of(self, key: bytes) -> None:
        """Who may list the key may be told that it is not there."""
        prefix = self._circumstances.with_said({"s3:prefix": (key.decode("utf-8", "replace"),)})
        asked = msgspec.structs.replace(self._asked, values=prefix)
        authorize(self._principal, Action.LIST_BUCKET, self._bucket, asked)

    async def _find(self, key: bytes, version_id: str) -> Node | None:
        try:
            return await self._door.store.look_up_version(self._bucket, key, version_id)
        except StoreError as error:
            if error.code not in (Code.NO_SUCH_KEY, Code.NO_SUCH_VERSION):
                raise
            return None


async def admit(door: Door, request: Request, action: Action, now: float, *, each_key: bool = False) -> Admission:
    """Lets the request act on its bucket, or raises StoreError ACCESS_DENIED.

    `each_key`: its document names keys, each of which is judged by itself later; here nothing is.
    """
    said: Mapping[str, Sequence[str]] = {}
    if action in DOCUMENTS and settings.POLICY in request.bucket.settings:
        said = of_document(action, await intake.document(request))
    admission = _admission(door, request, request.bucket, action, now, said)
    if each_key and not DECIDING.isdisjoint(request.bucket.settings):
        return admission
    initiator = _initiator(door, request) if action in _OF_UPLOAD else ""
    version_id = request.query.get("versionId", "")
    await admission.judge(request.key, version_id, request.headers, initiator=initiator)
    return admission


def _also(action: Action, headers: Mapping[bytes, bytes]) -> set[Action]:
    """What else the request needs to be allowed."""
    also = {other for header, other in _ALSO.items() if header in headers}
    if action in _WITH:
        also.add(_WITH[action])
    if action in _CONDITIONAL and not _GUESSES.isdisjoint(headers):
        also.add(Action.GET_OBJECT)
    if action is Action.PUT_OBJECT and not grants.HEADERS.isdisjoint(headers):
        also.add(Action.PUT_OBJECT_ACL)
    if object_lock.bypasses(headers):
        also.add(Action.BYPASS_GOVERNANCE_RETENTION)
    return also


async def admit_source(door: Door, request: Request, source: Source, now: float) -> Admission:
    """Lets the request read what it copies, or raises StoreError ACCESS_DENIED.  Tags that are copied are read too."""
    version_id = source.version_id
    admission = _admission(door, request, source.bucket, Action.GET_OBJECT, now, {})
    await admission.judge(source.key, version_id, {})
    if admission.judged is not None and admission.judged.attributes.tags and not _retags(request):
        await admission.allow(Action.GET_OBJECT_TAGGING, source.key, version_id)
    return admission


def require_owner(request: Request) -> None:
    """A policy is its bucket owner's alone, whatever it says of others.  Raises MethodNotAllowed, as AWS does for those
    of another account who have the permission."""
    principal = request.verified.principal
    if principal is None or principal.owner != request.bucket.owner:
        raise S3Error("MethodNotAllowed", headers=((b"allow", b""),))


def _admission(
    door: Door,
    request: Request,
    bucket: Bucket,
    action: Action,
    now: float,
    said: Mapping[str, Sequence[str]],
) -> Admission:
    principal = request.verified.principal
    user = door.store.user(principal.owner) if principal is not None else None
    return Admission(door, principal, action, bucket, Circumstances(request, bucket, user, now, door.region, said))


def _retags(request: Request) -> bool:
    return "uploadId" in request.query or request.headers.get(b"x-amz-tagging-directive", b"").upper() == b"REPLACE"


def _initiator(door: Door, request: Request) -> str:
    """Who began the upload; empty for an upload that is not there."""
    try:
        return door.store.upload(request.bucket, request.key, request.query.get("uploadId", "")).owner
    except StoreError as error:
        if error.code is not Code.NO_SUCH_UPLOAD:
            raise
        return ""
