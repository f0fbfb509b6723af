"""The health report of this installation: one line per check, with the result and the next step.

`manage.py doctor` prints the lines; the console's Health page shows them. The checks change nothing: they read the
settings, the database, the heartbeats, and (unless offline) AWS, the mail server and the OpenID provider. Permissions
to write are tried with a random repository that AWS has just not found. A permission that cannot be tried so is
reported as “not tried”. No line contains a secret.

A check that raises is reported as a failed line and does not end the run. The calls to AWS run in parallel under one
deadline.
"""

from __future__ import annotations

import json
import re
import secrets
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group
from django.core import checks, mail
from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import prefetch_related_objects
from django.urls import reverse
from django.utils import timezone

from deployments import policy, retention, schema, tasks, worker
from deployments.access import openid, second_factor, single_sign_on
from deployments.access.vault import Vault
from deployments.aws.probes import Probes
from deployments.aws.values import Identity
from deployments.config import Configuration
from deployments.deploys import environment_variables
from deployments.errors import Refusal, RegistryError
from deployments.log import get_logger
from deployments.models import NotificationChannel, Process, ProcessRole
from deployments.notify import channels
from deployments.reconcile import (
    change_feed,
    connection_count,
    desired,
    generation,
    policy_versions,
    processes,
    sweep_record,
    targets,
    writes_pause,
)
from deployments.reconcile.targets import Target
from deployments.row_values import ConsumerPull

log = get_logger(__name__)

AWS_SECONDS = 12.0  # deadline for all calls to AWS, and for the mail server: a person waits (D-setup-page)
QUEUE_WAIT_WARN_SECONDS = 120.0  # a warning if a message of the queue has waited for longer
CLOCK_WARN, CLOCK_FAIL = 30.0, 240.0  # seconds off AWS's clock; AWS refuses signatures at 300
OLD_ROWS_COUNTED = 20_000  # of each kind; a person waits
SILENT_REPORTED_FOR = timedelta(hours=1)  # how long a process that stopped without SIGTERM is listed
PROBE_REPOSITORY = "registry-admin-doctor"  # permissions are tried with repositories of this name that do not exist


class Level(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "not tried"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportLine:
    """One check: its subject, its result in a sentence, and the next step if there is one."""

    part: str  # Settings, Database, Configuration, Processes, Worker, Events, Mail, AWS
    what: str
    level: Level
    says: str
    then: str = ""
    copy: str = ""  # a text to copy for the next step


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All lines, when the report was made, and how long it took."""

    lines: tuple[ReportLine, ...]
    at: datetime
    seconds: float

    def count(self, level: Level) -> int:
        """The number of lines with this result."""
        return sum(line.level is level for line in self.lines)

    @property
    def worst(self) -> Level:
        """FAIL if a check failed, else WARN if a check warns, else OK."""
        return next((level for level in (Level.FAIL, Level.WARN) if self.count(level)), Level.OK)

    @property
    def summary(self) -> dict[str, int]:
        """The number of lines by result."""
        return {level.name.lower(): self.count(level) for level in Level}


def examine(*, configuration: Configuration, offline: bool = False) -> Report:
    """Run all checks; with `offline`, only those without AWS and the mail server. Takes at most about 25 seconds."""
    began, at = time.monotonic(), timezone.now()
    lines = [*_guarded("Settings", _settings), *_guarded("Database", _database)]
    if not any(line.part == "Database" and line.what != "Clock" and line.level is Level.FAIL for line in lines):
        lines += _guarded("Configuration", lambda: _which_counts(configuration))
        lines += _guarded("Worker", lambda: _processes(configuration))
        lines += _guarded("Mail", lambda: _mail(offline=offline))
        lines += _guarded("Single sign-on", lambda: _single_sign_on(settings.CONFIGURATION, offline=offline))
        configuration = generation.shown(configuration)
    lines += _guarded("AWS", lambda: _registries(configuration, offline=offline))
    return Report(lines=tuple(lines), at=at, seconds=time.monotonic() - began)


def _guarded(part: str, check: Callable[[], Iterable[ReportLine]]) -> list[ReportLine]:
    found: list[ReportLine] = []
    try:
        for line in check():
            found.append(line)
    except Exception as error:
        log.exception("doctor.part_broke", part=part)
        found.append(
            ReportLine(
                part=part,
                what=part,
                level=Level.FAIL,
                says=f"This check failed with an error ({type(error).__name__}).",
                then="The log has the error with its traceback.",
            )
        )
    return found


# ----------------------------------------------------------------------------------------------------------- settings


def _settings() -> Iterator[ReportLine]:
    """Django's system checks and ours; with those of `check --deploy` if APP_ORIGIN is https."""
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
        yield ReportLine(part="Settings", what="System checks", level=Level.OK, says="All checks passed.")
    manifest = settings.STATIC_ROOT / "staticfiles.json"
    try:
        json.loads(manifest.read_text())
        yield ReportLine(
            part="Settings", what="Static files", level=Level.OK, says="Collected, with names that browsers may cache."
        )
    except FileNotFoundError:
        yield ReportLine(
            part="Settings",
            what="Static files",
            level=Level.WARN if public else Level.OK,
            says="collectstatic has not run; static files are served uncompressed.",
            then=f"{settings.COMMAND} collectstatic --noinput, then restart the web process." if public else "",
        )
    except (OSError, ValueError) as error:
        yield ReportLine(
            part="Settings",
            what="Static files",
            level=Level.FAIL,
            says=f"{manifest} cannot be read ({type(error).__name__}), so every page fails.",
            then=f"{settings.COMMAND} collectstatic --noinput --clear, then restart the web process.",
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
            then=f"{settings.COMMAND} migrate",
        )
    else:
        yield ReportLine(part="Database", what="Migrations", level=Level.OK, says="All applied.")
        complaint = schema.complaint()
        yield ReportLine(
            part="Database",
            what="Tables",
            level=Level.FAIL if complaint else Level.OK,
            says=f"{complaint} All migrations are applied, so a migration was edited after it had run here, or a table "
            "was changed by hand."
            if complaint
            else "All tables and columns of this version exist.",
            then=schema.NEXT_STEP if complaint else "",
        )
        if not complaint:
            yield from _connections()
            yield from _stored_secrets()
            yield from _old_rows(settings.CONFIGURATION)
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


def _connections() -> Iterator[ReportLine]:
    """Of the processes that run, with this environment's WEB_THREADS."""
    if connection.vendor != "postgresql":
        return
    threads, counted = settings.CONFIGURATION.web_threads, connection_count.running()
    short = connection_count.shortage(counted, threads=threads)
    needed, words = connection_count.needed(counted, threads=threads), connection_count.words(counted, threads=threads)
    by = "a pooler shares them" if connection_count.are_shared() else "the server accepts them"
    yield ReportLine(
        part="Database",
        what="Connections",
        level=Level.WARN if short else Level.OK,
        says=short or f"At most {needed} ({words}); {by}.",
        then=connection_count.NEXT_STEP if short else "",
    )


def _stored_secrets() -> Iterator[ReportLine]:
    """Whether this process's keys decrypt the stored secrets. Two values of each kind are tried, not every one."""
    vault = Vault(settings.ENCRYPTION_KEYS)
    for what, found in (
        ("Environment variables", environment_variables.can_decrypt(vault)),
        ("Channels' secrets", channels.can_decrypt(vault)),
        ("Keys of apps that show codes", second_factor.can_decrypt(vault)),
    ):
        if found is not None:
            yield ReportLine(
                part="Database",
                what=what,
                level=Level.OK if found else Level.FAIL,
                says="The stored values that were tried can be decrypted."
                if found
                else "A stored value cannot be decrypted with the keys of this process.",
                then=""
                if found
                else "Add the earlier key to ENCRYPTION_KEY, after the first key, or to SECRET_KEY_FALLBACKS "
                "(docs/keys.md). manage.py reencrypt lists each value that no key decrypts.",
            )


def _old_rows(configuration: Configuration) -> Iterator[ReportLine]:
    """What the settings RETENTION_…_DAYS delete: in the first 24 hours of a number of days, how much would go."""
    found = [retention.outlook(kind, configuration=configuration, most=0) for kind in retention.KINDS]
    for each in found:
        if not each.in_grace or not each.rows:
            continue
        counted = retention.outlook(each.kind, configuration=configuration, most=OLD_ROWS_COUNTED)
        when = (
            "24 hours after a worker has these settings" if each.since is None else f"{each.since:%Y-%m-%d %H:%M} UTC"
        )
        yield ReportLine(
            part="Database",
            what=f"Old rows: {each.kind.noun}",
            level=Level.WARN,
            says=f"{counted.number} {each.kind.noun} would be {each.kind.goes}, from {when} on: they are older than "
            f"{each.days} days. {each.kind.stays}".rstrip(),
            then=f"Set {each.kind.setting}=0 before then to keep them. manage.py prune --dry-run counts all.",
        )
    if not any(each.in_grace and each.rows for each in found):
        kept = ", ".join(each.kind.noun for each in found if not each.days)
        yield ReportLine(
            part="Database",
            what="Old rows",
            level=Level.OK,
            says=f"The worker deletes them by the settings RETENTION_…_DAYS; {kept or 'no rows'} are kept forever.",
        )


CLOCK_NEXT = (
    f"Set the clock (NTP). A worker whose clock is {processes.CLOCK_STOP_SECONDS:.0f} seconds off takes no work."
)


def _clock_level(offset: float) -> Level:
    if abs(offset) >= processes.CLOCK_STOP_SECONDS:
        return Level.FAIL
    return Level.WARN if processes.clock_words(offset) else Level.OK


# ------------------------------------------------------------------------------------------------------ configuration


def _which_counts(own: Configuration) -> Iterator[ReportLine]:
    """Which configuration counts, alarms about processes that hold another one, and whether writes are paused."""
    part = "Configuration"
    current = generation.counting()
    if current is None:
        says = "No process has been started yet, so no configuration counts. Commands use the settings of their shell."
        yield ReportLine(part=part, what="Which counts", level=Level.OK, says=says)
    else:
        says = f"{current.configuration} since {current.at:%Y-%m-%d %H:%M} UTC: "
        says += f"{current.get_cause_display().lower()}, by {current.by}."
        yield ReportLine(part=part, what="Which counts", level=Level.OK, says=says)
        try:
            generation.in_force(own)
        except RegistryError as error:
            yield ReportLine(part=part, what="This process", level=Level.FAIL, says=str(error))
        else:
            if not generation.is_counting(own):
                says = "This process was started with settings that do not count. It uses the settings that count."
                then = "manage.py configuration list shows what differs."
                yield ReportLine(part=part, what="This process", level=Level.WARN, says=says, then=then)
    for alarm in generation.alarms():
        level = Level.WARN if alarm.code == "other" else Level.FAIL
        yield ReportLine(part=part, what=alarm.title, level=level, says=alarm.words, then=alarm.then)
    for each in policy_versions.attention():
        yield ReportLine(part=part, what="Default policy", level=Level.WARN, says=each.words, then=each.then)
    pause = writes_pause.current()
    if pause is not None:
        says = f"Paused since {pause.paused_at:%Y-%m-%d %H:%M} UTC by {pause.paused_by}: {pause.reason}"
        yield ReportLine(part=part, what="Writes to AWS", level=Level.WARN, says=says, then="manage.py writes resume")


# ------------------------------------------------------------------------------------------------------------- worker


def _processes(configuration: Configuration) -> Iterator[ReportLine]:
    """Each process that runs or stopped without SIGTERM in the last hour, and which process is missing."""
    seen = processes.seen(*ProcessRole)
    prefetch_related_objects(seen.alive, "configuration")
    for row in sorted(seen.alive, key=lambda row: (row.role, row.host, row.pid)):
        if row.role != ProcessRole.TASK or row.trouble:  # a worker has several of these
            yield _running(row)
    for row in seen.silent:
        if row.role != ProcessRole.TASK and row.beat_at > row.db_now - SILENT_REPORTED_FOR:  # type: ignore[attr-defined]
            yield ReportLine(
                part="Processes",
                what=_name(row),
                level=Level.WARN,
                says=f"It stopped without SIGTERM: its last heartbeat was at {row.beat_at:%Y-%m-%d %H:%M} UTC.",
                then="Start this process again, unless another one replaced it.",
            )
    if not any(row.role == ProcessRole.WORKER for row in seen.alive):
        yield ReportLine(
            part="Worker",
            what="Heartbeat",
            level=Level.FAIL,
            says="No worker is running: no sweep, no timeout and no notification happens."
            + _last_heard(seen, ProcessRole.WORKER),
            then=f"{settings.COMMAND} worker",
        )
    yield from _queue(seen)
    if not any(row.role == ProcessRole.EVENTS for row in seen.alive):
        last = _last_heard(seen, ProcessRole.EVENTS)
        if last or configuration.events_queue_url:
            yield ReportLine(
                part="Events",
                what="Consumer",
                level=Level.FAIL if last else Level.WARN,
                says=f"No process consumes the change events: only the next sweep finds drift.{last}",
                then=f"{settings.COMMAND} events",
            )
    if configuration.events_queue_url and not configuration.problems:
        yield from _change_feeds(configuration)


def _change_feeds(configuration: Configuration) -> Iterator[ReportLine]:
    """Whether the change events of each registry are proven complete, and what scheduled sweeps read therefore."""
    share = sweep_record.last_share()
    read = "" if share is None else f" The last scheduled sweep reads {share[0]:,} of {share[1]:,} repositories."
    for feed in change_feed.states(configuration):
        since = "" if feed.since is None else f" Since {feed.since:%Y-%m-%d %H:%M} UTC."
        delay = "" if feed.delay is None else f" Its last event took {feed.delay.total_seconds():.0f} seconds."
        verdict = "Trusted: " if feed.trusted else "Not trusted, so every sweep reads every repository: "
        yield ReportLine(
            part="Events",
            what=f"Change feed of {feed.account}, {feed.region}",
            level=Level.WARN if feed.lost_at is not None and not feed.trusted else Level.OK,
            says=f"{verdict}{feed.words[:1].lower()}{feed.words[1:]}{since}{delay}{read}",
            then="" if feed.trusted else "docs/change-events.md says how a change feed proves itself.",
        )


def _name(row: Process) -> str:
    return f"{row.get_role_display()} on {row.host}, process {row.pid}"


def _running(row: Process) -> ReportLine:
    beat = (row.db_now - row.beat_at).total_seconds()  # type: ignore[attr-defined]
    says = (
        f"Version {row.version}, started {row.started_at:%Y-%m-%d %H:%M} UTC, last heartbeat {max(beat, 0):.0f} s ago"
    )
    says += f", holds {row.configuration or 'no configuration'}; its clock is {row.clock_offset:+.1f} s from the "
    says += "database's."
    level, then = Level.OK, ""
    if row.trouble:
        level = Level.FAIL if _clock_level(row.clock_offset) is Level.FAIL else Level.WARN
        times = "once" if row.restarts == 1 else f"{row.restarts} times"
        says += f" {row.trouble}" + f" The worker restarted its cluster {times}." * bool(row.restarts)
        then = "If this line stays, read the log of that process."
    return ReportLine(part="Processes", what=_name(row), level=level, says=says, then=then)


def _last_heard(seen: processes.Seen, role: ProcessRole) -> str:
    at = next((row.beat_at for row in seen.silent if row.role == role), None)
    return f" The last process stopped without SIGTERM after {at:%Y-%m-%d %H:%M} UTC." if at else ""


def _queue(seen: processes.Seen) -> Iterator[ReportLine]:
    late = tasks.latest_schedule()
    overdue = worker.overdue_schedule()
    level, then = Level.OK, ""
    says = "No schedule is overdue." if late else "There are no schedules yet: a worker adds them."
    if overdue:
        level, says, then = Level.FAIL, overdue, "Check that a worker runs, and read its log."
        ages = [
            (row.db_now - row.started_at).total_seconds()  # type: ignore[attr-defined]
            for row in seen.alive
            if row.role == ProcessRole.WORKER
        ]
        # After a stop every schedule is overdue until a new worker has read it.
        if ages and max(ages) < worker.OVERDUE_SECONDS:
            level, then = Level.WARN, "Run the doctor again in a minute."
            says = f"{overdue} The worker started {max(ages):.0f} seconds ago."
    yield ReportLine(part="Worker", what="Schedules", level=level, says=says, then=then)
    waiting = tasks.oldest_waiting()
    slow = waiting is not None and waiting > QUEUE_WAIT_WARN_SECONDS
    yield ReportLine(
        part="Worker",
        what="Queue",
        level=Level.WARN if slow else Level.OK,
        says="The queue is empty."
        if waiting is None
        else f"The oldest message has waited {max(waiting, 0):.0f} seconds.",
        then="Check that a worker runs, and read its log." if slow else "",
    )


# ---------------------------------------------------------------------------------------------------------------- AWS


def _registries(configuration: Configuration, *, offline: bool) -> Iterator[ReportLine]:
    if configuration.problems:
        yield _skipped(
            "AWS", "Registry", "The settings have errors, so no registry is used.", "Correct the settings first."
        )
        return
    found = targets.configured(configuration)
    if not found:
        host = configuration.v4.host
        says = f"{host} is not ECR: nothing is managed there, and AWS is not needed."
        yield ReportLine(part="AWS", what="Registry", level=Level.OK, says=says)
        return
    for target in found:
        yield from _consumers(target)
    if offline:
        yield _skipped("AWS", "AWS", "Not checked (offline).")
        return
    yield from _ask(configuration, found)


def _consumers(target: Target) -> Iterator[ReportLine]:
    """Whether each consumer account can pull by the configured policy alone. Makes no call to AWS."""
    for account, answer in _pullers(target, policy.RegistryPolicy(text="")).items():
        yield ReportLine(
            part="AWS",
            what=f"Account {account} pulls from {target.registry.account}",
            level={"yes": Level.OK, "no": Level.FAIL}.get(answer.verdict, Level.WARN),
            says=f"By the default repository policy alone, {answer.words}",
            then=""
            if answer.verdict == "yes"
            else "Correct DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY; manage.py policy who shows who can pull.",
        )


def _pullers(target: Target, registry: policy.RegistryPolicy) -> dict[str, ConsumerPull]:
    """Whether each consumer account can pull from a repository of the namespace that has the configured policy."""
    return desired.pullers(
        target.config.default_repository_policy or "",
        registry,
        target.config.consumer_accounts,
        arn=target.registry.repository_arn(f"{target.config.namespace}/{PROBE_REPOSITORY}"),
        partition=target.registry.partition,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """A call to AWS (`ask`; it raises RegistryError if AWS refuses), and `tell`, which makes lines of the answer."""

    target: Target
    what: str
    ask: Callable[[], Any]
    tell: Callable[[Target, str, Any], Iterable[ReportLine]]
    permission: str = ""  # which AWS needs for the call, if the call shows just this
    is_write: bool = False  # the call is a write about a repository that does not exist


def _ask(configuration: Configuration, found: list[Target]) -> Iterator[ReportLine]:
    questions = [question for target in found for question in _questions(target)]
    if configuration.events_queue_url:
        url = configuration.events_queue_url
        probes = _probes(found[0])
        questions.append(
            _Question(target=found[0], what="Events queue", ask=lambda: probes.events_queue(url), tell=_allowed)
        )
    answers = _side_by_side([question.ask for question in questions])
    unknown: set[str] = set()  # hosts with failed authentication: the other answers of that registry add nothing
    for question, answer in zip(questions, answers, strict=True):
        target = question.target
        if isinstance(answer, RegistryError) and target.config.host in unknown:
            continue
        if isinstance(answer, RegistryError) and (answer.installation or question.tell is _identity):
            unknown.add(target.config.host)
            yield ReportLine(
                part="AWS", what=f"Identity for {target.registry.account}", level=Level.FAIL, says=str(answer),
                then="Until this is corrected, nothing works with this registry.",
            )  # fmt: skip
        elif isinstance(answer, RegistryError):
            yield from _refused(question, answer)
        elif answer is _LATE:
            yield ReportLine(
                part="AWS",
                what=question.what,
                level=Level.WARN,
                says=f"No answer within {AWS_SECONDS:.0f} seconds.",
                then="Check this server's network, DNS and proxy, and AWS_ENDPOINT_URL if it is set.",
            )
        else:
            yield from question.tell(target, question.what, answer)
    for target in found:
        if denied := [
            question.permission
            for question, answer in zip(questions, answers, strict=True)
            if question.target is target and question.permission and isinstance(answer, RegistryError) and answer.denied
        ]:
            yield _statement(target, denied)
    pause = writes_pause.current()
    yield _skipped(
        "AWS",
        "Permissions to write",
        "ecr:CreateRepository and the upload of layers cannot be tried without a write."
        if pause is None
        else "Writes to AWS are paused, so no write was tried.",
        "The minimum IAM policy (doctor --iam-policy) has them; the first deploy shows whether they are allowed.",
    )


def _statement(target: Target, denied: list[str]) -> ReportLine:
    """What AWS has refused, and the statement that allows it."""
    return ReportLine(
        part="AWS",
        what=f"Missing permissions in {target.registry.region}",
        level=Level.FAIL,
        says=f"AWS refused {', '.join(sorted(denied))}.",
        then="Add this statement to the policy of the identity that Registry Admin uses:",
        copy=statement_to_add(target, denied),
    )


def statement_to_add(target: Target, denied: list[str]) -> str:
    """The statement that allows these actions in a registry, for the policy of the identity; two of them as a list."""
    of_registry = sorted({"ecr:DescribeRepositories", "ecr:GetAuthorizationToken"} & set(denied))
    of_repositories = sorted(set(denied) - set(of_registry))
    resource = target.registry.repository_arn(f"{target.config.namespace}/*")
    statements = [
        {"Effect": "Allow", "Action": actions, "Resource": on}
        for actions, on in ((of_repositories, resource), (of_registry, "*"))
        if actions
    ]
    return json.dumps(statements[0] if len(statements) == 1 else statements)


def _probes(target: Target) -> Probes:
    return Probes(ecr=target.ecr(attempts=1, probing=True))


def _unused_name(target: Target) -> str:
    """A name below the namespace that nobody can guess."""
    return f"{target.config.namespace}/{PROBE_REPOSITORY}-{secrets.token_hex(16)}"


def _questions(target: Target) -> Iterator[_Question]:
    probes, region = _probes(target), target.registry.region
    yield _Question(target=target, what=f"Identity for {target.registry.account}", ask=probes.identity, tell=_identity)
    name = f"{target.config.namespace}/{PROBE_REPOSITORY}"
    for permission, ask in probes.reads(name).items():
        what = f"{permission} in {region}"
        yield _Question(target=target, what=what, ask=ask, tell=_allowed, permission=permission)
    if writes_pause.current() is None:
        for permission, ask in probes.writes(_unused_name(target)).items():
            what = f"{permission} in {region}"
            yield _Question(target=target, what=what, ask=ask, tell=_allowed, permission=permission, is_write=True)
    yield _Question(target=target, what="Registry-wide policy", ask=probes.ecr.registry_policy, tell=_registry_policy)
    if target.config.probe_role_arns:
        what = f"Recorded pulls in {region}"
        yield _Question(target=target, what=what, ask=probes.pull_time_exclusions, tell=_recorded_pulls)


def _identity(target: Target, what: str, answer: Identity) -> Iterator[ReportLine]:
    foreign = answer.account != target.registry.account
    yield ReportLine(
        part="AWS",
        what=what,
        level=Level.WARN if foreign else Level.OK,
        says=f"Authenticated as {answer.arn}."
        + (f" The registry belongs to another account, {target.registry.account}." if foreign else ""),
        then="Set DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN to a role of that account: it can create repositories there."
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
        then="Set the clock (NTP): AWS refuses requests whose time is five minutes off." if bad else "",
    )


def _allowed(target: Target, what: str, answer: object) -> Iterator[ReportLine]:
    yield ReportLine(part="AWS", what=what, level=Level.OK, says="Allowed.")


def _registry_policy(target: Target, what: str, answer: policy.RegistryPolicy) -> Iterator[ReportLine]:
    """What the registry policy does to the pulls of the consumer accounts, beside the configured policy."""
    if not answer.text:
        yield ReportLine(part="AWS", what=what, level=Level.OK, says="The registry has no policy.")
        return
    found = [each for each in _pullers(target, answer).values() if each.layer == policy.REGISTRY]
    bad = [each for each in found if each.verdict != "yes"]
    words = " ".join(each.words[:1].upper() + each.words[1:] for each in bad or found)
    yield ReportLine(
        part="AWS",
        what=what,
        level=Level.FAIL if any(each.verdict == "no" for each in bad) else Level.WARN if bad else Level.OK,
        says=f"The registry has a policy (scope {answer.scope or 'not read'}). "
        + (words or "It does not decide about the pulls of the consumer accounts."),
        then="Correct the statement in the AWS console: ECR, Private registry, Permissions." if bad else "",
    )


def _recorded_pulls(target: Target, what: str, answer: frozenset[str] | None) -> Iterator[ReportLine]:
    """Whether the trial pulls of the probe roles count as pulls. They do until the operator excludes the roles.

    A pull moves the pull time of an image, by which a lifecycle rule (sinceImagePulled) archives.
    (*RegisterPullTimeUpdateExclusion*, Amazon ECR API Reference)
    """
    roles = target.config.probe_role_arns
    counting = sorted(set(roles) - (answer or frozenset()))
    if answer is None:
        says = f"Not seen: the exclusions of {target.registry.account} are shown to that account only."
        yield ReportLine(part="AWS", what=what, level=Level.SKIPPED, says=says)
        return
    if not counting:
        says = "ECR does not record the trial pulls of the probe roles."
        yield ReportLine(part="AWS", what=what, level=Level.OK, says=says)
        return
    matters = "sinceImagePulled" in target.config.lifecycle_policy
    commands = [
        shlex.join(["aws", "ecr", "register-pull-time-update-exclusion", "--principal-arn", arn, "--region",
                    target.registry.region])
        for arn in counting
    ]  # fmt: skip
    yield ReportLine(
        part="AWS",
        what=what,
        level=Level.WARN if matters else Level.OK,
        says=f"Each trial pull before a promotion counts as a pull of the image: ECR records those of "
        f"{', '.join(counting)}."
        + (" The lifecycle policy has a rule by the time of the last pull." if matters else ""),
        then=f"To exclude them, as an administrator of {target.registry.account}: {'; '.join(commands)}",
    )


def _refused(question: _Question, error: RegistryError) -> Iterator[ReportLine]:
    if question.tell is _registry_policy:
        yield ReportLine(
            part="AWS",
            what=question.what,
            level=Level.WARN,
            says=f"{error} So no page can say for certain who can pull.",
            then="Allow ecr:GetRegistryPolicy and ecr:GetAccountSetting (doctor --iam-policy has them).",
        )
        return
    if question.tell is _recorded_pulls and not error.retryable:
        yield ReportLine(
            part="AWS",
            what=question.what,
            level=Level.WARN,
            says=f"{error} So it was not seen whether ECR records the trial pulls of the probe roles.",
            then="Allow ecr:ListPullTimeUpdateExclusions (doctor --iam-policy has it).",
        )
        return
    if question.is_write and not error.denied:
        yield _skipped("AWS", question.what, f"Not seen. {error}")
        return
    yield ReportLine(
        part="AWS",
        what=question.what,
        level=Level.WARN if error.retryable else Level.FAIL,
        says=str(error),
        then="" if error.retryable or error.denied else "Correct what AWS names.",
    )


_LATE = object()


def _side_by_side(asks: list[Callable[[], Any]]) -> list[Any]:
    """Run the calls in parallel. Each result is the answer, a RegistryError, a Refusal, or _LATE after AWS_SECONDS."""

    def caught(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except (RegistryError, Refusal) as error:
            return error

    pool = ThreadPoolExecutor(max_workers=max(1, len(asks)), thread_name_prefix="doctor")
    futures: list[Future[Any]] = [pool.submit(caught, ask) for ask in asks]
    wait_for(futures, timeout=AWS_SECONDS)
    pool.shutdown(wait=False, cancel_futures=True)
    return [future.result() if future.done() and not future.cancelled() else _LATE for future in futures]


# --------------------------------------------------------------------------------------------------------------- mail


def _mail(*, offline: bool) -> Iterator[ReportLine]:
    wanted = NotificationChannel.objects.filter(kind="mail", enabled=True).exists()
    if settings.CONFIGURATION.problem_of("EMAIL_URL"):
        yield _skipped("Mail", "Mail server", "EMAIL_URL has an error, so no mail is sent.", "Correct EMAIL_URL first.")
        return
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
        yield _skipped("Mail", "Mail server", f"{where} was not checked (offline).")
        return

    def log_in() -> str:
        server = mail.get_connection()
        try:
            server.open()
        except Exception as error:  # smtplib, ssl and socket raise exceptions of their own
            return type(error).__name__
        server.close()
        return ""

    answer = _side_by_side([log_in])[0]
    if answer == "":
        yield ReportLine(part="Mail", what="Mail server", level=Level.OK, says=f"{where} accepts our log-in.")
        return
    says = "does not answer in time" if answer is _LATE else f"cannot be used ({answer})"
    then = "Check EMAIL_URL: host, port, user, password, and smtp+tls (STARTTLS) or smtp+ssl."
    yield ReportLine(part="Mail", what="Mail server", level=Level.FAIL, says=f"{where} {says}.", then=then)


# ----------------------------------------------------------------------------------------------------- single sign-on


def _single_sign_on(configuration: Configuration, *, offline: bool) -> Iterator[ReportLine]:
    if not single_sign_on.is_on(configuration):
        return
    part = "Single sign-on"
    named = {ours for _, ours in configuration.sso_groups}
    missing = sorted(named - set(Group.objects.filter(name__in=named).values_list("name", flat=True)))
    if missing:
        yield ReportLine(
            part=part,
            what="Groups",
            level=Level.FAIL,
            says=f"SSO_GROUPS gives groups that do not exist here: {', '.join(missing)}.",
            then="Correct SSO_GROUPS, or make the groups in the console.",
        )
    worked = single_sign_on.has_worked(configuration)
    off = "" if configuration.password_log_in else " PASSWORD_LOG_IN=0 has an effect only after one."
    yield ReportLine(
        part=part,
        what="Administrator",
        level=Level.OK if worked or configuration.password_log_in else Level.WARN,
        says="An administrator has logged in." if worked else f"No administrator has logged in yet.{off}",
        then="" if worked or configuration.password_log_in else "Log in by single sign-on as an administrator.",
    )
    if offline:
        yield _skipped(part, "Provider", f"{configuration.sso_issuer} was not asked (offline).")
        return
    answer = _side_by_side([lambda: openid.reach(configuration)])[0]
    if not isinstance(answer, str):
        says = answer.sentence if isinstance(answer, Refusal) else "The provider does not answer in time."
        then = "Check SSO_ISSUER, and that this host reaches it."
        yield ReportLine(part=part, what="Provider", level=Level.FAIL, says=says, then=then)
        return
    address = configuration.app_origin + reverse("admin:single_sign_on_back")
    says = f"{answer} answers. The redirect address to register there: {address}"
    yield ReportLine(part=part, what="Provider", level=Level.OK, says=says)


def _skipped(part: str, what: str, says: str, then: str = "") -> ReportLine:
    return ReportLine(part=part, what=what, level=Level.SKIPPED, says=says, then=then)


# ------------------------------------------------------------------------------------------------ the policy to paste


def operator_policy(configuration: Configuration) -> str:
    """The minimum IAM policy: docs/iam-policy.json with this installation's accounts, regions and namespaces.

    Empty if no registry is ECR, the settings have errors, or the file is not installed.
    """
    if configuration.problems:
        return ""
    found = targets.configured(configuration)
    try:
        document = json.loads((settings.DOCS / "iam-policy.json").read_text())
    except (OSError, ValueError):
        return ""
    if not found:
        return ""
    statements = []
    for statement in document["Statement"]:
        examples = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        arns = list(dict.fromkeys(arn for example in examples for arn in _ours(example, configuration, found)))
        if arns:  # else the statement is about a feature that is not used here
            statements.append({**statement, "Resource": arns[0] if len(arns) == 1 else arns})
    return json.dumps({**document, "Statement": statements}, indent=2)


def _ours(example: str, configuration: Configuration, found: list[Target]) -> list[str]:
    """The resources of this installation for an example resource of the documented policy."""
    service = example.split(":")[2] if example.startswith("arn:") else ""
    configs = [target.config for target in found]
    match service:
        case "ecr":
            return [target.registry.repository_arn(f"{target.config.namespace}/*") for target in found]
        case "sqs":
            return _queue_arns(configuration, found[0])
        case "sts":  # federated sessions of an IAM user, for a registry without a role
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
