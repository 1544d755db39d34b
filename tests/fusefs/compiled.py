"""The compiled part of the mount, for tests that need it: built beside its source unless it is there and newer.

An installation builds it by setup.py; a checkout that is only on the path, or whose source changed, has none.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

import fusefs

HOME = Path(fusefs.__file__).parent
SOURCES = sorted(HOME.glob("*.c"))


def build(target: Path | None = None) -> Path:
    """The library; with every warning an error."""
    if target is None:
        target = HOME / f"_extra{sysconfig.get_config_var('EXT_SUFFIX')}"
        newest = max(source.stat().st_mtime for source in [*SOURCES, *HOME.glob("*.h")])
        if target.exists() and target.stat().st_mtime >= newest:
            return target
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3", "libxxhash"], capture_output=True, text=True, check=True
    ).stdout.split()
    new = target.with_name(f"{target.name}.{os.getpid()}")
    compiler = [
        "cc",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
        "-pthread",
        *map(str, SOURCES),
        "-o",
        str(new),
    ]
    subprocess.run([*compiler, *flags, "-ldl"], check=True)
    new.rename(target)
    return target
