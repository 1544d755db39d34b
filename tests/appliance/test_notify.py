"""Talking to systemd."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

import appliance.notify
from appliance.notify import forget_descriptor, notify, passed_descriptor, store_descriptor, watchdog_period


def test_a_message_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_an_abstract_socket_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0tierce-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@tierce-test-{os.getpid()}")
        assert notify("STOPPING=1")
        assert manager.recv(100) == b"STOPPING=1"


def test_nobody_listening_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "period"),
    [("30000000", "", 10.0), ("30000000", "own", 10.0), ("30000000", "1", None), ("", "", None)],
)
def test_the_watchdog_is_fed_thrice_in_its_patience(
    usec: str, pid: str, period: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert watchdog_period() == period


def test_a_descriptor_is_left_and_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both wait until systemd has read what they sent: it asks then who the sender was."""
    heard: list[tuple[bytes, bool]] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, (tmp_path / "file").open("w+") as file:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        def listen() -> None:
            for _ in range(4):
                message, received, _, _ = socket.recv_fds(manager, 100, 1)
                same = [os.path.sameopenfile(descriptor, file.fileno()) for descriptor in received]
                heard.append((message, any(same)))
                for descriptor in received:
                    os.close(descriptor)

        listener = threading.Thread(target=listen)
        listener.start()
        assert store_descriptor("fuse", file.fileno())
        assert heard[0] == (b"FDSTORE=1\nFDNAME=fuse\nFDPOLL=0", True)
        assert forget_descriptor("fuse")
        listener.join()
        assert heard[2] == (b"FDSTOREREMOVE=1\nFDNAME=fuse", False)
        assert [message for message, _ in heard[1::2]] == [b"BARRIER=1"] * 2


def test_a_manager_that_reads_nothing_has_taken_no_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appliance.notify, "BARRIER_TIMEOUT", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert not forget_descriptor("fuse")


@pytest.mark.parametrize(
    ("pid", "names", "found"),
    [("own", "fuse", 3), ("own", "other:fuse", 4), ("own", "other", None), ("1", "fuse", None), ("", "", None)],
)
def test_a_passed_descriptor_is_found_by_its_name(
    pid: str, names: str, found: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()) if pid == "own" else pid)
    monkeypatch.setenv("LISTEN_FDNAMES", names)
    assert passed_descriptor("fuse") == found
