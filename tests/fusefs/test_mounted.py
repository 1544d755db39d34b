"""Programs on a real mount."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance.errors import StoreError
from appliance.mountpoints import READ_AHEAD_KIB, type_at
from fusefs.mount import prepare
from tests.fusefs.served import Served, served

pytestmark = pytest.mark.system


@pytest.fixture(scope="module", params=["dict", "pool"])
def shared(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("mount") / "mnt", request.param) as mount:
        yield mount


@pytest.fixture
def mount(shared: Served) -> Served:
    """An empty bucket for each test."""
    for path in shared.bucket.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    assert os.listdir(shared.bucket) == []
    return shared


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tree with what trees have: modes, times, links, an empty directory, sizes around every limit."""
    root = tmp_path_factory.mktemp("sources")
    chance = random.Random(7)
    for number, size in enumerate((0, 1, 2048, 2049, 4096, 65_537, 131_072, 131_073, 5_000_000)):
        directory = root / f"d{number % 3}" / "sub"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"file {number}"
        path.write_bytes(chance.randbytes(size))
        path.chmod(0o600 + number)
        os.utime(path, ns=(1_600_000_000_123_456_789, 1_500_000_000_000_000_000 + number))
    (root / "empty").mkdir()
    (root / "link").symlink_to("d0/sub/file 0")
    os.link(root / "d1/sub/file 1", root / "hard")
    return root


def same(left: Path, right: Path) -> None:
    run("diff", "-r", "--no-dereference", left, right)
    for path in left.rglob("*"):
        mine, other = os.lstat(path), os.lstat(right / path.relative_to(left))
        assert mine.st_mode == other.st_mode, path
        if path.is_file() and not path.is_symlink():
            assert mine.st_mtime_ns == other.st_mtime_ns, path


def test_cp(mount: Served, sources: Path) -> None:
    run("cp", "-a", sources, mount.bucket / "copy")
    same(sources, mount.bucket / "copy")
    assert mount.get("copy/d0/sub/file 3") == (sources / "d0/sub/file 3").read_bytes()
    assert (mount.bucket / "copy/hard").stat().st_nlink == 2


def test_rsync(mount: Served, sources: Path) -> None:
    run("rsync", "-aH", f"{sources}/", mount.bucket / "copy")
    same(sources, mount.bucket / "copy")
    assert run("rsync", "-aHi", "--checksum", f"{sources}/", mount.bucket / "copy") == ""


def test_tar(mount: Served, sources: Path, tmp_path: Path) -> None:
    (mount.bucket / "copy").mkdir()
    run("tar", "-C", sources, "--format=posix", "-cf", tmp_path / "all.tar", ".")
    run("tar", "-C", mount.bucket / "copy", "-xpf", tmp_path / "all.tar")
    same(sources, mount.bucket / "copy")
    run("tar", "-C", mount.bucket / "copy", "-cf", tmp_path / "back.tar", ".")


def test_git(mount: Served) -> None:
    def git(*arguments: str) -> str:
        return run("git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments, cwd=mount.bucket / "repository")

    (mount.bucket / "repository").mkdir()
    git("init", "-q", "-b", "main")
    for number in range(30):
        (mount.bucket / f"repository/{number}.txt").write_text(f"{number}\n")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    (mount.bucket / "repository/0.txt").write_text("changed\n")
    git("commit", "-q", "-a", "-m", "second")
    git("gc", "-q")
    assert git("fsck", "--full") == ""
    assert git("status", "--porcelain") == ""
    assert len(git("log", "--oneline").splitlines()) == 2


def test_unlinked_while_open(mount: Served) -> None:
    path = mount.bucket / "temporary"
    with open(path, "wb+") as file:
        file.write(b"a" * 100_000)
        path.unlink()
        file.write(b"b")
        file.seek(99_999)
        assert file.read() == b"ab"
        assert os.fstat(file.fileno()).st_nlink == 0
    assert mount.get("temporary") is None
    with open(path, "wb+") as file:
        file.write(b"committed")
        os.fsync(file.fileno())
        path.unlink()
        file.seek(0)
        assert file.read() == b"committed"


def test_the_kernel_reads_ahead_in_whole_requests(mount: Served) -> None:
    """Also after INIT, which sets it back if it comes second."""
    number = os.stat(mount.point).st_dev
    ahead = Path(f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb").read_text()
    assert os.geteuid() != 0 or int(ahead) == READ_AHEAD_KIB


def test_a_small_file_is_in_the_cache_as_soon_as_it_is_open(mount: Served) -> None:
    """Its bytes come before the answer to open(2); those of one that grew since are its own."""
    paths = [mount.bucket / f"small-{number}" for number in range(20)]
    expected = [bytes([number]) * (200 * number + 1) for number in range(20)]
    for path, data in zip(paths, expected, strict=True):
        path.write_bytes(data)
    for _ in range(2):
        os.sync()
        while mount.ask("statistics")["files"]:
            pass  # a file whose commit is on its way is not given
        while mount.ask("statistics")["known"] > 1:  # nor one whose last opening the kernel has not forgotten
            Path("/proc/sys/vm/drop_caches").write_text("3\n")  # which leaves at first what was used lately
        for path, data in zip(paths, expected, strict=True):
            with path.open("rb") as file:
                assert is_cached(file.fileno())
                assert file.read() == data
        for path in paths:
            with path.open("ab") as file:
                file.write(b"more")
        expected = [data + b"more" for data in expected]


def is_cached(descriptor: int) -> bool:
    """Whether the kernel has the first page (mincore(2))."""
    libc, states = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(1)
    libc.mmap.restype = ctypes.c_void_p
    place = libc.mmap(None, ctypes.c_size_t(1), mmap.PROT_READ, mmap.MAP_SHARED, descriptor, ctypes.c_long(0))
    failed = libc.mincore(ctypes.c_void_p(place), ctypes.c_size_t(1), states)
    libc.munmap(ctypes.c_void_p(place), ctypes.c_size_t(1))
    assert failed == 0
    return bool(states.raw[0] & 1)


def test_rename(mount: Served) -> None:
    (mount.bucket / "a").write_text("a")
    (mount.bucket / "d").mkdir()
    (mount.bucket / "d/x").write_text("x")
    os.rename(mount.bucket / "d", mount.bucket / "e")
    os.replace(mount.bucket / "a", mount.bucket / "e/x")
    assert mount.get("e/x") == b"a"
    assert sorted(os.listdir(mount.bucket)) == ["e"]
    with pytest.raises(OSError, match="not empty"):
        os.rmdir(mount.bucket / "e")
    (mount.point / "other").mkdir()
    with pytest.raises(OSError, match="cross-device"):
        os.rename(mount.bucket / "e/x", mount.point / "other/x")
    shutil.move(mount.bucket / "e/x", mount.point / "other/x")
    assert (mount.point / "other/x").read_text() == "a"
    shutil.rmtree(mount.point / "other")


def test_sparse(mount: Served) -> None:
    path = mount.bucket / "disk.img"
    with open(path, "wb") as file:
        file.truncate(4 << 40)
        file.seek(3 << 40)
        file.write(b"here")
    assert path.stat().st_size == 4 << 40
    assert path.stat().st_blocks * 512 <= 1 << 20
    with open(path, "rb") as file:
        file.seek((3 << 40) - 4)
        assert file.read(12) == bytes(4) + b"here" + bytes(4)
    with open(path, "rb+") as file, pytest.raises(OSError, match="too large"):
        file.truncate(6 << 40)
    with open(path, "rb+") as file:
        file.truncate(10)
    assert mount.get("disk.img") == bytes(10)


def test_random_writes_agree_with_a_local_file(mount: Served, tmp_path: Path) -> None:
    """fsx in small: writes, truncates, reads, closes and syncs of one file."""
    chance = random.Random(11)
    mine, other = mount.bucket / "f", tmp_path / "f"
    for _ in range(12):
        with open(mine, "ab+") as left, open(other, "ab+") as right:
            left.close()
            right.close()
        with open(mine, "rb+") as left, open(other, "rb+") as right:
            for _ in range(60):
                what, at = chance.random(), chance.randrange(300_000)
                if what < 0.6:
                    data = chance.randbytes(chance.choice((1, 100, 4096, 40_000)))
                    for file in (left, right):
                        file.seek(at)
                        file.write(data)
                elif what < 0.7:
                    for file in (left, right):
                        file.truncate(at)
                elif what < 0.8:
                    left.flush()
                    os.fsync(left.fileno())
                else:
                    for file in (left, right):
                        file.seek(at)
                    assert left.read(50_000) == right.read(50_000)
        assert mine.read_bytes() == other.read_bytes() == mount.get("f")


def test_the_largest_writes_arrive_as_they_are(mount: Served) -> None:
    """The compiled part receives them apart from the others, which come between them."""
    path, model, chance = mount.bucket / "f", bytearray(5 << 20), random.Random(5)
    cached = os.open(path, os.O_RDWR | os.O_CREAT)
    direct = os.open(path, os.O_RDWR | os.O_DIRECT)
    os.truncate(path, len(model))
    source = mmap.mmap(-1, 2 << 20)
    writes = ((0, 1 << 20), (1 << 20, 2 << 20), (4096, 1 << 20), (3 << 20, (1 << 20) - 4096), (1 << 20, 4096))
    for turn, (descriptor, (at, length)) in enumerate((fd, write) for write in writes for fd in (cached, direct)):
        source[:length] = chance.randbytes(length)
        assert os.pwrite(descriptor, memoryview(source)[:length], at) == length
        model[at : at + length] = source[:length]
        name = chance.randbytes(60_000)
        os.setxattr(path, "user.long", name)
        assert os.getxattr(path, "user.long") == name, turn
        os.fsync(descriptor)
        assert mount.get("f") == bytes(model), turn
    os.close(direct)
    for at in range(0, len(model), 700_001):  # not at the border of a page
        model[at : at + 600_001] = data = chance.randbytes(min(600_001, len(model) - at))
        os.pwrite(cached, data, at)
    os.close(cached)
    assert path.read_bytes() == bytes(model) == mount.get("f")


def test_parallel_writers(mount: Served) -> None:
    piece = 300_000

    def write(number: int) -> None:
        with open(mount.bucket / "shared", "rb+") as file:
            file.seek(number * piece)
            file.write(bytes([number]) * piece)
        (mount.bucket / f"own{number}").write_bytes(bytes([number]) * piece)

    (mount.bucket / "shared").touch()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(24)))
    assert mount.get("shared") == b"".join(bytes([number]) * piece for number in range(24))
    for number in range(24):
        assert mount.get(f"own{number}") == bytes([number]) * piece


def test_appends_from_several_descriptors_do_not_overwrite_each_other(mount: Served) -> None:
    def append(number: int) -> None:
        for line in range(50):
            descriptor = os.open(mount.bucket / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.write(descriptor, b"%d %d\n" % (number, line))
            os.close(descriptor)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(4)))
    stored = mount.get("log")
    assert stored is not None
    assert sorted(stored.splitlines()) == sorted(b"%d %d" % (a, b) for a in range(4) for b in range(50))


def test_mmap(mount: Served) -> None:
    path = mount.bucket / "mapped"
    path.write_bytes(bytes(100_000))
    with open(path, "rb+") as file:
        view = mmap.mmap(file.fileno(), 0)
    view[50_000:50_003] = b"abc"  # after close(2): the pages come with munmap
    assert view[49_999:50_004] == b"\0abc\0"
    view.flush()
    view.close()
    stored = mount.get("mapped")
    assert stored is not None
    assert stored[50_000:50_003] == b"abc"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dict", "pool"])
def test_a_hundred_thousand_entries(tmp_path: Path, kind: str) -> None:
    with served(tmp_path / "mnt", kind) as mount:
        mount.ask("fill", "100000")
        names = os.listdir(mount.bucket / "many")
        assert sorted(names) == [f"{number:06d}" for number in range(100_000)]
        assert len(os.listdir(mount.bucket / "many")) == 100_000


def test_h5_s3_changes_show_at_once(mount: Served) -> None:
    path = mount.bucket / "d/file"
    mount.put("d/file", b"one")
    assert path.read_bytes() == b"one"
    assert not (mount.bucket / "d/absent").exists()
    for number in range(50):
        mount.put("d/file", b"x" * number)
        assert path.stat().st_size == number
        assert path.read_bytes() == b"x" * number
    mount.put("d/absent", b"")
    assert (mount.bucket / "d/absent").exists()
    mount.delete("d/absent")
    assert not (mount.bucket / "d/absent").exists()
    assert sorted(os.listdir(mount.bucket / "d")) == ["file"]


def test_h4_an_open_file_keeps_what_it_opened(mount: Served) -> None:
    mount.put("file", b"old" * 100_000)
    with open(mount.bucket / "file", "rb") as file:
        assert file.read(3) == b"old"
        mount.put("file", b"new")
        assert file.read() == (b"old" * 100_000)[3:]
    assert (mount.bucket / "file").read_bytes() == b"new"


def test_odd_names(mount: Served) -> None:
    mount.put("a", b"file")
    mount.put("a/b", b"below")
    assert (mount.bucket / ".tierce~f~a").read_bytes() == b"file"
    assert (mount.bucket / "a/b").read_bytes() == b"below"
    raw = os.fsencode(mount.bucket) + b"/caf\xe9"
    with open(raw, "wb") as file:
        file.write(b"latin")
    assert b"caf\xe9" in os.listdir(os.fsencode(mount.bucket))
    assert mount.get(".tierce~q~caf%E9") == b"latin"
    mount.put("../escape", b"inside")
    assert (mount.bucket / ".tierce~n~../escape").read_bytes() == b"inside"
    mount.put("y" * 300, b"long")
    long = [name for name in os.listdir(mount.bucket) if name.startswith(".tierce~h~")]
    assert (mount.bucket / long[0]).read_bytes() == b"long"
    with pytest.raises(OSError, match="Invalid argument"):
        (mount.bucket / ".tierce~reserved").touch()


def test_syncfs_after_files_were_removed_and_replaced(mount: Served) -> None:
    """The kernel tells when it marked as changed what unlink and rename took away, and keeps an error for syncfs(2)."""
    for name in ("removed", "replaced", "new", "two"):
        (mount.bucket / name).write_bytes(b"x")
    os.link(mount.bucket / "two", mount.bucket / "names")
    before = (mount.bucket / "names").stat().st_ctime_ns
    (mount.bucket / "removed").unlink()
    (mount.bucket / "new").replace(mount.bucket / "replaced")
    (mount.bucket / "two").unlink()
    assert (mount.bucket / "names").stat().st_ctime_ns >= before
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(mount.bucket, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert libc.syncfs(descriptor) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(descriptor)


def test_a_file_that_is_written_has_blocks(mount: Served) -> None:
    """Else tar(1) with --sparse, as old versions of cp(1), take all of it for a hole."""
    with (mount.bucket / "f").open("wb", buffering=0) as file:
        file.write(os.urandom(1 << 20))
        assert os.fstat(file.fileno()).st_blocks
        os.fsync(file.fileno())
        assert os.fstat(file.fileno()).st_blocks
    assert (mount.bucket / "f").stat().st_blocks * 512 == 1 << 20
    (mount.bucket / "f").write_bytes(b"")
    assert (mount.bucket / "f").stat().st_blocks == 0


def test_attributes(mount: Served) -> None:
    path = mount.bucket / "f"
    path.write_text("x")
    os.chown(path, 12, 34)
    os.setxattr(path, "user.meta.camera", b"Leica")
    os.utime(path, ns=(1, 2))
    entry = path.stat()
    assert (entry.st_uid, entry.st_gid, entry.st_atime_ns, entry.st_mtime_ns) == (12, 34, 1, 2)
    assert os.getxattr(path, "user.meta.camera") == b"Leica"
    assert os.listxattr(path) == ["user.meta.camera"]
    assert os.getxattr(path, "user.tierce.etag")
    with pytest.raises(OSError) as caught:
        os.setxattr(path, "user.meta.camera", b"x", os.XATTR_CREATE)
    assert caught.value.errno == errno.EEXIST
    assert os.statvfs(mount.bucket).f_namemax == 255


@pytest.mark.parametrize("kind", ["dict", "pool"])
def test_a_stop_loses_nothing_that_was_written(tmp_path: Path, kind: str) -> None:
    """Pages still in the kernel arrive before the mount goes: the file was never closed."""
    mount = Served(tmp_path / "mnt", kind)
    file = open(mount.bucket / "f", "wb", buffering=0)  # noqa: SIM115 - it outlives the mount
    try:
        file.write(b"unclosed")
        assert mount.stop() == 0
    finally:
        with pytest.raises(OSError, match="not connected"):
            os.fsync(file.fileno())
        os.close(os.open("/dev/null", os.O_RDONLY))
        try:
            file.close()
        except OSError as error:
            assert error.errno == errno.ENOTCONN  # noqa: PT017 - close may or may not say so
    assert any("left photos/f 8" in line for line in mount.log)


def test_a_dead_mount_is_taken_away(tmp_path: Path) -> None:
    mount = Served(tmp_path / "mnt")
    mount.process.kill()
    mount.process.wait()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(tmp_path / "mnt")
    with served(tmp_path / "mnt") as again:
        (again.bucket / "f").write_text("alive")
    mount.stop()
    assert type_at(tmp_path / "mnt") is None


def test_a_mount_point_that_hides_files_or_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    for path, reason in ((tmp_path / "full", "not empty"), (tmp_path / "full/file", "not a directory")):
        done = subprocess.run(
            [sys.executable, "-m", "tests.fusefs.served", str(path)],
            input="",
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode != 0
        assert reason in done.stderr


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(StoreError, match="install the package fuse3"):
        prepare(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StoreError, match="group"):
        prepare(tmp_path)
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    with pytest.raises(StoreError, match="modprobe fuse"):
        prepare(tmp_path)


@pytest.mark.parametrize("kind", ["dict", "pool"])
def test_unmounted_from_outside(tmp_path: Path, kind: str) -> None:
    mount = Served(tmp_path / "mnt", kind)
    (mount.bucket / "f").write_text("x")
    run("fusermount3", "-u", tmp_path / "mnt")
    assert mount.get("f") == b"x"
    assert mount.stop() == 0


def test_the_compiled_part_is_loaded_before_what_binds_to_it() -> None:
    """Whatever the daemon imports first."""
    words = [sys.executable, "-c", "import sys, appliance.daemon; print(*sys.modules)"]
    names = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert names.index("fusefs.interposed") < names.index("pyfuse3")
