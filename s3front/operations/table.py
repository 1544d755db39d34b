"""Every operation that this door serves: one module each, gathered here, and the router made of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

from appliance.authority import Action
from s3front.operations import (
    abort_multipart_upload,
    complete_multipart_upload,
    copy_object,
    create_bucket,
    create_multipart_upload,
    delete_bucket,
    delete_bucket_cors,
    delete_bucket_encryption,
    delete_bucket_lifecycle,
    delete_bucket_ownership_controls,
    delete_bucket_policy,
    delete_bucket_tagging,
    delete_bucket_website,
    delete_object,
    delete_object_tagging,
    delete_objects,
    delete_public_access_block,
    get_bucket_accelerate_configuration,
    get_bucket_acl,
    get_bucket_cors,
    get_bucket_encryption,
    get_bucket_lifecycle_configuration,
    get_bucket_location,
    get_bucket_ownership_controls,
    get_bucket_policy,
    get_bucket_policy_status,
    get_bucket_tagging,
    get_bucket_versioning,
    get_bucket_website,
    get_object,
    get_object_acl,
    get_object_attributes,
    get_object_legal_hold,
    get_object_lock_configuration,
    get_object_retention,
    get_object_tagging,
    get_object_torrent,
    get_public_access_block,
    head_bucket,
    head_object,
    list_buckets,
    list_multipart_uploads,
    list_object_versions,
    list_objects,
    list_objects_v2,
    list_parts,
    post_object,
    put_bucket_accelerate_configuration,
    put_bucket_acl,
    put_bucket_cors,
    put_bucket_encryption,
    put_bucket_lifecycle_configuration,
    put_bucket_logging,
    put_bucket_notification_configuration,
    put_bucket_ownership_controls,
    put_bucket_policy,
    put_bucket_request_payment,
    put_bucket_tagging,
    put_bucket_versioning,
    put_bucket_website,
    put_object,
    put_object_acl,
    put_object_legal_hold,
    put_object_lock_configuration,
    put_object_retention,
    put_object_tagging,
    put_public_access_block,
    rename_object,
    unset_configuration,
    upload_part,
    upload_part_copy,
)
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Route, Router

Operate = Callable[[Door, Request], Awaitable[Response]]


class Operation(NamedTuple):
    """One of S3's operations: its name there, what authorisation it needs, where it is found, and what it does.

    `copies` operations also read the object that x-amz-copy-source names; `needs_bucket` is false where the bucket need
    not exist.  `form` operations alone take what a form's policy vouches for.  `each_key` operations name keys in their
    document, and ask for each whether they may.
    """

    name: str
    action: Action
    routes: tuple[Route, ...]
    operate: Operate
    copies: bool = False
    needs_bucket: bool = True
    form: bool = False
    each_key: bool = False


class _Module(Protocol):
    @property
    def NAME(self) -> str: ...
    @property
    def ACTION(self) -> Action: ...
    @property
    def ROUTES(self) -> tuple[Route, ...]: ...
    def operate(self, door: Door, request: Request) -> Awaitable[Response]: ...


def _operation(module: _Module, **how: bool) -> Operation:
    return Operation(module.NAME, module.ACTION, module.ROUTES, module.operate, **how)


OPERATIONS: Final[tuple[Operation, ...]] = (
    _operation(list_buckets, needs_bucket=False),
    _operation(create_bucket, needs_bucket=False),
    _operation(head_bucket),
    _operation(delete_bucket),
    _operation(get_bucket_location),
    _operation(get_bucket_encryption),
    _operation(put_bucket_encryption),
    _operation(delete_bucket_encryption),
    _operation(get_bucket_versioning),
    _operation(put_bucket_versioning),
    _operation(get_object_legal_hold),
    _operation(get_object_lock_configuration),
    _operation(get_object_retention),
    _operation(put_object_legal_hold),
    _operation(put_object_lock_configuration),
    _operation(put_object_retention),
    _operation(list_objects),
    _operation(list_objects_v2),
    _operation(list_object_versions),
    _operation(list_multipart_uploads),
    _operation(delete_objects, each_key=True),
    _operation(get_object),
    _operation(head_object),
    _operation(get_object_attributes),
    _operation(put_object),
    _operation(post_object, form=True),
    _operation(copy_object, copies=True),
    _operation(delete_object),
    _operation(rename_object),
    _operation(create_multipart_upload),
    _operation(upload_part),
    _operation(upload_part_copy, copies=True),
    _operation(complete_multipart_upload),
    _operation(abort_multipart_upload),
    _operation(list_parts),
    _operation(get_object_torrent),
    _operation(get_object_tagging),
    _operation(put_object_tagging),
    _operation(delete_object_tagging),
    _operation(get_bucket_tagging),
    _operation(put_bucket_tagging),
    _operation(delete_bucket_tagging),
    _operation(get_bucket_cors),
    _operation(put_bucket_cors),
    _operation(get_bucket_lifecycle_configuration),
    _operation(put_bucket_lifecycle_configuration),
    _operation(delete_bucket_lifecycle),
    _operation(delete_bucket_cors),
    _operation(get_bucket_accelerate_configuration),
    _operation(put_bucket_accelerate_configuration),
    _operation(put_bucket_request_payment),
    _operation(put_bucket_logging),
    _operation(put_bucket_notification_configuration),
    _operation(get_bucket_website),
    _operation(put_bucket_website),
    _operation(delete_bucket_website),
    _operation(get_bucket_acl),
    _operation(put_bucket_acl),
    _operation(get_object_acl),
    _operation(put_object_acl),
    _operation(get_bucket_policy),
    _operation(put_bucket_policy),
    _operation(delete_bucket_policy),
    _operation(get_bucket_policy_status),
    _operation(get_bucket_ownership_controls),
    _operation(put_bucket_ownership_controls),
    _operation(delete_bucket_ownership_controls),
    _operation(get_public_access_block),
    _operation(put_public_access_block),
    _operation(delete_public_access_block),
    *(
        Operation(unset.name, unset.action, (unset.route,), unset_configuration.operate)
        for unset in unset_configuration.UNSET
    ),
)


def router() -> Router[Operation]:
    """The table of all routes."""
    return Router((route, operation) for operation in OPERATIONS for route in operation.routes)
