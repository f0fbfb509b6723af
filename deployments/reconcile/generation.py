"""Which configuration counts: one `ConfigurationGeneration` row, the same for every process.

A web, worker or events process registers its settings at its start; settings that are known already add no row. A new
row counts at once if it ranks above all others. Rows with a CONFIGURATION_GENERATION rank above rows without, and by
their number; rows without a number rank by the time when they were first seen. Of two rows with the same number, the
first counts. A restart with known settings changes nothing. Every process uses the row that counts (`in_force`):
policies, tags and other desired state come from the row; credentials, roles and time limits are the process's own.

The newest `ConfigurationActivation` names the row that counts. There are three ways to a new activation: a new row
ranks above all others, a person activates a row (`activate`), or all processes were started with an older row again
(`settle`).

No secret is stored: no role, no external id, no password.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Max, QuerySet
from django.db.models.functions import Now

from deployments import policy
from deployments.access.audit import Trail
from deployments.aws.partitions import registry_of
from deployments.config import Configuration, RegistryConfig, desired_digest
from deployments.errors import RegistryError, registry_error
from deployments.log import get_logger
from deployments.models import (
    ActivationCause,
    ConfigurationActivation,
    ConfigurationGeneration,
    DesiredState,
    Process,
    ProcessRole,
)
from deployments.reconcile import policy_versions
from deployments.reconcile.processes import SILENT_SECONDS
from registry_admin import VERSION, versions
from registry_admin.compiled_queries import Compiled

log = get_logger(__name__)

#: The keys of a row's content, and of its two registries, that this version knows.
FIELDS = {"enforce", "allow_public", "preview", "consumers", "rollout", "plain", "v4"}
REGISTRY_FIELDS = {"host", "namespace", "lifecycle", "tags", "kms", "foreign"}
#: Key → the setting that it comes from, for sentences.
VARIABLES = {
    "enforce": "DEPLOY_REGISTRY_ECR_POLICY_MODE",
    "allow_public": "DEPLOY_REGISTRY_ECR_ALLOW_PUBLIC_POLICY",
    "preview": "DEPLOY_REGISTRY_ECR_PREVIEW_REPOSITORIES",
    "rollout": "DEPLOY_REGISTRY_ECR_ROLLOUT",
    "consumers": "DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS",
    "host": "DEPLOY_REGISTRY_HOST",
    "namespace": "DEPLOY_REGISTRY_NAMESPACE",
    "lifecycle": "DEPLOY_REGISTRY_ECR_LIFECYCLE_POLICY",
    "tags": "DEPLOY_REGISTRY_ECR_TAGS",
    "kms": "DEPLOY_REGISTRY_ECR_KMS_KEY",
    "policy": "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY",
    "foreign": "DEPLOY_REGISTRY_ECR_FOREIGN_STATEMENTS",
}
KEPT: tuple[policy.Keeps, ...] = ("remove", "keep-services", "keep")  # the fewest statements of others first
#: From the end of a process, or its registration, to the first heartbeat after a restart.
RESTART_TAKES_AT_MOST = timedelta(seconds=30)
MAX_ACTIVATION_TRIES = 20  # in `register`, while other processes register at the same time
HOLDING = (ProcessRole.WEB, ProcessRole.WORKER, ProcessRole.EVENTS)  # the processes that are started with settings

held: int | None = None  # key of the row that this process (or its parent, before the fork) registered


# ------------------------------------------------------------------------------------------------------- registering


def register(configuration: Configuration, *, role: ProcessRole) -> ConfigurationGeneration:
    """Register the settings of this process. They count from now on if they are new and rank above all others.

    Called once at the start of a web, worker or events process, never by a command. Raises ConfigurationError if the
    settings have problems.
    """
    global held
    configuration.require()
    log.info("process.started", role=ProcessRole(role).value, **versions())
    by = f"{ProcessRole(role).label} process on {socket.gethostname()}"
    for _ in range(MAX_ACTIVATION_TRIES):
        try:
            with transaction.atomic():
                follows = (
                    newest() or 0
                )  # before the ranking: an activation by another process after this line makes ours fail
                row, is_new = _row(configuration, by=by)
                if is_new and _outranks(row):
                    _activate(row, follows=follows, cause=ActivationCause.STARTED, by=by)
                    log.info("configuration.counts", digest=row.digest[:12], generation=row.generation, by=by)
        except IntegrityError:
            continue  # another process activated a row at the same time: decide again
        held = row.pk
        for each in policy_versions.attention():
            log.warning("policy_version.needs_a_person", version=each.version.number, reason=each.words, then=each.then)
        return row
    raise registry_error("ConfigurationChanged", operation="start", name="")


def _row(configuration: Configuration, *, by: str) -> tuple[ConfigurationGeneration, bool]:
    content = _content(configuration)
    texts = [configuration.plain.default_repository_policy, configuration.v4.default_repository_policy]
    policies = [None if text is None else policy_versions.text_row(text) for text in texts]
    return ConfigurationGeneration.objects.select_related("plain_policy", "v4_policy").get_or_create(
        digest=_digest(content, texts),
        generation=configuration.generation,
        defaults={
            "content": content,
            "plain_policy": policies[0],
            "v4_policy": policies[1],
            "version": VERSION,
            "first_seen_by": by,
        },
    )


def _content(configuration: Configuration) -> dict[str, Any]:
    """The desired state without the policy texts. Unset settings are left out.

    So a version with an additional setting writes the same content while that setting is not used.
    """
    return {
        "enforce": configuration.enforce,
        **({"allow_public": True} if configuration.allow_public_policy else {}),
        **({"preview": True} if configuration.preview_repositories else {}),
        **({"rollout": "staged"} if configuration.staged else {}),
        **({"consumers": list(configuration.plain.consumer_accounts)} if configuration.plain.consumer_accounts else {}),
        "plain": _registry_content(configuration.plain),
        "v4": _registry_content(configuration.v4),
    }


def _registry_content(config: RegistryConfig) -> dict[str, Any]:
    said = {name: value for name, value in config.desired.items() if name != "policy" and value}
    return json.loads(json.dumps(said))  # type: ignore[no-any-return]  # as the database will return it


def _digest(content: dict[str, Any], policies: list[str | None]) -> str:
    return hashlib.sha256(json.dumps([content, *policies], sort_keys=True).encode()).hexdigest()


def _outranks(row: ConfigurationGeneration) -> bool:
    """Whether a new row ranks above all others, so that it counts from now on."""
    others = ConfigurationGeneration.objects.exclude(pk=row.pk)
    highest = others.aggregate(highest=Max("generation"))["highest"]
    if row.generation is None:
        return highest is None
    return highest is None or row.generation > highest


def _activate(row: ConfigurationGeneration, *, follows: int, cause: ActivationCause, by: str, reason: str = "") -> None:
    """Add an activation. `follows`: id of the activation that counted when the caller decided; 0: there was none.

    Raises IntegrityError if another process has added an activation since.
    """
    ConfigurationActivation.objects.create(
        configuration=row, follows=follows, cause=cause, by=by[:300], reason=reason[:300]
    )
    plain, v4 = (_registry_of(row, slot) for slot in ("plain", "v4"))
    DesiredState.objects.create(digest=desired_digest(plain, v4, bool(row.content.get("enforce"))))  # D-configuration
    before = ConfigurationActivation.objects.filter(pk=follows).select_related("configuration").first()
    for slot, config in (("plain", plain), ("v4", v4)):
        if slot == "v4" or (plain.host, plain.namespace) != (v4.host, v4.namespace):
            policy_versions.propose(
                config,
                staged=row.content.get("rollout") == "staged",
                by=by,
                earlier=functools.partial(_earlier_texts, slot, config, before=follows),
                consumers_before=before.configuration.content.get("consumers", ()) if before is not None else (),
            )


def _earlier_texts(slot: str, config: RegistryConfig, *, before: int) -> Iterator[tuple[str, str]]:
    """(text, by) of the activations up to `before` that had a default policy for this registry, oldest first."""
    related = ("configuration__plain_policy", "configuration__v4_policy")
    for row in ConfigurationActivation.objects.filter(pk__lte=before).select_related(*related).order_by("pk"):
        found = _registry_of(row.configuration, slot)
        text = found.default_repository_policy
        if (found.host, found.namespace) == (config.host, config.namespace) and text is not None:
            yield text, row.by


def activate_again(*, by: str, reason: str) -> None:
    """Let every process read the versions of the default policies again. The same configuration counts.

    A write to AWS that was decided with the versions before is refused (ConfigurationChanged, retryable). Needs an open
    transaction. Raises IntegrityError if another process has added an activation since.
    """
    current = counting()
    if current is not None:
        ConfigurationActivation.objects.create(
            configuration=current.configuration,
            follows=current.pk,
            cause=current.cause,
            by=by[:300],
            reason=reason[:300],
        )


def propose_again() -> None:
    """Make the versions that are missing: of a text that could not be proposed while a roll-out was undone."""
    current = counting()
    if current is None:
        return
    staged = current.configuration.content.get("rollout") == "staged"
    with contextlib.suppress(IntegrityError), transaction.atomic():  # suppressed: another process does the same
        made = [
            policy_versions.propose(_registry_of(current.configuration, slot), staged=staged, by=current.by)
            for slot in ("plain", "v4")
        ]
        if any(made):
            activate_again(by=current.by, reason="The versions of the default policy have changed.")


def activate(*, row: ConfigurationGeneration, trail: Trail, reason: str) -> bool:
    """Let this configuration count from now on, because a person asks for it. False if it counts already.

    A process that is started later with new settings of a higher rank changes it again, as always.
    """
    for _ in range(MAX_ACTIVATION_TRIES):
        try:
            with trail.change("activate.configuration", row) as line:
                current = counting()
                if current is not None and current.configuration_id == row.pk:
                    line.nothing_changed()
                    return False
                line.before = None if current is None else {"digest": current.configuration.digest[:12]}
                line.after = {"digest": row.digest[:12], "reason": reason}
                follows = 0 if current is None else current.pk
                _activate(row, follows=follows, cause=ActivationCause.ACTIVATED, by=trail.actor.name, reason=reason)
        except IntegrityError:
            continue
        log.warning("configuration.activated", digest=row.digest[:12], by=trail.actor.name)
        return True
    raise registry_error("ConfigurationChanged", operation="start", name="")


# ------------------------------------------------------------------------------------------------- what is acted on


def newest() -> int | None:
    """The id of the valid activation; None while no process has registered a configuration."""
    row = _newest.first()
    return None if row is None else row.pk


_newest = Compiled[ConfigurationActivation](lambda: ConfigurationActivation.objects.order_by("-id").only("id"))


def counting() -> ConfigurationActivation | None:
    """The valid activation with its configuration and policy texts, in one query; None as for `newest`."""
    related = ("configuration__plain_policy", "configuration__v4_policy")
    return ConfigurationActivation.objects.select_related(*related).order_by("-id").first()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    own: Configuration
    activation: int
    result: Configuration | str  # a text: why this process cannot use the row


_made: _Made | None = None  # the last result of `in_force`: a call makes one query, and reads the row after a change


def in_force(own: Configuration) -> Configuration:
    """The configuration to use: the row that counts, with this process's own credentials and time limits.

    Its `activation` says which activation it was made from. It is `own` while no process has registered a
    configuration. Raises RegistryError (OutdatedConfiguration) if this process must not use the row: its settings
    refuse the policy or do not name the registry, or a newer version wrote a key that this version does not know.
    """
    global _made
    number = newest()
    if number is None:
        return own
    made = _made
    if made is None or made.own is not own or made.activation != number:
        current = counting()
        if current is None:
            return own
        made = _made = _Made(own=own, activation=current.pk, result=_overlay(own.require(), current))
        if isinstance(made.result, str):
            log.error("configuration.cannot_be_used", reason=made.result)
    if isinstance(made.result, str):
        raise registry_error("OutdatedConfiguration", operation="start", name="", reason=made.result)
    return made.result


def shown(own: Configuration) -> Configuration:
    """The configuration for pages: that of `in_force`, or this process's own if it cannot use the row."""
    try:
        return in_force(own)
    except RegistryError:
        return own


def _overlay(own: Configuration, current: ConfigurationActivation) -> Configuration | str:
    """The process's configuration with the desired state of the row, or a sentence why it cannot be used."""
    row = current.configuration
    content = row.content
    unknown = set(content) - FIELDS
    for slot in ("plain", "v4"):
        unknown |= {f"{slot}.{name}" for name in set(content.get(slot, {})) - REGISTRY_FIELDS}
    if unknown:
        names = ", ".join(sorted(unknown))
        return (
            f"Version {row.version} wrote it, and this is version {VERSION}, which does not know {names}. Upgrade this "
            f"process to version {row.version} or newer."
        )
    registries = []
    for slot, mine in (("plain", own.plain), ("v4", own.v4)):
        theirs = _registry_of(row, slot)
        given = next((each for each in (mine, own.v4, own.plain) if each.host == theirs.host), None)
        if given is None:
            return (
                f"It is for the registry {theirs.host}, which this process's settings do not name. Start the process "
                "again with the settings that count."
            )
        registries.append(
            replace(
                given,
                namespace=theirs.namespace,
                default_repository_policy=theirs.default_repository_policy,
                tags=theirs.tags,
                lifecycle_policy=theirs.lifecycle_policy,
                kms_key=theirs.kms_key,
                consumer_accounts=theirs.consumer_accounts,
                foreign_statements=theirs.foreign_statements,
            )
        )
    plain, v4 = registries
    if (plain, v4) != (own.plain, own.v4):
        for registry in {each.default_repository_policy: each for each in registries}.values():
            if refused := _refused(registry, allow_public=own.allow_public_policy):
                return refused
    plain = replace(plain, written_grants=_written_grants("plain", plain, counts=current.pk))
    v4 = replace(v4, written_grants=_written_grants("v4", v4, counts=current.pk))
    staged = content.get("rollout") == "staged"
    if staged:
        plain, v4 = policy_versions.applied(plain), policy_versions.applied(v4)
    return replace(
        own,
        plain=plain,
        v4=v4,
        staged=staged,
        enforce=bool(content.get("enforce")),
        preview_repositories=bool(content.get("preview")),
        allow_public_policy=own.allow_public_policy and bool(content.get("allow_public")),
        activation=current.pk,
    )


def _refused(config: RegistryConfig, *, allow_public: bool) -> str:
    """Why this process's settings refuse the row's policy; empty if they accept it."""
    if config.default_repository_policy is None:
        return ""
    found = registry_of(config.host)
    findings = policy.lint(
        config.default_repository_policy,
        partition=found.partition if found else None,
        allow_public=allow_public,
        consumer_accounts=config.consumer_accounts,
        writer=config.writer(found.account if found else "") or None,
    )
    error = next((finding for finding in findings if finding.level == "error"), None)
    return "" if error is None else f"This process's settings refuse its policy ({error.id}): {error.message}"


def _registry_of(row: ConfigurationGeneration, slot: str) -> RegistryConfig:
    """One of the two registries of a row. It has no credentials and no role."""
    said = row.content.get(slot, {})
    text = row.plain_policy if slot == "plain" else row.v4_policy
    lifecycle = {"lifecycle_policy": said["lifecycle"]} if said.get("lifecycle") else {}
    return RegistryConfig(
        host=said.get("host", ""),
        namespace=said.get("namespace", ""),
        default_repository_policy=None if text is None else text.text,
        tags=tuple(sorted(said.get("tags", {}).items())),
        kms_key=said.get("kms"),
        consumer_accounts=tuple(row.content.get("consumers", ())),
        foreign_statements=said.get("foreign", "keep-services"),
        **lifecycle,
    )


def _written_grants(slot: str, config: RegistryConfig, *, counts: int) -> frozenset[policy.WrittenGrant]:
    """What the default policies that this registry has, and has had, give. `counts`: id of the valid activation."""
    registry = registry_of(config.host)
    if registry is None:
        return frozenset()
    # Without a version, no configuration was activated since versions are kept.
    texts = policy_versions.written_texts(config) or {text for text, _ in _earlier_texts(slot, config, before=counts)}
    return frozenset().union(*(policy.grants_of(each, partition=registry.partition) for each in texts))


# ---------------------------------------------------------------------------------------------------- going back


def settle() -> bool:
    """Go back to an older configuration if all processes were started with it again. True if it was done.

    All of these must hold: the current configuration counts because a process was started with it; each process that
    held it ended on SIGTERM, or was replaced (same host and role) by a process with the older configuration; all
    running processes hold the older configuration; the older configuration takes no access away from any account.
    """
    current = counting()
    if current is None or current.cause == ActivationCause.ACTIVATED:
        return False
    wanted = _all_went_back_to(current)
    if wanted is None or taken_away(current.configuration, wanted):
        return False
    try:
        with transaction.atomic():
            _activate(
                wanted,
                follows=current.pk,
                cause=ActivationCause.WENT_BACK,
                by="Registry Admin",
                reason="Every process that held the newer one ended or was started again with this one.",
            )
    except IntegrityError:
        return False
    before = current.configuration.digest[:12]
    log.warning("configuration.went_back", digest=wanted.digest[:12], **{"from": before})
    return True


def _all_went_back_to(current: ConfigurationActivation) -> ConfigurationGeneration | None:
    # Called at each heartbeat, so only keys are read: a policy text may have 10,240 characters.
    holding = set(running().exclude(configuration=None).order_by().values_list("configuration_id", flat=True))
    if len(holding) != 1 or current.configuration_id in holding or _is_starting(current):
        return None
    [wanted] = holding
    holders = Process.objects.filter(configuration=current.configuration_id)
    if not holders.exists():
        return None  # the process that registered it has no row: it is starting, or was killed before
    for row in holders.filter(ended_at=None):
        again = Process.objects.filter(
            host=row.host, role=row.role, configuration=wanted, started_at__gt=row.started_at
        )
        if not again.exists():
            return None
    related = ("plain_policy", "v4_policy")
    return ConfigurationGeneration.objects.select_related(*related).filter(pk=wanted).first()


def _is_starting(current: ConfigurationActivation) -> bool:
    """Whether a process with the current configuration may be starting: one has just registered it, or just ended."""
    since = Now() - RESTART_TAKES_AT_MOST
    started = ConfigurationActivation.objects.filter(pk=current.pk, cause=ActivationCause.STARTED, at__gt=since)
    ended = Process.objects.filter(configuration=current.configuration_id, role__in=HOLDING, ended_at__gt=since)
    return started.exists() or ended.exists()


def taken_away(newer: ConfigurationGeneration, older: ConfigurationGeneration) -> list[str]:
    """The access that a change from the newer to the older configuration could take away, in sentences; empty: none."""
    found = []
    if older.content.get("enforce") and not newer.content.get("enforce"):
        found.append("It enforces the policy, and the newer configuration only observes.")
    for slot in ("plain", "v4"):
        before, after = _registry_of(newer, slot), _registry_of(older, slot)
        if KEPT.index(after.foreign_statements) < KEPT.index(before.foreign_statements):
            kept = f"{after.foreign_statements} instead of {before.foreign_statements}"
            found.append(f"{VARIABLES['foreign']} is {kept}, which keeps fewer statements of others.")
        if (before.host, before.namespace) != (after.host, after.namespace):
            found.append(f"It is for {after.host}/{after.namespace} instead of {before.host}/{before.namespace}.")
        elif after.default_repository_policy is not None:
            if before.default_repository_policy is None:
                found.append("It has a default repository policy, and the newer configuration has none.")
            else:
                found += _lost(before.default_repository_policy, after.default_repository_policy, before.host)
    return list(dict.fromkeys(found))


def _lost(before: str, after: str, host: str) -> list[str]:
    registry = registry_of(host)
    comparison = policy.compare(before, after, partition=registry.partition if registry else "aws")
    if comparison.level == "incomparable":
        return [f"The policies cannot be compared ({comparison.why})."]
    return [f"{words}." for words in (*(grant.words for grant in comparison.lost), *comparison.more)]


# ------------------------------------------------------------------------------------------------ who holds what


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """An alarm about configurations: a title, a sentence, and the next step."""

    code: str  # conflict: two contents with one number; other: a process holds another; unheld: no process holds it
    title: str
    key: str  # stays the same while the alarm stays the same
    words: str
    then: str


def running() -> QuerySet[Process]:
    """The processes that were started with settings and sent a heartbeat within the last 15 seconds."""
    since = Now() - timedelta(seconds=SILENT_SECONDS)
    rows = Process.objects.filter(role__in=HOLDING, ended_at=None, beat_at__gt=since)
    return rows.select_related("configuration__plain_policy", "configuration__v4_policy")


def alarms() -> list[Alarm]:
    """Alarms about running processes that were started with other settings than those that count."""
    current = counting()
    if current is None:
        return []
    counts = current.configuration
    others: dict[int, list[Process]] = {}
    held_by_any = False
    for row in running():
        if row.configuration is None:
            continue
        if row.configuration.digest == counts.digest:
            held_by_any = True
        else:
            others.setdefault(row.configuration.pk, []).append(row)
    held_by_any = held_by_any or (bool(others) and _is_starting(current))
    found = []
    for rows in others.values():
        theirs = rows[0].configuration
        assert theirs is not None  # noqa: S101  (only processes with a configuration were collected)
        names = ", ".join(dict.fromkeys(f"{row.get_role_display().lower()} on {row.host}" for row in rows))
        what, key = " ".join(differences(counts, theirs)), f"{current.pk}:{theirs.pk}"
        if theirs.generation is not None and theirs.generation == counts.generation:
            words = f"Generation {counts.generation} has two different sets of settings; {names} has the other. {what}"
            then = "Give the right settings a higher CONFIGURATION_GENERATION."
            found.append(
                Alarm(
                    code="conflict",
                    title="Two configurations with one generation",
                    key=key,
                    words=words,
                    then=then,
                )
            )
        elif held_by_any:
            found.append(
                Alarm(
                    code="other",
                    title="Processes with other settings",
                    key=key,
                    words=f"Started with other settings than those that count: {names}. It uses those that count. "
                    f"{what}",
                    then="Restart it with the settings that count.",
                )
            )
        else:
            found.append(_unheld(current, theirs, key, names, what))
    return found


def _unheld(
    current: ConfigurationActivation, theirs: ConfigurationGeneration, key: str, names: str, what: str
) -> Alarm:
    counts = current.configuration
    losses = taken_away(counts, theirs)
    if current.cause == ActivationCause.ACTIVATED:
        because = "A person activated it."
    elif losses:
        because = f"Going back would take access away: {' '.join(losses)}"
    else:
        because = "A process that held it did not end on SIGTERM, or has sent no heartbeat yet."
    return Alarm(
        code="unheld",
        title="No process holds the configuration that counts",
        key=key,
        words=f"No running process holds the configuration that counts ({counts}); {names} holds {theirs}. {what} "
        f"Nothing changes by itself. {because}",
        then=f"To use the settings of these processes: manage.py configuration activate {theirs.digest[:12]}",
    )


def is_counting(own: Configuration) -> bool:
    """Whether this process's settings are the configuration that counts, or none counts yet."""
    current = counting()
    texts = [own.plain.default_repository_policy, own.v4.default_repository_policy]
    return current is None or current.configuration.digest == _digest(_content(own), texts)


def held_and_counting() -> dict[str, str]:
    """The first 12 characters of two digests: of this process's own settings (`held`) and of the row that `counts`."""
    current = counting()
    mine = ConfigurationGeneration.objects.filter(pk=held).values_list("digest", flat=True).first() if held else None
    found = {"held": mine, "counts": current.configuration.digest if current is not None else None}
    return {name: digest[:12] for name, digest in found.items() if digest}


def differences(counts: ConfigurationGeneration, other: ConfigurationGeneration) -> list[str]:
    """How another configuration differs from the configuration that counts: a sentence for each setting."""
    return list(dict.fromkeys(_differences(counts, other)))


def _differences(counts: ConfigurationGeneration, other: ConfigurationGeneration) -> Iterator[str]:
    for name in ("enforce", "allow_public", "preview", "rollout", "consumers"):
        ours, theirs = counts.content.get(name), other.content.get(name)
        if (ours or None) != (theirs or None):
            yield f"{VARIABLES[name]}: {_shown(name, theirs)} instead of {_shown(name, ours)}."
    for slot in ("plain", "v4"):
        before, after = _registry_of(counts, slot), _registry_of(other, slot)
        for name, ours in before.desired.items():
            theirs = after.desired[name]
            if ours == theirs:
                continue
            if name == "policy" and ours and theirs:
                words = _lost(ours, theirs, before.host) or ["the same access or more, in another text."]
                yield f"{VARIABLES[name]}: {' '.join(words)}"
            elif name in ("policy", "lifecycle"):
                yield f"{VARIABLES[name]}: another text."
            else:
                yield f"{VARIABLES[name]}: {_shown(name, theirs)} instead of {_shown(name, ours)}."


def _shown(name: str, value: Any) -> str:
    if name == "enforce":
        return "enforce" if value else "observe"
    if name == "rollout":
        return "staged" if value else "at-once"
    if name == "foreign":
        return str(value or "keep-services")
    if isinstance(value, dict):
        return ",".join(f"{key}={content}" for key, content in sorted(value.items())) or "none"
    if isinstance(value, list):
        return ",".join(value) or "none"
    return str(value) if value else "none"


def find(digest: str) -> ConfigurationGeneration:
    """The configuration whose digest begins with this text; of several rows with the same digest, the newest.

    Raises ValueError with a sentence if no digest, or more than one, begins with the text.
    """
    rows = list(ConfigurationGeneration.objects.filter(digest__startswith=digest.lower()).order_by("-id"))
    if not digest or not rows:
        raise ValueError(f"There is no configuration {digest}. manage.py configuration list shows all.")
    if len({row.digest for row in rows}) > 1:
        raise ValueError(f"Several configurations begin with {digest}. Give more characters of the digest.")
    return rows[0]


def forget_old(*, kept: timedelta) -> None:
    """Delete rows of processes whose last heartbeat is older than `kept`.

    Of the processes that held the current configuration, two kinds stay, because `settle` needs them: those that did
    not record their end, and the newest one.
    """
    current = counting()
    old = Process.objects.filter(beat_at__lt=Now() - kept)
    if current is not None:
        holders = Process.objects.filter(configuration=current.configuration_id)
        newest_holder = holders.order_by("-pk").values_list("pk", flat=True)[:1]
        old = old.exclude(configuration=current.configuration_id, ended_at=None).exclude(pk__in=list(newest_holder))
    old.delete()
