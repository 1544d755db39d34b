"""Whose things are that came through S3 and of which nobody has said whose they are: the mount says."""

from __future__ import annotations

import stat
from typing import Final

import msgspec

from appliance.model import UNOWNED, Node


class Ownership(msgspec.Struct, frozen=True):
    """What a mount shows of objects, and of directories that their keys imply, of which nobody has said whose they are:
    owner, group, and the permission bits that they lack."""

    uid: int = 0
    gid: int = 0
    umask: int = 0o022

    def of(self, node: Node) -> tuple[int, int, int]:
        """(mode, owner, group) as shown."""
        return self.instead(node.mode) if node.flags & UNOWNED else (node.mode, node.uid, node.gid)

    def instead(self, mode: int) -> tuple[int, int, int]:
        """The same of one of which nobody has said them, and that is kept with `mode`."""
        shown = stat.S_IFMT(mode) | ((0o777 if stat.S_ISDIR(mode) else 0o666) & ~self.umask)
        return shown if mode & 0o222 else shown & ~0o222, self.uid, self.gid  # an older version is read-only


ROOTS: Final = Ownership()
