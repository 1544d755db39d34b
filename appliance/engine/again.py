"""What of a batch that failed because a device did is committed once more, on the devices that are left (I10).

The failed batch is taken back wherever it was written, and the device is fenced durably: what follows is the next
batch, in which each command is checked again, as if its client had sent it again.  So it is for all that wait for their
answer, once.  And for what the mount has answered: a program has heard that its file is closed, and S3, which has
submitted something behind it, must not find the names as they were before.

Bytes have to be there still: in memory, or in pages that are whole, with as many copies as were wanted, on devices that
take writes; those pages stay reserved meanwhile (I6), and the next barrier flushes their devices (I1).  What may stand
on something that was answered and is lost is not tried.

Deliberately unknown here: how (commit.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from appliance.engine.failures import Fenced
from appliance.engine.ticket import Ticket
from appliance.errors import Code, StoreError


def repeatable(tickets: Sequence[Ticket], failure: StoreError, is_online: Callable[[int], bool]) -> list[Ticket]:
    """Those of a failed batch, in order.  `is_online`: whether a device, by its number, takes writes."""
    if failure.code is not Code.UNAVAILABLE:
        return []
    found = []
    for ticket in tickets:
        if ticket.repeated or not (ticket.answered or isinstance(failure, Fenced)):
            continue
        pages = [page for chunk in ticket.command.new_chunks for page in chunk.pages]
        if all(is_online(page.device) for page in pages):
            found.append(ticket)
        elif ticket.answered:
            break
    return found
