"""The one part of the package that is compiled: fusefs/*.c, against the system's libfuse3.

Optional: where a compiler, pkg-config or libfuse's headers are missing, the package is installed without it, and the
mount says at its start what it then lacks.  Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import subprocess
import sys

from setuptools import Extension, setup


def libfuse() -> dict[str, list[str]] | None:
    """How to compile and link against libfuse3; None where pkg-config knows none."""
    try:
        flags = {
            option: subprocess.run(
                ["pkg-config", option, "fuse3"], capture_output=True, text=True, check=True
            ).stdout.split()
            for option in ("--cflags", "--libs")
        }
    except (OSError, subprocess.CalledProcessError):
        print("fusefs/extra.c is not built: pkg-config does not find fuse3 (libfuse3-dev)", file=sys.stderr)
        return None
    return {"extra_compile_args": flags["--cflags"], "extra_link_args": flags["--libs"]}


found = libfuse()
setup(
    ext_modules=[
        Extension(
            "fusefs._extra",
            ["fusefs/extra.c", "fusefs/reads.c", "fusefs/sums.c"],
            depends=["fusefs/sums.h"],
            optional=True,
            libraries=["dl", "pthread"],
            **found,
        )
    ]
    if found is not None
    else []
)
