"""A command, `python -m bench.prepare NUMBER`: so many projects with keys, in the database of the environment.

Prints {"keys": [the text of an environment key for `prod` of each project]} as JSON.
"""

from __future__ import annotations

import json
import os
import sys


def main(projects: int) -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "registry_admin.settings"
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import transaction

    from deployments.access.keys import make_environment_key
    from deployments.deploys.projects import create_project
    from deployments.models import Environment

    call_command("migrate", verbosity=0)
    texts = []
    with transaction.atomic():
        for number in range(projects):
            project = create_project(name=f"Project {number}", ref=f"proj_bench{number:05}")
            environment = Environment.objects.get(project=project, slug="prod")
            texts.append(make_environment_key(environment, "bench")[1])
    print(json.dumps({"keys": texts}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
