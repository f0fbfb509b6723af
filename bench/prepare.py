"""Rows for a measurement, in the database that the environment names.

python -m bench.prepare projects NUMBER     so many projects with keys; prints {"keys": [texts]} as JSON
python -m bench.prepare repositories        the row of the one repository again for each other project
"""

from __future__ import annotations

import json
import os
import sys
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


if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "registry_admin.settings"
    import django

    django.setup()
    if sys.argv[1] == "projects":
        projects(int(sys.argv[2]))
    else:
        repositories()
