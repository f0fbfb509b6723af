"""Who may do what: a right for each action, and three groups that hold them, made whenever `migrate` has run.

A right is a row of Django's `Permission`, so it can be given to a person or to any group in the admin. The groups are
for installations that want no thought: a viewer looks, an operator acts on what runs, an admin does everything.
Running this again adds what is missing and takes nothing away: what an operator added to a group stays, and groups
that people made themselves are not looked at. Who wants less than a group gives makes a group of their own.

This is the one signal that does work (`deployments.apps` connects it), because the rows that it needs are made by
Django's own receivers of the same signal.
"""

from __future__ import annotations

from typing import Any

from django.apps import apps as installed
from django.contrib.auth.management import create_permissions

VIEWER, OPERATOR, ADMIN = "viewer", "operator", "admin"

#: (model that it is about, codename) → its name, as the boxes of the admin show it. “view_setup” is about the
#: installation, for which the worker's row has to stand.
ACTIONS: dict[tuple[str, str], str] = {
    ("deployment", "promote_deployment"): "Can promote a deployment",
    ("deployment", "rollback_deployment"): "Can roll back to an older deployment",
    ("deployment", "cancel_deployment"): "Can cancel a deployment",
    ("repository", "reconcile_repository"): "Can reconcile a repository now",
    ("repository", "adopt_repository"): "Can adopt a discovered repository",
    ("repository", "except_repository"): "Can make an exception for a repository",
    ("repository", "restore_policy_repository"): "Can put an earlier policy of a repository back",
    ("sweep", "start_sweep"): "Can start a sweep",
    ("sweep", "stop_sweep"): "Can stop a sweep",
    ("accesskey", "rotate_accesskey"): "Can rotate an access key",
    ("accesskey", "revoke_accesskey"): "Can revoke an access key",
    ("notificationchannel", "test_notificationchannel"): "Can send a test message to a notification channel",
    ("writespause", "pause_writes"): "Can stop every write to AWS, and allow them again",
    ("process", "view_setup"): "Can see and run the checks of the installation",
}

_LOOKS = {
    f"view_{model}"
    for model in (
        "accesskey", "backgroundworker", "deployment", "environment", "notificationchannel", "notificationdelivery",
        "project", "promotion", "repository", "repositoryevent", "sweep", "sweepchunk", "sweepfinding",
        "process",
    )
}  # fmt: skip
#: Not for a viewer: the audit log has people's addresses, and variables have values.
_OPERATES = {
    "view_auditentry", "view_environmentvariable", "view_setup",
    "promote_deployment", "rollback_deployment", "cancel_deployment",
    "reconcile_repository", "adopt_repository", "except_repository", "start_sweep", "stop_sweep",
    "pause_writes",
}  # fmt: skip

#: Group → codenames of the app's rights. The admin group has all of them, and all over users and groups.
GROUPS: dict[str, set[str]] = {VIEWER: _LOOKS, OPERATOR: _LOOKS | _OPERATES}


def ensure_groups(sender: Any = None, apps: Any = installed, using: str = "default", **kwargs: Any) -> None:
    """Make the rights and groups that are missing. Does nothing while the tables are not there yet."""
    try:
        group_model = apps.get_model("auth", "Group")
        permission_model = apps.get_model("auth", "Permission")
        content_type_model = apps.get_model("contenttypes", "ContentType")
        apps.get_model("deployments", "AuditEntry")
    except LookupError:
        return
    # Django makes its own rights in the same signal, perhaps after us: our app is the first of the installed ones.
    for label in ("auth", "deployments"):
        create_permissions(installed.get_app_config(label), verbosity=0, using=using, apps=apps)
    rights = permission_model.objects.using(using)
    about = {kind.model: kind for kind in content_type_model.objects.using(using).filter(app_label="deployments")}
    known = set(rights.filter(content_type__in=about.values()).values_list("content_type__model", "codename"))
    rights.bulk_create(
        [
            permission_model(content_type=about[model], codename=codename, name=name)
            for (model, codename), name in ACTIONS.items()
            if (model, codename) not in known
        ],
        ignore_conflicts=True,  # two hosts may migrate at once
    )
    everything = list(rights.filter(content_type__app_label__in=("auth", "deployments")))
    for name in (VIEWER, OPERATOR, ADMIN):
        group, _ = group_model.objects.using(using).get_or_create(name=name)
        group.permissions.add(*(right for right in everything if name == ADMIN or right.codename in GROUPS[name]))
