"""H5 and H4 on a real kernel: nobody sees what is older than what S3 has acknowledged, and nobody waits for long."""

from __future__ import annotations

import pytest

from tests.system import coherence
from tests.system.box import Box

pytestmark = [pytest.mark.system, pytest.mark.slow]


def test_nothing_older_than_what_s3_acknowledged_is_seen_through_the_mount(box: Box) -> None:
    """For some seconds; `python -m tests.system.coherence --seconds N` goes on for longer."""
    changes, looks = coherence.run(box, 8.0, seed=1)
    assert (changes > coherence.CHANGES_LEAST, looks > coherence.LOOKS_LEAST) == (True, True)
    assert not coherence.too_slow(box)
