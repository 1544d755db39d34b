"""R1 over both doors, in this process; and that the machine notices doors which differ."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test

from appliance.model import Bucket
from fusefs.entries import Entries
from fusefs.handles import File
from fusefs.writeback import WriteBack
from tests.effort import examples
from tests.models.doors.machine import DoorsMachine
from tests.models.doors.whole import WholeMachine
from tests.rows import rows


@pytest.mark.slow
def test_both_doors_show_what_the_model_says() -> None:
    """100 runs of 40 steps; scripts/torture does it again and again."""
    settings = hypothesis.settings(
        max_examples=examples(100),
        stateful_step_count=40,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    run_state_machine_as_test(WholeMachine, settings=settings)


def no_keep(entries: Entries, bucket: Bucket, directory: int) -> None:
    """Directories vanish under programs."""


async def nothing(files: WriteBack, file: File) -> None:
    """What was closed, S3 doesn't see."""


def forgotten(files: WriteBack, inode: int) -> None:
    """Two opens of one file don't know each other."""


@pytest.mark.slow
@rows(
    ("owner", "name", "broken"),
    [
        (Entries, "_keep_early", no_keep),
        (WriteBack, "commit", nothing),
        (WriteBack, "get", forgotten),
    ],
)
def test_doors_that_differ_are_noticed(owner: type, name: str, broken: object) -> None:
    settings = hypothesis.settings(
        max_examples=100,
        stateful_step_count=40,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[hypothesis.Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, broken)
        with pytest.raises(Exception, match=r"\S"):
            run_state_machine_as_test(DoorsMachine, settings=settings)
