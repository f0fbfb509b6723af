"""Whether this installation is well: one line for each thing that has to be right, what it means, what to do next.

`manage.py doctor` prints the lines, the set-up page of the admin shows them. Everything here only looks: at the
settings, the database, the worker's heartbeat, and (unless offline) at AWS, by questions that change nothing. A thing
that cannot be tried without harm is said not to have been tried. No secret is in any line.

A doctor must not fall ill with the patient: a part that breaks becomes a line of its own, and AWS's questions are
asked side by side with an end to the waiting.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from django.conf import settings
from django.core import checks, mail
from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from deployments import schema, tasks, worker
from deployments.aws.probes import Probes
from deployments.aws.values import Identity
from deployments.config import Configuration
from deployments.errors import RegistryError
from deployments.models import NotificationChannel, ProcessRole
from deployments.reconcile import desired, generation, processes, targets, writes_pause
from deployments.reconcile.targets import Target

log = logging.getLogger(__name__)

AWS_SECONDS = 12.0  # for all questions to AWS and the mail server together; a person waits for them (D-setup-page)
WAITS_LONG = 120.0  # seconds that a message of the queue may wait before somebody should look
CLOCK_WARN, CLOCK_FAIL = 30.0, 240.0  # seconds from AWS's clock; at 300 it begins to refuse signatures
SILENT_TOLD = timedelta(hours=1)  # for so long a silent process is reported although others of its role run
NOT_THERE = "registry-admin-doctor"  # a repository below the namespace that nobody makes


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "not tried"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportLine:
    """One thing that was looked at: what it is, how it is, and the next step where there is one."""

    part: str  # Settings, Database, Worker, Mail, AWS
    what: str
    level: Level
    says: str
    then: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    lines: tuple[ReportLine, ...]
    at: datetime
    seconds: float

    def count(self, level: Level) -> int:
        return sum(line.level is level for line in self.lines)

    @property
    def worst(self) -> Level:
        return next((level for level in (Level.FAIL, Level.WARN) if self.count(level)), Level.OK)

    @property
    def summary(self) -> dict[str, int]:
        return {level.name.lower(): self.count(level) for level in Level}


def examine(*, configuration: Configuration, offline: bool = False) -> Report:
    """Look at everything; with `offline` at nothing beyond the database. Takes some 15 seconds at the worst."""
    began, at = time.monotonic(), timezone.now()
    lines = [*_guarded("Settings", _settings), *_guarded("Database", _database)]
    if not any(line.part == "Database" and line.what != "Clock" and line.level is Level.FAIL for line in lines):
        lines += _guarded("Configuration", lambda: _which_counts(configuration))
        lines += _guarded("Worker", lambda: _processes(configuration))
        lines += _guarded("Mail", lambda: _mail(offline=offline))
        configuration = generation.shown(configuration)
    lines += _guarded("AWS", lambda: _registries(configuration, offline=offline))
    return Report(lines=tuple(lines), at=at, seconds=time.monotonic() - began)


def _guarded(part: str, look: Callable[[], Iterable[ReportLine]]) -> list[ReportLine]:
    found: list[ReportLine] = []
    try:
        for line in look():
            found.append(line)
    except Exception as error:
        log.exception("doctor.part_broke part=%s", part)
        found.append(
            ReportLine(
                part=part,
                what=part,
                level=Level.FAIL,
                says=f"This part could not be looked at to the end ({type(error).__name__}).",
                then="The log has the whole error.",
            )
        )
    return found


# ----------------------------------------------------------------------------------------------------------- settings


def _settings() -> Iterator[ReportLine]:
    """Django's checks and ours; those of `check --deploy` too where people come by https."""
    public = settings.CONFIGURATION.app_origin.startswith("https://")
    complaints = 0
    for message in checks.run_checks(include_deployment_checks=public):
        if message.is_silenced() or message.level < checks.WARNING:
            continue
        complaints += 1
        level = Level.FAIL if message.level >= checks.ERROR else Level.WARN
        yield ReportLine(
            part="Settings", what=message.id or "check", level=level, says=message.msg, then=message.hint or ""
        )
    if not complaints:
        yield ReportLine(part="Settings", what="System checks", level=Level.OK, says="No check has a complaint.")
    manifest = settings.STATIC_ROOT / "staticfiles.json"
    try:
        json.loads(manifest.read_text())
        yield ReportLine(
            part="Settings", what="Static files", level=Level.OK, says="Collected, with names that may be kept."
        )
    except FileNotFoundError:
        yield ReportLine(
            part="Settings",
            what="Static files",
            level=Level.WARN if public else Level.OK,
            says="Not collected: the pages' files are served as they lie, uncompressed.",
            then="python manage.py collectstatic --noinput, then restart the web process." if public else "",
        )
    except (OSError, ValueError) as error:
        yield ReportLine(
            part="Settings",
            what="Static files",
            level=Level.FAIL,
            says=f"{manifest} cannot be read ({type(error).__name__}), so every page fails.",
            then="python manage.py collectstatic --noinput --clear, then restart the web process.",
        )


# ----------------------------------------------------------------------------------------------------------- database


def _database() -> Iterator[ReportLine]:
    try:
        connection.ensure_connection()
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Error as error:
        connection.close()
        yield ReportLine(
            part="Database",
            what="Connection",
            level=Level.FAIL,
            says=f"The {connection.vendor} database does not answer ({type(error).__name__}).",
            then="Check DATABASE_URL, and that the database is up and can be reached from this host.",
        )
        return
    version = ".".join(str(part) for part in connection.get_database_version())
    yield ReportLine(
        part="Database", what="Connection", level=Level.OK, says=f"{connection.display_name} {version} answers."
    )
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in missing[:5])
        yield ReportLine(
            part="Database",
            what="Migrations",
            level=Level.FAIL,
            says=f"{len(missing)} not applied: {names}{'…' if len(missing) > 5 else ''}.",
            then="python manage.py migrate",
        )
    else:
        yield ReportLine(part="Database", what="Migrations", level=Level.OK, says="All applied.")
        complaint = schema.complaint()
        yield ReportLine(
            part="Database",
            what="Tables",
            level=Level.FAIL if complaint else Level.OK,
            says=f"{complaint} The migrations say that it is there: one was edited after it had run here, or a table "
            "was changed by hand."
            if complaint
            else "All that this version needs.",
            then=schema.NEXT_STEP if complaint else "",
        )
    offset = processes.clock_offset()
    words = processes.clock_words(offset)
    yield ReportLine(
        part="Database",
        what="Clock",
        level=_clock_level(offset),
        says=(words or f"This host's clock is {offset:+.1f} seconds from the database's.")
        if connection.vendor == "postgresql"
        else "SQLite's clock is this host's.",
        then=CLOCK_NEXT if words else "",
    )


CLOCK_NEXT = (
    f"Set the clock (NTP). A worker that is {processes.CLOCK_STOP_SECONDS:.0f} seconds off takes no work until then."
)


def _clock_level(offset: float) -> Level:
    if abs(offset) >= processes.CLOCK_STOP_SECONDS:
        return Level.FAIL
    return Level.WARN if processes.clock_words(offset) else Level.OK


# ------------------------------------------------------------------------------------------------------ configuration


def _which_counts(own: Configuration) -> Iterator[ReportLine]:
    """Which configuration counts, who holds another one, and whether writes are paused."""
    part = "Configuration"
    current = generation.counting()
    if current is None:
        says = "No process has been started yet, so none counts. Commands use the settings of their shell."
        yield ReportLine(part=part, what="Which counts", level=Level.OK, says=says)
    else:
        says = f"{current.configuration} since {current.at:%Y-%m-%d %H:%M} UTC: "
        says += f"{current.get_cause_display().lower()}, by {current.by}."
        yield ReportLine(part=part, what="Which counts", level=Level.OK, says=says)
        try:
            used = generation.in_force(own)
        except RegistryError as error:
            yield ReportLine(part=part, what="This process", level=Level.FAIL, says=str(error))
        else:
            if used.desired_digest != own.desired_digest:
                says = "This process was started with settings that do not count. It acts on those that count."
                then = "manage.py configuration list shows what differs."
                yield ReportLine(part=part, what="This process", level=Level.WARN, says=says, then=then)
    for alarm in generation.alarms():
        level = Level.WARN if alarm.code == "other" else Level.FAIL
        yield ReportLine(part=part, what=alarm.title, level=level, says=alarm.words, then=alarm.then)
    pause = writes_pause.current()
    if pause is not None:
        says = f"Paused since {pause.paused_at:%Y-%m-%d %H:%M} UTC by {pause.paused_by}: {pause.reason}"
        yield ReportLine(part=part, what="Writes to AWS", level=Level.WARN, says=says, then="manage.py writes resume")
    for row in generation.running():
        says = f"Version {row.version}, started {row.started_at:%Y-%m-%d %H:%M} UTC"
        says += f", holds {row.configuration or 'no configuration'}; its clock is {row.clock_offset:+.1f} s from the "
        says += "database's."
        yield ReportLine(part="Processes", what=f"{row.host}, {row.role} {row.pid}", level=Level.OK, says=says)


# ------------------------------------------------------------------------------------------------------------- worker


def _processes(configuration: Configuration) -> Iterable[ReportLine]:
    """Which processes run, which ones stopped sending heartbeats, and what is wrong with each one."""
    parts = ["Worker", "Events", "Web"]
    return sorted(_each_process(configuration), key=lambda line: parts.index(line.part))


def _each_process(configuration: Configuration) -> Iterator[ReportLine]:
    workers, consumers = processes.seen(ProcessRole.WORKER), processes.seen(ProcessRole.EVENTS)
    if workers.alive:
        yield _running("Worker", "Heartbeat", workers)
    else:
        last = _last_heard(workers)
        yield ReportLine(
            part="Worker",
            what="Heartbeat",
            level=Level.FAIL,
            says=f"No worker is running: no sweep, no timeout and no notification happens.{last}",
            then="python manage.py worker",
        )
    if consumers.alive:
        yield _running("Events", "Consumer", consumers)
    elif consumers.silent or configuration.events_queue_url:
        last = _last_heard(consumers)
        yield ReportLine(
            part="Events",
            what="Consumer",
            level=Level.FAIL if consumers.silent else Level.WARN,
            says=f"No process consumes the change events: only the next sweep finds drift.{last}",
            then="python manage.py events",
        )
    for row in processes.seen(*ProcessRole).alive:
        if row.trouble:
            yield ReportLine(
                part={ProcessRole.EVENTS: "Events", ProcessRole.WEB: "Web"}.get(ProcessRole(row.role), "Worker"),
                what=f"Trouble on {row.host}",
                level=Level.FAIL if _clock_level(row.clock_offset) is Level.FAIL else Level.WARN,
                says=row.trouble + f" Its cluster was started again {row.restarts} ×." * bool(row.restarts),
                then="If it stays, read that process's log.",
            )
    yield from _queue()


def _last_heard(seen: processes.Seen) -> str:
    if not seen.silent:
        return ""
    return f" The last heartbeat was at {seen.silent[0].beat_at:%Y-%m-%d %H:%M} UTC, from a process that was not ended."


def _running(part: str, what: str, seen: processes.Seen) -> ReportLine:
    hosts = ", ".join(sorted({row.host for row in seen.alive}))
    now: datetime = seen.alive[0].db_now  # type: ignore[attr-defined]
    beat = (now - seen.alive[0].beat_at).total_seconds()
    recent = [row.host for row in seen.silent if row.beat_at > now - SILENT_TOLD]
    gone = f" Silent for less than an hour, and not ended: {', '.join(sorted(set(recent)))}." if recent else ""
    return ReportLine(
        part=part,
        what=what,
        level=Level.WARN if recent else Level.OK,
        says=f"Running on {hosts}; the last heartbeat was {max(beat, 0):.0f} s ago.{gone}",
        then="Start them again, unless others replaced them." if recent else "",
    )


def _queue() -> Iterator[ReportLine]:
    late = tasks.latest_schedule()
    overdue = worker.overdue_schedule()
    yield ReportLine(
        part="Worker",
        what="Schedules",
        level=Level.FAIL if overdue else Level.OK,
        says=overdue or ("None is overdue." if late else "There are none yet: a worker makes them."),
        then="Is a worker running, and does its log say why the schedules are not started?" if overdue else "",
    )
    waiting = tasks.oldest_waiting()
    slow = waiting is not None and waiting > WAITS_LONG
    yield ReportLine(
        part="Worker",
        what="Queue",
        level=Level.WARN if slow else Level.OK,
        says="Nothing waits." if waiting is None else f"The oldest message has waited {max(waiting, 0):.0f} seconds.",
        then="Is a worker running, and is it not stuck? Its restarts are counted here." if slow else "",
    )


# ---------------------------------------------------------------------------------------------------------------- AWS


def _registries(configuration: Configuration, *, offline: bool) -> Iterator[ReportLine]:
    if configuration.problems:
        yield _skipped("AWS", "Registry", "The settings have errors, so no registry is used.", "Mend them first.")
        return
    found = targets.configured(configuration)
    if not found:
        host = configuration.v4.host
        says = f"{host} is not ECR: images get their names, and AWS is not needed."
        yield ReportLine(part="AWS", what="Registry", level=Level.OK, says=says)
        return
    for target in found:
        yield from _consumers(target)
    if offline:
        yield _skipped("AWS", "AWS", "Not asked this time.")
        return
    yield from _ask(configuration, found)


def _consumers(target: Target) -> Iterator[ReportLine]:
    """Whether each consumer account may pull by the configured policy. No question to AWS."""
    text, partition = target.config.default_repository_policy or "", target.registry.partition
    answers = desired.pullers(text, target.config.consumer_accounts, partition=partition)
    for account, answer in answers.items():
        yield ReportLine(
            part="AWS",
            what=f"Account {account} pulls from {target.registry.account}",
            level={"yes": Level.OK, "no": Level.FAIL}.get(answer["pull"], Level.WARN),
            says=answer["words"][:1].upper() + answer["words"][1:],
            then=""
            if answer["pull"] == "yes"
            else "Correct DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY; manage.py policy who shows what it gives.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """Something asked of AWS, and how its answer becomes lines. `answer` raises RegistryError for a no."""

    target: Target
    what: str
    ask: Callable[[], Any]
    tell: Callable[[Target, str, Any], Iterable[ReportLine]]


def _ask(configuration: Configuration, found: list[Target]) -> Iterator[ReportLine]:
    questions = [question for target in found for question in _questions(target)]
    if configuration.events_queue_url:
        url = configuration.events_queue_url
        probes = _probes(found[0])
        questions.append(
            _Question(target=found[0], what="Events queue", ask=lambda: probes.events_queue(url), tell=_allowed)
        )
    answers = _side_by_side([question.ask for question in questions])
    unknown: set[str] = set()  # hosts whose AWS does not know us: what else was asked of it says nothing more
    for question, answer in zip(questions, answers, strict=True):
        target = question.target
        if isinstance(answer, RegistryError) and target.config.host in unknown:
            continue
        if isinstance(answer, RegistryError) and (answer.installation or question.tell is _identity):
            unknown.add(target.config.host)
            yield ReportLine(
                part="AWS", what=f"Identity for {target.registry.account}", level=Level.FAIL, says=str(answer),
                then="Nothing of this registry can work until then.",
            )  # fmt: skip
        elif isinstance(answer, RegistryError):
            yield from _refused(question, answer)
        elif answer is _LATE:
            yield ReportLine(
                part="AWS",
                what=question.what,
                level=Level.WARN,
                says=f"No answer within {AWS_SECONDS:.0f} seconds.",
                then="Check this server's network, DNS and proxy; AWS_ENDPOINT_URL, if it is set.",
            )
        else:
            yield from question.tell(target, question.what, answer)
    yield _skipped(
        "AWS",
        "Permissions to write",
        "ecr:CreateRepository, ecr:SetRepositoryPolicy and the other writes cannot be tried without writing.",
        "The smallest IAM policy (doctor --iam-policy) has them; the first deploy tells.",
    )


def _probes(target: Target) -> Probes:
    return Probes(ecr=target.ecr(attempts=1))


def _questions(target: Target) -> Iterator[_Question]:
    probes, region = _probes(target), target.registry.region
    yield _Question(target=target, what=f"Identity for {target.registry.account}", ask=probes.identity, tell=_identity)
    name = f"{target.config.namespace}/{NOT_THERE}"
    for permission, ask in probes.reads(name).items():
        yield _Question(target=target, what=f"{permission} in {region}", ask=ask, tell=_allowed)
    yield _Question(target=target, what="Registry-wide policy", ask=probes.registry_policy, tell=_registry_policy)


def _identity(target: Target, what: str, answer: Identity) -> Iterator[ReportLine]:
    foreign = answer.account != target.registry.account
    yield ReportLine(
        part="AWS",
        what=what,
        level=Level.WARN if foreign else Level.OK,
        says=f"AWS knows us as {answer.arn}."
        + (f" The registry belongs to another account, {target.registry.account}." if foreign else ""),
        then="Set DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN to a role there: nobody makes repositories in another account."
        if foreign
        else "",
    )
    if answer.at is None:
        return
    offset = (timezone.now() - answer.at).total_seconds()
    bad = abs(offset) > CLOCK_WARN
    yield ReportLine(
        part="AWS",
        what="AWS's clock",
        level=Level.FAIL if abs(offset) > CLOCK_FAIL else Level.WARN if bad else Level.OK,
        says=f"This host's clock is about {offset:+.0f} seconds from AWS's.",
        then="Set the clock (NTP): AWS refuses signatures that are five minutes off." if bad else "",
    )


def _allowed(target: Target, what: str, answer: object) -> Iterator[ReportLine]:
    yield ReportLine(part="AWS", what=what, level=Level.OK, says="Allowed.")


def _registry_policy(target: Target, what: str, answer: tuple[str | None, str | None]) -> Iterator[ReportLine]:
    text, scope = answer
    if text is None:
        yield ReportLine(part="AWS", what=what, level=Level.OK, says="The registry has none.")
        return
    denies = re.search(r'"Effect"\s*:\s*"Deny"', text) is not None
    reaches = scope != "V1"  # V1 is about replication and pull-through caches only
    yield ReportLine(
        part="AWS",
        what=what,
        level=Level.WARN if denies and reaches else Level.OK,
        says=f"The registry has one (scope {scope or 'unknown'})"
        + (
            ", with a Deny. A Deny there beats every repository policy."
            if denies and reaches
            else "; it takes nothing away."
        ),
        then="See in the AWS console (ECR, Private registry, Permissions) that it does not name the accounts that pull."
        if denies and reaches
        else "",
    )


def _refused(question: _Question, error: RegistryError) -> Iterator[ReportLine]:
    if question.tell is _registry_policy:
        yield _skipped(
            "AWS",
            question.what,
            "Could not be looked at; nothing else needs the right to.",
            "To see whether a Deny there stands in the way, allow ecr:GetRegistryPolicy and ecr:GetAccountSetting.",
        )
        return
    yield ReportLine(
        part="AWS",
        what=question.what,
        level=Level.WARN if error.retryable else Level.FAIL,
        says=str(error),
        then="" if error.retryable else "The policy below has what is needed.",
    )


_LATE = object()


def _side_by_side(asks: list[Callable[[], Any]]) -> list[Any]:
    """Ask all at once; an answer, a RegistryError, or _LATE. Nobody waits for what comes later."""

    def caught(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except RegistryError as error:
            return error

    pool = ThreadPoolExecutor(max_workers=max(1, len(asks)), thread_name_prefix="doctor")
    futures: list[Future[Any]] = [pool.submit(caught, ask) for ask in asks]
    wait_for(futures, timeout=AWS_SECONDS)
    pool.shutdown(wait=False, cancel_futures=True)
    return [future.result() if future.done() and not future.cancelled() else _LATE for future in futures]


# --------------------------------------------------------------------------------------------------------------- mail


def _mail(*, offline: bool) -> Iterator[ReportLine]:
    wanted = NotificationChannel.objects.filter(kind="mail", enabled=True).exists()
    if not settings.MAIL_IS_CONFIGURED:
        yield ReportLine(
            part="Mail",
            what="Mail server",
            level=Level.FAIL if wanted else Level.OK,
            says="None is configured, and a notification channel needs one."
            if wanted
            else "None is configured, and no notification channel needs one.",
            then="Set EMAIL_URL, for example smtp+tls://user:password@mail.example.com:587." if wanted else "",
        )
        return
    where = f"{settings.EMAIL_HOST}:{settings.EMAIL_PORT}"
    if offline:
        yield _skipped("Mail", "Mail server", f"{where} was not asked this time.")
        return

    def log_in() -> str:
        server = mail.get_connection()
        try:
            server.open()
        except Exception as error:  # smtplib, ssl and socket each have their own
            return type(error).__name__
        server.close()
        return ""

    answer = _side_by_side([log_in])[0]
    if answer == "":
        yield ReportLine(part="Mail", what="Mail server", level=Level.OK, says=f"{where} takes our log-in.")
        return
    says = "does not answer in time" if answer is _LATE else f"cannot be used ({answer})"
    then = "Check EMAIL_URL: host, port, user, password, and smtp+tls (STARTTLS) or smtp+ssl."
    yield ReportLine(part="Mail", what="Mail server", level=Level.FAIL, says=f"{where} {says}.", then=then)


def _skipped(part: str, what: str, says: str, then: str = "") -> ReportLine:
    return ReportLine(part=part, what=what, level=Level.SKIPPED, says=says, then=then)


# ------------------------------------------------------------------------------------------------ the policy to paste


def operator_policy(configuration: Configuration) -> str:
    """docs/iam-policy.json with this installation's accounts, regions and namespaces: what AWS has to allow us.

    Empty when no registry is ECR, the settings have errors, or the file was not installed.
    """
    if configuration.problems:
        return ""
    found = targets.configured(configuration)
    try:
        document = json.loads((settings.BASE_DIR / "docs" / "iam-policy.json").read_text())
    except (OSError, ValueError):
        return ""
    if not found:
        return ""
    statements = []
    for statement in document["Statement"]:
        examples = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        arns = list(dict.fromkeys(arn for example in examples for arn in _ours(example, configuration, found)))
        if arns:  # else it is about something that is not used here
            statements.append({**statement, "Resource": arns[0] if len(arns) == 1 else arns})
    return json.dumps({**document, "Statement": statements}, indent=2)


def _ours(example: str, configuration: Configuration, found: list[Target]) -> list[str]:
    """What stands here for a resource of the documented policy."""
    service = example.split(":")[2] if example.startswith("arn:") else ""
    configs = [target.config for target in found]
    match service:
        case "ecr":
            return [target.registry.repository_arn(f"{target.config.namespace}/*") for target in found]
        case "sqs":
            return _queue_arns(configuration, found[0])
        case "sts":  # sessions of an IAM user, where no role is there to make them of
            return [
                f"arn:{target.registry.partition}:sts::{target.registry.account}:{example.split(':', 5)[5]}"
                for target in found
                if not (target.config.push_role_arn or target.config.assume_role_arn)
            ]
        case "iam" if example.endswith("-push"):
            return [config.push_role_arn for config in configs if config.push_role_arn]
        case "iam" if example.endswith("-probe"):
            return [arn for config in configs for arn in config.probe_role_arns]
        case "iam":
            return [config.assume_role_arn for config in configs if config.assume_role_arn]
    return [example]


def _queue_arns(configuration: Configuration, target: Target) -> list[str]:
    match = re.fullmatch(r"https?://([^/]+)/(\d{12})/([\w.-]+)", configuration.events_queue_url or "")
    if match is None:
        return []
    region = re.match(r"sqs\.([a-z0-9-]+)\.", match[1])
    where = region[1] if region else target.registry.region
    return [f"arn:{target.registry.partition}:sqs:{where}:{match[2]}:{match[3]}"]
