"""The verbs of `manage.py policy` about versions of the default policy. They read and write rows, and call no AWS."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.db.models import Count

from deployments import policy, tasks
from deployments.access.audit import Trail, shell_user
from deployments.errors import Refusal
from deployments.models import PolicyVersion, StepState
from deployments.reconcile import generation, rollouts, what_if
from deployments.reconcile.targets import Target

Write = Callable[..., None]
VERBS = {
    "versions": "the versions of the default policy, newest first",
    "show": "one version: its text, and each repository of its roll-out",
    "preview": "what a version changes: who gains, who loses, by repository, project and environment",
    "start": "start a version that waits",
    "pause": "stop a roll-out; repositories that have the version keep it",
    "resume": "let a stopped roll-out go on; accounts that lost their pull so far do not stop it again",
    "rollback": "put back what was there before, on the repositories that the version was written to",
}


def add_arguments(verbs: Any) -> None:
    """Add the verbs to the parsers of the command."""
    for verb, words in VERBS.items():
        parser = verbs.add_parser(verb, help=words)
        if verb != "versions":
            parser.add_argument("version", type=int, metavar="VERSION", help="its number, as `versions` prints it")
        parser.add_argument("--registry", default="", help="ACCOUNT/REGION/NAMESPACE, if there are several")
        if verb in ("versions", "show", "preview"):
            parser.add_argument("--json", action="store_true", help="print one JSON value")
        if verb == "start":
            parser.add_argument("--now", action="store_true", help="everywhere, without stages: to take access away")
        if verb == "pause":
            parser.add_argument("--reason", default="", help="why, for the version's page and the audit log")


def run(options: dict[str, Any], write: Write) -> None:
    """Run the verb. Raises CommandError with a sentence."""
    verb = options["verb"]
    if verb == "versions":
        rows = [
            row for row in PolicyVersion.objects.select_related("text") if _place(row).endswith(options["registry"])
        ]
        if options["json"]:
            write(json.dumps([described(row) for row in rows], indent=2))
        for row in () if options["json"] else rows:
            write(*_lines(row))
        if not rows and not options["json"]:
            write("There is no version yet: no process was started with a default policy for an ECR registry.")
        return
    row = _find(options["version"], options["registry"])
    if verb == "show":
        write(json.dumps(described(row, whole=True), indent=2) if options["json"] else "\n".join(_whole(row)))
    elif verb == "preview":
        _preview(row, options["json"], write)
    else:
        _change(verb, row, options, write)


def _change(verb: str, row: PolicyVersion, options: dict[str, Any], write: Write) -> None:
    trail, by = Trail.of_command("policy"), shell_user()
    try:
        if verb == "start":
            rollouts.start(version=row, at_once=options["now"], by=by, trail=trail)
        elif verb == "pause":
            rollouts.pause(version=row, reason=options["reason"], by=by, trail=trail)
        elif verb == "resume":
            rollouts.resume(version=row, configuration=_configuration(), by=by, trail=trail)
        else:
            rollouts.rollback(version=row, by=by, trail=trail)
    except Refusal as refused:
        raise CommandError(str(refused)) from None
    tasks.wake_workers()
    row.refresh_from_db()
    write(*_lines(row), "Workers do the rest. See: manage.py policy show " + str(row.number))


def _configuration() -> Any:
    return generation.shown(settings.CONFIGURATION.require())


def _preview(row: PolicyVersion, as_json: bool, write: Write) -> None:
    target: Target | None = rollouts.target_of(row, _configuration())
    if target is None:
        raise CommandError("The settings do not name the registry of this version any more.")
    found = what_if.rehearse(text=row.text.text, target=target)
    if as_json:
        write(json.dumps(list(found.records()), indent=2))
        return
    write(f"Of {found.total} repositories, {found.changed} would change; of {found.unknown} it is not known.")
    write(*(f"+ {who} ({number} repositories)" for who, number in found.gains))
    write(*(f"- {who} ({number} repositories)" for who, number in found.losses))
    for each in found.running:
        write(f"! {each.environment.project} / {each.environment} runs an image of {each.repository.name}.")


def described(row: PolicyVersion, *, whole: bool = False) -> dict[str, Any]:
    """A version as JSON. `whole`: with its text, its difference to the version before, and its repositories."""
    counts = dict(row.steps.order_by().values_list("state").annotate(Count("pk")))
    answer: dict[str, Any] = {
        "version": row.number,
        "registry": _place(row),
        "state": row.state,
        "digest": row.text.digest,
        "proposedAt": row.proposed_at.isoformat(),
        "proposedBy": row.proposed_by,
        "why": row.why,
        "startedAt": row.started_at.isoformat() if row.started_at else None,
        "startedBy": row.started_by,
        "stage": row.stage,
        "reason": row.reason,
        "changedAt": row.changed_at.isoformat(),
        "changedBy": row.changed_by,
        "repositories": {state.value: counts[state] for state in StepState if state in counts},
    }
    if whole:
        answer |= {"policy": row.text.text, "differences": differences(row)}
        answer["steps"] = [
            {"repository": step.repository.name, "stage": step.stage, "state": step.state, "words": step.words}
            for step in row.steps.select_related("repository")
        ]
    return answer


def differences(row: PolicyVersion) -> list[str]:
    """What a version gives (+) and takes (-), against the version before it."""
    if row.follows is None:
        return []
    found = policy.compare(row.follows.text.text, row.text.text, partition=_partition(row))
    return [
        *([found.why] if found.why else []),
        *(f"+ {grant.words}" for grant in found.gained),
        *(f"- {grant.words}" for grant in found.lost),
        *found.more,
    ]


def _partition(row: PolicyVersion) -> str:
    from deployments.aws.partitions import partition_of

    return partition_of(row.region)


def _place(row: PolicyVersion) -> str:
    return f"{row.account}/{row.region}/{row.namespace}"


def _lines(row: PolicyVersion) -> Iterator[str]:
    yield f"Version {row.number}: {row.get_state_display().lower()}. {_place(row)}, {row.text.digest[:12]}"
    yield f"    Since {row.proposed_at:%Y-%m-%d %H:%M} UTC, by {row.proposed_by}. {row.why}"
    if row.reason:
        yield f"    {row.changed_at:%Y-%m-%d %H:%M} UTC: {row.reason}"
    if row.state == "waiting":
        yield f"    It waits for a person: manage.py policy start {row.number} [--now]"


def _whole(row: PolicyVersion) -> Iterator[str]:
    yield from _lines(row)
    yield from (f"    {line}" for line in differences(row))
    for step in row.steps.select_related("repository"):
        words = f": {step.words}" if step.words else ""
        yield f"    stage {step.stage}  {step.get_state_display().lower():<16}  {step.repository.name}{words}"
    yield row.text.text


def _find(number: int, registry: str) -> PolicyVersion:
    rows = PolicyVersion.objects.filter(number=number).select_related("text", "follows__text")
    found = [row for row in rows if _place(row).endswith(registry)]
    if not found:
        raise CommandError(f"There is no version {number}. manage.py policy versions prints all.")
    if len(found) > 1:
        places = ", ".join(_place(row) for row in found)
        raise CommandError(f"Several registries have a version {number}. Give --registry: {places}.")
    return found[0]
