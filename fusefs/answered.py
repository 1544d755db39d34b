"""What may leave a handler: an answer or a FUSEError.

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
from typing import Any, ParamSpec, TypeVar

from pyfuse3 import FUSEError

from appliance.errors import StoreError
from fusefs.errors import to_errno

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


class BeingRemoved(Exception):
    """A commit under way removes what was found; `settle` waits for its end."""

    def __init__(self, settle: Callable[[], Awaitable[None]]) -> None:
        super().__init__("a commit under way removes it")
        self.settle = settle


def answered(handler: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Nothing but FUSEError gets out."""

    @functools.wraps(handler)
    async def answer(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(*args, **kwargs)
        except FUSEError:
            raise
        except BeingRemoved as removal:
            await removal.settle()
            raise FUSEError(errno.ESTALE) from None
        except StoreError as error:
            number = to_errno(error.code)
            if number == errno.EIO:
                log.error("%s: %r", handler.__name__, error)
            raise FUSEError(number) from None
        except Exception:
            log.exception("%s failed", handler.__name__)
            raise FUSEError(errno.EIO) from None

    return answer
