"""Metrics: counted right, named as promised, cheap enough for the hot path."""

from __future__ import annotations

import timeit
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from appliance.metrics import DURATION_BOUNDS, SIZE_BOUNDS, Collector, Requests, exposition
from appliance.model import DeviceStatus

DEVICE = DeviceStatus(
    id=1,
    uuid="u",
    path="/dev/a",
    tier="blaze",
    state="online",
    size=100,
    pages_size=90,
    free=40,
    journal=True,
    read_errors=1,
    checksum_errors=2,
    write_errors=3,
)

PROMISED = {
    "tierce_requests_total",
    "tierce_request_duration_seconds_bucket",
    "tierce_object_size_bytes_bucket",
    "tierce_objects_total",
    "tierce_storage_bytes",
    "tierce_multipart_uploads_active",
    "tierce_s3_errors_total",
    "tierce_device_free_bytes",
    "tierce_engine_batches_total",
    "tierce_engine_barrier_seconds_total",
    "tierce_engine_verify_failures_total",
}


def scraped(requests: Requests, statistics: Mapping[str, float] | None = None) -> dict[tuple[str, ...], float]:
    """Samples by name and label values, read back by the official parser."""
    engine = {"batches": 2.0, "barrier_seconds": 0.5, "verify_failures": 0.0} if statistics is None else statistics
    text = exposition(Collector(requests, lambda: engine, lambda: [DEVICE])).decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_promised_name_is_there() -> None:
    requests = Requests()
    requests.observe("GetObject", 200, 0.001, 0, 10)
    requests.observe("GetObject", 404, 0.001, 0, 300, "NoSuchKey")
    assert {key[0] for key in scraped(requests)} >= PROMISED


def test_requests_are_counted_by_operation_and_status() -> None:
    requests = Requests()
    for status, code in ((200, ""), (200, ""), (404, "NoSuchKey")):
        requests.observe("GetObject", status, 0.01, 0, 5, code)
    samples = scraped(requests)
    assert samples["tierce_requests_total", "GetObject", "200"] == 2
    assert samples["tierce_requests_total", "GetObject", "404"] == 1
    assert samples["tierce_s3_errors_total", "NoSuchKey"] == 1
    assert samples["tierce_object_size_bytes_count", "GetObject"] == 2, "an error's document is no object"
    assert samples[("tierce_s3_sent_bytes_total",)] == 15


@pytest.mark.parametrize("bounds", [DURATION_BOUNDS, SIZE_BOUNDS])
def test_bounds_rise(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))


def test_a_value_on_a_bound_is_within_it() -> None:
    requests = Requests()
    requests.observe("PutObject", 200, DURATION_BOUNDS[2], SIZE_BOUNDS[0])
    requests.observe("PutObject", 200, 1e9, SIZE_BOUNDS[-1] + 1)
    samples = scraped(requests)
    bucket = "tierce_request_duration_seconds_bucket"
    assert samples[bucket, str(DURATION_BOUNDS[1]), "PutObject"] == 0
    assert samples[bucket, str(DURATION_BOUNDS[2]), "PutObject"] == 1
    assert samples[bucket, "+Inf", "PutObject"] == samples["tierce_request_duration_seconds_count", "PutObject"] == 2
    assert samples["tierce_object_size_bytes_bucket", str(float(SIZE_BOUNDS[-1])), "PutObject"] == 1


def test_operations_without_a_body_have_no_size() -> None:
    requests = Requests()
    requests.observe("ListObjectsV2", 200, 0.01, 0, 5000)
    assert ("tierce_object_size_bytes_count", "ListObjectsV2") not in scraped(requests)


def test_the_engine_is_asked_at_the_scrape() -> None:
    samples = scraped(Requests(), {"objects": 7, "bytes": 70, "uploads_active": 1, "batches": 3, "queue": 2})
    assert samples[("tierce_objects_total",)] == 7
    assert samples[("tierce_storage_bytes",)] == 70
    assert samples[("tierce_multipart_uploads_active",)] == 1
    assert samples[("tierce_engine_batches_total",)] == 3
    assert samples[("tierce_engine_queue",)] == 2


def test_devices_are_shown() -> None:
    samples = scraped(Requests())
    assert samples["tierce_device_online", "/dev/a", "blaze"] == 1
    assert samples["tierce_device_free_bytes", "/dev/a", "blaze"] == 40
    assert samples["tierce_device_checksum_errors_total", "/dev/a", "blaze"] == 2


def test_observing_costs_little() -> None:
    """A bound ten times what it takes: it catches a lock or an object per call, not a busy machine."""
    requests = Requests()
    count = 20_000
    best = min(timeit.repeat(lambda: requests.observe("GetObject", 200, 0.0004, 0, 4096), number=count, repeat=5))
    assert best / count < 8e-6
