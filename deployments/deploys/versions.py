"""Raise version counters that are lower than the versions in the registry's tags.

A counter is too low after the database was restored from an older backup. The next deploy would then get a version that
an image already has. Each counter is raised by one conditional UPDATE and never lowered, so `learn` may run again,
concurrently, and during deploys.

A tag names the type of the environment, not the branch. So `learn` raises the counter of each environment of that type,
including all preview branches. A version of a future day was not made by this program and is ignored.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Q
from django.utils import timezone

from deployments import images
from deployments.access.audit import Trail
from deployments.aws.ecr import Ecr
from deployments.catalogue import THROTTLED
from deployments.config import Configuration
from deployments.errors import RegistryError
from deployments.images import Version
from deployments.log import get_logger
from deployments.models import Environment, Project, Repository, RepositoryStatus
from deployments.reconcile import targets
from deployments.reconcile.chunks import learned_rate
from deployments.reconcile.pace import Pace
from deployments.reconcile.targets import Target

THREADS_PER_REGISTRY = 8
REPOSITORIES_AT_ONCE = 500  # their answers are in memory together
log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """The result of `learn`: a sentence for each raised counter, and for each repository whose tags AWS refused."""

    raised: tuple[str, ...]
    refused: tuple[str, ...]


def learn(*, configuration: Configuration, trail: Trail) -> Learned:
    """List the tags of every project's repository (1,000 tags a call) and raise the counters that are too low.

    A repository whose tags AWS does not list is reported in `refused`; the other repositories are still read.
    """
    raised: list[str] = []
    refused: list[str] = []
    projects = dict(Project.objects.values_list("ref", "pk"))
    for target in targets.configured(configuration):
        rows = Repository.objects.filter(target.rows).exclude(status=RepositoryStatus.MISSING)
        names = rows.values_list("name", flat=True).order_by("name")
        # By the project ref in the name: a restored repository row may have no project.
        found = [(name, projects[ref]) for name in names if (ref := _owner(name, target, projects)) is not None]
        ecr = _paced(target, configuration.calls_per_second)
        with ThreadPoolExecutor(max_workers=THREADS_PER_REGISTRY, thread_name_prefix="versions") as pool:
            for start in range(0, len(found), REPOSITORIES_AT_ONCE):
                batch = found[start : start + REPOSITORIES_AT_ONCE]
                # The threads only call AWS; this thread reads and writes all rows.
                answers = pool.map(functools.partial(_highest, ecr), [name for name, _ in batch])
                for (name, project), answer in zip(batch, answers, strict=True):
                    if isinstance(answer, RegistryError):
                        refused.append(f"{name}: {answer}")
                    else:
                        raised += _raise(project, answer, name=name, trail=trail)
    return Learned(raised=tuple(raised), refused=tuple(refused))


def highest(tags: Iterable[str], *, today: str) -> dict[str, Version]:
    """{environment type: newest version} in these tags. Ignores other tags, and versions of days after `today`."""
    found: dict[str, Version] = {}
    for text in tags:
        tag = images.parse_tag(text)
        if tag is not None and tag.version.day <= today:
            found[tag.environment_type] = max(tag.version, found.get(tag.environment_type, tag.version))
    return found


def _owner(name: str, target: Target, projects: Mapping[str, int]) -> str | None:
    refs = images.possible_refs(name, namespace=target.config.namespace)
    return next((ref for ref in refs if ref in projects), None)


def _paced(target: Target, calls_per_second: int) -> Ecr:
    ceiling = float(calls_per_second)
    pace = Pace(learned_rate(target, ceiling), ceiling=ceiling)

    def answered(operation: str, code: str) -> None:
        (pace.refused if code in THROTTLED else pace.accepted)()

    def turn() -> None:
        pace.wait()

    return target.ecr(before_call=turn, answered=answered)


def _highest(ecr: Ecr, name: str) -> dict[str, Version] | RegistryError:
    # Tomorrow: another host's clock may be ahead, and a deploy at midnight must not be ignored.
    today = images.version_day(timezone.now().date() + timedelta(days=1))
    try:
        return highest(ecr.image_tags(name), today=today)
    except RegistryError as error:
        return error


def _raise(project: int, versions: dict[str, Version], *, name: str, trail: Trail) -> list[str]:
    sentences: list[str] = []
    for kind, version in sorted(versions.items()):
        behind = Q(version_day__lt=version.day) | Q(version_day=version.day, version_number__lt=version.number)
        for row in Environment.objects.filter(behind, project_id=project, type=kind).select_related("project"):
            before = {"version": f"{row.version_day}.{row.version_number}" if row.version_day else ""}
            after = {"version": str(version), "seen_in": name}
            with trail.change("raise.version", row, before=before, after=after) as line:
                values = {"version_day": version.day, "version_number": version.number}
                changed = Environment.objects.filter(behind, pk=row.pk).update(**values)
                if not changed:
                    line.nothing_changed()
            if not changed:
                continue  # a deploy has raised the counter further meanwhile
            log.info("versions.raised", environment=str(row), repository=name, version=str(version))
            sentences.append(
                f"{row.project.name}, {row}: {name} has an image of version {version}, so the next version is higher."
            )
    return sentences
