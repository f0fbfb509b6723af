"""A large installation: rows of `tests.admin.installation`, copied by statements of SQL on SQLite and PostgreSQL.

100,000 deployments of 300 projects, 10,000 repositories, and what such an installation has besides: the branches of its
pull requests, keys of its deploys, two weeks of sweeps with their findings, audit entries, promotions, deliveries.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib.auth.models import User
from django.db import connection
from django.db.models import Model

from deployments.models import (
    AccessKey,
    AuditEntry,
    BackgroundWorker,
    Deployment,
    Environment,
    EnvironmentType,
    ImageState,
    KeyClient,
    NotificationChannel,
    NotificationDelivery,
    PromotionEvent,
    Repository,
    RepositoryEvent,
    Sweep,
    SweepChunk,
    SweepFinding,
)
from tests.admin.installation import Installation

#: A digit of base 36 of the number `n` of a copy, in both databases.
_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
_PART = 25  # one row of so many is made through the models; statements make its copies


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many rows there are to be, at least."""

    deployments: int = 100_000
    repositories: int = 10_000
    projects: int = 300
    branches: int = 6_000  # previews, over all projects
    deploy_keys: int = 20_000
    users: int = 200
    sweeps: int = 2_000  # each with its chunks of 250 repositories
    findings: int = 200_000
    audit_entries: int = 200_000
    deliveries: int = 50_000


def grow(size: Size) -> Installation:
    """Make the rows. PostgreSQL also gets the statistics that it plans with; in a transaction not those of VACUUM."""
    found = Installation(
        projects=size.projects,
        repositories=max(size.projects, size.repositories // 10),
        deployments=max(8, size.deployments // _PART),
        seed=9,
    )
    _copy_repositories(size)
    _copy_deployments(size)
    _add_branches(size)
    _copy_keys(size)
    _add_sweeps(size)
    _add_histories(size)
    User.objects.bulk_create(
        User(username=f"person-{number}", email=f"person-{number}@example.com", is_staff=True)
        for number in range(size.users)
    )
    if connection.vendor == "postgresql":  # its autovacuum does so by itself; nothing does so on SQLite
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE" if connection.in_atomic_block else "VACUUM ANALYZE")
    return found


def _copy_repositories(size: Size) -> None:
    copies = size.repositories // max(1, Repository.objects.count())
    _copy(Repository, copies, name="name || '_' || n")
    _copy(RepositoryEvent, copies, at=_minutes_before("at"))


def _copy_deployments(size: Size) -> None:
    copies = size.deployments // max(1, Deployment.objects.count())
    id_of_copy = "|| 'x' || n"
    digits = f"substr('{_LETTERS}', n / 36 + 1, 1) || substr('{_LETTERS}', n % 36 + 1, 1)"
    hexadecimal = "substr('0123456789abcdef', n / 16 + 1, 1) || substr('0123456789abcdef', n % 16 + 1, 1)"
    of_digest = f"'sha256:' || {hexadecimal} || substr(image_digest, 10)"
    _copy(
        Deployment,
        copies,
        where="status NOT IN ('BUILDING', 'DEPLOYING')",
        id=f"id {id_of_copy}",
        short_code=f"substr(short_code, 3) || {digits}",
        version_number="version_number + 1000 * n",
        image_digest=f"CASE image_digest WHEN '' THEN '' ELSE {of_digest} END",
        created_at=_minutes_before("created_at"),
    )
    of_copy = "deployment_id IN (SELECT id FROM deployments_deployment WHERE status NOT IN ('BUILDING', 'DEPLOYING'))"
    _copy(BackgroundWorker, copies, where=of_copy, id=f"id {id_of_copy}", deployment_id=f"deployment_id {id_of_copy}")
    # Those whose images must stay: the current ones and some to roll back to.
    _copy(ImageState, min(4, copies), where=of_copy, deployment_id=f"deployment_id {id_of_copy}")


def _add_branches(size: Size) -> None:
    previews = list(Environment.objects.filter(slug="preview", parent=None))
    Environment.objects.bulk_create(
        Environment(
            project_id=preview.project_id, type=EnvironmentType.PREVIEW, slug="preview", parent=preview,
            branch=f"pull/{number}", archived_at=preview.created_at if number % 2 else None,
        )
        for preview in previews
        for number in range(size.branches // len(previews))
    )  # fmt: skip


def _copy_keys(size: Size) -> None:
    """The keys that deploys have made from others, most of them expired."""
    some = AccessKey.objects.filter(kind="environment", replaces=None).count()
    _copy(
        AccessKey,
        size.deploy_keys // max(1, some),
        where="kind = 'environment' AND replaces_id IS NULL",
        kind="'deploy'",
        digest="substr(digest, 1, 50) || n || 'x'",
        created_at=_minutes_before("created_at"),
        expires_at=_minutes_before("created_at"),
    )
    _insert(KeyClient, "SELECT id, 'trigger.dev 4.8.3 at 10.4.0.17', created_at, created_at FROM deployments_accesskey",
            "key_id, client, first_seen_at, last_seen_at")  # fmt: skip


def _add_sweeps(size: Size) -> None:
    pattern = Sweep.objects.filter(status="done", names=[], dry_run=False).order_by("-pk")[0]
    newest = Sweep.objects.order_by("-pk")[0].pk
    _copy(
        Sweep,
        size.sweeps,
        where=f"id = {pattern.pk}",
        started_at=_minutes_before("started_at", by=10),
        finished_at=_minutes_before("finished_at", by=10),
    )
    chunk = SweepChunk.objects.filter(sweep=pattern)[0].pk
    columns = [str(field.column) for field in SweepChunk._meta.concrete_fields if field.column != "id"]
    values = {"sweep_id": "sweep.id", "position": "n", "remaining": "'[]'"}
    chosen = ", ".join(values.get(each, f"chunk.{each}") for each in columns)
    _insert(
        SweepChunk,
        f"{_copies(max(1, size.repositories // 250))} SELECT {chosen} FROM deployments_sweep sweep, copies, "  # noqa: S608
        f"deployments_sweepchunk chunk WHERE sweep.id > {newest} AND chunk.id = {chunk}",
        ", ".join(columns),
    )
    nth = max(1, size.sweeps * size.repositories // size.findings)
    _insert(
        SweepFinding,
        "SELECT sweep.id, row.id, 'healed', 'Compared with the default policy, account 333333333333 loses pull.', "  # noqa: S608
        f"sweep.started_at FROM deployments_sweep sweep, deployments_repository row WHERE sweep.id > {newest} AND "
        f"(row.id + sweep.id) % {nth} = 0",
        "sweep_id, repository_id, outcome, words, at",
    )


def _add_histories(size: Size) -> None:
    _insert(
        PromotionEvent,
        "SELECT environment_id, id, deployed_at, triggered_by FROM deployments_deployment WHERE status = 'DEPLOYED'",
        'environment_id, deployment_id, at, "by"',
    )
    copies = round(size.audit_entries / Deployment.objects.count())
    _insert(
        AuditEntry,
        f"{_copies(max(1, copies))} SELECT created_at, 'person', triggered_by, CASE n WHEN 1 THEN 'begin.deployment' "  # noqa: S608
        "ELSE 'promote.deployment' END, 'deployment', id, short_code, 'done', '', '10.4.0.17' "
        "FROM deployments_deployment, copies",
        "at, actor_kind, actor, action, object_type, object_id, object_label, outcome, request_id, address",
    )
    channel, _ = NotificationChannel.objects.get_or_create(
        name="Sweeps", defaults={"kind": "slack", "address": "https://hooks.slack.com/…"}
    )
    row = NotificationDelivery.objects.create(
        channel=channel, event="sweep.failed", subject="Sweeps fail", key="sweep.failed", status="sent", attempts=1
    )
    _copy(
        NotificationDelivery,
        size.deliveries,
        where=f"id = {row.pk}",
        key="'sweep.failed:' || n",
        created_at=_minutes_before("created_at"),
        status="CASE n % 20 WHEN 0 THEN 'failed' ELSE 'sent' END",
    )


def _copies(number: int) -> str:
    return f"WITH RECURSIVE copies(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copies WHERE n < {number})"  # noqa: S608


def _copy(model: type[Model], copies: int, *, where: str = "1 = 1", **changed: str) -> None:
    """Copy the rows so many times. `changed`: column → expression, in which `n` is the number of the copy."""
    if copies < 1:
        return
    columns = [str(field.column) for field in model._meta.concrete_fields if field.column != "id" or "id" in changed]
    quoted = [connection.ops.quote_name(each) for each in columns]
    chosen = ", ".join(changed.get(each, name) for each, name in zip(columns, quoted, strict=True))
    table = model._meta.db_table
    _insert(model, f"{_copies(copies)} SELECT {chosen} FROM {table}, copies WHERE {where}", ", ".join(quoted))  # noqa: S608


def _insert(model: type[Model], select: str, columns: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {model._meta.db_table} ({columns}) {select}")


def _minutes_before(column: str, *, by: int = 1) -> str:
    """The time of a row, so many minutes earlier for each copy."""
    if connection.vendor == "postgresql":
        return f"{column} - n * {by} * interval '1 minute'"
    return f"strftime('%Y-%m-%d %H:%M:%f', {column}, '-' || (n * {by}) || ' minutes')"
