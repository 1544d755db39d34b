"""A device dies under a PUT: it is done on the others, or the client is told to try again (503), and then it is."""

from __future__ import annotations

import collections
import errno

import pytest

from appliance.device.device import Buffer
from appliance.limits import KIB, MIB
from appliance.verbs import objects
from tests.doubles.disks import MemoryDevice
from tests.models import boxes
from tests.rows import rows
from tests.s3front.box import Box


class Fate:
    """The first of its devices to be written so many times once it is told to strike dies."""

    def __init__(self) -> None:
        self.strikes: int | None = None
        self.dead: MemoryDevice | None = None
        self._met: collections.Counter[str] = collections.Counter()

    def meet(self, device: MemoryDevice) -> None:
        if self.strikes is not None and self.dead is None:
            self._met[device.name] += 1
            if self._met[device.name] == self.strikes:
                self.dead = device
        if self.dead is device:
            raise OSError(errno.EIO, "dead", device.name)


class Mortal(MemoryDevice):
    """A device that may be struck."""

    def __init__(self, name: str, fate: Fate) -> None:
        super().__init__(boxes.DEVICE_SIZE, name)
        self._fate = fate

    def write(self, offset: int, buffer: Buffer) -> None:
        self._fate.meet(self)
        super().write(offset, buffer)

    def flush(self) -> None:
        self._fate.meet(self)
        super().flush()


@pytest.mark.slow
@rows("journals", [1, 3])
@rows(
    ("size", "strikes", "first"),
    [
        (KIB, 1, 200),
        (KIB, 2, 200),  # the record is written, and not flushed
        (50 * KIB, 1, 200),
        (50 * KIB, 2, 200),
        (300 * KIB, 1, 200),  # it goes to others while it is received
        (300 * KIB, 2, 503),  # a page is there already
        (9 * MIB, 1, 200),
        (9 * MIB, 2, 503),
        (9 * MIB, 3, 503),
    ],
)
def test_a_put_is_repeated_or_is_to_be_tried_again(
    monkeypatch: pytest.MonkeyPatch, journals: int, size: int, strikes: int, first: int
) -> None:
    monkeypatch.setattr(objects, "BUCKET_NAME_MIN", 1)  # the box has a bucket b
    fate = Fate()
    devices = [MemoryDevice(boxes.DEVICE_SIZE, "first"), *(Mortal(f"mortal {number}", fate) for number in range(3))]
    body = bytes(range(256)) * (size // 256)
    with boxes.Box(devices, copies=2, journals=journals) as real:
        box = Box(real=real)
        fate.strikes = strikes
        answer = box.send("PUT", "/b/k", body=body)
        assert (fate.dead is None) == (size == KIB and journals == 1), "nothing of it goes to those"
        assert (answer.status, answer.code) == (first, "" if first == 200 else "ServiceUnavailable")
        if first != 200:
            assert box.send("GET", "/b/k").status == 404
            assert box.send("PUT", "/b/k", body=body).status == 200
        assert box.send("GET", "/b/k").body == body
        report = real.audit(verify=True)
        assert report.clean, report.problems
        assert (report.under_replicated, report.healthy) == (0, fate.dead is None)
