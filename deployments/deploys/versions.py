"""Version counters that are behind the registry: raised above the highest version that an image's tag shows.

A counter is behind when the database was restored from a backup that is older than the registry. The next deploy
would then get a version that an image has already. Counters are only raised, each by one conditional UPDATE, so this
may run again, twice at once, and beside deploys.

The tag names the type of the environment and not the branch, so every environment of that type is raised, all
preview branches included. A day that lies in the future is not a version of ours, and is left out.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Q
from django.utils import timezone

from deployments import images
from deployments.access.audit import Trail
from deployments.aws.ecr import Ecr
from deployments.config import Configuration
from deployments.errors import RegistryError, is_throttling
from deployments.images import Version
from deployments.log import get_logger
from deployments.models import Environment, Project, Repository, RepositoryStatus
from deployments.reconcile import targets
from deployments.reconcile.pace import Pace
from deployments.reconcile.targets import Target

THREADS_PER_REGISTRY = 8
log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """The result of `learn`: a sentence for each environment that was raised, and for each repository that refused."""

    raised: tuple[str, ...]
    refused: tuple[str, ...]


def learn(*, configuration: Configuration, trail: Trail) -> Learned:
    """List the tags of every project's repository and raise the counters that are behind: one call for 1,000 tags.

    A repository whose tags AWS does not list is reported, and does not stop the others.
    """
    raised: list[str] = []
    refused: list[str] = []
    projects = dict(Project.objects.values_list("ref", "pk"))
    for target in targets.configured(configuration):
        prefix = f"{target.config.namespace}/"
        rows = Repository.objects.filter(target.rows).exclude(status=RepositoryStatus.MISSING)
        names = rows.values_list("name", flat=True).order_by("name")
        # By the ref in its name: a repository may have been discovered before its project was made again.
        found = [(name, projects[ref]) for name in names if (ref := name.removeprefix(prefix)) in projects]
        ecr = _paced(target, configuration.calls_per_second)
        with ThreadPoolExecutor(max_workers=THREADS_PER_REGISTRY, thread_name_prefix="versions") as pool:
            # The threads only ask AWS; every row is read and written in this one.
            answers = pool.map(functools.partial(_highest, ecr), [name for name, _ in found])
            for (name, project), answer in zip(found, answers, strict=True):
                if isinstance(answer, RegistryError):
                    refused.append(f"{name}: {answer}")
                else:
                    raised += _raise(project, answer, name=name, trail=trail)
    return Learned(raised=tuple(raised), refused=tuple(refused))


def highest(tags: Iterable[str], *, today: str) -> dict[str, Version]:
    """{environment type: its newest version} of those tags that are ours; versions of a day after `today` are not."""
    found: dict[str, Version] = {}
    for text in tags:
        tag = images.parse_tag(text)
        if tag is not None and tag.version.day <= today:
            found[tag.environment_type] = max(tag.version, found.get(tag.environment_type, tag.version))
    return found


def _paced(target: Target, calls_per_second: int) -> Ecr:
    pace = Pace(float(calls_per_second), ceiling=float(calls_per_second))

    def answered(operation: str, code: str) -> None:
        (pace.refused if is_throttling(code) else pace.accepted)()

    def turn() -> None:
        pace.wait()

    return target.ecr(before_call=turn, answered=answered)


def _highest(ecr: Ecr, name: str) -> dict[str, Version] | RegistryError:
    # Tomorrow: another host's clock may be a little ahead, and a deploy at midnight has to count.
    today = images.version_day(timezone.now().date() + timedelta(days=1))
    try:
        return highest(ecr.image_tags(name), today=today)
    except RegistryError as error:
        return error


def _raise(project: int, versions: dict[str, Version], *, name: str, trail: Trail) -> list[str]:
    told: list[str] = []
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
                continue  # a deploy has raised it further meanwhile
            log.info("versions.raised", environment=str(row), repository=name, version=str(version))
            told.append(f"{row.project.name}, {row}: an image of {version} is in {name}, so the next version is above.")
    return told
