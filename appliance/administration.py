"""What operators see: health, readiness and metrics on an address of their own; control on a Unix socket.

Two Quart-trio applications, because two audiences: `administration_app` says nothing that a stranger may not know and
is bound to admin.addr; `control_app` may do everything and is bound only to the state directory's socket (control.py
has the client).  Neither is in the S3 name space.

They see the store and, for what only the daemon can do (mounting, auditing, adding devices), a `Box`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
import trio
from quart import Response, request
from quart_trio import QuartTrio

from appliance.authority import OPERATOR, Action, authorize
from appliance.credentials import Vault, new_access_key, new_user
from appliance.errors import Code, StoreError
from appliance.metrics import CONTENT_TYPE, Collector, exposition
from appliance.model import AccessKey, Bucket, User
from appliance.quota import Quota
from appliance.rotation import rotate_master_key

if TYPE_CHECKING:
    from appliance.store import ObjectStore

log = logging.getLogger(__name__)

# The control socket's answer to a StoreError; anything else is 400.
STATUSES: Final[Mapping[Code, int]] = {
    Code.NO_SUCH_BUCKET: 404,
    Code.NO_SUCH_KEY: 404,
    Code.EXISTS: 409,
    Code.NOT_EMPTY: 409,
    Code.BUCKET_EXISTS: 409,
    Code.BUCKET_OWNED: 409,
    Code.BUCKET_NOT_EMPTY: 409,
    Code.IN_USE: 409,
    Code.UNAVAILABLE: 503,
    Code.IO_ERROR: 500,
    Code.DAMAGED: 500,
}

Report = Callable[[Mapping[str, Any]], None]
"""Takes one line of progress, as {"stage": "pages", "done": 10, "total": 200}."""


class Box(Protocol):
    """What the daemon lets the command line do."""

    @property
    def store(self) -> ObjectStore: ...
    @property
    def vault(self) -> Vault: ...
    def status(self) -> Mapping[str, Any]:
        """The pool and its doors, as plain JSON values."""

    def mount_status(self) -> Mapping[str, Any]:
        """Where the mount is, and what it was asked for so far."""

    async def mount(self, own: Mapping[str, int]) -> str:
        """Mounts if it is not mounted, with another uid, gid or umask than the configuration's; where."""

    async def umount(self) -> str:
        """Unmounts if it is mounted; where it was."""

    async def settle(self) -> None:
        """Everything that was written through the mount is durable."""

    async def audit(self, report: Report, verify: bool) -> Mapping[str, Any]:
        """Cross-checks catalogue, free map and devices, with `verify` every page; {"problems": [texts], …}."""

    async def add_device(self, path: str, tier: str, erase: bool) -> Mapping[str, Any]:
        """Adds a device to the pool; its status."""


def administration_app(
    collector: Collector, ready: Callable[[], Awaitable[bool]], alive: Callable[[], bool] = lambda: True
) -> QuartTrio:
    """/health, /ready, /metrics.  `alive` and `ready` decide; the answers never say why: that is for the logs."""
    app = QuartTrio(__name__)

    @app.get("/health")
    async def health() -> Response:
        return _verdict(alive())

    @app.get("/ready")
    async def readiness() -> Response:
        return _verdict(await ready())

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(exposition(collector), content_type=CONTENT_TYPE)

    return app


def control_app(box: Box) -> QuartTrio:
    """Every route of the control socket."""
    app = QuartTrio(__name__)
    app.register_error_handler(StoreError, _refusal)
    app.before_request(_authorize)
    _bucket_routes(app, box)
    _user_routes(app, box)
    _key_routes(app, box)

    @app.get("/status")
    async def status() -> Response:
        return _json(box.status())

    @app.get("/devices")
    async def devices() -> Response:
        return _json(box.store.devices())

    @app.post("/devices")
    async def add_device() -> Response:
        values = await _values()
        return _json(await box.add_device(_text(values, "path"), _text(values, "tier"), values.get("erase") is True))

    @app.get("/mount")
    async def mount_status() -> Response:
        return _json(box.mount_status())

    @app.post("/mount")
    async def mount() -> Response:
        """{"uid", "gid", "umask"}: if it is not mounted yet, instead of the configuration's."""
        values = await _values()
        asked = {name: _limit(values, name) for name in ("uid", "gid", "umask")}
        return _json({"mount": await box.mount({name: each for name, each in asked.items() if each is not None})})

    @app.post("/umount")
    async def umount() -> Response:
        return _json({"mount": await box.umount()})

    @app.post("/settle")
    async def settle() -> Response:
        await box.settle()
        return _json({})

    @app.post("/audit")
    async def audit() -> Response:
        verify = (await _values()).get("verify") is True
        response = Response(_follow(app, partial(box.audit, verify=verify)), content_type="application/x-ndjson")
        response.timeout = None  # Quart's 60 s for a streamed answer; a large pool takes longer
        return response

    return app


def _bucket_routes(app: QuartTrio, box: Box) -> None:
    @app.get("/buckets")
    async def buckets() -> Response:
        return _json([_bucket_row(box.store, bucket) for bucket in box.store.buckets()])

    @app.post("/buckets")
    async def create_bucket() -> Response:
        values = await _values()
        copies = values.get("copies")
        if copies is not None and not isinstance(copies, int):
            raise StoreError(Code.INVALID_ARGUMENT, "copies is a number")
        owner = _user(box.store, str(values.get("user") or "default"))
        bucket = await box.store.create_bucket(_text(values, "name"), owner.id, copies=copies)
        return _json(_bucket_row(box.store, bucket))

    @app.post("/buckets/<name>/quota")
    async def set_quota(name: str) -> Response:
        """{"size": bytes or null, "objects": number or null}; both null: none."""
        values = await _values()
        bucket = box.store.bucket(name)
        quota = Quota(_limit(values, "size"), _limit(values, "objects"))
        await box.store.set_quota(bucket, None if quota == Quota() else quota)
        return _json(_bucket_row(box.store, box.store.bucket(name)))

    @app.delete("/buckets/<name>")
    async def delete_bucket(name: str) -> Response:
        await box.store.delete_bucket(name)
        return _json({"name": name})


def _user_routes(app: QuartTrio, box: Box) -> None:
    @app.get("/users")
    async def users() -> Response:
        return _json([_user_row(user) for user in box.store.users()])

    @app.post("/users")
    async def create_user() -> Response:
        """With a first access key unless `key` is false."""
        values = await _values()
        user = new_user(
            _text(values, "name"),
            str(values.get("display") or ""),
            str(values.get("email") or ""),
            time.time_ns(),
        )
        await box.store.put_user(user)
        if values.get("key") is False:
            return _json(_user_row(user))
        key, secret = new_access_key(user.id, user.name, box.vault, time.time_ns())
        await box.store.put_access_key(key)
        return _json({**_key_row(box.store, key), "secret_key": secret})

    @app.delete("/users/<name>")
    async def delete_user(name: str) -> Response:
        """The user's keys go too; buckets must be gone before."""
        user = _user(box.store, name)
        if not user.created_ns:
            raise StoreError(Code.INVALID_ARGUMENT, f"{user.name} is built in")
        if any(bucket.owner == user.id for bucket in box.store.buckets()):
            raise StoreError(Code.NOT_EMPTY, f"{user.name} still owns a bucket")
        for key in box.store.access_keys():
            if key.owner == user.id:
                await box.store.remove_access_key(key.id)
        await box.store.remove_user(user.id)
        return _json(_user_row(user))


def _user(store: ObjectStore, name: str) -> User:
    """By name or canonical id."""
    for user in store.users():
        if name in (user.name, user.id):
            return user
    raise StoreError(Code.NO_SUCH_KEY, f"no such user: {name}")


def _user_row(user: User) -> dict[str, Any]:
    return {
        "user_id": user.id,
        "user": user.name,
        "display_name": user.display,
        "email": user.email,
        "created_ns": user.created_ns,
    }


def _key_routes(app: QuartTrio, box: Box) -> None:
    @app.get("/keys")
    async def keys() -> Response:
        return _json([_key_row(box.store, key) for key in box.store.access_keys()])

    @app.post("/keys")
    async def create_key() -> Response:
        values = await _values()
        owner = _user(box.store, str(values.get("user") or "default"))
        key, secret = new_access_key(owner.id, str(values.get("name") or ""), box.vault, time.time_ns())
        read_only, names = values.get("read_only") is True, values.get("buckets") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise StoreError(Code.INVALID_ARGUMENT, "buckets is a list of names")
        for name in names:
            box.store.bucket(name)  # a key for a misspelt bucket would open nothing
        key = msgspec.structs.replace(key, read_only=read_only, buckets=tuple(names))
        await box.store.put_access_key(key)
        return _json({**_key_row(box.store, key), "secret_key": secret})

    @app.get("/keys/data")
    async def data_keys() -> Response:
        keys = box.store.data_keys()
        return _json([{"id": key.id, "created_ns": key.created_ns, "seals": key is keys[-1]} for key in keys])

    @app.post("/keys/data")
    async def create_data_key() -> Response:
        return _json({"id": (await box.store.new_data_key()).id})

    @app.post("/keys/master")
    async def rotate_master() -> Response:
        return _json(msgspec.to_builtins(await rotate_master_key(box.store, box.vault)))

    @app.delete("/keys/<key_id>")
    async def revoke_key(key_id: str) -> Response:
        await box.store.remove_access_key(key_id)
        return _json({"access_key": key_id})


async def _follow(app: QuartTrio, work: Callable[[Report], Awaitable[Mapping[str, Any]]]) -> AsyncIterator[bytes]:
    """Runs `work`, yielding its reports and then its result, one JSON object a line.

    Reports may come faster than the client reads: the newest replaces what was not yet sent.  The work runs in the
    app's own nursery and ends even if the client does not wait for it.
    """
    send, receive = trio.open_memory_channel[Mapping[str, Any]](1)
    outcome: dict[str, Any] = {"error": "INTERNAL", "message": "the work failed: the daemon's log says why"}

    def report(event: Mapping[str, Any]) -> None:
        try:
            send.send_nowait(event)
        except trio.WouldBlock:
            receive.receive_nowait()
            send.send_nowait(event)

    async def run() -> None:
        nonlocal outcome
        with send:
            try:
                outcome = {"result": await work(report)}
            except StoreError as error:
                outcome = {"error": error.code.name, "message": error.message}

    app.add_background_task(run)
    async for event in receive:
        yield msgspec.json.encode(event) + b"\n"
    yield msgspec.json.encode(outcome) + b"\n"


def _bucket_row(store: ObjectStore, bucket: Bucket) -> dict[str, Any]:
    usage = store.usage(bucket)
    limited = store.quota(bucket.id)
    quota = Quota() if limited is None else limited[0]
    return {
        "name": bucket.name,
        "created_ns": bucket.created_ns,
        "copies": bucket.copies,
        "owner": bucket.owner,
        "objects": usage.objects,
        "bytes": usage.bytes,
        "unfinished": usage.parts,
        "quota_objects": quota.objects,
        "quota_size": quota.size,
    }


def _key_row(store: ObjectStore, key: AccessKey) -> dict[str, Any]:
    """What may be shown of a key and whose it is: never what is sealed."""
    user = store.user(key.owner)
    return {
        **(_user_row(user) if user is not None else {}),
        "access_key": key.id,
        "name": key.name,
        "owner": key.owner,
        "created_ns": key.created_ns,
        "read_only": key.read_only,
        "buckets": list(key.buckets),
    }


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status=status, content_type="application/json")


def _verdict(good: bool) -> Response:
    return Response("ok\n" if good else "not ok\n", status=200 if good else 503, content_type="text/plain")


def _authorize() -> None:
    """Whoever reached the socket is the operator: its mode said so.  Asked all the same, as every door asks (H6)."""
    authorize(OPERATOR, Action.ADMIN, None)


async def _refusal(error: StoreError) -> Response:
    log.info("control request refused", extra={"facts": {"code": error.code.name, "reason": error.message}})
    return _json({"error": error.code.name, "message": error.message}, STATUSES.get(error.code, 400))


async def _values() -> dict[str, Any]:
    """The request's JSON object."""
    try:
        return msgspec.json.decode(await request.get_data(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise StoreError(Code.INVALID_ARGUMENT, f"the request is not a JSON object: {error}") from error


def _limit(values: Mapping[str, Any], name: str) -> int | None:
    value = values.get(name)
    if value is not None and type(value) is not int:
        raise StoreError(Code.INVALID_ARGUMENT, f"{name} is a number")
    return value


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value:
        raise StoreError(Code.INVALID_ARGUMENT, f"{name} is missing")
    return value
