"""Versions of keys as a person would explain them: a list per key, newest first (R1).

It knows nothing of trees, tables or numbers; a version's id is learned from the store when it is made.
"""

from __future__ import annotations

import dataclasses

ENABLED, SUSPENDED = "Enabled", "Suspended"


@dataclasses.dataclass(eq=False)
class Version:
    """`content` None: a delete marker.  `id` "null" or what the store called it.  `held`: by a legal hold."""

    content: bytes | None
    id: str
    held: bool = False


class Versions:
    """One bucket.  `state` "" until versions are enabled."""

    def __init__(self) -> None:
        self.state = ""
        self.keys: dict[bytes, list[Version]] = {}

    def current(self, key: bytes) -> bytes | None:
        """What GET answers."""
        versions = self.keys.get(key)
        return versions[0].content if versions else None

    def find(self, key: bytes, version_id: str) -> Version | None:
        """The version with this id."""
        return next((one for one in self.keys.get(key, []) if one.id == version_id), None)

    def add(self, key: bytes, content: bytes | None, version_id: str) -> None:
        """A write, or with content None a deletion without a version id."""
        versions = self.keys.setdefault(key, [])
        if self.state != ENABLED:
            versions[:] = [one for one in versions if one.id != "null"]
            version_id = "null"
        if content is not None or self.state:
            versions.insert(0, Version(content, version_id))
        self._tidy(key)

    def remove(self, key: bytes, version_id: str) -> None:
        """A deletion of one version."""
        versions = self.keys.get(key, [])
        versions[:] = [one for one in versions if one.id != version_id]
        self._tidy(key)

    def _tidy(self, key: bytes) -> None:
        if not self.keys.get(key):
            self.keys.pop(key, None)

    def usage(self) -> tuple[int, int]:
        """Everything that is stored is charged, delete markers as objects without bytes."""
        every = [one.content or b"" for versions in self.keys.values() for one in versions]
        return len(every), sum(map(len, every))

    def listing(self, prefix: bytes = b"", delimiter: bytes = b"") -> list[tuple[bytes, str, bool, bool] | bytes]:
        """(key, id, latest, marker) of every version, and each common prefix once, in S3's order."""
        found: list[tuple[bytes, str, bool, bool] | bytes] = []
        for key in sorted(self.keys):
            if not key.startswith(prefix):
                continue
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            if at >= 0:
                if not found or found[-1] != key[: at + len(delimiter)]:
                    found.append(key[: at + len(delimiter)])
                continue
            found += [(key, one.id, index == 0, one.content is None) for index, one in enumerate(self.keys[key])]
        return found
