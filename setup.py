"""The one part of the package that is compiled: fusefs/*.c, against the system's libfuse3 and libxxhash.

Optional: where a compiler, pkg-config or their headers are missing, the package is installed without it, and the
mount says at its start what it then lacks.  Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import subprocess
import sys

from setuptools import Extension, setup


def libraries() -> dict[str, list[str]] | None:
    """How to compile and link against both; None where pkg-config lacks one."""
    try:
        flags = {
            option: subprocess.run(
                ["pkg-config", option, "fuse3", "libxxhash"], capture_output=True, text=True, check=True
            ).stdout.split()
            for option in ("--cflags", "--libs")
        }
    except (OSError, subprocess.CalledProcessError):
        print(
            "fusefs/extra.c is not built: pkg-config does not find fuse3 (libfuse3-dev) and libxxhash (libxxhash-dev)",
            file=sys.stderr,
        )
        return None
    return {"extra_compile_args": flags["--cflags"], "extra_link_args": flags["--libs"]}


found = libraries()
setup(
    ext_modules=[
        Extension(
            "fusefs._extra",
            ["fusefs/extra.c", "fusefs/reads.c", "fusefs/sums.c", "fusefs/sums_avx2.c"],
            depends=["fusefs/sums.h"],
            optional=True,
            libraries=["dl", "pthread"],
            **found,
        )
    ]
    if found is not None
    else []
)
