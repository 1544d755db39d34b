"""Rule 4: whoever guesses keys waits, and nobody else does."""

from __future__ import annotations

import time

import pytest
import trio

from tests.s3front.signing import sign_by_header
from tests.security.served import BUCKET, ServedBox, read_reply, wire

pytestmark = pytest.mark.slow


def test_guessing_waits_and_success_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with ServedBox() as box:
        box.put(b"mine", b"ours")
        good = sign_by_header("GET", f"/{BUCKET}/mine")
        bad = sign_by_header("GET", f"/{BUCKET}/mine", secret="x" * 40)
        slowdown = box.app._slowdown
        failed = slowdown.failed
        delays: list[float] = []

        def count(source: str, now: float) -> float:
            delays.append(failed(source, now))
            return delays[-1]

        monkeypatch.setattr(slowdown, "failed", count)
        for _ in range(14):
            began = time.monotonic()
            assert box.ask(bad).code == "SignatureDoesNotMatch"
            took = time.monotonic() - began
            if delays[-1]:
                break
        assert took >= delays[-1] >= 0.05
        waited = box.call(trio.Event)

        async def wait(_: object) -> None:
            await waited.wait()

        monkeypatch.setattr(box.app, "_slow_down", wait)
        with box.connect() as guessing:
            guessing.sendall(wire(bad))
            for _ in range(3):
                assert box.ask(good).body == b"ours"
            guessing.setblocking(False)
            with pytest.raises(BlockingIOError):
                guessing.recv(1)
            box.call(waited.set)
            guessing.settimeout(30)
            assert read_reply(guessing).code == "SignatureDoesNotMatch"
