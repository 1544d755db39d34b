"""R1 over both doors of a real daemon, with the kernel's caches between."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.effort import examples
from tests.models.doors.drivers import Doors
from tests.models.doors.kernel import Kernel
from tests.models.doors.whole import WholeMachine
from tests.system.box import Box

pytestmark = [pytest.mark.system, pytest.mark.slow]


def test_both_doors_of_a_daemon_show_what_the_model_says(box: Box) -> None:
    """Each run has a bucket of its own."""

    class Machine(WholeMachine):
        def make_doors(self) -> Doors:
            return Kernel(box)

    settings = hypothesis.settings(
        max_examples=examples(30),
        stateful_step_count=40,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=settings)
