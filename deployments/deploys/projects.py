"""A project from its beginning to its end: make it with its root environments, archive, restore and delete it.

An archived project takes no deploys, and its keys only read (D-projects-end). AWS is never asked here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from django.db import connection, transaction
from django.db.models import Count
from django.db.models.functions import Now

from deployments import images
from deployments.access.audit import Trail
from deployments.access.keys import live
from deployments.deploys import lifecycle
from deployments.errors import NotFound, refusal
from deployments.models import (
    ENVIRONMENT_SLUGS,
    FINAL_STATUSES,
    AccessKey,
    Deployment,
    Environment,
    NotificationChannel,
    Project,
    Promotion,
    Repository,
    RepositoryStatus,
)
from deployments.reconcile import ownership

#: The root environments of every project. The CLI makes preview branches below `preview`.
ROOT_SLUGS = ("prod", "staging", "preview")
#: What a person runs in the folder of a project, after TRIGGER_API_URL and a token are set.
DEPLOY_COMMAND = "npx trigger.dev@latest deploy --local-build"


def create_project(*, name: str, ref: str | None = None) -> Project:
    """A new project with its root environments, in one transaction.

    `ref` is an existing project ref from a `trigger.config`; None makes a new ref. Raises ValueError for a ref that
    cannot be part of a repository name, IntegrityError for a ref that another project has.
    """
    if ref is not None and not images.is_project_ref(ref):
        raise ValueError("a project ref is proj_ followed by lower case letters and digits, at most 64 characters")
    with transaction.atomic():
        project = Project.objects.create(name=name, ref=ref or images.new_project_ref())
        ensure_environments(project)
    return project


def add(*, name: str, ref: str | None = None, trail: Trail) -> Project:
    """`create_project`, with its audit line."""
    with trail.change("add.project") as line:
        project = line.target = create_project(name=name, ref=ref)
        line.after = described(project)
    return project


def ensure(*, name: str, ref: str | None = None, trail: Trail) -> tuple[Project, bool]:
    """(the project with this ref or, without a ref, with this name; whether this call made it).

    Of several requests at once, one makes the project: PostgreSQL locks the table, SQLite has one writer. Raises
    Refusal if the project with this ref has another name, if the project is archived, and if several projects have this
    name; ValueError as `create_project`.
    """
    with trail.change("add.project") as line:
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(f"LOCK TABLE {Project._meta.db_table} IN SHARE ROW EXCLUSIVE MODE")
        found = list(Project.objects.filter(ref=ref) if ref is not None else Project.objects.filter(name=name))
        if not found:
            project = line.target = create_project(name=name, ref=ref)
            line.after = described(project)
            return project, True
        project = line.target = found[0]
        if len(found) > 1:
            raise refusal("project_name_not_unique", name=name, refs=", ".join(sorted(each.ref for each in found[:5])))
        if project.name != name:
            raise refusal("exists_with_others", what=f"The project {project.ref}", others="name")
        if project.archived_at is not None:
            raise refusal("exists_archived", what=f"The project {project.ref}")
        line.nothing_changed()
    return project, False


def rename(*, project: Project, name: str, trail: Trail) -> bool:
    """Change the name; the ref never changes. False if the project has this name. Raises NotFound."""
    with trail.change("change.project", project) as line:
        row = Project.objects.select_for_update().filter(pk=project.pk).first()
        if row is None:
            raise NotFound("The project does not exist any more.")
        before, row.name = described(row), name
        if before["name"] == name:
            line.nothing_changed()
            return False
        row.save(update_fields=["name"])
        line.target, line.before, line.after = row, before, {**described(row), "changed": ["name"]}
    return True


def described(project: Project) -> dict[str, Any]:
    """The values of a project that the audit log keeps."""
    return {"name": project.name, "ref": project.ref}


def ensure_environments(project: Project) -> list[Environment]:
    """The root environments of the project; makes the missing ones. May be repeated, also concurrently."""
    return [
        Environment.objects.get_or_create(
            project=project, slug=slug, parent=None, defaults={"type": ENVIRONMENT_SLUGS[slug][0]}
        )[0]
        for slug in ROOT_SLUGS
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What a project has, in numbers: what its end is about."""

    environments: int
    deployments: int
    running: int  # deployments that have not ended
    current: int  # environments with a current deployment
    live_keys: int
    repositories: int
    channels: int  # notification channels that are for this project only

    def if_archived(self) -> list[str]:
        """What happens if the project is archived, in sentences."""
        return [
            "Deploys, promotions and log-ins to the registry are refused, with a sentence that says why."
            + (f" {_many(self.running, 'running deployment')} will be canceled." if self.running else ""),
            f"{_many(self.current, 'current version')} will stay current. Clusters that ask for it get the same answer "
            "as before.",
            f"{_many(self.live_keys, 'live key')} of its environments can only read. No key is revoked.",
            "A log-in to the registry that was given out before works until it expires, for at most 12 hours.",
            f"{_many(self.repositories, 'repository', 'repositories')} will stay managed, so that nodes can pull.",
            "The project is hidden in lists. It can be restored at any time.",
        ]

    def if_deleted(self) -> list[str]:
        """What happens if the project is deleted, in sentences."""
        sentences = [
            f"{_many(self.environments, 'environment')}, {_many(self.deployments, 'deployment')} and "
            f"{_many(self.live_keys, 'live key')} will be deleted, with all variables, promotions, trust policies and "
            "expired keys.",
            f"{_many(self.repositories, 'repository', 'repositories')} will become unmanaged. Nothing is deleted in "
            "AWS: images and policies stay. Delete the repositories there if nothing runs from them.",
        ]
        if self.current:
            sentences.append(
                f"{_many(self.current, 'environment')} will lose the current version. A cluster that asks for it with "
                "a key of the project is refused."
            )
        if self.channels:
            channels = _many(self.channels, "notification channel")
            sentences.append(f"{channels} for this project only will be switched off.")
        return [*sentences, "The audit log keeps its lines. A deletion cannot be taken back."]


def _many(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def holdings(project: Project) -> Holdings:
    """Count what the project has. Seven queries."""
    deployments = Deployment.objects.filter(project=project)
    return Holdings(
        environments=Environment.objects.filter(project=project).count(),
        deployments=deployments.count(),
        running=deployments.exclude(status__in=FINAL_STATUSES).count(),
        current=Promotion.objects.filter(environment__project=project, label="current").count(),
        live_keys=AccessKey.objects.filter(live(), environment__project=project).count(),
        repositories=Repository.objects.filter(project=project).count(),
        channels=len(_own_channels(project)),
    )


def archive(*, project: Project, trail: Trail) -> bool:
    """Archive the project and cancel its running deployments, in one transaction. False if it was archived before.

    A deploy that begins at the same time is refused or canceled. A finalize at the same time either comes first, or
    finds its deployment canceled.
    """
    with trail.change("archive.project", project, before={"archived": False}) as line:
        if not Project.objects.filter(pk=project.pk, archived_at=None).update(archived_at=Now()):
            line.nothing_changed()
            return False
        canceled = lifecycle.cancel_running(project=project, trail=trail, reason="The project was archived.")
        line.after = {"archived": True, "canceled_deployments": canceled}
    return True


def restore(*, project: Project, trail: Trail) -> bool:
    """Let an archived project take deploys again. False if it is not archived."""
    with trail.change("restore.project", project, before={"archived": True}, after={"archived": False}) as line:
        restored = Project.objects.filter(pk=project.pk, archived_at__isnull=False).update(archived_at=None)
        if not restored:
            line.nothing_changed()
    return bool(restored)


def delete(*, project: Project, typed: str, trail: Trail) -> None:
    """Delete an archived project with its environments, deployments, promotions, variables and keys.

    `typed`: the name of the project, as the person has typed it. Its repositories stay in AWS and become unmanaged; the
    row of one that is missing is deleted. A notification channel that is for this project only is switched off, because
    a channel without projects is for all of them. The audit log stays. Raises NotFound, or Refusal if the project is
    not archived or has another name.
    """
    with trail.change("delete.project", project) as line:
        row = Project.objects.select_for_update().filter(pk=project.pk).first()
        if row is None:
            raise NotFound("The project does not exist any more.")
        if row.archived_at is None:
            raise refusal("project_not_archived", project=row.name)
        if typed.strip() != row.name.strip():
            raise refusal("project_name_differs", project=row.name)
        line.before = {"name": row.name, "ref": row.ref, **asdict(holdings(row))}
        NotificationChannel.objects.filter(pk__in=_own_channels(row)).update(enabled=False)
        held = list(Repository.objects.select_for_update().filter(project=row).only("pk", "status"))
        missing = [each.pk for each in held if each.status == RepositoryStatus.MISSING]
        Repository.objects.filter(pk__in=missing).delete()
        ownership.release(rows=[each for each in held if each.pk not in missing], by=trail.actor.name)
        row.delete()


def _own_channels(project: Project) -> list[int]:
    """The notification channels that are for this project and no other."""
    channels = NotificationChannel.objects.annotate(number=Count("projects")).filter(number=1, enabled=True)
    return list(channels.filter(pk__in=project.notificationchannel_set.values("pk")).values_list("pk", flat=True))
