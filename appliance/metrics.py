"""What Prometheus reads: requests counted by the doors, and the engine's own figures taken when asked.

The hot path pays for one call of `Requests.observe`: two dict look-ups and a few additions on plain lists, no lock (all
calls come from the loop).  prometheus-client's own counters take a lock and build label objects at every increment, so
its classes appear only at the scrape: `Collector.collect` folds the lists into its families.  Names and labels are a
promise to dashboards.

This module does not know HTTP: who serves the text is administration.py.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector as PrometheusCollector

from appliance.limits import GIB, KIB, MIB
from appliance.model import DeviceStatus

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# Seconds: from a cached GET (0.1 ms) to a part of a large upload.
DURATION_BOUNDS: Final = (0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
# Bytes: inline, gathered, streamed; part sizes; large objects.
SIZE_BOUNDS: Final = (2 * KIB, 16 * KIB, 128 * KIB, 1 * MIB, 8 * MIB, 64 * MIB, 512 * MIB, 5 * GIB)

# Operations that move an object's bytes.
SIZED: Final = frozenset({"GetObject", "PutObject", "UploadPart"})

# Operations of the mount that move a file's bytes.
MOVING: Final = ("read", "write", "prefetch")

# The engine's statistics that only ever grow; everything else it reports is a gauge.
ENGINE_COUNTERS: Final = frozenset(
    {
        "batches",
        "batch_commands",
        "barrier_seconds",
        "record_bytes",
        "snapshots",
        "verify_failures",
        "read_errors",
        "write_errors",
        "read_failovers",
        "cache_hits",
        "cache_misses",
        "folded_bytes",
        "folded_slices",
        "fold_conflicts",
    }
)
# Reported under names of their own.
ENGINE_NAMED: Final = frozenset({"objects", "bytes", "uploads_active"})


class Histogram:
    """Counts by bound, plus their sum.  The last count is of what exceeds every bound."""

    __slots__ = ("counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def cumulative(self, bounds: Sequence[float]) -> list[tuple[str, float]]:
        """Prometheus's buckets: (upper bound, how many at or below it)."""
        return _cumulative(self.counts, bounds)


class Requests:
    """What the S3 door reports: one `observe` per request."""

    def __init__(self) -> None:
        self.totals: dict[tuple[str, int], int] = {}
        self.durations: dict[str, Histogram] = {}
        self.sizes: dict[str, Histogram] = {}
        self.errors: dict[str, int] = {}
        self.received = 0
        self.sent = 0

    def observe(
        self, operation: str, status: int, seconds: float, received: int = 0, sent: int = 0, code: str = ""
    ) -> None:
        """One request ended.  `operation` is S3's name of it; `received` and `sent` are bytes of bodies; `code` is S3's
        error code, if it was an error."""
        key = (operation, status)
        self.totals[key] = self.totals.get(key, 0) + 1
        self.received += received
        self.sent += sent
        durations = self.durations.get(operation)
        if durations is None:
            durations = self.durations[operation] = Histogram(DURATION_BOUNDS)
        durations.counts[bisect_left(DURATION_BOUNDS, seconds)] += 1
        durations.sum += seconds
        if code:
            self.errors[code] = self.errors.get(code, 0) + 1
        elif operation in SIZED:
            size = received or sent
            sizes = self.sizes.get(operation)
            if sizes is None:
                sizes = self.sizes[operation] = Histogram(SIZE_BOUNDS)
            sizes.counts[bisect_left(SIZE_BOUNDS, size)] += 1
            sizes.sum += size


class Operation(Protocol):
    """One kind of request that a mount answers (fusefs.observed)."""

    counts: list[int]  # by the bounds of their durations, in seconds
    seconds: float
    bytes: int  # read or written
    unexpected: int  # errors that are bugs

    @property
    def bounds(self) -> Sequence[float]: ...
    @property
    def named_errors(self) -> Mapping[str, int]: ...


class Collector(PrometheusCollector):
    """Folds requests, the mount's operations, the engine's statistics and its devices into Prometheus's families at
    each scrape."""

    def __init__(
        self,
        requests: Requests,
        statistics: Callable[[], Mapping[str, float]],
        devices: Callable[[], Sequence[DeviceStatus]],
        operations: Mapping[str, Operation] | None = None,
    ) -> None:
        """`operations` of the mount by name; they go on counting."""
        self._requests = requests
        self._statistics = statistics
        self._devices = devices
        self._operations = {} if operations is None else operations

    def collect(self) -> Iterable[Metric]:
        """Every family, in a stable order."""
        yield from self._of_requests()
        yield from self._of_mount()
        yield from self._of_engine(self._statistics())
        yield from self._of_devices(self._devices())

    def _of_requests(self) -> Iterable[Metric]:
        totals = CounterMetricFamily("tierce_requests", "S3 requests answered", labels=["operation", "status"])
        for (operation, status), count in sorted(self._requests.totals.items()):
            totals.add_metric([operation, str(status)], count)
        yield totals
        for name, text, bounds, histograms in (
            ("tierce_request_duration_seconds", "Time to the last byte", DURATION_BOUNDS, self._requests.durations),
            ("tierce_object_size_bytes", "Bytes of the objects moved", SIZE_BOUNDS, self._requests.sizes),
        ):
            family = HistogramMetricFamily(name, text, labels=["operation"])
            for operation, histogram in sorted(histograms.items()):
                family.add_metric([operation], histogram.cumulative(bounds), histogram.sum)
            yield family
        errors = CounterMetricFamily("tierce_s3_errors", "S3 error answers", labels=["code"])
        for code, count in sorted(self._requests.errors.items()):
            errors.add_metric([code], count)
        yield errors
        received, sent = self._requests.received, self._requests.sent
        yield CounterMetricFamily("tierce_s3_received_bytes", "Bytes of request bodies", value=received)
        yield CounterMetricFamily("tierce_s3_sent_bytes", "Bytes of answers' bodies", value=sent)

    def _of_mount(self) -> Iterable[Metric]:
        labels = ["operation"]
        durations = HistogramMetricFamily("tierce_mount_duration_seconds", "Time to answer the kernel", labels=labels)
        errors = CounterMetricFamily("tierce_mount_errors", "Answers by errno", labels=["operation", "errno"])
        bugs = CounterMetricFamily(
            "tierce_mount_unexpected", "Errors that are bugs of ours: see the log", labels=labels
        )
        moved = CounterMetricFamily("tierce_mount_bytes", "Bytes read, written and fetched ahead", labels=labels)
        for name, operation in sorted(self._operations.items()):
            durations.add_metric([name], _cumulative(operation.counts, operation.bounds), operation.seconds)
            for number, count in operation.named_errors.items():
                errors.add_metric([name, number], count)
            bugs.add_metric([name], operation.unexpected)
            if name in MOVING:
                moved.add_metric([name], operation.bytes)
        yield from (durations, errors, bugs, moved)

    def _of_engine(self, statistics: Mapping[str, float]) -> Iterable[Metric]:
        yield _gauge("tierce_objects_total", "Objects in all buckets", statistics.get("objects", 0))
        yield _gauge("tierce_storage_bytes", "Bytes of the objects in all buckets", statistics.get("bytes", 0))
        active = statistics.get("uploads_active", 0)
        yield _gauge("tierce_multipart_uploads_active", "Multipart uploads in progress", active)
        for name, value in sorted(statistics.items()):
            if name in ENGINE_COUNTERS:
                yield CounterMetricFamily(f"tierce_engine_{name}", f"Engine: {name.replace('_', ' ')}", value=value)
            elif name not in ENGINE_NAMED:
                yield _gauge(f"tierce_engine_{name}", f"Engine: {name.replace('_', ' ')}", value)

    def _of_devices(self, devices: Sequence[DeviceStatus]) -> Iterable[Metric]:
        labels = ["device", "tier"]
        families: list[tuple[Metric, Callable[[DeviceStatus], float]]] = [
            (GaugeMetricFamily("tierce_device_online", "1 if it answers", labels=labels), _is_online),
            (GaugeMetricFamily("tierce_device_size_bytes", "Bytes for pages", labels=labels), _pages_size),
            (GaugeMetricFamily("tierce_device_free_bytes", "Bytes not in use", labels=labels), _free),
            (CounterMetricFamily("tierce_device_read_errors", "Reads that failed", labels=labels), _read_errors),
            (CounterMetricFamily("tierce_device_write_errors", "Writes that failed", labels=labels), _write_errors),
            (
                CounterMetricFamily("tierce_device_checksum_errors", "Blocks that failed verification", labels=labels),
                _checksum_errors,
            ),
        ]
        for family, value in families:
            assert isinstance(family, GaugeMetricFamily | CounterMetricFamily)
            for device in devices:
                family.add_metric([device.path, device.tier], value(device))
            yield family


def exposition(collector: Collector) -> bytes:
    """The text of /metrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)


def _cumulative(counts: Sequence[int], bounds: Sequence[float]) -> list[tuple[str, float]]:
    total, buckets = 0, []
    for bound, count in zip((*map(str, map(float, bounds)), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _is_online(device: DeviceStatus) -> float:
    return float(device.state == "online")


def _pages_size(device: DeviceStatus) -> float:
    return device.pages_size


def _free(device: DeviceStatus) -> float:
    return device.free


def _read_errors(device: DeviceStatus) -> float:
    return device.read_errors


def _write_errors(device: DeviceStatus) -> float:
    return device.write_errors


def _checksum_errors(device: DeviceStatus) -> float:
    return device.checksum_errors
