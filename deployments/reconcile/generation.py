"""Which configuration counts: one row, the same for every process, whatever each of them was started with.

A web, worker or events process registers its settings at its start, if no process was started with them before. A new
row counts at once if it ranks above all others: by CONFIGURATION_GENERATION where one is set, else by when it was first
seen; a row with a generation ranks above one without. Of two rows with one generation the first seen counts. A restart
registers nothing new, so it changes nothing. From then on each process acts on the row that counts (`in_force`): the
policies, tags and so on are the row's; credentials, roles and time limits are the process's own.

What counts is the newest `ConfigurationActivation`. It changes in three ways: a new row ranks above all others, a
person activates one (`activate`), or every process went back to an older one (`settle`).

Nothing secret is stored: no role, no external id, no password.
"""

from __future__ import annotations

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
    PolicyText,
    Process,
    ProcessRole,
)
from deployments.reconcile.processes import SILENT_SECONDS
from registry_admin import VERSION

log = get_logger(__name__)

#: The members of a row's content, and of its two registries, that this version knows.
FIELDS = {"enforce", "allow_public", "consumers", "plain", "v4"}
REGISTRY_FIELDS = {"host", "namespace", "lifecycle", "tags", "kms"}
#: Which setting each of them comes from, for people.
VARIABLES = {
    "enforce": "DEPLOY_REGISTRY_ECR_POLICY_MODE",
    "allow_public": "DEPLOY_REGISTRY_ECR_ALLOW_PUBLIC_POLICY",
    "consumers": "DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS",
    "host": "DEPLOY_REGISTRY_HOST",
    "namespace": "DEPLOY_REGISTRY_NAMESPACE",
    "lifecycle": "DEPLOY_REGISTRY_ECR_LIFECYCLE_POLICY",
    "tags": "DEPLOY_REGISTRY_ECR_TAGS",
    "kms": "DEPLOY_REGISTRY_ECR_KMS_KEY",
    "policy": "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY",
}
RESTART_TAKES_AT_MOST = timedelta(
    seconds=30
)  # from a process's end, or its registering, to the first heartbeat after that
MAX_ACTIVATION_TRIES = 20  # at registering, while other processes register at the same moment
HOLDING = (ProcessRole.WEB, ProcessRole.WORKER, ProcessRole.EVENTS)  # the processes that are started with settings

held: int | None = None  # key of the row that this process, or the one that it was forked from, registered


# ------------------------------------------------------------------------------------------------------- registering


def register(configuration: Configuration, *, role: ProcessRole) -> ConfigurationGeneration:
    """Register the settings of this process, and let them count if they are new and rank above all others.

    Called once at the start of a web, worker or events process, never by a command. Raises ConfigurationError for
    settings with problems.
    """
    global held
    configuration.require()
    by = f"{ProcessRole(role).label} process on {socket.gethostname()}"
    for _ in range(MAX_ACTIVATION_TRIES):
        try:
            with transaction.atomic():
                follows = newest() or 0  # before the ranking: what others activate after this line refuses ours
                row, is_new = _row(configuration, by=by)
                if is_new and _outranks(row):
                    _activate(row, follows=follows, cause=ActivationCause.STARTED, by=by)
                    log.info("configuration.counts", digest=row.digest[:12], generation=row.generation, by=by)
        except IntegrityError:
            continue  # another process activated one at the same moment: decide again
        held = row.pk
        return row
    raise registry_error("ConfigurationChanged", operation="start", name="")


def _row(configuration: Configuration, *, by: str) -> tuple[ConfigurationGeneration, bool]:
    content = _content(configuration)
    texts = [configuration.plain.default_repository_policy, configuration.v4.default_repository_policy]
    policies = [None if text is None else _policy(text) for text in texts]
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


def _policy(text: str) -> PolicyText:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return PolicyText.objects.get_or_create(digest=digest, defaults={"text": text})[0]


def _content(configuration: Configuration) -> dict[str, Any]:
    """Everything that decides how repositories should be, but the policy texts. What is not set is left out, so that
    a version that knows one more field writes the same content while that is not used.
    """
    return {
        "enforce": configuration.enforce,
        **({"allow_public": True} if configuration.allow_public_policy else {}),
        **({"consumers": list(configuration.plain.consumer_accounts)} if configuration.plain.consumer_accounts else {}),
        "plain": _registry_content(configuration.plain),
        "v4": _registry_content(configuration.v4),
    }


def _registry_content(registry: RegistryConfig) -> dict[str, Any]:
    said = {name: value for name, value in registry.desired.items() if name != "policy" and value}
    return json.loads(json.dumps(said))  # type: ignore[no-any-return]  # as the database gives it back


def _digest(content: dict[str, Any], policies: list[str | None]) -> str:
    return hashlib.sha256(json.dumps([content, *policies], sort_keys=True).encode()).hexdigest()


def _outranks(row: ConfigurationGeneration) -> bool:
    """Whether a row that was just made counts from now on."""
    others = ConfigurationGeneration.objects.exclude(pk=row.pk)
    highest = others.aggregate(highest=Max("generation"))["highest"]
    if row.generation is None:
        return highest is None
    return highest is None or row.generation > highest


def _activate(row: ConfigurationGeneration, *, follows: int, cause: ActivationCause, by: str, reason: str = "") -> None:
    """`follows` is the activation that counted when the caller decided; 0: none did.

    Raises IntegrityError where another one was written since.
    """
    ConfigurationActivation.objects.create(
        configuration=row, follows=follows, cause=cause, by=by[:300], reason=reason[:300]
    )
    plain, v4 = (_registry_of(row, slot) for slot in ("plain", "v4"))
    DesiredState.objects.create(digest=desired_digest(plain, v4, bool(row.content.get("enforce"))))  # D-configuration


def activate(*, row: ConfigurationGeneration, trail: Trail, reason: str) -> bool:
    """Let this configuration count from now on, because a person asks for it; False when it counts already.

    A process that is started later with new settings of a higher rank takes over as always.
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
    """The key of the activation that counts; None while no process has registered a configuration."""
    return ConfigurationActivation.objects.order_by("-id").values_list("id", flat=True).first()


def counting() -> ConfigurationActivation | None:
    """The activation that counts, with its configuration and policy texts at hand."""
    related = ("configuration__plain_policy", "configuration__v4_policy")
    return ConfigurationActivation.objects.select_related(*related).order_by("-id").first()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    own: Configuration
    activation: int
    result: Configuration | str  # or why this process cannot use the row


_made: _Made | None = None  # the last answer of `in_force`: one query a call, one reading of the row a change


def in_force(own: Configuration) -> Configuration:
    """The configuration to act on: the row that counts, with this process's own credentials and time limits.

    Its `activation` says which row it was made from. While no process has registered one, it is `own`. Raises
    RegistryError (OutdatedConfiguration) where this process must not act on the row: its settings refuse the policy,
    they do not name the registry, or a newer version wrote something that this one does not know.
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
    """The configuration that pages show: the one in force, or this process's own where it cannot use that."""
    try:
        return in_force(own)
    except RegistryError:
        return own


def _overlay(own: Configuration, current: ConfigurationActivation) -> Configuration | str:
    """The process's own configuration with the row's content in its place, or the reason why not."""
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
            )
        )
    plain, v4 = registries
    if (plain, v4) != (own.plain, own.v4):
        for registry in {each.default_repository_policy: each for each in registries}.values():
            if refused := _refused(registry, allow_public=own.allow_public_policy):
                return refused
    return replace(
        own,
        plain=plain,
        v4=v4,
        enforce=bool(content.get("enforce")),
        allow_public_policy=own.allow_public_policy and bool(content.get("allow_public")),
        activation=current.pk,
    )


def _refused(registry: RegistryConfig, *, allow_public: bool) -> str:
    """Why this process's own settings refuse the row's policy; empty when they accept it."""
    if registry.default_repository_policy is None:
        return ""
    found = registry_of(registry.host)
    findings = policy.lint(
        registry.default_repository_policy,
        partition=found.partition if found else None,
        allow_public=allow_public,
        consumer_accounts=registry.consumer_accounts,
    )
    error = next((finding for finding in findings if finding.level == "error"), None)
    return "" if error is None else f"This process's settings refuse its policy ({error.id}): {error.message}"


def _registry_of(row: ConfigurationGeneration, slot: str) -> RegistryConfig:
    """A row's registry, without access."""
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
        **lifecycle,
    )


# ---------------------------------------------------------------------------------------------------- going back


def settle() -> bool:
    """Go back to an older configuration by itself, if every process did; True when it was done.

    Only from a configuration that counts because a process was started with it, when each process that held it ended
    on SIGTERM or was started again (same host and role) with the older one, when all running processes hold that, and
    when it takes no account's access away.
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
    # At each heartbeat, so keys alone are read: a policy text may have 10,240 characters.
    holding = set(running().exclude(configuration=None).order_by().values_list("configuration_id", flat=True))
    if len(holding) != 1 or current.configuration_id in holding or _is_starting(current):
        return None
    [wanted] = holding
    holders = Process.objects.filter(configuration=current.configuration_id)
    if not holders.exists():
        return None  # who registered it is starting and has no row yet, or was killed before it had one
    for row in holders.filter(ended_at=None):
        again = Process.objects.filter(
            host=row.host, role=row.role, configuration=wanted, started_at__gt=row.started_at
        )
        if not again.exists():
            return None
    related = ("plain_policy", "v4_policy")
    return ConfigurationGeneration.objects.select_related(*related).filter(pk=wanted).first()


def _is_starting(current: ConfigurationActivation) -> bool:
    """Whether a process that holds what counts may be starting just now: one registered it, or ended, a moment ago."""
    since = Now() - RESTART_TAKES_AT_MOST
    started = ConfigurationActivation.objects.filter(pk=current.pk, cause=ActivationCause.STARTED, at__gt=since)
    ended = Process.objects.filter(configuration=current.configuration_id, role__in=HOLDING, ended_at__gt=since)
    return started.exists() or ended.exists()


def taken_away(newer: ConfigurationGeneration, older: ConfigurationGeneration) -> list[str]:
    """What going from the newer to the older configuration could take away, in words; empty: no access at all."""
    found = []
    if older.content.get("enforce") and not newer.content.get("enforce"):
        found.append("It enforces the policy where the newer one only observes.")
    for slot in ("plain", "v4"):
        before, after = _registry_of(newer, slot), _registry_of(older, slot)
        if (before.host, before.namespace) != (after.host, after.namespace):
            found.append(f"It is for {after.host}/{after.namespace} instead of {before.host}/{before.namespace}.")
        elif after.default_repository_policy is not None:
            if before.default_repository_policy is None:
                found.append("It has a default repository policy where the newer one has none.")
            else:
                found += _lost(before.default_repository_policy, after.default_repository_policy, before.host)
    return list(dict.fromkeys(found))


def _lost(before: str, after: str, host: str) -> list[str]:
    registry = registry_of(host)
    comparison = policy.compare(before, after, partition=registry.partition if registry else "aws")
    if comparison.level == "incomparable":
        return [f"The policies cannot be compared ({comparison.why})."]
    return [f"{grant.words}." for grant in comparison.lost]


# ------------------------------------------------------------------------------------------------ who holds what


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """An alarm about the configurations: what is wrong, and the next step."""

    code: str  # conflict: one generation, two contents; other: acts on what counts; unheld: none holds what counts
    title: str
    key: str  # the same for as long as it is the same alarm
    words: str
    then: str


def running() -> QuerySet[Process]:
    """The processes that were started with settings and sent a heartbeat within the last 15 seconds."""
    since = Now() - timedelta(seconds=SILENT_SECONDS)
    rows = Process.objects.filter(role__in=HOLDING, ended_at=None, beat_at__gt=since)
    return rows.select_related("configuration__plain_policy", "configuration__v4_policy")


def alarms() -> list[Alarm]:
    """Which running processes were given other settings than those that count, and what differs."""
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
        assert theirs is not None  # noqa: S101  (only such rows were collected)
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
                    words=f"Started with other settings than those that count: {names}. It acts on those that count. "
                    f"{what}",
                    then="Start it again with the settings that count.",
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
        because = "A process that held it did not end on SIGTERM, or sent no heartbeat yet."
    return Alarm(
        code="unheld",
        title="No process holds the configuration that counts",
        key=key,
        words=f"No running process holds the configuration that counts ({counts}); {names} holds {theirs}. {what} "
        f"Nothing changes by itself. {because}",
        then=f"If the settings of these processes are meant: manage.py configuration activate {theirs.digest[:12]}",
    )


def held_and_counting() -> dict[str, str]:
    """The beginnings of the digests of what this process was started with and of what counts; empty before both."""
    current = counting()
    mine = ConfigurationGeneration.objects.filter(pk=held).values_list("digest", flat=True).first() if held else None
    found = {"held": mine, "counts": current.configuration.digest if current is not None else None}
    return {name: digest[:12] for name, digest in found.items() if digest}


def differences(counts: ConfigurationGeneration, other: ConfigurationGeneration) -> list[str]:
    """How another configuration differs from the one that counts: a sentence for each setting, by its name."""
    return list(dict.fromkeys(_differences(counts, other)))


def _differences(counts: ConfigurationGeneration, other: ConfigurationGeneration) -> Iterator[str]:
    for name in ("enforce", "allow_public", "consumers"):
        ours, theirs = counts.content.get(name), other.content.get(name)
        if (ours or None) != (theirs or None):
            yield f"{VARIABLES[name]}: {_told(name, theirs)} instead of {_told(name, ours)}."
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
                yield f"{VARIABLES[name]}: {_told(name, theirs)} instead of {_told(name, ours)}."


def _told(name: str, value: Any) -> str:
    if name == "enforce":
        return "enforce" if value else "observe"
    if isinstance(value, dict):
        return ",".join(f"{key}={content}" for key, content in sorted(value.items())) or "none"
    if isinstance(value, list):
        return ",".join(value) or "none"
    return str(value) if value else "none"


def find(digest: str) -> ConfigurationGeneration:
    """The one configuration whose digest begins so, the newest of several generations of it.

    Raises ValueError with a sentence when there is none, or when several different ones begin so.
    """
    rows = list(ConfigurationGeneration.objects.filter(digest__startswith=digest.lower()).order_by("-id"))
    if not digest or not rows:
        raise ValueError(f"There is no configuration {digest}. manage.py configuration list shows all.")
    if len({row.digest for row in rows}) > 1:
        raise ValueError(f"Several configurations begin with {digest}. Write more of the digest.")
    return rows[0]


def forget_old(*, kept: timedelta) -> None:
    """Delete rows of processes that ended or sent no heartbeat for so long.

    Of those that held the counting configuration, the ones that did not say that they ended stay, and the newest one:
    they decide whether the installation may go back by itself.
    """
    current = counting()
    old = Process.objects.filter(beat_at__lt=Now() - kept)
    if current is not None:
        holders = Process.objects.filter(configuration=current.configuration_id)
        newest_holder = holders.order_by("-pk").values_list("pk", flat=True)[:1]
        old = old.exclude(configuration=current.configuration_id, ended_at=None).exclude(pk__in=list(newest_holder))
    old.delete()
