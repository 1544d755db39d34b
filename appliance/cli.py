"""`tierce`: the commands.

Two kinds: those that work on devices while no daemon runs (pool create and recover, device label, rebuild-catalogue,
serve) and those that ask the running daemon through its control socket (everything else).  Exit codes: 0 done, 1 it
failed or was refused, 2 the command or the configuration is wrong.  Listings take --json and then print one document.

The daemon's and the engine's modules are imported by the commands that need them: `tierce bucket list` starts without.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

import click

from appliance import logs
from appliance.config import ConfigError
from appliance.control import NoDaemon, Refused
from appliance.errors import Code, StoreError
from appliance.invocation import Settings
from appliance.quota import bytes_of
from appliance.terminal import bytes_text, progress, show_facts, show_json, show_rows

FAILED: Final = 1
MISUSED: Final = 2

Tier = Literal["blaze", "bulk"]  # as on disk
BLAZE: Final[Tier] = "blaze"
BULK: Final[Tier] = "bulk"

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
erasing = click.option(
    "--erase",
    multiple=True,
    metavar="SERIAL|PATH",
    help="Destroy what lies on this device: repeat its serial number or its path.",
)
ssds = click.option("--ssd", "ssds", multiple=True, metavar="PATH", help="A fast device (tier blaze).")
hdds = click.option("--hdd", "hdds", multiple=True, metavar="PATH", help="A large device (tier bulk).")


class Commands(click.Group):
    """Turns the expected errors of every command into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            _fail(str(error), MISUSED)
        except StoreError as error:
            _fail(error.message + (f" ({error.cause})" if error.cause else ""), FAILED)
        except (NoDaemon, Refused) as error:
            _fail(str(error), FAILED)
        except PermissionError as error:
            _fail(f"{error.filename}: {error.strerror}; run this as root or as the daemon's user", FAILED)


def _fail(text: str, code: int) -> None:
    click.echo(f"tierce: {text}", err=True)
    raise SystemExit(code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config", "file", type=click.Path(path_type=Path), help="Default: /etc/tierce/tierce.toml, if it exists."
)
@click.option("--state-dir", metavar="DIR", help="Overrides state_dir and TIERCE_STATE_DIR.")
@click.pass_context
def main(ctx: click.Context, file: Path | None, state_dir: str | None) -> None:
    """Tierce: one pool of SSDs and HDDs, an S3 endpoint and a mounted file system over the same objects."""
    flags: dict[str, object] = {"state_dir": state_dir} if state_dir else {}
    ctx.obj = Settings(file, flags)


@main.command()
@as_json
def version(as_json: bool) -> None:
    """Print the version."""
    from fusefs import interposed  # the one that knows: it loads what the mount would load

    name = installed_version("tierce")
    compiled = interposed.library is not None
    if as_json:
        show_json({"version": name, "python": sys.version.partition(" ")[0], "mount_compiled": compiled})
        return
    print(f"tierce {name}")
    if not compiled:
        print("fusefs/extra.c was not compiled: the mount lacks some operations; it says which when it starts")


# ---------------------------------------------------------------------------------------------------------- pool


@main.group()
def pool() -> None:
    """Make a pool, look at it."""


@pool.command("create")
@click.option("--name", help="The pool's name (pool.name).")
@click.option("--copies", type=int, help="Copies that a new bucket keeps, on different devices (pool.copies).")
@ssds
@hdds
@erasing
@click.pass_obj
def pool_create(
    settings: Settings,
    name: str | None,
    copies: int | None,
    ssds: tuple[str, ...],
    hdds: tuple[str, ...],
    erase: tuple[str, ...],
) -> None:
    """Label devices as a new pool.  Devices that carry anything known are refused without --erase."""
    from appliance.formatting import format_pool

    config = settings.config(pool__name=name, pool__copies=copies)
    devices: list[tuple[str, Tier]] = [(str(Path(path).absolute()), BLAZE) for path in ssds]
    devices += [(str(Path(path).absolute()), BULK) for path in hdds]
    if not devices:
        raise click.UsageError("name at least one device: --ssd PATH, --hdd PATH")
    if len({Path(path).resolve() for path, _ in devices}) < len(devices):
        raise click.UsageError("a device is named twice")
    with progress("pool") as shown:
        format_pool(
            devices,
            name=config.pool.name,
            copies=config.pool.copies,
            erase=erase,
            progress=lambda done, total: shown({"stage": "journal", "done": done, "total": total}),
        )
    print(f"pool {config.pool.name} made of {len(devices)} device{'s' if len(devices) > 1 else ''}")
    if set(config.pool.devices) != {path for path, _ in devices}:
        listed = ", ".join(f'"{path}"' for path, _ in devices)
        print(f"write this into tierce.toml, then start the daemon:\n\n[pool]\ndevices = [{listed}]")


@pool.command("status")
@as_json
@click.pass_obj
def pool_status(settings: Settings, as_json: bool) -> None:
    """Show the running pool: space, doors, devices."""
    status = settings.control().get("/status")
    if as_json:
        show_json(status)
        return
    devices = status.pop("devices")
    status.pop("mount_options", None)
    for name in ("size", "available", "bytes"):
        status[name] = bytes_text(status[name])
    status["folding"] = _folding(status["folding"])
    show_facts({name: value for name, value in status.items() if value not in ("", False)})
    print()
    _show_devices(devices)


@pool.command("recover")
@click.option(
    "--without",
    "forsaken",
    multiple=True,
    metavar="NAME",
    help="This device is lost for good, with what only it has: repeat the name that the refusal gives it.",
)
@as_json
@click.pass_obj
def pool_recover(settings: Settings, forsaken: tuple[str, ...], as_json: bool) -> None:
    """Open the pool though the device is missing that alone has the last changes.  The daemon must not run.

    Without --without it only says which device that is and since when: attaching it loses nothing.
    """
    from appliance.daemon import recover

    config = settings.config()
    logs.configure(config.log.format, "warning")
    result = recover(config, forsaken)
    show_json(result) if as_json else show_facts(result)


def _folding(state: dict[str, Any]) -> str:
    """Of files that small changes wear out: what is to be done and what was done since the start."""
    files, patched, folded = state["files"], bytes_text(state["patched_bytes"]), bytes_text(state["folded_bytes"])
    text = f"{files} file{'' if files == 1 else 's'} waiting, {patched} in the journal, {folded} folded"
    return f"{text}; resting: {state['resting']}" if state["resting"] else text


# -------------------------------------------------------------------------------------------------------- device


@main.group()
def device() -> None:
    """Look at devices, add one to the pool."""


@device.command("list")
@click.option("--all", "everything", is_flag=True, help="Every block device of this machine, and what lies on it.")
@as_json
@click.pass_obj
def device_list(settings: Settings, everything: bool, as_json: bool) -> None:
    """List the pool's devices, or all of this machine's."""
    if not everything:
        devices = settings.control().get("/devices")
        show_json(devices) if as_json else _show_devices(devices)
        return
    import msgspec

    from appliance.formatting import devices as found

    rows = [{**msgspec.structs.asdict(probe), "suggested_tier": probe.suggested_tier} for probe in found()]
    if as_json:
        show_json(rows)
        return
    columns = ("path", "size", "suggested_tier", "model", "serial", "used_by", "signatures")
    for row in rows:
        row["used_by"], row["signatures"] = list(row["used_by"]), list(row["signatures"])
    show_rows(rows, [(name, name.replace("_", " ")) for name in columns], "no block devices")


@device.command("add")
@ssds
@hdds
@erasing
@click.pass_obj
def device_add(settings: Settings, ssds: tuple[str, ...], hdds: tuple[str, ...], erase: tuple[str, ...]) -> None:
    """Add a device to the running pool."""
    from appliance.formatting import examine, refuse_occupied

    if len(ssds) + len(hdds) != 1:
        raise click.UsageError("name exactly one device: --ssd PATH or --hdd PATH")
    path, tier = (ssds[0], BLAZE) if ssds else (hdds[0], BULK)
    path = str(Path(path).absolute())
    found = examine(path)
    refuse_occupied(found, erase)
    settings.control().post("/devices", path=path, tier=tier, erase=bool(found.signatures))
    print(f"{path} added; name it in pool.devices too, so that it is found at the next start")


@device.command("label")
@click.argument("path")
@as_json
def device_label(path: str, as_json: bool) -> None:
    """Show the label that Tierce wrote on a device."""
    from appliance.formatting import describe_label

    label = describe_label(path)
    show_json(label) if as_json else show_facts(label)


def _show_devices(devices: list[Mapping[str, Any]]) -> None:
    columns = [(name, name) for name in ("id", "path", "tier", "state", "size", "free", "journal")]
    errors = [(f"{kind}_errors", f"{kind} errors") for kind in ("read", "checksum", "write")]
    show_rows(devices, columns + errors, "no devices")


# ------------------------------------------------------------------------------------------------- daemon, mount


@main.command()
@click.option("--addr", multiple=True, metavar="HOST:PORT", help="Where S3 is served (s3.addr).")
@click.option("--admin-addr", metavar="HOST:PORT", help="Where health and metrics are served (admin.addr).")
@click.option("--device", "devices", multiple=True, metavar="PATH", help="The pool's devices (pool.devices).")
@click.option("--mount", "point", metavar="DIR", help="Where the mount goes (mount.point).")
@click.option("--no-mount", is_flag=True, help="Do not mount.")
@click.option("--box", type=click.Path(path_type=Path), help="Write endpoint, key and secret here (0600) once ready.")
@click.pass_obj
def serve(
    settings: Settings,
    addr: tuple[str, ...],
    admin_addr: str | None,
    devices: tuple[str, ...],
    point: str | None,
    no_mount: bool,
    box: Path | None,
) -> None:
    """Run the box in the foreground: S3, mount, administration.  SIGTERM drains and stops it."""
    config = settings.config(
        s3__addr=addr or None,
        admin__addr=admin_addr,
        pool__devices=devices or None,
        mount__point=point,
        mount__enabled=False if no_mount else None,
    )
    logs.configure(config.log.format, config.log.level)
    from appliance import daemon

    terminal = sys.stdout.isatty()
    daemon.run(config, box.absolute() if box else None, _show_first_key if terminal or box else None)


def _show_first_key(key_id: str, secret: str) -> None:
    print("This box's first access key; the secret is shown this once:")
    show_facts({"access_key": key_id, "secret_key": secret})
    sys.stdout.flush()


@main.command()
@click.argument("source", required=False)
@click.argument("point", required=False, type=click.Path(path_type=Path))
@click.option("-o", "options", multiple=True, metavar="OPTIONS", help="As mount(8): ro, noexec, uid=1000, …")
@click.option("--list", "listing", is_flag=True, help="Show where it is mounted and what it was asked for.")
@as_json
@click.pass_obj
def mount(
    settings: Settings, source: str | None, point: Path | None, options: tuple[str, ...], listing: bool, as_json: bool
) -> None:
    """Have the daemon mount the buckets; as root also in further places: `tierce mount photos /mnt/photos`.

    SOURCE is a bucket, or "tierce" for all, which a path alone means too.  /etc/fstab can say the same
    (mount.fuse.tierce).
    """
    from appliance import mounting

    if listing:
        _show_mount(settings.control().get("/mount"), as_json)
        return
    if source is not None and point is None:
        if "/" not in source:
            raise click.UsageError("name the place too: tierce mount SOURCE POINT")
        source, point = mounting.SOURCE, Path(source)  # no bucket's name has a slash
    asked = mounting.options_of(list(options))
    if source is None or point is None:
        print(settings.control().post("/mount", **asked.own)["mount"])
        return
    mounting.mount(settings.control(), source, point.absolute(), asked)
    print(point)


def _show_mount(status: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(status)
        return
    columns = [("place", "place"), ("bucket", "bucket"), ("read_only", "read-only")]
    show_rows(status["places"], columns, "not mounted")
    rows = [row for row in status["operations"] if row["requests"]]
    for row in rows:
        row["errors"] = [f"{name} {count}" for name, count in row["errors"].items()]
    columns = [("operation", "operation"), ("requests", "requests"), ("microseconds", "mean µs"), ("bytes", "bytes")]
    print()
    show_rows(rows, [*columns, ("errors", "errors")], "no requests")


@main.command()
@click.argument("point", required=False, type=click.Path(path_type=Path))
@click.option("--lazy", is_flag=True, help="Also while a program works there.")
@click.option("--force", is_flag=True, help="Also if the daemon does not answer: what is not stored is lost.")
@click.pass_obj
def umount(settings: Settings, point: Path | None, lazy: bool, force: bool) -> None:
    """Take the mount away, or as root one place of it, when all that was written there is durable."""
    import os

    from appliance import mounting, mountpoints

    control, whole = settings.control(), settings.config().mount_point
    place = whole if point is None else point.absolute()
    ours = mountpoints.type_at(place) == mountpoints.FILE_SYSTEM
    if point is not None and not ours:
        raise StoreError(Code.INVALID_ARGUMENT, f"{place} is no mount of Tierce")
    if os.geteuid() == 0 and ours:
        answered = mounting.unmount(control, place, lazy=lazy, force=force)
        if place != whole or not answered:
            print(place)
            return
    elif point is not None or lazy or force:
        raise click.UsageError("only root names a place, or takes it away while it is in use")
    print(control.post("/umount")["mount"])


# ----------------------------------------------------------------------------------------- buckets, users, keys


@main.group()
def bucket() -> None:
    """Make, list and delete buckets."""


@bucket.command("create")
@click.argument("name")
@click.option("--copies", type=click.IntRange(1, 3), help="On how many different devices each object is kept.")
@click.option("--user", "owner", default="", metavar="NAME", help="Whose it is.  [default: the built-in user]")
@click.pass_obj
def bucket_create(settings: Settings, name: str, copies: int | None, owner: str) -> None:
    """Make a bucket."""
    made = settings.control().post("/buckets", name=name, copies=copies, user=owner)
    print(f"{made['name']} made, {made['copies']} cop{'y' if made['copies'] == 1 else 'ies'}")


@bucket.command("list")
@as_json
@click.pass_obj
def bucket_list(settings: Settings, as_json: bool) -> None:
    """List the buckets with what they hold."""
    rows = settings.control().get("/buckets")
    columns = [("name", "name"), ("objects", "objects"), ("bytes", "bytes"), ("copies", "copies")]
    columns += [("quota_objects", "quota objects"), ("quota_size", "quota bytes")]
    show_json(rows) if as_json else show_rows(rows, [*columns, ("created_ns", "created")], "no buckets")


@bucket.command("quota")
@click.argument("name")
@click.option("--size", metavar="SIZE", help="At most so many bytes: 500MB, 10GiB, or a number.")
@click.option("--objects", type=click.IntRange(0), metavar="N", help="At most so many objects, versions included.")
@click.option("--none", "unlimited", is_flag=True, help="As much as there is room for.")
@as_json
@click.pass_obj
def bucket_quota(
    settings: Settings, name: str, size: str | None, objects: int | None, unlimited: bool, as_json: bool
) -> None:
    """Limit what a bucket may hold, or show its limits.  What is given replaces the whole quota.

    What is over the limit already stays; nothing more fits until enough is deleted.
    """
    given = size is not None or objects is not None
    if given and unlimited:
        raise click.UsageError("--none goes with no limit")
    if given or unlimited:
        limit = None if size is None else bytes_of(size)
        row = settings.control().post(f"/buckets/{quote(name, safe='')}/quota", size=limit, objects=objects)
    else:
        row = next((row for row in settings.control().get("/buckets") if row["name"] == name), None)
        if row is None:
            raise Refused(f"no such bucket: {name}")
    if as_json:
        show_json(row)
        return
    held = bytes_text(row["bytes"] + row["unfinished"])
    limits = "no limit" if row["quota_size"] is None else bytes_text(row["quota_size"])
    most = "no limit" if row["quota_objects"] is None else row["quota_objects"]
    show_facts({"bytes": f"{held} of {limits}", "objects": f"{row['objects']} of {most}"})


@bucket.command("delete")
@click.argument("name")
@click.pass_obj
def bucket_delete(settings: Settings, name: str) -> None:
    """Delete an empty bucket."""
    settings.control().delete(f"/buckets/{quote(name, safe='')}")
    print(f"{name} deleted")


@main.group()
def user() -> None:
    """Make, list and delete users: who owns buckets and keys, and whom policies and ACLs name."""


@user.command("create")
@click.argument("name")
@click.option("--display", default="", help="The name that clients are shown.  [default: NAME]")
@click.option("--email", default="", help="An address by which access control lists may name the user.")
@click.option("--no-key", is_flag=True, help="Without a first access key.")
@as_json
@click.pass_obj
def user_create(settings: Settings, name: str, display: str, email: str, no_key: bool, as_json: bool) -> None:
    """Make a user and a first access key.  Its secret is shown this once."""
    made = settings.control().post("/users", name=name, display=display, email=email, key=not no_key)
    _show_made(made, as_json)


@user.command("list")
@as_json
@click.pass_obj
def user_list(settings: Settings, as_json: bool) -> None:
    """List the users."""
    rows = settings.control().get("/users")
    columns = [("user", "user"), ("display_name", "display name"), ("email", "e-mail"), ("user_id", "canonical id")]
    show_json(rows) if as_json else show_rows(rows, columns, "no users")


@user.command("delete")
@click.argument("name")
@click.pass_obj
def user_delete(settings: Settings, name: str) -> None:
    """Delete a user who owns no bucket, and revoke the user's access keys."""
    settings.control().delete(f"/users/{quote(name, safe='')}")
    print(f"{name} deleted")


def _show_made(made: Mapping[str, Any], as_json: bool) -> None:
    """A user or a key, just made."""
    shown = ("user", "user_id", "display_name", "email", "access_key", "secret_key")
    show_json(made) if as_json else show_facts({name: made[name] for name in shown if made.get(name)})


@main.group()
def key() -> None:
    """Make, list and revoke access keys."""


@key.command("create")
@click.option("--user", "owner", default="", metavar="NAME", help="Whose it is.  [default: the built-in user]")
@click.option("--name", default="", help="What it is for.")
@click.option("--read-only", is_flag=True, help="It may read and list, nothing else.")
@click.option("--bucket", "buckets", multiple=True, help="Only this bucket; repeatable.")
@as_json
@click.pass_obj
def key_create(
    settings: Settings, owner: str, name: str, read_only: bool, buckets: tuple[str, ...], as_json: bool
) -> None:
    """Make an access key.  Its secret is shown this once."""
    made = settings.control().post("/keys", user=owner, name=name, read_only=read_only, buckets=list(buckets))
    _show_made(made, as_json)


@key.command("list")
@as_json
@click.pass_obj
def key_list(settings: Settings, as_json: bool) -> None:
    """List the access keys; never their secrets."""
    rows = settings.control().get("/keys")
    columns = [
        ("access_key", "access key"),
        ("user", "user"),
        ("name", "name"),
        ("read_only", "read-only"),
        ("buckets", "buckets"),
    ]
    show_json(rows) if as_json else show_rows(rows, [*columns, ("created_ns", "created")], "no access keys")


@key.command("rotate-encryption")
@as_json
@click.pass_obj
def key_rotate_encryption(settings: Settings, as_json: bool) -> None:
    """Encrypt what is written from now on (SSE-S3) with a new data key.  What is there stays readable as it is."""
    made = settings.control().post("/keys/data")
    show_json(made) if as_json else print(f"data key {made['id']} encrypts from now on")


@key.command("rotate-master")
@as_json
@click.pass_obj
def key_rotate_master(settings: Settings, as_json: bool) -> None:
    """Make a new master key, seal all secrets and data keys with it, and forget the old one.  Back up the new one."""
    done = settings.control().post("/keys/master")
    if as_json:
        show_json(done)
        return
    print(
        f"master key {done['master_key']}: {done['access_keys']} access keys and {done['data_keys']} data keys "
        "were sealed again"
    )
    for name in done["lost"]:
        print(f"{name} is sealed by a master key that is not here, and stays closed", file=sys.stderr)


@key.command("revoke")
@click.argument("access_key")
@click.pass_obj
def key_revoke(settings: Settings, access_key: str) -> None:
    """Revoke an access key at once."""
    settings.control().delete(f"/keys/{quote(access_key, safe='')}")
    print(f"{access_key} revoked")


# --------------------------------------------------------------------------------------------- audit, rebuilding


@main.command()
@click.option("--verify", is_flag=True, help="Read and check every page of every device too.")
@as_json
@click.pass_obj
def audit(settings: Settings, verify: bool, as_json: bool) -> None:
    """Cross-check catalogue, free map and devices.  Exit code 1 if anything is wrong, or not as safe as wanted."""
    result: dict[str, Any] = {}
    with progress("audit", quiet=as_json) as shown:
        for event in settings.control().follow("/audit", verify=verify):
            if "result" in event:
                result = event["result"]
            else:
                shown(event)
    problems = [*result["problems"], *result.get("degraded", ())]
    if as_json:
        show_json(result)
    else:
        for problem in problems:
            print(problem)
        counts = {name: value for name, value in result.items() if type(value) is int and name != "seq"}
        text = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items())
        print(f"{len(problems)} problem{'' if len(problems) == 1 else 's'}" + (f" ({text})" if text else ""))
    if problems:
        raise SystemExit(FAILED)


@main.command("rebuild-catalogue")
@as_json
@click.pass_obj
def rebuild_catalogue(settings: Settings, as_json: bool) -> None:
    """Make the catalogue again from the devices alone.  The daemon must not run; the old file is kept beside it."""
    from appliance.daemon import rebuild

    config = settings.config()
    logs.configure(config.log.format, "warning")
    with progress("rebuild", quiet=as_json) as shown:
        shown({"stage": "journal and snapshot"})
        result = rebuild(config)
    show_json(result) if as_json else show_facts(result)
