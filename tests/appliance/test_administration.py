"""Health, readiness, metrics and the control socket, over the real hypercorn and the real client."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import hypercorn.trio
import pytest
import trio
from hypercorn.config import Config

from appliance.administration import Report, administration_app, control_app
from appliance.control import Control, NoDaemon, Refused
from appliance.credentials import Vault, open_vault
from appliance.errors import Code, StoreError
from appliance.metrics import Collector, Requests
from appliance.model import AccessKey, Bucket, DataKey, DeviceStatus, Usage, User, WrappedKey
from appliance.quota import Quota
from appliance.store import DEFAULT_USER


class Store:
    """As much of a store as the control socket uses, in dicts."""

    def __init__(self) -> None:
        self.made: dict[str, Bucket] = {}
        self.keys: dict[str, AccessKey] = {}
        self.quotas: dict[int, Quota] = {}
        self.people = {DEFAULT_USER.id: DEFAULT_USER}
        self.rotating = trio.Lock()

    def user(self, user_id: str) -> User | None:
        return self.people.get(user_id)

    def users(self) -> list[User]:
        return list(self.people.values())

    async def put_user(self, user: User) -> None:
        if any(user.name == other.name for other in self.people.values()):
            raise StoreError(Code.EXISTS, "another user has this name")
        self.people[user.id] = user

    async def remove_user(self, user_id: str) -> None:
        del self.people[user_id]

    def bucket(self, name: str) -> Bucket:
        if name not in self.made:
            raise StoreError(Code.NO_SUCH_BUCKET, f"no bucket {name}")
        return self.made[name]

    def buckets(self) -> list[Bucket]:
        return sorted(self.made.values(), key=lambda bucket: bucket.name)

    async def create_bucket(self, name: str, owner: str, *, copies: int | None = None) -> Bucket:
        if name in self.made:
            raise StoreError(Code.BUCKET_OWNED)
        self.made[name] = Bucket(len(self.made) + 1, "default", name, 0, 1, owner, copies or 1)
        return self.made[name]

    async def delete_bucket(self, name: str) -> None:
        self.bucket(name)
        del self.made[name]

    def usage(self, bucket: Bucket | None = None) -> Usage:
        return Usage(3, 30, 7)

    async def set_quota(self, bucket: Bucket, quota: Quota | None) -> None:
        if quota is None:
            self.quotas.pop(bucket.id, None)
        else:
            self.quotas[bucket.id] = quota

    def quota(self, bucket: int) -> tuple[Quota, int, int] | None:
        return (self.quotas[bucket], 3, 37) if bucket in self.quotas else None

    def access_keys(self) -> list[AccessKey]:
        return list(self.keys.values())

    async def settle(self) -> None:
        """Everything is settled at once."""

    async def put_access_key(self, key: AccessKey, *, replaces: bool = False) -> None:
        if replaces and key.id not in self.keys:
            raise StoreError(Code.NO_SUCH_KEY)
        self.keys[key.id] = key

    async def remove_access_key(self, key_id: str) -> None:
        if self.keys.pop(key_id, None) is None:
            raise StoreError(Code.NO_SUCH_KEY, f"no access key {key_id}")

    async def rewrap_data_keys(self) -> tuple[int, list[int]]:
        return 2, [7]

    async def new_data_key(self) -> DataKey:
        return DataKey(9, bytes(32))

    def data_keys(self) -> list[WrappedKey]:
        return [WrappedKey(8, b"", 1), WrappedKey(9, b"", 2)]

    def devices(self) -> list[DeviceStatus]:
        return [DeviceStatus(1, "u", "/dev/a", "blaze", "online", 9, 8, 7, True, 0, 0, 0)]


class FakeBox:
    """A box without doors."""

    def __init__(self, vault: Vault) -> None:
        self.store = cast(Any, Store())
        self.vault = vault
        self.mounted = True
        self.own: Mapping[str, int] = {}
        self.fails: BaseException | None = None

    def status(self) -> Mapping[str, Any]:
        return {"pool": "demo"}

    def mount_status(self) -> Mapping[str, Any]:
        return {"places": []}

    async def settle(self) -> None:
        """Everything is settled at once."""

    async def mount(self, own: Mapping[str, int]) -> str:
        self.mounted, self.own = True, own
        return "/m"

    async def umount(self) -> str:
        self.mounted = False
        return "/m"

    async def audit(self, report: Report, verify: bool) -> Mapping[str, Any]:
        for done in range(1, 51):
            report({"stage": "pages", "done": done, "total": 50})
            await trio.lowlevel.checkpoint()
        if self.fails:
            raise self.fails
        return {"problems": [], "pages": 50, "verified": verify}

    async def add_device(self, path: str, tier: str, erase: bool) -> Mapping[str, Any]:
        return {"path": path, "tier": tier, "erase": erase}


Talk = Callable[[Control, FakeBox], object]


@pytest.fixture
def talk(tmp_path: Path) -> Callable[[Talk], None]:
    """Runs a conversation in a thread while the control app is served on a Unix socket."""

    def run(conversation: Talk) -> None:
        async def serve() -> None:
            path = tmp_path / "control.sock"
            box = FakeBox(open_vault(tmp_path / "master.key", {}))
            config, done = Config(), trio.Event()
            config.bind, config.errorlog = [f"unix:{path}"], None
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(hypercorn.trio.serve, control_app(box), config, shutdown_trigger=done.wait))
                try:
                    await trio.to_thread.run_sync(conversation, Control(path), box)
                finally:
                    done.set()

        trio.run(serve)

    return run


def test_a_bucket_has_a_quota(talk: Callable[[Talk], None]) -> None:
    def main(control: Control, box: FakeBox) -> None:
        control.post("/buckets", name="photos")
        row = control.post("/buckets/photos/quota", size=10 << 30, objects=None)
        assert (row["quota_size"], row["quota_objects"], row["unfinished"]) == (10 << 30, None, 7)
        assert control.get("/buckets")[0]["quota_size"] == 10 << 30
        row = control.post("/buckets/photos/quota", size=None, objects=None)
        assert (row["quota_size"], row["quota_objects"]) == (None, None)
        for values in ({"size": "1"}, {"objects": True}, {"size": 1.5}):
            with pytest.raises(Refused, match="is a number"):
                control.post("/buckets/photos/quota", **values)
        with pytest.raises(Refused, match="no bucket"):
            control.post("/buckets/phtoos/quota", size=1)

    talk(main)


def test_buckets_come_and_go(talk: Callable[[Talk], None]) -> None:
    def conversation(control: Control, box: FakeBox) -> None:
        assert control.post("/buckets", name="photos", copies=2)["copies"] == 2
        [row] = control.get("/buckets")
        assert (row["name"], row["objects"], row["bytes"]) == ("photos", 3, 30)
        with pytest.raises(Refused) as caught:
            control.post("/buckets", name="photos")
        assert caught.value.code == "BUCKET_OWNED"
        control.delete("/buckets/photos")
        assert control.get("/buckets") == []
        with pytest.raises(Refused, match="no bucket photos"):
            control.delete("/buckets/photos")

    talk(conversation)


def test_a_secret_is_shown_once_and_never_listed(talk: Callable[[Talk], None]) -> None:
    def conversation(control: Control, box: FakeBox) -> None:
        made = control.post("/keys", name="laptop", read_only=True)
        [row] = control.get("/keys")
        assert (row["access_key"], row["name"], row["read_only"]) == (made["access_key"], "laptop", True)
        assert made["secret_key"] not in json.dumps(row)
        assert not {"sealed", "secret_key"} & set(row)
        assert box.vault.unseal(box.store.keys[made["access_key"]]) == made["secret_key"]
        control.delete(f"/keys/{made['access_key']}")
        assert control.get("/keys") == []

    talk(conversation)


def test_master_and_data_keys_are_rotated(talk: Callable[[Talk], None]) -> None:
    """Everything that can be opened is sealed by the new master key; what cannot is named and left alone."""

    def conversation(control: Control, box: FakeBox) -> None:
        made = control.post("/keys", name="laptop")
        other = Vault({b"gone": bytes(32)}, None)
        foreign = AccessKey("TCFOREIGN", "", "default", 0, other.seal("TCFOREIGN", "s"))
        box.store.keys[foreign.id] = foreign
        before = box.vault.current
        done = control.post("/keys/master")
        assert done == {
            "master_key": box.vault.current,
            "access_keys": 1,
            "data_keys": 2,
            "lost": ["TCFOREIGN", "data key 7"],
        }
        assert box.vault.current != before
        assert repr(box.vault) == "<Vault: 1 master keys>"
        assert box.vault.unseal(box.store.keys[made["access_key"]]) == made["secret_key"]
        assert box.store.keys["TCFOREIGN"] == foreign
        assert control.post("/keys/data") == {"id": 9}
        assert control.get("/keys/data") == [
            {"id": 8, "created_ns": 1, "seals": False},
            {"id": 9, "created_ns": 2, "seals": True},
        ]

    talk(conversation)


def test_a_key_for_a_bucket_that_is_not_there_is_refused(talk: Callable[[Talk], None]) -> None:
    def conversation(control: Control, box: FakeBox) -> None:
        with pytest.raises(Refused, match="no bucket phtoos"):
            control.post("/keys", buckets=["phtoos"])
        assert box.store.keys == {}

    talk(conversation)


def test_users_come_with_a_key_and_go_with_all_of_them(talk: Callable[[Talk], None]) -> None:
    def conversation(control: Control, box: FakeBox) -> None:
        anna = control.post("/users", name="anna", display="Anna A.", email="anna@example.org")
        assert len(anna["user_id"]) == 64
        assert (anna["user"], anna["display_name"], anna["email"]) == ("anna", "Anna A.", "anna@example.org")
        assert box.vault.unseal(box.store.keys[anna["access_key"]]) == anna["secret_key"]
        second = control.post("/keys", user="anna", name="laptop")
        assert {name: second[name] for name in ("user_id", "user", "display_name", "email")} == {
            name: anna[name] for name in ("user_id", "user", "display_name", "email")
        }
        assert box.store.keys[second["access_key"]].owner == anna["user_id"]
        assert control.post("/buckets", name="photos", user=anna["user_id"])["owner"] == anna["user_id"]
        assert "access_key" not in control.post("/users", name="bert", key=False)
        assert [row["user"] for row in control.get("/users")] == ["default", "anna", "bert"]
        refusals: list[Callable[[], object]] = [
            lambda: control.post("/users", name="anna"),
            lambda: control.delete("/users/anna"),  # still owns a bucket
            lambda: control.delete("/users/default"),
            lambda: control.delete("/users/nobody"),
            lambda: control.post("/keys", user="nobody"),
            lambda: control.post("/buckets", name="other", user="nobody"),
        ]
        for refused in refusals:
            with pytest.raises(Refused):
                refused()
        assert len(box.store.keys) == 2
        control.delete("/buckets/photos")
        control.delete("/users/anna")
        assert box.store.keys == {}
        assert [row["user"] for row in control.get("/users")] == ["default", "bert"]

    talk(conversation)


@pytest.mark.parametrize(
    ("route", "values", "said"),
    [
        ("/buckets", {}, "name is missing"),
        ("/buckets", {"name": "b", "copies": "two"}, "copies is a number"),
        ("/keys", {"buckets": "b"}, "buckets is a list"),
        ("/devices", {"path": "/dev/a"}, "tier is missing"),
        ("/users", {}, "name is missing"),
        ("/users", {"name": "an na"}, "a user's name"),
        ("/users", {"name": "anna", "email": "anna"}, "not an e-mail address"),
        ("/users", {"name": "anna", "display": "a\nb"}, "printable"),
    ],
)
def test_a_wrong_request_is_named(
    talk: Callable[[Talk], None], route: str, values: dict[str, object], said: str
) -> None:
    def conversation(control: Control, box: FakeBox) -> None:
        with pytest.raises(Refused, match=said):
            control.post(route, **values)

    talk(conversation)


def test_an_unknown_route_is_refused(talk: Callable[[Talk], None]) -> None:
    def conversation(control: Control, box: FakeBox) -> None:
        with pytest.raises(Refused, match="404"):
            control.get("/nothing")

    talk(conversation)


def test_the_mount_and_devices_are_reached(talk: Callable[[Talk], None]) -> None:
    def conversation(control: Control, box: FakeBox) -> None:
        assert control.post("/umount") == {"mount": "/m"}
        assert not box.mounted
        assert control.post("/mount") == {"mount": "/m"}
        assert box.mounted
        assert control.get("/devices")[0]["path"] == "/dev/a"
        added = control.post("/devices", path="/dev/b", tier="bulk", erase=True)
        assert added == {"path": "/dev/b", "tier": "bulk", "erase": True}
        assert control.get("/status") == {"pool": "demo"}

    talk(conversation)


def test_an_audit_reports_and_ends_with_its_result(talk: Callable[[Talk], None]) -> None:
    def conversation(control: Control, box: FakeBox) -> None:
        *reports, last = control.follow("/audit")
        assert reports
        assert [event["done"] for event in reports] == sorted(event["done"] for event in reports)
        assert last == {"result": {"problems": [], "pages": 50, "verified": False}}
        assert list(control.follow("/audit", verify=True))[-1]["result"]["verified"]

    talk(conversation)


@pytest.mark.parametrize(
    ("failure", "said"),
    [(StoreError(Code.IO_ERROR, "the disk is gone"), "the disk is gone"), (ValueError("a bug"), "the daemon's log")],
)
def test_an_audit_that_fails_says_so(talk: Callable[[Talk], None], failure: Exception, said: str) -> None:
    def conversation(control: Control, box: FakeBox) -> None:
        box.fails = failure
        with pytest.raises(Refused, match=said):
            list(control.follow("/audit"))
        assert control.get("/status") == {"pool": "demo"}, "the daemon lives on"

    talk(conversation)


def test_no_daemon_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match="tierce serve"):
        Control(tmp_path / "control.sock").get("/status")


def test_a_dead_socket_is_no_daemon(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    with pytest.raises(NoDaemon):
        Control(path).get("/status")


# ------------------------------------------------------------------------------------------------------ operators


def answers(ready: bool, alive: bool) -> dict[str, tuple[int, str]]:
    """Status and text of the three routes."""
    found: dict[str, tuple[int, str]] = {}

    async def is_ready() -> bool:
        return ready

    async def ask() -> None:
        app = administration_app(Collector(Requests(), dict, list), is_ready, lambda: alive)
        client = app.test_client()
        for route in ("/health", "/ready", "/metrics", "/status", "/buckets"):
            response = await client.get(route)
            found[route] = (response.status_code, await response.get_data(as_text=True))

    trio.run(ask)
    return found


def test_a_well_box_says_ok() -> None:
    found = answers(ready=True, alive=True)
    assert found["/health"] == found["/ready"] == (200, "ok\n")
    assert found["/metrics"][0] == 200
    assert "tierce_objects_total 0.0" in found["/metrics"][1]


def test_an_unwell_box_says_no_more_than_that() -> None:
    found = answers(ready=False, alive=False)
    assert found["/health"] == found["/ready"] == (503, "not ok\n")


def test_control_is_not_on_the_operators_address() -> None:
    found = answers(ready=True, alive=True)
    assert found["/status"][0] == found["/buckets"][0] == 404
