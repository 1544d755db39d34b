"""The wiring: one process that opens the pool, puts both doors before it, and closes everything in the reverse order.

Order of life: state directory and its lock; sockets (a taken address is found before the pool is touched); pool; keys;
doors; mount; box file; READY.  At SIGTERM or SIGINT: not ready, STOPPING; the S3 door stops accepting and finishes what
it has begun; the mount is taken away, which commits what its files still hold; the store settles and closes; the
administration address goes last, so that a drain can be watched.

This module decides nothing about storage: it knows which parts there are and in what order they start and stop.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, get_args

import hypercorn.trio
import msgspec
import trio
from hypercorn.config import Config as HypercornConfig

from appliance import config as configuration
from appliance import mountpoints
from appliance.administration import Report, administration_app, control_app
from appliance.authority import MOUNT
from appliance.chores import run_chores
from appliance.config import Config
from appliance.credentials import Vault, new_access_key, open_vault
from appliance.engine.startup import Attached
from appliance.errors import Code, StoreError
from appliance.formatting import prepare_device
from appliance.metrics import Collector, Requests
from appliance.notify import STORED_CONTROL, STORED_FUSE, notify, passed_descriptor, watchdog_period
from appliance.ondisk.superblock import Tier
from appliance.opening import attach, close_all, holder, open_store, state_lock
from appliance.upkeep.audit import audit
from appliance.upkeep.expiry import ROUNDS_A_DAY, run_lifecycle
from appliance.upkeep.fold import run_folding
from fusefs.mount import Mount
from fusefs.observed import OPERATIONS
from fusefs.ownership import Ownership
from s3front.app import s3_app
from s3front.serve import TlsFiles
from s3front.serve import serve as serve_s3

if TYPE_CHECKING:
    from appliance.store import ObjectStore

log = logging.getLogger(__name__)

GC_THRESHOLDS: Final = (20_000, 50, 100)  # a small GET makes some 100 objects and no cycle
DRAIN_TIMEOUT: Final = 20.0  # seconds that requests under way get at a stop; systemd's own patience is longer
ANSWER_TIMEOUT: Final = 15.0  # seconds within which the writer and the devices must answer, or the box isn't well
DYING_TIMEOUT: Final = 10.0  # seconds for a dead daemon's threads to come back from the kernel
DYING_STEP: Final = 0.02
FIRST_KEY: Final = "first"  # the name of the key that is made for a new box


class Daemon:
    """One running box.  Also what the control socket may use (administration.Box)."""

    def __init__(self, config: Config, store: ObjectStore, vault: Vault) -> None:
        self.config = config
        self.store = store
        self.vault = vault
        self.endpoint = ""
        self.requests = Requests()
        self.draining = False
        self._mount: Mount | None = None
        self._mount_stopped = trio.Event()
        self._mounts: trio.Nursery | None = None
        self._mounting = trio.Lock()
        self._descriptor = passed_descriptor(STORED_FUSE)  # good for one mount
        self._control = passed_descriptor(STORED_CONTROL)
        self._is_unit = self._descriptor is not None
        self._configured = self._ownership = Ownership(config.mount.uid, config.mount.gid, int(config.mount.umask, 8))

    # ------------------------------------------------------------------ what the command line may ask

    def status(self) -> Mapping[str, Any]:
        """The pool and its doors."""
        usage = self.store.usage()
        total, available = self.store.space()
        worn = self.store.engine.worn
        return {
            "version": version("tierce"),
            "pid": os.getpid(),
            "endpoint": self.endpoint,
            "mount": str(self.config.mount_point) if self._mount else "",
            "mount_options": self._mount_options(),
            "mount_lacks": self._mount.lacks if self._mount else "",
            "pool": self.store.engine.pool.name,
            "draining": self.draining,
            "size": total,
            "available": available,
            "objects": usage.objects,
            "bytes": usage.bytes,
            "folding": {
                "files": len(worn.maps),
                "patched_bytes": self.store.engine.committer.patched,
                "folded_bytes": worn.folded_bytes,
                "resting": worn.resting,
            },
            "devices": msgspec.to_builtins(self.store.devices()),
        }

    def _mount_options(self) -> Mapping[str, Any]:
        """Those of the daemon's own mount, which every place of it has."""
        mount = self.config.mount
        owner = self._ownership
        return {
            "allow_other": mount.allow_other,
            "read_only": mount.read_only,
            "uid": owner.uid,
            "gid": owner.gid,
            "umask": owner.umask,
        }

    def mount_status(self) -> Mapping[str, Any]:
        """Where the mount is, and what it was asked for so far."""
        found = mountpoints.at(self.config.mount_point) if self._mount else None
        places = [] if found is None else [found, *mountpoints.bound(found)]
        return {
            "options": self._mount_options(),
            "places": [
                {
                    "place": each.point,
                    "bucket": each.root.strip("/"),
                    "read_only": bool(each.flags & mountpoints.MS_RDONLY),
                }
                for each in places
            ],
            "operations": [
                {
                    "operation": name,
                    "requests": sum(each.counts),
                    "microseconds": round(each.seconds / max(sum(each.counts), 1) * 1e6),
                    "bytes": each.bytes,
                    "errors": each.named_errors,
                }
                for name, each in sorted(OPERATIONS.items())
            ],
        }

    async def mount(self, own: Mapping[str, int]) -> str:
        """Mounts if it is not mounted, with another `own` uid, gid or umask than the configuration's; where.  Raises
        StoreError when the kernel or fusermount3 refuse."""
        assert self._mounts is not None
        async with self._mounting:
            if self._mount is None:
                if self._is_unit and self._descriptor is None:
                    raise StoreError(Code.UNAVAILABLE, "the unit mounts before it starts: systemctl restart tierce")
                self._ownership = msgspec.structs.replace(self._configured, **own)
                self._mount_stopped = trio.Event()
                await self._mounts.start(self._keep_mounted, self.config.mount_point)
        return str(self.config.mount_point)

    async def umount(self) -> str:
        """Unmounts if it is mounted; where it was.  Raises IN_USE while a program works in it."""
        async with self._mounting:
            if self._mount is not None:
                await self._mount.unmount()
                await self._mount_stopped.wait()
        return str(self.config.mount_point)

    async def settle(self) -> None:
        """Everything that was written through the mount is durable."""
        if self._mount is not None:
            await self._mount.settle()
        await self.store.settle()

    async def _drop_mount(self) -> None:
        """At the end: in use or not."""
        if self._mount is not None:
            await self._mount.close()
            await self._mount_stopped.wait()

    async def audit(self, report: Report, verify: bool) -> Mapping[str, Any]:
        """Cross-checks catalogue, free map and devices; with `verify` reads every page."""
        return (await audit(self.store, verify=verify, progress=report)).to_json()

    async def add_device(self, path: str, tier: str, erase: bool) -> Mapping[str, Any]:
        """Adds a device to the pool, after the checks that `tierce pool create` makes."""
        if tier not in get_args(Tier):
            raise StoreError(Code.INVALID_ARGUMENT, f"a tier is one of {', '.join(get_args(Tier))}, not {tier}")
        prepare = partial(prepare_device, path, self.store.engine.pool.name, [path] if erase else [])
        device = await trio.to_thread.run_sync(prepare)
        added = await self.store.add_device(path, device, cast(Tier, tier))
        log.info("device added", extra={"facts": {"path": path, "tier": tier}})
        return cast(Mapping[str, Any], msgspec.to_builtins(added))

    # ------------------------------------------------------------------ health

    async def ready(self) -> bool:
        """Whether the catalogue and the devices answer and requests are welcome."""
        return not self.draining and await self.answers()

    async def answers(self, *, journals_only: bool = False) -> bool:
        """The writer is where it could take a batch, the catalogue and the devices are read."""
        with trio.move_on_after(ANSWER_TIMEOUT) as scope:
            try:
                await self.store.check_ready(journals_only=journals_only)
            except StoreError as error:
                log.error("the store does not answer", extra={"facts": {"code": error.code.name, "cause": error.cause}})
                return False
        if scope.cancelled_caught:
            log.error("writer or devices did not answer in time", extra={"facts": {"seconds": ANSWER_TIMEOUT}})
            return False
        return True

    # ------------------------------------------------------------------ life

    async def run(self, sockets: Sockets, signals: AsyncIterator[int], started: Callable[[Daemon], None]) -> None:
        """Serves until a signal comes, then drains.  `started` is called once everything answers."""
        watching, doors = trio.Event(), trio.Event()
        collector = Collector(self.requests, self.store.statistics, self.store.devices, OPERATIONS)
        async with trio.open_nursery() as operators:
            quart = partial(hypercorn.trio.serve, shutdown_trigger=watching.wait)
            await operators.start(quart, administration_app(collector, self.ready), _hypercorn(sockets.admin))
            await operators.start(quart, control_app(self), _hypercorn(sockets.control))
            operators.start_soon(self._feed_watchdog, watching)
            operators.start_soon(self._keep_house, watching)
            async with trio.open_nursery() as nursery:
                self._mounts = nursery
                await nursery.start(self._open_s3_door, doors)
                if self.config.mount.enabled:
                    await self.mount({})
                started(self)
                notify(f"READY=1\nSTATUS=serving {self.endpoint}")
                log.info("ready", extra={"facts": {"endpoint": self.endpoint, "mount": self.status()["mount"]}})
                await self._wait_for_stop(signals)
                self.draining = True
                notify("STOPPING=1\nSTATUS=draining")
                nursery.cancel_scope.deadline = trio.current_time() + DRAIN_TIMEOUT
                doors.set()
                await self._drop_mount()
            await self.store.settle()
            watching.set()
        log.info("stopped")

    async def _open_s3_door(self, closing: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
        s3 = self.config.s3
        app = s3_app(
            self.store,
            region=s3.region,
            unseal=self.vault.unseal,
            domain=s3.domain or None,
            website_domain=s3.website_domain or None,
            observe=self.requests.observe,
        )

        def ready(urls: Sequence[str]) -> None:
            self.endpoint = _reachable(urls[0])
            task_status.started()

        bind = [_hypercorn_address(text) for text in s3.addr]
        tls = TlsFiles(s3.tls_cert, s3.tls_key) if s3.tls_cert else None
        try:
            await serve_s3(
                app, bind=bind, tls=tls, shutdown=closing.wait, ready=ready, graceful_timeout=DRAIN_TIMEOUT / 2
            )
        except ssl.SSLError as error:
            raise StoreError(Code.UNAVAILABLE, f"s3.tls_cert, s3.tls_key: unusable ({error.reason})") from error
        except OSError as error:
            where = error.filename or ", ".join(s3.addr)
            raise StoreError(Code.UNAVAILABLE, f"the S3 door cannot open on {where}: {error.strerror}") from error

    async def _wait_for_stop(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            log.info("stopping", extra={"facts": {"signal": signal.Signals(number).name}})
            return

    async def _feed_watchdog(self, until: trio.Event) -> None:
        """Tells systemd that the loop runs (else this task does not), and that writer and devices answer: those that
        every commit needs, for a disk that rests shall not be woken by nobody's need of it."""
        period = watchdog_period()
        while period is not None and not until.is_set():
            if await self.answers(journals_only=True):
                notify("WATCHDOG=1")
            with trio.move_on_after(period):
                await until.wait()

    async def _keep_house(self, until: trio.Event) -> None:
        """The chores, until the box stops."""
        pool = self.config.pool
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(
                    run_chores,
                    self.store,
                    snapshot_interval=pool.snapshot_interval,
                    upload_expiry=pool.upload_expiry,
                )
            )
            day = self.config.lifecycle.day_seconds
            interval = min(self.config.lifecycle.interval, day / ROUNDS_A_DAY)
            nursery.start_soon(run_folding, self.store)
            nursery.start_soon(partial(run_lifecycle, self.store, day=day, interval=interval))
            await until.wait()
            nursery.cancel_scope.cancel()

    async def _keep_mounted(self, point: Path, *, task_status: trio.TaskStatus[None]) -> None:
        durable = self.config.mount.close == "durable"
        others = self.config.mount.allow_other
        descriptor, self._descriptor = self._descriptor, None
        control, self._control = self._control, None
        principal = msgspec.structs.replace(MOUNT, read_only=self.config.mount.read_only)
        self._mount = Mount(
            self.store,
            point,
            allow_other=others,
            durable_close=durable,
            principal=principal,
            descriptor=descriptor,
            control=control,
            ownership=self._ownership,
        )
        try:
            await self._mount.run(task_status=task_status)
        finally:
            self._mount = None
            self._mount_stopped.set()


class Sockets(msgspec.Struct, frozen=True):
    """The operators' sockets, bound before the pool is touched."""

    admin: socket.socket
    control: socket.socket


def run(config: Config, box_file: Path | None = None, show_key: Callable[[str, str], None] | None = None) -> None:
    """Runs the box until it is told to stop.

    `box_file`: where to say (mode 0600, atomically, once ready) how to reach it, for scripts on this machine; it holds
    a secret, so it is written only if asked for.  `show_key` gets a new box's first key and its secret, or those of one
    that lost its master key: without either none is made, and `tierce key create` makes it.  Raises StoreError,
    ConfigError.
    """
    # What start-up made lives as long as the process: collections need not walk it, nor come every 700 objects.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        trio.run(_serve, config, box_file, show_key, restrict_keyboard_interrupt_to_checkpoints=True)
    except BaseExceptionGroup as group:  # nurseries wrap even one
        expected, bugs = group.split(StoreError)
        if bugs is not None or expected is None:
            raise
        raise _first(expected) from group


async def _serve(config: Config, box_file: Path | None, show_key: Callable[[str, str], None] | None) -> None:
    # The first signal ends the service; later ones are received and mean nothing more: an impatient administrator must
    # not interrupt the closing of the pool.  One that comes while the pool is being opened is obeyed after that.
    stop = trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT)
    with stop as signals, _state_directory(config), _bound(config) as sockets:
        vault = open_vault(config.master_key_path)
        async with _open_pool(config, vault) as store:
            if (box_file or show_key) and not any(vault.opens(key) for key in store.access_keys()):
                if store.access_keys():
                    log.warning("no access key's secret can be opened by this master key: another key is made")
                key, secret = new_access_key("default", FIRST_KEY, vault, time.time_ns())
                await store.put_access_key(key)
                if show_key:
                    show_key(key.id, secret)
            with _box_file(box_file) as announce:
                await Daemon(config, store, vault).run(sockets, signals, announce)


def rebuild(config: Config) -> dict[str, int]:
    """Puts the catalogue aside and makes it again from the devices alone; what it then holds.

    Raises StoreError: IN_USE under a running daemon, DAMAGED if the devices do not suffice."""
    return trio.run(_rebuild, config)


async def _rebuild(config: Config) -> dict[str, int]:
    with _state_directory(config):
        async with _open_pool(config, rebuild=True) as store:
            return _held(store)


def recover(config: Config, forsaken: Sequence[str]) -> dict[str, int]:
    """Opens the pool without the `forsaken` journals, which are lost for good with what only they have; from then on it
    opens without them.  What it then holds.  Raises StoreError: IN_USE under a running daemon, STALE (names them)."""
    return trio.run(_recover, config, forsaken)


async def _recover(config: Config, forsaken: Sequence[str]) -> dict[str, int]:
    with _state_directory(config):
        async with _open_pool(config, forsaken=forsaken) as store:
            return _held(store)


def _held(store: ObjectStore) -> dict[str, int]:
    usage = store.usage()
    return {"buckets": len(store.buckets()), "objects": usage.objects, "bytes": usage.bytes}


@contextlib.contextmanager
def _state_directory(config: Config) -> Iterator[None]:
    """Makes the state directory, private, and holds its lock: one process a directory.  Raises UNAVAILABLE, IN_USE."""
    directory = Path(config.state_dir)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        config.catalogue_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(Code.UNAVAILABLE, f"{error.filename} cannot be used: {error.strerror}") from error
    _bury_the_undead(config)
    with state_lock(directory):
        yield


def _bury_the_undead(config: Config) -> None:
    """A daemon that was killed together with its mount's guard may not be gone: threads of it wait in the kernel for
    what it would have answered, and keep lock, ports and devices.  Ending the mount lets them go.  What answers where
    our mount should be, or is none of it, is somebody else's and stays: then the lock says what there is to say."""
    process = holder(Path(config.state_dir))
    if not process or not mountpoints.is_dying(process):
        return
    try:
        _end_unanswered(config.mount_point, process)
    except OSError as error:
        raise StoreError(
            Code.UNAVAILABLE, f"process {process} waits for its own mount, which cannot be ended: {error}"
        ) from error
    deadline = time.monotonic() + DYING_TIMEOUT
    while mountpoints.is_dying(process) and time.monotonic() < deadline:
        time.sleep(DYING_STEP)


def _end_unanswered(point: Path, process: int) -> None:
    found = mountpoints.at(point)
    if found is None or found.type != mountpoints.FILE_SYSTEM:
        return
    try:
        mountpoints.is_dead(found)
    except TimeoutError:
        log.warning("%d, which ran here, is dead but waits for its own mount: the mount is ended", process)
        mountpoints.end(found)


@contextlib.asynccontextmanager
async def _open_pool(
    config: Config, vault: Vault | None = None, *, forsaken: Sequence[str] = (), rebuild: bool = False
) -> AsyncIterator[ObjectStore]:
    """The running store on whichever of the configured devices are here.

    One that is missing, or dead, may be one of several copies: the engine decides whether the rest is enough.  One
    that somebody else holds is another matter.  Raises what opening.open_store raises.
    """
    if not config.pool.devices:
        raise StoreError(
            Code.INVALID_ARGUMENT,
            "no devices are configured: name them in pool.devices (`tierce pool create` makes them)",
        )
    attached: list[Attached] = []
    try:
        for path in config.pool.devices:
            try:
                attached += attach([path])
            except StoreError as error:
                absent = error.code in (Code.UNAVAILABLE, Code.IO_ERROR)
                if not absent or (path == config.pool.devices[-1] and not attached):
                    raise
                log.error("a device is missing", extra={"facts": {"path": path, "reason": error.message}})
        devices = [(item.path, item.device) for item in attached]
        notes = Path(config.state_dir)
        async with open_store(
            devices, config.catalogue_path, vault=vault, notes=notes, forsaken=forsaken, rebuild=rebuild
        ) as store:
            yield store
    finally:
        close_all(attached)


def _first(group: BaseExceptionGroup[StoreError]) -> StoreError:
    """The error that ended everything: the others followed from it."""
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


@contextlib.contextmanager
def _bound(config: Config) -> Iterator[Sockets]:
    """The operators' sockets; at the end the control socket's file goes."""
    with contextlib.ExitStack() as stack:
        host, port = configuration.parse_address(config.admin.addr, "admin.addr")
        admin = stack.enter_context(_bind(host, port, "admin.addr"))
        control = stack.enter_context(_bind_unix(config.control_socket))
        stack.callback(config.control_socket.unlink, missing_ok=True)
        yield Sockets(admin, control)


def _bind(host: str, port: int, key: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by what is accepted
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise StoreError(Code.UNAVAILABLE, f"{key} = {host}:{port} cannot be listened on: {error.strerror}") from error
    return bound


def _bind_unix(path: Path) -> socket.socket:
    """The control socket, private from its first moment.  A predecessor's file goes: the lock says that it is dead."""
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        bound.bind(str(path))
    except OSError as error:
        bound.close()
        raise StoreError(Code.UNAVAILABLE, f"the control socket {path} cannot be made: {error}") from error
    finally:
        os.umask(mask)
    return bound


def _hypercorn(bound: socket.socket) -> HypercornConfig:
    """A hypercorn configuration for a bound socket."""
    made = HypercornConfig()
    made.bind = [f"fd://{os.dup(bound.fileno())}"]  # hypercorn closes what it is given
    made.graceful_timeout = DRAIN_TIMEOUT / 2
    made.errorlog = made.accesslog = None
    made.include_server_header = False
    return made


def _hypercorn_address(text: str) -> str:
    """A configured address in hypercorn's words, which know no empty host."""
    host, port = configuration.parse_address(text, "s3.addr")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reachable(url: str) -> str:
    """An address that listens everywhere is reached from here by the loopback one."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


@contextlib.contextmanager
def _box_file(path: Path | None) -> Iterator[Callable[[Daemon], None]]:
    """What writes the box file once; it goes when the daemon stops: its presence means "ready"."""
    try:
        yield partial(_write_box, path) if path else _no_box
    finally:
        if path:
            path.unlink(missing_ok=True)


def _write_box(path: Path, daemon: Daemon) -> None:
    """How a script on this machine reaches the box: written whole, then renamed, readable by its owner alone."""
    keys = (key for key in daemon.store.access_keys() if key.name == FIRST_KEY and daemon.vault.opens(key))
    key = next(keys, None)
    box = {
        "endpoint": daemon.endpoint,
        "access_key": key.id if key else "",
        "secret_key": daemon.vault.unseal(key) if key else "",
        "mount": daemon.status()["mount"],
        "pid": os.getpid(),
    }
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(box), indent=1) + b"\n")
    temporary.replace(path)


def _no_box(daemon: Daemon) -> None:
    """Nobody asked for a box file."""
