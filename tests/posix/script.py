"""Tables of system calls: what is done, by whom, and what it answers.

A table is text: paragraphs, each a scene in a directory of its own.  The first line says what is expected to hold, in
words; each other line is one call:

    [USER] CALL ARGUMENT... [-> ANSWER]

USER is root (and is left out), alice, bob, or carol, who is in alice's group.  ANSWER is an errno's name, or what the
call returned: `key=value` pairs of stat(2), or words.  Without one the call has to succeed.  Of times, `a=same`,
`m=newer` and the like compare with the last `note PATH`.  `x*255` is a name of 255 bytes; `_` an empty word.
`readonly` and `writable` say what the whole file system is from then on; the end of a scene makes it writable.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT = 1, 2, 4, 32  # linux/mount.h
USERS = {"root": ("0", "0"), "alice": ("2001", "2001"), "bob": ("2002", "2002"), "carol": ("2003", "2003,2001")}
TABLES = Path(__file__).parent / "tables"


class Step(NamedTuple):
    """One line."""

    text: str
    user: str
    call: str
    arguments: list[str]
    answer: str | None


class Scene(NamedTuple):
    """One paragraph."""

    title: str
    steps: list[Step]


def word(text: str) -> str:
    """`x*255` and `_` spelled out, also as parts of a path."""
    if text == "_":
        return ""
    return "/".join(part[0] * int(part[2:]) if re.fullmatch(r".\*\d+", part) else part for part in text.split("/"))


def read(path: Path) -> Iterator[Scene]:
    """The scenes of a table."""
    for paragraph in path.read_text().strip().split("\n\n"):
        title, *lines = [line for line in paragraph.splitlines() if not line.startswith("#")]
        steps = []
        for line in lines:
            said, arrow, answer = line.partition(" -> ")
            words = said.split()
            user = words.pop(0) if words[0] in USERS else "root"
            steps.append(
                Step(line.strip(), user, words[0], [word(each) for each in words[1:]], answer if arrow else None)
            )
        yield Scene(title, steps)


class Users(AbstractContextManager["Users"]):
    """A process for each user."""

    def __init__(self) -> None:
        self._processes = {
            name: subprocess.Popen(
                [sys.executable, "-m", "tests.posix.worker", *numbers],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name, numbers in USERS.items()
        }

    def __exit__(self, *exc: object) -> None:
        for process in self._processes.values():
            process.communicate()
            assert process.returncode == 0

    def ask(self, user: str, *request: str) -> Any:
        """("ok", value) or ("error", errno)."""
        process = self._processes[user]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    def play(self, scene: Scene, place: Path) -> str | None:
        """What went otherwise than said; None if nothing did."""
        place.mkdir()
        place.chmod(0o777)
        for user in USERS:
            assert self.ask(user, "reset", str(place)) == ["ok", None]
        noted: dict[str, dict[str, str]] = {}
        try:
            wrong = self._steps(scene, place, noted)
        finally:
            if any(step.call == "readonly" for step in scene.steps):
                remount(place, read_only=False)
        if wrong is None:
            for user in USERS:
                self.ask(user, "reset", "/")
        return wrong

    def _steps(self, scene: Scene, place: Path, noted: dict[str, dict[str, str]]) -> str | None:
        for step in scene.steps:
            if step.call in ("readonly", "writable"):
                remount(place, read_only=step.call == "readonly")
                continue
            if step.call == "note":
                noted[step.arguments[0]] = self.ask("root", "lstat", step.arguments[0])[1]
                self.ask("root", "tick")
                continue
            kind, value = self.ask(step.user, step.call, *step.arguments)
            wrong = differs(step, kind, value, last_noted(noted, step))
            if wrong is not None:
                return f"{scene.title}: `{step.text}`: {wrong}"
        return None


def remount(place: Path, *, read_only: bool) -> None:
    """mount(2) with MS_REMOUNT, of the file system that has `place`: mount(8) would ask the type's helper."""
    point = next(path for path in place.parents if path.is_mount())
    flags = MS_NOSUID | MS_NODEV | MS_REMOUNT | (MS_RDONLY if read_only else 0)
    if ctypes.CDLL(None, use_errno=True).mount(None, bytes(point), None, flags, None):
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)}: {point}")


def last_noted(noted: dict[str, dict[str, str]], step: Step) -> dict[str, str]:
    """Of the same path, or of the first one: a file may have another name since."""
    first = next(iter(noted.values()), {})
    return noted.get(step.arguments[0], first) if step.arguments else first


def differs(step: Step, kind: str, value: Any, noted: dict[str, str]) -> str | None:
    """How an answer differs from what the step says."""
    if kind == "error":
        name = errno.errorcode[value]
        return None if name in (step.answer or "").split("|") else name
    if step.answer is None:
        return None
    if re.fullmatch(r"E[A-Z0-9|]+", step.answer):
        return "was done"
    if not isinstance(value, dict):
        said = " ".join(word(each) for each in step.answer.split())
        return None if str(value or "") == said else repr(value)
    for pair in step.answer.split():
        key, _, said = pair.partition("=")
        name = key + "time" if key in "amc" else key
        told = str(value[name])
        if said in ("same", "newer"):
            holds = told == str(noted[name]) if said == "same" else later(told, noted[name])
        else:
            holds = told == said
        if not holds:
            return f"{key}={told}" + (f", noted {noted[name]}" if said in ("same", "newer") else "")
    return None


def later(told: str, noted: str) -> bool:
    """Of two times as "seconds.nanoseconds"."""
    return tuple(map(int, told.split("."))) > tuple(map(int, noted.split(".")))
