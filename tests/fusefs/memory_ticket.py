"""A commit of the dictionary store, applied when somebody waits for it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from appliance.errors import StoreError

if TYPE_CHECKING:
    from tests.fusefs.memory_store import MemoryStore


class MemoryTicket:
    def __init__(self, store: MemoryStore, apply: Callable[[], object]) -> None:
        self.store, self.apply = store, apply
        self.durable = self.done = self.settled = False
        self.called: tuple[Callable[[], object], Callable[[bool], object]] | None = None
        self.born = 0
        self.result: object = None
        self.error: StoreError | None = None

    def run(self) -> None:
        try:
            if self.store.fail_next is not None:
                error, self.store.fail_next = self.store.fail_next, None
                raise error
            self.result = self.apply()
        except StoreError as error:
            self.error = error
        self.durable = self.done = self.settled = True
        self.tell()

    def call(self, reply: Callable[[], object], told: Callable[[bool], object]) -> None:
        self.called = reply, told
        if self.settled:
            self.tell()

    def tell(self) -> None:
        if self.called is not None:
            (reply, told), self.called = self.called, None
            if self.error is None:
                reply()
            told(self.error is None)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.wait().__await__()

    async def wait(self, *, patient: bool = False) -> object:
        await self.wait_done()
        if self.error is not None:
            raise self.error
        return self.result

    async def stands(self) -> bool:
        """As `Ticket.stands`: shown as soon as it is durable."""
        await self.wait_done()
        return False

    async def wait_done(self) -> None:
        if not self.settled:
            await self.store.drain()
