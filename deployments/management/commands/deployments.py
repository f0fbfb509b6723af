"""`manage.py deployments`: what happened to a deployment and why, by its row, for a shell without a browser.

It reads rows, and neither writes nor calls AWS. A deploy that was refused before it had a row stands in the log only.
Exit status: 0 found, 1 several deployments have this version or short code (all are named), 2 there is none, or wrong
usage.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import Q, QuerySet
from django.db.models.fields.json import KT

from deployments import catalogue, clock, images
from deployments.checks import WITHOUT_PAGES
from deployments.deploys import lifecycle, promotions, push_credentials
from deployments.models import SLUG_ALIASES, Deployment, DeploymentStatus, Environment, ImageStatus, Project

OUTPUT_LINES = 12  # of the end of a failed build's output
REASON_LENGTH = 100  # characters of a reason in the list
_FAILED = (DeploymentStatus.FAILED, DeploymentStatus.TIMED_OUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What happened to a deployment, in words, and the code of the error if there was one."""

    words: str
    code: str = ""
    output: str = ""  # the end of what the build printed

    @property
    def is_explained(self) -> bool:
        """Whether `manage.py errors CODE` says more."""
        return catalogue.find(self.code) is not None


class Command(BaseCommand):
    requires_system_checks = WITHOUT_PAGES
    help = "Show a deployment with the reason why it failed, or list deployments, newest first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        show = verbs.add_parser("show", help="one deployment: what happened, why, its image, its repository")
        show.add_argument("which", metavar="ID|VERSION|SHORTCODE")
        listed = verbs.add_parser("list", help="the newest deployments")
        listed.add_argument(
            "--status", action="append", default=[], type=str.upper, choices=DeploymentStatus.values,
            help="only those with this status; may be given several times",
        )  # fmt: skip
        listed.add_argument("--limit", type=int, default=20, metavar="N", help="at most so many (20)")
        for verb in (show, listed):
            verb.add_argument("--project", metavar="REF", help="only those of this project, proj_…")
            verb.add_argument("--env", metavar="NAME", help="only those of prod, staging, preview or preview/BRANCH")
            verb.add_argument("--json", action="store_true", help="print one JSON value")

    def handle(self, *args: Any, **options: Any) -> None:
        rows = _chosen(options["project"], options["env"])
        if options["verb"] == "list":
            self._list(rows, options)
            return
        which = options["which"].strip()
        found = list(rows.filter(_named(which)).order_by("-created_at"))
        if not found:
            raise CommandError(
                f"There is no deployment {which[:60]}. A deploy that was refused has no row: search the log for the "
                "ref of the project or for the request id.",
                returncode=2,
            )
        if len(found) > 1:
            lines = "".join(f"\n  {_line(row)}  {row.pk}" for row in found)
            raise CommandError(
                f"{len(found)} deployments are called {which}. Name one by its id, or add --project and --env:{lines}"
            )
        row = found[0]
        if options["json"]:
            self._print(json.dumps(_document(row), indent=2, cls=DjangoJSONEncoder))
            return
        for line in _lines(row):
            self._print(line)

    def _list(self, rows: QuerySet[Deployment], options: dict[str, Any]) -> None:
        if options["limit"] < 1:
            raise CommandError("--limit is a number from 1.", returncode=2)
        if options["status"]:
            rows = rows.filter(status__in=options["status"])
        rows = rows.defer("error", "receipt").annotate(failure=KT("error__name"), message=KT("error__message"))
        found = rows.order_by("-created_at", "-version_number")[: options["limit"]]
        if options["json"]:
            self._print(json.dumps([_summary(row) for row in found], indent=2, cls=DjangoJSONEncoder))
            return
        for row in found:
            self._print(f"{_line(row)}  {_short_reason(row)}".rstrip())

    def _print(self, text: str) -> None:
        """Print lines. Errors and commits are somebody else's text: control characters, which a terminal would obey,
        become spaces, and a character that the terminal's encoding lacks is printed as its code.
        """
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        for line in text.split("\n"):
            shown = "".join(each if each.isprintable() else " " for each in line)
            self.stdout.write(shown.encode(encoding, "backslashreplace").decode(encoding))


# ---------------------------------------------------------------------------------------------------------- which rows


def _chosen(ref: str | None, name: str | None) -> QuerySet[Deployment]:
    """The deployments of a project and of an environment. Raises CommandError if there is no such one."""
    rows = Deployment.objects.select_related("project", "environment", "repository", "replaced_by")
    if ref and not Project.objects.filter(ref=ref).exists():
        raise CommandError(f"There is no project {ref[:60]}.", returncode=2)
    if ref:
        rows = rows.filter(project__ref=ref)
    if name:
        slug, _, branch = name.partition("/")
        where = Environment.objects.filter(slug=SLUG_ALIASES.get(slug, slug), branch=branch)
        if not (where.filter(project__ref=ref) if ref else where).exists():
            raise CommandError(f"There is no environment {name[:60]}{f' in {ref}' if ref else ''}.", returncode=2)
        rows = rows.filter(environment__in=where)
    return rows


def _named(which: str) -> Q:
    if which.startswith("deployment_"):
        return Q(pk=which)
    try:
        version = images.Version.parse(which)
    except ValueError:
        # With the projects named, the index of project and short code is searched.
        return Q(short_code=which.lower(), project__in=Project.objects.order_by().values("pk"))
    return Q(version_day=version.day, version_number=version.number)


# ---------------------------------------------------------------------------------------------------------------- why


def outcome(row: Deployment) -> Outcome:
    """What happened to the deployment. One query for a deployment that was deployed."""
    if row.status in _FAILED:
        error = row.error or {}
        name, message = str(error.get("name") or "Error"), str(error.get("message") or "The CLI gave no message.")
        entry = catalogue.read_back(message)
        code = entry[0].codes[0] if entry else name
        if row.receipt is not None and row.receipt.code:  # finalize was refused, and then the CLI gave up
            code = row.receipt.code
        output = "\n".join(str(error.get("stderr") or "").rstrip().splitlines()[-OUTPUT_LINES:])
        return Outcome(words=f"{name}: {message}", code=code, output=output)
    if row.status == DeploymentStatus.CANCELED:
        by = f" Version {row.replaced_by} took its place." if row.replaced_by is not None else ""
        return Outcome(words=f"Canceled: {row.canceled_reason or 'no reason was given'}{by}")
    if row.status == DeploymentStatus.DEPLOYED:
        current = promotions.current_promotion(environment=row.environment)
        if current is not None and current.deployment_id == row.pk:
            return Outcome(words=f"Current since {_time(current.promoted_at)}, promoted by {current.promoted_by}.")
        other = f"version {current.deployment.version} is" if current is not None else "no version is"
        wish = " Its deploy asked for no promotion." if row.promotion_wanted is False else ""
        return Outcome(words=f"Deployed and not current; {other}.{wish}")
    silent = lifecycle.silent_since(row, clock.now())
    words = f"It has not ended; it times out at {_time(row.deadline)}." if row.deadline else "It has not ended."
    return Outcome(words=f"{words} No request since {_time(silent)}." if silent else words)


def notes(row: Deployment) -> Iterator[str]:
    """Whatever else the rows know that can explain an outcome, in sentences."""
    if row.receipt is not None and row.receipt.unproved:
        code = f" ({row.receipt.code})" if row.receipt.code else ""
        yield f"The image was not verified: {row.receipt.unproved}{code}"
    if row.credentials_error:
        refused = "No registry log-in was issued" if not row.credentials_kind else "About its registry log-in"
        yield f"{refused}: {row.credentials_error}"
    if left_out := push_credentials.incomplete(row.log_in):
        yield left_out
    if row.repository is not None and row.repository.last_error:
        code = f" ({row.repository.last_error_code})" if row.repository.last_error_code else ""
        yield f"Repository {row.repository.name}: {row.repository.last_error}{code}"
    state = getattr(row, "image_state", None)
    if state is not None and state.state != ImageStatus.RUNNABLE:
        yield f"Its image is {state.get_state_display().lower()} since {_time(state.since)}: {state.words}"


# -------------------------------------------------------------------------------------------------------------- output


def _line(row: Deployment) -> str:
    place = f"{row.project.ref}/{row.environment}"
    return f"{row.version!s:<12} {row.short_code}  {row.status:<9} {_time(row.created_at)}  {place}"


def _short_reason(row: Any) -> str:
    reason = row.canceled_reason or (f"{row.failure}: {row.message}" if row.failure else "")
    words = " ".join(reason.split())
    return words if len(words) <= REASON_LENGTH else f"{words[: REASON_LENGTH - 1]}…"


def _lines(row: Deployment) -> Iterator[str]:
    found = outcome(row)
    yield f"{row.version} {row.status} in {row.project.ref}/{row.environment} ({row.project.name})"
    yield found.words
    if found.is_explained:
        yield f"Code {found.code}: `{settings.COMMAND} errors {found.code}` says what to do."
    elif found.code and not found.words.startswith(f"{found.code}:"):
        yield f"Code {found.code}."
    yield from (f"- {note}" for note in notes(row))
    if found.output:
        yield "The end of the build's output:"
        yield from (f"    {line}" for line in found.output.splitlines())
    yield ""
    for word, value in _facts(row).items():
        if value:
            yield f"{word:<11} {_time(value) if isinstance(value, datetime) else value}"


def _facts(row: Deployment) -> dict[str, Any]:
    by = " ".join(filter(None, (row.triggered_by, f"({row.triggered_via})" if row.triggered_via else "")))
    return {
        "id": row.pk,
        "short code": row.short_code,
        "by": by,
        "commit": " ".join(filter(None, (row.git.get("commitSha"), row.git.get("commitRef")))),
        "external id": row.external_id,
        "image": row.image_reference,
        "created": row.created_at,
        "built": row.built_at,
        "deployed": row.deployed_at,
        "failed": row.failed_at,
        "canceled": row.canceled_at,
        "last asked": row.last_request_at,
        "page": _page(row),
        "log": f"grep {row.short_code}",
    }


def _identity(row: Deployment) -> dict[str, Any]:
    return {
        "id": row.pk,
        "short_code": row.short_code,
        "version": str(row.version),
        "status": row.status,
        "project": row.project.ref,
        "environment": str(row.environment),
        "created_at": row.created_at,
    }


def _summary(row: Any) -> dict[str, Any]:
    reason = row.canceled_reason or (f"{row.failure}: {row.message}" if row.failure else None)
    return {**_identity(row), "reason": reason}


def _document(row: Deployment) -> dict[str, Any]:
    found = outcome(row)
    return {
        **_identity(row),
        "outcome": found.words,
        "code": found.code or None,
        "notes": list(notes(row)),
        "error": row.error,
        "image": row.image_reference,
        "repository": row.repository.name if row.repository is not None else None,
        "triggered_by": row.triggered_by,
        "triggered_via": row.triggered_via,
        "git": row.git,
        "external_id": row.external_id or None,
        "built_at": row.built_at,
        "deployed_at": row.deployed_at,
        "failed_at": row.failed_at,
        "canceled_at": row.canceled_at,
        "deadline": row.deadline,
        "last_request_at": row.last_request_at,
        "page": _page(row),
    }


def _page(row: Deployment) -> str:
    return f"{settings.CONFIGURATION.app_origin}/admin/deployments/deployment/{row.pk}/change/"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
