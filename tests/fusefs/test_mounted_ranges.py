"""What pyfuse3 does not install, by system calls on a real mount."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import SimpleNamespace

import pytest

from fusefs import interposed
from tests.fusefs.compiled import build
from tests.fusefs.served import Served, served

pytestmark = pytest.mark.system

KEEP, PUNCH, ZERO = 1, 2, 16
AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module", params=["dict", "pool"])
def shared(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Served]:
    build()
    with served(tmp_path_factory.mktemp("mount") / "mnt", request.param) as mount:
        yield mount


@pytest.fixture
def mount(shared: Served) -> Served:
    for path in shared.bucket.iterdir():
        path.unlink()
    return shared


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    if libc.fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def name(descriptor: int, path: Path) -> None:
    """linkat(2) of an open file, as open(2) shows it for O_TMPFILE."""
    source = f"/proc/self/fd/{descriptor}".encode()
    if libc.linkat(AT_FDCWD, source, AT_FDCWD, os.fsencode(path), AT_SYMLINK_FOLLOW):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def refused(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, match=os.strerror(number).replace("(", r"\(").replace(")", r"\)"))


def test_the_daemon_loads_the_compiled_part_before_pyfuse3() -> None:
    """Which binds its calls as it is loaded: a line of imports in another order would lose every one of them."""
    program = "import sys, appliance.daemon; print([name for name in sys.modules if 'fuse' in name])"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.index("'fusefs.interposed'") < said.index("'pyfuse3'")


def test_holes_are_found_also_while_the_kernel_holds_what_was_written(mount: Served) -> None:
    descriptor = os.open(mount.bucket / "f", os.O_RDWR | os.O_CREAT)
    os.truncate(mount.bucket / "f", 1 << 40)
    os.pwrite(descriptor, b"x" * 70_000, 1 << 20)  # in the kernel's cache alone
    start = os.lseek(descriptor, 0, os.SEEK_DATA)
    assert (1 << 20) - 65_536 < start <= 1 << 20
    end = os.lseek(descriptor, start, os.SEEK_HOLE)
    assert (1 << 20) + 70_000 <= end < (1 << 20) + 70_000 + 65_536
    assert os.lseek(descriptor, 0, os.SEEK_HOLE) == 0
    with refused(errno.ENXIO):
        os.lseek(descriptor, end, os.SEEK_DATA)
    with refused(errno.ENXIO):
        os.lseek(descriptor, 1 << 40, os.SEEK_HOLE)
    os.pwrite(descriptor, b"y", end + (1 << 20))  # written back by the next question, and found
    assert end < os.lseek(descriptor, end, os.SEEK_DATA) <= end + (1 << 20)
    os.close(descriptor)


def test_a_copy_of_a_sparse_file_is_sparse(mount: Served, tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.seek(200 << 20)
        file.write(os.urandom(300_000))
        file.truncate(400 << 20)
    for source, target in ((tmp_path, mount.bucket), (mount.bucket, tmp_path / "back")):
        target.mkdir(exist_ok=True)
        subprocess.run(["cp", "--sparse=auto", source / "sparse", target / "sparse"], check=True)
        assert (target / "sparse").stat().st_blocks * 512 < 1 << 20
    subprocess.run(["cmp", tmp_path / "sparse", tmp_path / "back/sparse"], check=True)


def test_punching_frees_blocks_at_once_and_reads_zeros_through_the_cache(mount: Served) -> None:
    data = bytearray(os.urandom(1 << 20))
    descriptor = os.open(mount.bucket / "f", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, data)
    assert os.pread(descriptor, len(data), 0) == data  # cached
    fallocate(descriptor, PUNCH | KEEP, 131_072, 262_144)
    fallocate(descriptor, ZERO, 786_432, 100)
    data[131_072:393_216] = bytes(262_144)
    data[786_432:786_532] = bytes(100)
    assert os.pread(descriptor, len(data), 0) == data
    os.fsync(descriptor)
    assert os.fstat(descriptor).st_size == 1 << 20
    assert os.fstat(descriptor).st_blocks * 512 <= (1 << 20) - 262_144
    assert os.lseek(descriptor, 0, os.SEEK_HOLE) == 131_072
    os.close(descriptor)
    assert mount.get("f") == bytes(data)


def test_room_is_made_refused_and_not_made_of_what_is_not_there(mount: Served) -> None:
    descriptor = os.open(mount.bucket / "f", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(descriptor, 0, 100_000)
    assert os.fstat(descriptor).st_size == 100_000
    fallocate(descriptor, KEEP, 0, 1 << 20)
    fallocate(descriptor, ZERO, 99_990, 20)
    assert os.fstat(descriptor).st_size == 100_010
    for mode, offset, length, number in (
        (0, 0, 1 << 41, errno.ENOSPC),
        (0, 0, 6 << 40, errno.EFBIG),
        (0x08, 0, 4096, errno.EOPNOTSUPP),
        (0x20, 0, 4096, errno.EOPNOTSUPP),
    ):
        with refused(number):
            fallocate(descriptor, mode, offset, length)
    os.close(descriptor)
    assert mount.get("f") == bytes(100_010)


def test_nothing_here_has_capabilities_and_all_other_attributes_are_asked_of_the_mount(mount: Served) -> None:
    """The compiled part answers for `security.capability`, and for nothing else."""
    file = mount.bucket / "file"
    file.write_bytes(b"x")
    os.setxattr(file, "user.security.capability", b"value")
    for place in (file, mount.bucket, mount.bucket.parent):
        with refused(errno.ENODATA):
            os.getxattr(place, "security.capability")
    assert os.getxattr(file, "user.security.capability") == b"value"
    assert os.getxattr(file, "user.tierce.etag")
    os.chown(file, 12, 34)
    file.write_bytes(b"changed")
    assert mount.get("file") == b"changed"


def test_nameless_files(mount: Served) -> None:
    descriptor = os.open(mount.bucket, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(descriptor, b"whole" * 50_000)
    assert os.fstat(descriptor).st_nlink == 0
    assert os.listdir(mount.bucket) == []
    name(descriptor, mount.bucket / "there")
    assert mount.get("there") == b"whole" * 50_000
    assert (mount.bucket / "there").stat().st_ino == os.fstat(descriptor).st_ino
    with refused(errno.EEXIST):
        name(descriptor, mount.bucket / "there")
    os.close(descriptor)
    with tempfile.TemporaryFile(dir=mount.bucket) as file:  # uses O_TMPFILE
        file.write(b"scratch")
        file.flush()
        assert os.listdir(mount.bucket) == ["there"]
    descriptor = os.open(mount.bucket, os.O_TMPFILE | os.O_WRONLY | os.O_EXCL)
    with refused(errno.ENOENT):  # open(2): it can never get a name
        name(descriptor, mount.bucket / "never")
    os.close(descriptor)


def test_a_copied_range_shares_and_shows_through_the_cache(mount: Served) -> None:
    data = os.urandom(3 << 20)
    (mount.bucket / "a").write_bytes(data)
    source = os.open(mount.bucket / "a", os.O_RDWR)
    target = os.open(mount.bucket / "b", os.O_RDWR | os.O_CREAT)
    os.write(target, bytes(1 << 20))
    assert os.pread(target, 10, 0) == bytes(10)  # cached
    os.pwrite(source, b"new", 5000)  # in the kernel alone
    data = data[:5000] + b"new" + data[5003:]
    assert os.copy_file_range(source, target, 1 << 20, 0, 0) == 1 << 20
    assert os.pread(target, 1 << 20, 0) == data[: 1 << 20]
    assert os.copy_file_range(source, target, 4 << 20, 1 << 20, 1 << 20) == 2 << 20  # to the end
    assert os.fstat(target).st_size == 3 << 20
    assert os.copy_file_range(source, target, 100, 0, 3 << 20) == 100  # small: the kernel copies
    with refused(errno.EINVAL):
        os.copy_file_range(target, target, 1 << 20, 0, 1000)
    os.close(source)
    os.close(target)
    assert mount.get("b") == data + data[:100]
    (mount.bucket / "a").unlink()
    assert (mount.bucket / "b").read_bytes() == data + data[:100]


def test_a_copy_by_programs_is_the_same(mount: Served) -> None:
    data = os.urandom(5_000_001)
    (mount.bucket / "a").write_bytes(data)
    subprocess.run(["cp", mount.bucket / "a", mount.bucket / "b"], check=True)
    shutil.copyfile(mount.bucket / "a", mount.bucket / "c")
    assert mount.get("b") == mount.get("c") == data


def test_a_compiled_part_that_does_not_fit_is_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an older source, or for a libfuse that is gone: an import must not fail for it."""
    (tmp_path / "old.c").write_text("void extra_install(void) {}\n")
    subprocess.run(["cc", "-shared", "-fPIC", tmp_path / "old.c", "-o", tmp_path / "old.so"], check=True)
    (tmp_path / "broken.so").write_bytes(b"no library")
    for name in ("old.so", "broken.so"):
        found = SimpleNamespace(origin=str(tmp_path / name))
        monkeypatch.setattr(PathFinder, "find_spec", lambda *_, found=found: found)
        assert interposed._load() is None


def test_without_the_compiled_part_one_warning_says_what_is_missing_and_all_else_works(tmp_path: Path) -> None:
    """The package as an installation without a compiler leaves it."""
    build()
    house = Path(__file__).parent.parent.parent
    for room in ("appliance", "fusefs", "s3front", "tests"):
        shutil.copytree(house / room, tmp_path / "house" / room, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    script = (
        "import os; from pathlib import Path; from tests.fusefs.served import served\n"
        f"with served(Path({str(tmp_path / 'mnt')!r})) as mount:\n"
        "    (mount.bucket / 'f').write_bytes(b'x')\n"
        "    assert os.open(mount.bucket / 'f', os.O_RDONLY) and mount.get('f') == b'x'\n"
        "print(''.join(mount.log))"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "house")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path / "house",
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(interposed.MISSING) == 1
    assert "libfuse3-dev" in interposed.MISSING
