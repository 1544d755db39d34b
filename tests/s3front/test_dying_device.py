"""A device dies under a PUT: the client is told to try again (503, as S3 documents it), and then it succeeds."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

import pytest

from appliance.device.device import Buffer
from appliance.limits import KIB, MIB
from appliance.verbs import objects
from tests.doubles.disks import MemoryDevice
from tests.models import boxes
from tests.rows import rows
from tests.s3front.box import Box

SIZES: Final = {"in the journal": KIB, "gathered": 50 * KIB, "streamed": 300 * KIB, "of several pages": 9 * MIB}


class Fate:
    """The first of its devices to be written once it is told to strike dies."""

    def __init__(self) -> None:
        self.strikes = False
        self.dead: MemoryDevice | None = None

    def meet(self, device: MemoryDevice) -> None:
        if self.strikes and self.dead is None:
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

    def write_parts(self, offset: int, parts: Sequence[Buffer]) -> None:
        self._fate.meet(self)
        super().write_parts(offset, parts)

    def flush(self) -> None:
        self._fate.meet(self)
        super().flush()


@pytest.mark.slow
@rows("journals", [1, 3])
@rows("what", SIZES)
def test_a_put_is_to_be_tried_again(monkeypatch: pytest.MonkeyPatch, what: str, journals: int) -> None:
    monkeypatch.setattr(objects, "BUCKET_NAME_MIN", 1)  # the box has a bucket b
    fate = Fate()
    devices = [MemoryDevice(boxes.DEVICE_SIZE, "first"), *(Mortal(f"mortal {number}", fate) for number in range(3))]
    body = bytes(range(256)) * (SIZES[what] // 256)
    with boxes.Box(devices, copies=2, journals=journals) as real:
        box = Box(real=real)
        fate.strikes = True
        answers = [box.send("PUT", "/b/k", body=body) for _ in range(2)]
        told = [(answer.status, answer.code) for answer in answers]
        if fate.dead is None:
            assert (what, journals, told[0]) == ("in the journal", 1, (200, "")), "nothing of it goes there"
        else:
            assert told == [(503, "ServiceUnavailable"), (200, "")]
        assert box.send("GET", "/b/k").body == body
