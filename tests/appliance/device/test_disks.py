"""The laws of the simulated disk, on which the crash tests stand."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.device.device import BlockDevice
from tests.doubles.disks import CRASH_MODES, PAGE, Crash, CrashMode, MemoryDevice, Power, Rates, SimulatedDisk
from tests.effort import examples
from tests.rows import rows

SIZE = 64 * 4096
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 61), st.integers(1, 3), st.integers(1, 255)),
        st.tuples(st.just("discard"), st.integers(0, 61), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("flush"), st.just(0), st.just(0), st.just(0)),
    ),
    max_size=25,
)


def read(device: BlockDevice, offset: int, length: int) -> bytes:
    content = bytearray(length)
    device.read_into(offset, memoryview(content))
    return bytes(content)


def disk(seed: int = 0, **options: Rates | Power) -> SimulatedDisk:
    return SimulatedDisk(SIZE, random.Random(seed), **options)  # type: ignore[arg-type]


@given(steps, st.integers(), st.sampled_from(CRASH_MODES))
@settings(max_examples=examples(100), deadline=None)
def test_reads_see_all_writes_and_a_crash_leaves_old_or_new_sectors(
    sequence: list[tuple[str, int, int, int]], seed: int, mode: CrashMode
) -> None:
    device = disk(seed)
    perfect = MemoryDevice(SIZE)
    possible: list[set[bytes]] = [{bytes(512)} for _ in range(SIZE // 512)]
    for verb, block, count, value in sequence:
        offset, length = block * 4096, count * 4096
        for target in (device, perfect):
            if verb == "write":
                target.write(offset, bytes([value]) * length)
            elif verb == "discard":
                target.discard(offset, length)
            else:
                target.flush()
        if verb == "flush":
            possible = [
                {read(perfect, number // 8 * 4096, 4096)[number % 8 * 512 :][:512]} for number in range(SIZE // 512)
            ]
        for number in range(offset // 512, (offset + length) // 512):
            possible[number].add(bytes([value]) * 512)
        assert read(device, 0, SIZE) == read(perfect, 0, SIZE)
    device.crash(mode)
    with pytest.raises(Crash):
        read(device, 0, 4096)
    after = read(device.reopen(), 0, SIZE)
    for number, contents in enumerate(possible):
        assert after[number * 512 : (number + 1) * 512] in contents
    if mode == "all":
        assert after == read(perfect, 0, SIZE)


def test_modes_do_what_they_say() -> None:
    device = disk()
    device.write(0, b"a" * 4096)
    device.flush()
    for block in range(4):
        device.write(block * 8192, b"b" * 8192)
    assert device.unflushed == 4
    assert device.after_crash("none").read(0, 4096) == b"a" * 4096
    assert device.after_crash("all").read(0, 4 * 8192) == b"b" * 32768
    prefix = device.after_crash("prefix", count=2)
    assert prefix.read(0, 32768) == b"b" * 16384 + bytes(16384)
    torn = device.after_crash("torn", count=512)
    assert torn.read(0, 32768) == b"b" * 24576 + b"b" * 512 + bytes(7680)
    sectors = {device.after_crash("sectors").read(24576, 8192)[n * 512] for _ in range(9) for n in range(16)}
    assert sectors == {0, ord("b")}
    blocks = device.after_crash("blocks").read(0, 32768)
    assert all(len(set(blocks[n * 4096 : (n + 1) * 4096])) == 1 for n in range(8))
    assert read(device, 0, 32768) == b"b" * 32768, "after_crash disturbs nothing"


def test_a_seed_repeats() -> None:
    def run() -> bytes:
        device = disk(7)
        for block in range(20):
            device.write(block * 4096, bytes([block]) * 4096)
        device.crash()
        return device.durable.read(0, SIZE)

    assert run() == run()


def test_the_power_goes_for_all_disks_at_the_counted_step() -> None:
    power = Power()
    first, second = disk(power=power), disk(power=power)
    power.kill_after(2)
    first.write(0, b"1" * 4096)
    second.flush()
    with pytest.raises(Crash):
        second.write(0, b"2" * 4096)
    with pytest.raises(Crash):
        first.flush()
    with pytest.raises(Crash):
        read(first, 0, 4096)
    first.crash("none")
    second.crash("all")
    assert read(first.reopen(), 0, 4096) == bytes(4096)
    assert read(second.reopen(), 0, 4096) == b"2" * 4096, "what was in flight may be kept"


VERBS: dict[str, Callable[[SimulatedDisk], object]] = {
    "read": lambda device: read(device, 0, 4096),
    "write": lambda device: device.write(0, bytes(4096)),
    "flush": lambda device: device.flush(),
    "discard": lambda device: device.discard(0, 4096),
}


@rows("verb", VERBS)
def test_the_nth_call_fails_once_or_for_ever(verb: str) -> None:
    device = disk()
    call = VERBS[verb]
    call(device)
    device.fail(verb, 2, error=errno.ENOSPC)
    call(device)
    with pytest.raises(OSError) as caught:
        call(device)
    assert caught.value.errno == errno.ENOSPC
    call(device)
    device.fail(verb, for_ever=True)
    for _ in range(3):
        with pytest.raises(OSError):
            call(device)
    device.heal()
    call(device)
    assert [line.verb for line in device.log] == [verb] * 8


def test_short_lost_and_misdirected_writes() -> None:
    device = disk()
    device.shorten_write(1, 512)
    with pytest.raises(OSError):
        device.write(0, b"a" * 4096)
    assert read(device, 0, 4096) == b"a" * 512 + bytes(3584)
    device.lose_write()
    device.write(4096, b"b" * 4096)
    assert read(device, 4096, 4096) == bytes(4096)
    device.misdirect_write(2, 8192)
    device.write(8192, b"c" * 4096)
    device.write(8192, b"d" * 4096)
    assert read(device, 8192, 12288) == b"c" * 4096 + bytes(4096) + b"d" * 4096


def test_a_flipped_bit_survives_reopening() -> None:
    device = disk()
    device.write(0, bytes(4096))
    device.flush()
    device.flip(100, 3)
    assert read(device, 0, 4096)[100] == 8
    assert read(device.reopen(), 0, 4096)[100] == 8


def test_chances_fail_some_calls() -> None:
    device = disk(rates=Rates(read_error=0.5))
    outcomes = set()
    for _ in range(50):
        try:
            outcomes.add(len(read(device, 0, 4096)))
        except OSError:
            outcomes.add(0)
    assert outcomes == {0, 4096}


def test_a_closed_disk_refuses_and_its_reopened_twin_works() -> None:
    device = disk()
    device.write(0, b"a" * 4096)
    device.flush()
    device.close()
    with pytest.raises(OSError):
        device.flush()
    assert read(device.reopen(), 0, 4096) == b"a" * 4096


def test_memory_is_taken_only_where_something_was_written() -> None:
    device = MemoryDevice(1 << 40)
    device.write(5 * PAGE - 4096, b"x" * 8192)
    assert read(device, 5 * PAGE - 8192, 16384) == bytes(4096) + b"x" * 8192 + bytes(4096)
    assert len(device.media._pages) == 2
    device.discard(4 * PAGE, 2 * PAGE)
    assert len(device.media._pages) == 0
