"""Every request of the kernel is counted once: how long it took, how it ended, what it moved."""

from __future__ import annotations

import errno

import pyfuse3
import pytest
import trio

from appliance.errors import Code, StoreError
from appliance.metrics import Collector, Requests, exposition
from fusefs.observed import BOUNDS, OPERATIONS, Operation
from tests.fusefs.scenes import settled
from tests.fusefs.unmounted import unmounted


def figures() -> dict[str, tuple[int, dict[str, int], int]]:
    """Requests, errors and bytes by operation, of this process so far."""
    return {name: (sum(each.counts), dict(each.named_errors), each.bytes) for name, each in OPERATIONS.items()}


def test_operations_are_counted_by_how_they_ended() -> None:
    async def main() -> None:
        async with unmounted() as mount:
            before = figures()
            await mount.write_file("photos/a", b"12345")
            assert await mount.read_file("photos/a") == b"12345"
            for _ in range(3):
                with pytest.raises(pyfuse3.FUSEError):
                    await mount.rmdir("photos/none")
            with pytest.raises(pyfuse3.FUSEError):
                await mount.ops.setxattr(await mount.inode("photos/a"), b"user.meta.K\xff", b"v", mount.ctx)
            mount.ops.handles[5] = None  # type: ignore[assignment]  # a bug of ours
            with pytest.raises(pyfuse3.FUSEError):
                await mount.ops.read(pyfuse3.FileHandleT(5), 0, 1)
        after = figures()

        def more(name: str) -> tuple[int, dict[str, int], int]:
            (count, errors, moved), (count_now, errors_now, moved_now) = before[name], after[name]
            gained = {each: number - errors.get(each, 0) for each, number in errors_now.items()}
            return count_now - count, {each: number for each, number in gained.items() if number}, moved_now - moved

        assert more("create") == (1, {}, 0)
        assert more("write") == (1, {}, 5)
        assert more("rmdir") == (3, {"ENOENT": 3}, 0)
        assert more("setxattr") == (1, {"EINVAL": 1}, 0)
        count, errors, moved = more("read")
        assert (errors, moved) == ({"EIO": 1}, 5)
        assert count >= 2

    trio.run(main)


def test_the_log_says_whose_bytes_are_lost(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with unmounted() as mount:
            await mount.write_file("photos/a", bytes(20_000))
            fh = await mount.open("photos/a")
            await settled(mount)

            def damaged(*_: object) -> None:
                raise StoreError(Code.DAMAGED, "no good copy of the data is left", cause="device 1 at 4096")

            monkeypatch.setattr(mount.store, "reader", damaged)
            with pytest.raises(pyfuse3.FUSEError) as caught:
                await mount.ops.read(fh, 4096, 4096)
            assert caught.value.errno == errno.EIO
            assert f"read: inode {await mount.inode('photos/a')}, bytes 4096 to 8192, " in caplog.text
            assert "device 1 at 4096" in caplog.text
            await mount.close(fh)

    trio.run(main)


def test_metrics_have_the_mount() -> None:
    operation = Operation()
    operation.ended(BOUNDS[0])
    operation.ended(BOUNDS[-1] * 2)
    operation.failed(errno.EDQUOT)
    operation.failed(4095)  # none that Linux knows
    operation.bytes = 17
    operation.unexpected = 3
    collector = Collector(Requests(), dict, list, {"read": operation})
    lines = exposition(collector).decode().splitlines()
    for line in (
        'tierce_mount_duration_seconds_bucket{le="1e-05",operation="read"} 1.0',
        'tierce_mount_duration_seconds_bucket{le="5.0",operation="read"} 1.0',
        'tierce_mount_duration_seconds_bucket{le="+Inf",operation="read"} 2.0',
        'tierce_mount_duration_seconds_count{operation="read"} 2.0',
        'tierce_mount_errors_total{errno="EDQUOT",operation="read"} 1.0',
        'tierce_mount_errors_total{errno="4095",operation="read"} 1.0',
        'tierce_mount_bytes_total{operation="read"} 17.0',
        'tierce_mount_unexpected_total{operation="read"} 3.0',
    ):
        assert line in lines, line
