"""Whether the devices answer.

One that fails says so to whoever needed it, and is counted.  One that hangs says nothing: its reads just do not end, in
any time, so somebody has to ask who can wait for the answer and give up.  A question is a read of a sector that is
always there (the first superblock's), past every cache, by the lanes that all reads take: if those hang, so does the
box.  A device that has not answered yet is not asked again: hanging, it keeps one lane and no more.

What to do about silence is not known here.
"""

from __future__ import annotations

from functools import partial

import outcome
import trio

from appliance.device.buffers import scratch
from appliance.device.device import ALIGNMENT
from appliance.device.lanes import CallLanes
from appliance.engine.pool import Pool, PoolDevice
from appliance.errors import Code, StoreError


class Question:
    """One read.  `error` is meaningful once it has ended."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.error: OSError | None = None


class Answering:
    """Asks the pool's devices.  In the loop."""

    def __init__(self, pool: Pool, lanes: CallLanes) -> None:
        self._pool = pool
        self._lanes = lanes
        self._asked: dict[int, Question] = {}  # by device: not yet answered

    async def ask(self, *, journals_only: bool = False) -> None:
        """Returns when every device that is online has answered; while one hangs it does not: cancel it.

        An error is an answer, and counted.  Raises IO_ERROR when there is nothing else.
        """
        online = [device for device in self._pool.devices.values() if device.online]
        questions = [self._question(device) for device in online if device.journal or not journals_only]
        for question in questions:
            await question.ended.wait()
        if all(question.error for question in questions):
            causes = "; ".join(str(question.error) for question in questions)
            raise StoreError(Code.IO_ERROR, "no device can be read", cause=causes or "none is online")

    def _question(self, device: PoolDevice) -> Question:
        """The one that is under way, or a new one."""
        question = self._asked.get(device.id)
        if question is None:
            question = self._asked[device.id] = Question()
            self._lanes.start(partial(_read, device), partial(self._answered, device, question))
        return question

    def _answered(self, device: PoolDevice, question: Question, result: outcome.Outcome[None]) -> None:
        del self._asked[device.id]
        try:
            result.unwrap()
        except OSError as error:
            device.read_errors += 1
            question.error = error
        question.ended.set()


def _read(device: PoolDevice) -> None:
    assert device.device is not None
    with scratch(ALIGNMENT) as buffer:
        device.device.read_into(device.geometry.slots()[0], buffer)
