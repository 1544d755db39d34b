"""Who waits for what S3 changed and others are still told of (H5), and from which moment on."""

from __future__ import annotations

import trio
import trio.testing

from appliance.catalogue import commands
from appliance.catalogue.schema import ENTRY
from appliance.engine.remembered import Remembered
from appliance.engine.telling import Tellings
from appliance.engine.ticket import Ticket

ROOT, DIRECTORY = 1, 3


def deletion(key: bytes, *, announce: bool = True) -> Ticket:
    command = commands.DeleteObject(bucket=1, root=ROOT, key=key, now_ns=1, precondition=None)
    return Ticket(command, 0, announce=announce)


class Scene:
    """Readers, and which of them were answered."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.rows = Remembered()
        self.failed = False
        self.tellings = Tellings(self.rows, lambda: self.failed)
        self.answered: list[str] = []

    async def ask(self) -> None:
        """One of each starts to wait, if it has to."""

        async def key(name: str, key: bytes, parent: int | None, last: bytes) -> None:
            await self.tellings.key(ROOT, key, parent, last)
            self.answered.append(name)

        async def page(name: str, prefix: bytes) -> None:
            await self.tellings.page(ROOT, prefix, b"")
            self.answered.append(name)

        self.answered.clear()
        self.nursery.start_soon(key, "key", b"d/f", DIRECTORY, b"f")
        self.nursery.start_soon(key, "other", b"d/g", DIRECTORY, b"g")
        self.nursery.start_soon(key, "no directory", b"e/f", None, b"f")
        self.nursery.start_soon(page, "page", b"d/")
        self.nursery.start_soon(page, "elsewhere", b"e/")
        await trio.testing.wait_all_tasks_blocked()
        self.answered = sorted(set(self.answered))

    async def now(self) -> list[str]:
        await trio.testing.wait_all_tasks_blocked()
        return sorted(set(self.answered))


ALL = sorted(["key", "other", "no directory", "page", "elsewhere"])


def test_from_the_commit_on_until_the_listeners_are_done() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            scene = Scene(nursery)
            scene.rows.begin({(ENTRY.number, DIRECTORY, b"f"): None})
            await scene.ask()
            assert scene.answered == ALL, "nobody is told of that COMMIT: it is the mount's"
            scene.rows.begin({(ENTRY.number, DIRECTORY, b"f"): None}, announced=True)
            await scene.ask()
            assert scene.answered == ["other"], "the others may have seen it"
            told = trio.Event()
            ticket, mounts, lost = deletion(b"d/f"), deletion(b"d/f", announce=False), deletion(b"d/f")
            scene.rows.deliver(2)
            scene.tellings.settle([ticket, mounts], [told.wait()])
            scene.tellings.delivered()
            assert (ticket.settled, ticket.done, mounts.settled) == (False, True, True)
            assert await scene.now() == sorted(["other", "no directory", "elsewhere"])
            await scene.ask()
            assert scene.answered == sorted(["other", "no directory", "elsewhere"])
            free = deletion(b"d/g")
            scene.tellings.settle([lost, free], [])
            assert (lost.settled, free.settled) == (False, True), "of the first it would tell that the key is gone"
            told.set()
            assert await scene.now() == ALL
            assert ticket.settled
            assert lost.settled
            assert not scene.tellings.under_way
            await scene.ask()
            assert scene.answered == ALL

    trio.run(main)


def test_nobody_waits_for_a_commit_that_failed() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            scene = Scene(nursery)
            scene.rows.begin({(ENTRY.number, DIRECTORY, b"f"): None}, announced=True)
            await scene.ask()
            assert scene.answered == ["other"]
            scene.failed = True
            scene.tellings.delivered()
            assert await scene.now() == ALL
            await scene.ask()
            assert scene.answered == ALL

    trio.run(main)


def test_a_listener_that_fails_keeps_nobody_waiting() -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("a bug of the listener's")

    async def main() -> None:
        tellings = Tellings(Remembered(), lambda: False)
        ticket = deletion(b"d/f")
        tellings.settle([ticket], [fail()])
        with trio.fail_after(60):
            await tellings.key(ROOT, b"d/f", DIRECTORY, b"f")
            await ticket.wait()

    trio.run(main)
