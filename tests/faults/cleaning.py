"""Between two cases: an installation whose processes go on, without projects and repositories."""

from __future__ import annotations

import contextlib

from tests.faults.audit import NOT_OURS
from tests.faults.installation import Installation, Sqlite

KEPT_TABLES = {
    "deployments_process",
    "deployments_desiredstate",
    "deployments_policytext",
    "deployments_policyversion",
    "deployments_configurationgeneration",
    "deployments_configurationactivation",
    "deployments_accesskey",
}


def clean(installation: Installation) -> None:
    """An installation without projects and repositories; its processes go on."""
    installation.sandbox.clear_faults()
    database = installation.database
    emptied = [
        name
        for name in sorted(database.tables())
        if name.startswith(("deployments_", "django_q_")) and name not in KEPT_TABLES and name != "django_q_schedule"
    ]
    statements = [f"DELETE FROM {name}" for name in emptied]
    statements.append("DELETE FROM deployments_accesskey WHERE environment_id IS NOT NULL")
    if isinstance(database, Sqlite):  # which checks foreign keys only when it is asked to
        with contextlib.closing(database.connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for statement in statements:
                connection.execute(statement)
            connection.execute("COMMIT")
    else:
        database.query("; ".join(["SET session_replication_role = replica", *statements]))
    clean_registry(installation)
    installation.forget()


def clean_registry(installation: Installation) -> None:
    """No repository but those that are not ours."""
    ecr = installation.ecr
    live = installation.live_names()
    for name in live - set(NOT_OURS):
        ecr.delete_repository(repositoryName=name, force=True)
    for name in set(NOT_OURS) - live:
        ecr.create_repository(repositoryName=name)
