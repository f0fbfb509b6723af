"""The verbs of `manage.py policy` about versions of the default policy. They read and write rows, and call no AWS."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.core.serializers.json import DjangoJSONEncoder

from deployments import tasks
from deployments.access.audit import Trail, shell_user
from deployments.errors import Refusal
from deployments.models import PolicyVersion
from deployments.reconcile import generation, policy_versions, rollouts

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
        rows = [row for row in PolicyVersion.objects.select_related("text") if row.place.endswith(options["registry"])]
        if options["json"]:
            write(_json([policy_versions.described(row) for row in rows]))
        for row in () if options["json"] else rows:
            write(*_lines(row))
        if not rows and not options["json"]:
            write("There is no version yet: no process was started with a default policy for an ECR registry.")
        return
    row = _find(options["version"], options["registry"])
    if verb == "show":
        write(_json(policy_versions.described(row, whole=True)) if options["json"] else "\n".join(_whole(row)))
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
    try:
        found = rollouts.preview(row, _configuration())
    except Refusal as refused:
        raise CommandError(str(refused)) from None
    if as_json:
        write(_json(list(found.records())))
        return
    write(f"Of {found.total} repositories, {found.changed} would change; of {found.unknown} it is not known.")
    write(*(f"+ {who} ({number} repositories)" for who, number in found.gains))
    write(*(f"- {who} ({number} repositories)" for who, number in found.losses))
    for each in found.running:
        write(f"! {each.environment.project} / {each.environment} runs an image of {each.repository.name}.")


def _json(value: object) -> str:
    return json.dumps(value, indent=2, cls=DjangoJSONEncoder)


def _lines(row: PolicyVersion) -> Iterator[str]:
    yield f"Version {row.number}: {row.get_state_display().lower()}. {row.place}, {row.text.digest[:12]}"
    yield f"    Since {row.proposed_at:%Y-%m-%d %H:%M} UTC, by {row.proposed_by}. {row.why}"
    if row.reason:
        yield f"    {row.changed_at:%Y-%m-%d %H:%M} UTC: {row.reason}"
    if row.state == "waiting":
        yield f"    It waits for a person: manage.py policy start {row.number} [--now]"


def _whole(row: PolicyVersion) -> Iterator[str]:
    yield from _lines(row)
    yield from (f"    {line}" for line in policy_versions.differences(row))
    for step in row.steps.select_related("repository"):
        words = f": {step.words}" if step.words else ""
        yield f"    stage {step.stage}  {step.get_state_display().lower():<16}  {step.repository.name}{words}"
    yield row.text.text


def _find(number: int, registry: str) -> PolicyVersion:
    rows = PolicyVersion.objects.filter(number=number).select_related("text", "follows__text")
    found = [row for row in rows if row.place.endswith(registry)]
    if not found:
        raise CommandError(f"There is no version {number}. manage.py policy versions prints all.")
    if len(found) > 1:
        places = ", ".join(row.place for row in found)
        raise CommandError(f"Several registries have a version {number}. Give --registry: {places}.")
    return found[0]
