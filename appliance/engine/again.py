"""What of a batch that failed because a device did is committed once more, on the devices that are left (I10).

The mount has answered it: a program has heard that its file is closed, and S3, which has submitted something behind it,
must not find the names as they were before.  So it is the next batch, once.  Its bytes have to be there still: in
memory, or in pages that are whole, with as many copies as were wanted, on devices that take writes; those pages stay
reserved meanwhile (I6), and the next barrier flushes their devices (I1).  What may stand on something that is lost is
not tried.

Deliberately unknown here: how (commit.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from appliance.engine.ticket import Ticket


def repeatable(tickets: Sequence[Ticket], is_online: Callable[[int], bool]) -> list[Ticket]:
    """Those of a failed batch, in order.  `is_online`: whether a device, by its number, takes writes."""
    found = []
    for ticket in tickets:
        if ticket.answered:
            pages = [page for chunk in ticket.command.new_chunks for page in chunk.pages]
            if not all(is_online(page.device) for page in pages):
                break
            found.append(ticket)
    return found
