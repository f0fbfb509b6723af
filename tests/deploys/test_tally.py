"""The numbers of deployments: what the worker counted and what came since are together what the table has."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, timedelta

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from deployments.deploys import tally
from deployments.models import Deployment, DeploymentTally
from tests.admin.installation import Installation

pytestmark = [pytest.mark.django_db, pytest.mark.costly]


def from_the_table() -> Counter[str]:
    return Counter(Deployment.objects.values_list("status", flat=True))


def days_of_the_table(first: date) -> Counter[tuple[str, str]]:
    rows = Deployment.objects.values_list("created_at", "status")
    found = [(at.astimezone(UTC).date(), status) for at, status in rows]
    return Counter((day.isoformat(), status) for day, status in found if day >= first)


def test_counted_and_newer_deployments_are_added() -> None:
    Installation(projects=2, repositories=2, deployments=60)
    first = timezone.now().astimezone(UTC).date() - timedelta(days=29)
    tally.count()
    assert DeploymentTally.objects.get().statuses
    for number, status in enumerate(("DEPLOYED", "FAILED", "BUILDING")):
        row = Deployment.objects.filter(status="DEPLOYED")[number]
        row.pk, row.short_code, row.version_number, row.idempotency_key = (
            f"deployment_{number}",
            f"new{number}",
            900,
            "",
        )
        row.version_day, row.status, row.created_at = f"2026010{number}", status, timezone.now()
        row._state.adding = True
        row.save(force_insert=True)

    assert tally.by_status() == from_the_table()
    assert tally.by_day(first) == days_of_the_table(first)


def test_a_deployment_that_runs_is_counted_by_the_status_that_it_has_now() -> None:
    Installation(projects=2, repositories=2, deployments=60)
    running = Deployment.objects.filter(status="DEPLOYED").earliest("created_at")
    Deployment.objects.filter(pk=running.pk).update(status="BUILDING")
    tally.count()
    Deployment.objects.filter(pk=running.pk).update(status="DEPLOYED")

    assert DeploymentTally.objects.get().before <= running.created_at
    assert tally.by_status() == from_the_table()


def test_the_newest_ten_minutes_are_not_counted_ahead() -> None:
    tally.count()

    before = DeploymentTally.objects.get().before
    assert timedelta(minutes=9) < timezone.now() - before < timedelta(minutes=11)


def test_it_is_counted_again_after_an_hour_and_a_deleted_deployment_is_then_gone() -> None:
    Installation(projects=2, repositories=2, deployments=20)
    tally.count()
    Deployment.objects.filter(status="DEPLOYED").delete()
    tally.count()
    assert tally.by_status()["DEPLOYED"]

    DeploymentTally.objects.update(counted_at=Now() - timedelta(minutes=61))
    tally.count()

    assert DeploymentTally.objects.count() == 1
    assert tally.by_status() == from_the_table()


def test_a_chart_of_more_days_than_were_counted_reads_the_table() -> None:
    Installation(projects=2, repositories=2, deployments=60)
    tally.count()
    first = timezone.now().astimezone(UTC).date() - timedelta(days=400)

    assert tally.by_day(first) == days_of_the_table(first)
