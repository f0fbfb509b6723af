"""Rows for a measurement, in the database that the environment names.

python -m bench.prepare projects NUMBER     so many projects with keys; prints {"keys": [texts]} as JSON
python -m bench.prepare repositories        the row of the one repository again for each other project
python -m bench.prepare managed NUMBER      projects without environments and their repositories, as many rows of each,
                                            as they are after a sweep; the one repository is the pattern
python -m bench.prepare sweep               start a scheduled sweep, wake the workers, and wait for its end
python -m bench.prepare look                run a scheduled sweep in this process
python -m bench.prepare forget              forget the rate of calls that the sweeps have learned
python -m bench.prepare workers NUMBER      wait until so many workers send heartbeats
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def projects(number: int) -> None:
    """Make the projects, and a key for the environment `prod` of each."""
    from django.core.management import call_command
    from django.db import transaction

    from deployments.access.keys import make_environment_key
    from deployments.deploys.projects import create_project
    from deployments.models import Environment

    call_command("migrate", verbosity=0)
    texts = []
    with transaction.atomic():
        for each in range(number):
            project = create_project(name=f"Project {each}", ref=f"proj_bench{each:05}")
            environment = Environment.objects.get(project=project, slug="prod")
            texts.append(make_environment_key(environment, "bench")[1])
    print(json.dumps({"keys": texts}))


def repositories() -> None:
    """Every repository was verified when the one was, which a deploy has set up."""
    from deployments.models import Project, Repository

    row: Any = Repository.objects.get()
    rows = []
    for project in Project.objects.exclude(pk=row.project_id):
        row.pk, row.project, row.name = None, project, f"trigger/{project.ref}"
        rows.append(Repository(**{field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields}))
    Repository.objects.bulk_create(rows)


def managed(number: int) -> None:
    """Projects, and their repositories as they are after a sweep. The number grows from call to call."""
    from deployments.models import Project, Repository

    row: Any = Repository.objects.order_by("pk").first()
    first = Repository.objects.count()
    projects = [Project(name=f"Project {each}", ref=f"proj_bench{each:05}") for each in range(first, number)]
    rows = []
    for project in Project.objects.bulk_create(projects, batch_size=500):
        row.pk, row.project, row.name = None, project, f"trigger/{project.ref}"
        rows.append(Repository(**{field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields}))
    Repository.objects.bulk_create(rows, batch_size=100)


def sweep() -> None:
    """Let the workers do a scheduled sweep, which reads of each repository only what is due."""
    import time

    from deployments import tasks
    from deployments.models import Sweep, SweepStatus
    from deployments.reconcile import sweep_record

    started = _start()
    tasks.wake_workers()
    while (found := Sweep.objects.get(pk=started)).status == SweepStatus.RUNNING:
        time.sleep(0.1)
    print(json.dumps({"in_sync": sweep_record.progress(found).in_sync, "error": found.error}))


def look() -> None:
    """A scheduled sweep, as a task of a worker does it."""
    from django.conf import settings

    from deployments.models import Sweep
    from deployments.reconcile import sweep_record, sweeps

    started = _start()
    while sweeps.work(configuration=settings.CONFIGURATION, seconds=30, sweep_id=started):
        pass
    sweeps.close_finished()
    print(json.dumps({"in_sync": sweep_record.progress(Sweep.objects.get(pk=started)).in_sync}))


def _start() -> int:
    from deployments.models import SweepTrigger
    from deployments.reconcile import sweep_record

    row = sweep_record.start(trigger=SweepTrigger.SCHEDULE)
    if row is None:
        raise SystemExit("The sweep before still runs.")
    return int(row.pk)


def forget() -> None:
    """As if no sweep had ever been throttled."""
    from deployments.models import CallBudget

    CallBudget.objects.all().delete()


def workers(number: int) -> None:
    """Wait for the first heartbeats of so many supervisors."""
    import time

    from deployments.models import ProcessRole
    from deployments.reconcile import processes

    while len(processes.seen(ProcessRole.WORKER).alive) != number:
        time.sleep(0.2)


if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "registry_admin.settings"
    import django

    django.setup()
    commands: dict[str, Callable[..., None]] = {
        "projects": projects,
        "repositories": repositories,
        "managed": managed,
        "sweep": sweep,
        "look": look,
        "forget": forget,
        "workers": workers,
    }
    commands[sys.argv[1]](*map(int, sys.argv[2:]))
