"""Runs a sweep in the process of the test."""

from __future__ import annotations

import time
from typing import Any

from deployments.config import Configuration
from deployments.models import Sweep, SweepStatus, SweepTrigger
from deployments.reconcile import sweep_record, sweeps


def sweep_all(configuration: Configuration, *, trigger: SweepTrigger = SweepTrigger.SCHEDULE, **options: Any) -> Sweep:
    sweep = sweep_record.start(trigger=trigger, requested_by="tester", **options)
    assert sweep is not None
    work_off(configuration, sweep)
    return sweep


def work_off(configuration: Configuration, sweep: Sweep, *, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while sweep.status == SweepStatus.RUNNING and time.monotonic() < until:
        worked = sweeps.work(configuration=configuration, seconds=10, sweep_id=sweep.pk)
        sweep.refresh_from_db()
        if not worked and sweep.status == SweepStatus.RUNNING:
            time.sleep(0.05)
