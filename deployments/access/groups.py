"""Permissions: one permission for each action of the console, and three groups with permissions.

A permission is a row of Django's `Permission`, so the admin can give it to a person or to any group. The three groups
are defaults: a viewer sees, an operator also acts on deployments and repositories, an admin has every permission.

`ensure_groups` runs after each `migrate`. It adds missing permissions and groups and removes nothing: a permission that
somebody added to a group stays, and other groups stay as they are. For fewer permissions, make another group.

It is a signal receiver (`deployments.apps` connects it), because Django's own receivers of the same signal make the
rows that it needs.
"""

from __future__ import annotations

from typing import Any

from django.apps import apps as installed
from django.contrib.auth.management import create_permissions

VIEWER, OPERATOR, ADMIN = "viewer", "operator", "admin"

#: (model, codename) → name of the permission in the admin. “view_setup” is about the whole installation; it belongs
#: to the model of the processes because Django's permissions need a model.
ACTIONS: dict[tuple[str, str], str] = {
    ("project", "archive_project"): "Can archive and restore a project",
    ("deployment", "promote_deployment"): "Can promote a deployment",
    ("deployment", "rollback_deployment"): "Can roll back to an older deployment",
    ("deployment", "cancel_deployment"): "Can cancel a deployment",
    ("repository", "reconcile_repository"): "Can reconcile a repository now",
    ("repository", "adopt_repository"): "Can adopt a discovered repository",
    ("repository", "except_repository"): "Can make an exception for a repository",
    ("repository", "restore_policy_repository"): "Can put an earlier policy of a repository back",
    ("repository", "take_over_policy_repository"): "Can replace a policy that cannot be compared by the default policy",
    ("repository", "restore_image_repository"): "Can restore an archived image of a repository",
    ("repository", "adopt_statement_repository"): "Can let a statement of others stay in a policy",
    ("repository", "refuse_statement_repository"): "Can refuse a statement of others, so that it is removed",
    ("policyversion", "roll_out_policyversion"): "Can start, pause and resume the roll-out of a policy version",
    ("policyversion", "undo_policyversion"): "Can put back the policies from before a policy version",
    ("sweep", "start_sweep"): "Can start a sweep",
    ("sweep", "stop_sweep"): "Can stop a sweep",
    ("accesskey", "rotate_accesskey"): "Can rotate an access key",
    ("accesskey", "revoke_accesskey"): "Can revoke an access key",
    ("trustpolicy", "trust_private_issuer"): "Can trust an issuer at a private address or by pasted keys",
    ("notificationchannel", "test_notificationchannel"): "Can send a test message to a notification channel",
    ("writespause", "pause_writes"): "Can stop every write to AWS, and allow them again",
    ("process", "view_setup"): "Can see and run the checks of the installation",
}

_VIEWER_PERMISSIONS = {
    f"view_{model}"
    for model in (
        "accesskey", "backgroundworker", "deployment", "environment", "notificationchannel", "notificationdelivery",
        "policyversion", "project", "promotion", "repository", "repositoryevent", "sweep", "sweepchunk", "sweepfinding",
        "process", "trustpolicy",
    )
}  # fmt: skip
#: What a viewer may not see: the audit log contains people's addresses, and variables contain values.
_OPERATOR_PERMISSIONS = {
    "view_auditentry", "view_environmentvariable", "view_setup",
    "promote_deployment", "rollback_deployment", "cancel_deployment",
    "reconcile_repository", "adopt_repository", "except_repository", "start_sweep", "stop_sweep",
    "take_over_policy_repository", "restore_image_repository", "adopt_statement_repository",
    "refuse_statement_repository", "pause_writes",
    "roll_out_policyversion", "undo_policyversion",
}  # fmt: skip

#: Group → codenames of its permissions. The admin group has all permissions of the apps `deployments` and `auth`.
GROUPS: dict[str, set[str]] = {VIEWER: _VIEWER_PERMISSIONS, OPERATOR: _VIEWER_PERMISSIONS | _OPERATOR_PERMISSIONS}


def name_of(codename: str) -> str:
    """The name of a permission of this app, as the console shows it. Raises Permission.DoesNotExist."""
    about = {"content_type__app_label": "deployments", "codename": codename}
    permission = installed.get_model("auth", "Permission")
    return str(permission.objects.values_list("name", flat=True).get(**about))


def ensure_groups(sender: Any = None, apps: Any = installed, using: str = "default", **kwargs: Any) -> None:
    """Make the missing permissions and groups. Does nothing before the tables exist."""
    try:
        group_model = apps.get_model("auth", "Group")
        permission_model = apps.get_model("auth", "Permission")
        content_type_model = apps.get_model("contenttypes", "ContentType")
        apps.get_model("deployments", "AuditEntry")
    except LookupError:
        return
    # Django makes its own permissions in the same signal, perhaps later: `deployments` is the first installed app.
    for label in ("auth", "deployments"):
        create_permissions(installed.get_app_config(label), verbosity=0, using=using, apps=apps)
    permissions = permission_model.objects.using(using)
    about = {kind.model: kind for kind in content_type_model.objects.using(using).filter(app_label="deployments")}
    known = set(permissions.filter(content_type__in=about.values()).values_list("content_type__model", "codename"))
    permissions.bulk_create(
        [
            permission_model(content_type=about[model], codename=codename, name=name)
            for (model, codename), name in ACTIONS.items()
            if (model, codename) not in known
        ],
        ignore_conflicts=True,  # two hosts may migrate at once
    )
    everything = list(permissions.filter(content_type__app_label__in=("auth", "deployments")))
    for name in (VIEWER, OPERATOR, ADMIN):
        group, _ = group_model.objects.using(using).get_or_create(name=name)
        group.permissions.add(
            *(permission for permission in everything if name == ADMIN or permission.codename in GROUPS[name])
        )
