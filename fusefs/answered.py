"""What may leave a handler: an answer or a FUSEError.  The one place that every request passes, so it also counts them.

pyfuse3 ends the mount on any other exception, and with it every program that works there.  An operating error becomes
its errno; anything else is a bug of ours, logged with its traceback and answered EIO.

What was found but is being removed by a commit under way is answered ESTALE once that is done: the kernel then looks
the path up again and finds what the other door left.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from time import perf_counter
from typing import Any, Final, ParamSpec, TypeVar

from pyfuse3 import FUSEError

from appliance.errors import StoreError
from fusefs.errors import to_errno
from fusefs.observed import UNDER_WAY, operation

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
Admission = Callable[..., Awaitable[None] | None]
"""Called with a verb's arguments before it: raises, or gives what must be waited for first, if anything."""
MOVED: Final[dict[str, Callable[[Any], int]]] = {"read": len, "write": int}  # the bytes in a handler's result


class BeingRemoved(Exception):
    """A commit under way removes what was found; `settle` waits for its end."""

    def __init__(self, settle: Callable[[], Awaitable[None]]) -> None:
        super().__init__("a commit under way removes it")
        self.settle = settle


def answered(handler: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Nothing but FUSEError gets out, and everything is counted."""
    return admitted(_all, handler)


def admitted(admission: Admission, handler: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """The same of a handler that not everybody may ask.  One coroutine for both: a request passes few instructions."""
    name = handler.__name__
    observed = operation(name)
    moved = MOVED.get(name)

    @functools.wraps(handler)
    async def answer(*args: P.args, **kwargs: P.kwargs) -> R:
        started = perf_counter()
        UNDER_WAY.requests += 1
        try:
            waiting = admission(*args, **kwargs)
            if waiting is not None:
                await waiting
            result = await handler(*args, **kwargs)
        except FUSEError as error:
            observed.failed(error.errno)
            raise
        except BeingRemoved as removal:
            await removal.settle()
            observed.failed(errno.ESTALE)
            raise FUSEError(errno.ESTALE) from None
        except StoreError as error:
            number = to_errno(error.code)
            observed.failed(number)
            if number == errno.EIO:
                log.error("%s: %s", name, ", ".join([*getattr(error, "__notes__", ()), repr(error)]))
            raise FUSEError(number) from None
        except Exception:
            observed.failed(errno.EIO)
            observed.unexpected += 1
            log.exception("%s failed", name)
            raise FUSEError(errno.EIO) from None
        finally:
            UNDER_WAY.requests -= 1
            observed.ended(perf_counter() - started)
        if moved is not None:
            observed.bytes += moved(result)
        return result

    return answer


def _all(*args: object, **kwargs: object) -> None:
    """Who needs no admission."""
