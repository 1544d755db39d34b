"""How long whoever guesses keys waits (pure): failures by source address, each doubling the delay up to a bound.

It knows no signatures: s3front/verified.py says what a guess is.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict


class GuessSlowdown:
    """How long to keep a source waiting for the refusal it has earned.

    Error names tell apart unknown keys and bad signatures, as S3's do; so guessing must be slow.  Some failures are
    free (a client with a stale configuration fails in bursts), then each doubles the delay up to a bound; one failure
    is forgotten every `forget` seconds.  A success is never delayed: neighbours behind one address would suffer.  IPv6
    sources count by /64, which is what one host gets.  Memory is bounded: the source heard longest ago is dropped.
    """

    def __init__(
        self, *, free: int = 10, first: float = 0.05, most: float = 5.0, forget: float = 10.0, sources: int = 4096
    ) -> None:
        self._free = free
        self._first = first
        self._most = most
        self._forget = forget
        self._sources = sources
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()  # source: (failures, when)

    def __len__(self) -> int:
        return len(self._failures)

    def failed(self, source: str, now: float) -> float:
        """Counts one failure of the address `source`; returns the seconds to wait before answering it."""
        source = _network(source)
        failures = self._remaining(source, now) + 1.0
        self._failures[source] = (failures, now)
        self._failures.move_to_end(source)
        if len(self._failures) > self._sources:
            self._failures.popitem(last=False)
        return self._delay(failures)

    def delay(self, source: str, now: float) -> float:
        """What the next failure of the source would wait, without counting one."""
        return self._delay(self._remaining(_network(source), now) + 1.0)

    def _remaining(self, source: str, now: float) -> float:
        failures, when = self._failures.get(source, (0.0, now))
        return max(0.0, failures - max(0.0, now - when) / self._forget)

    def _delay(self, failures: float) -> float:
        over = int(failures) - self._free
        return min(self._most, self._first * 2.0 ** min(over - 1, 32)) if over > 0 else 0.0


def _network(source: str) -> str:
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        return source
    if address.version == 4:
        return source
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
