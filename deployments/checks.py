"""System checks: errors (E) stop the start, warnings (W) name a risk. Each has an id and a hint.

E0xx and W0xx are about the installation; E1xx and W1xx are findings about a repository policy (`deployments.policy`).
No check uses the network or the database.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from deployments import policy
from deployments.aws.partitions import partitions, registry_of
from deployments.config import Configuration, RegistryConfig


@register("configuration")
def configuration_is_readable(**kwargs: Any) -> Iterable[CheckMessage]:
    """E001: a variable is malformed. W001: a variable, or a part of one, was ignored."""
    configuration: Configuration = settings.CONFIGURATION
    for problem in configuration.problems:
        yield Error(f"{problem.variable}: {problem.message}", hint=problem.hint, id="deployments.E001")
    for warning in configuration.warnings:
        yield Warning(f"{warning.variable}: {warning.message}", hint=warning.hint, id="deployments.W001")


@register("configuration")
def registry_hosts_are_what_they_look_like(**kwargs: Any) -> Iterable[CheckMessage]:
    """E002: a host looks like ECR and is not. It would be treated as a plain registry: no repository, no policy.

    W002: ECR settings are set for a registry that is not ECR, so they have no effect.
    """
    for variable, registry in _registries():
        if registry_of(registry.host) is not None:
            continue
        if re.search(r"\bdkr[.-]ecr\b|\.ecr\.", registry.host, re.IGNORECASE):
            yield Error(
                f"{variable}DEPLOY_REGISTRY_HOST: “{registry.host}” looks like an ECR registry and is not: its "
                "account (12 digits), region or ending is wrong.",
                hint="For example 111111111111.dkr.ecr.us-east-1.amazonaws.com.",
                id="deployments.E002",
            )
        elif registry.default_repository_policy or registry.assume_role_arn or registry.tags or registry.kms_key:
            yield Warning(
                f"{variable}DEPLOY_REGISTRY_ECR_…: set, but {registry.host} is not ECR, so they have no effect.",
                hint="Set DEPLOY_REGISTRY_HOST to the ECR registry's host, or remove these settings.",
                id="deployments.W002",
            )


@register("configuration")
def other_accounts_get_a_policy(**kwargs: Any) -> Iterable[CheckMessage]:
    """W004: an ECR registry has no default policy, so no other account can pull.

    W005: botocore does not know the region: the region is new, or misspelt.
    """
    for variable, registry in _registries():
        found = registry_of(registry.host)
        if found is None:
            continue
        if registry.default_repository_policy is None:
            yield Warning(
                f"{variable}DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY: not set, so only account {found.account} "
                "can pull from the repositories that deploys create.",
                hint="Set it to the policy that your cluster's accounts need; .env.example has an example.",
                id="deployments.W004",
            )
        if not any(found.region in partition.regions for partition in partitions()):
            yield Warning(
                f"{variable}DEPLOY_REGISTRY_HOST: this release does not know the region {found.region}.",
                hint="Correct the region if it is misspelt; a new region works.",
                id="deployments.W005",
            )


@register("configuration")
def registries_do_not_overlap(**kwargs: Any) -> Iterable[CheckMessage]:
    """E003: the plain and the V4 settings differ and are about the same repositories.

    Either two host names mean the same registry (FIPS, dual-stack), or one namespace contains the other. Such a
    repository would be overwritten again and again, by one set of settings and by the other.
    """
    configuration: Configuration = settings.CONFIGURATION
    plain, v4 = configuration.plain, configuration.v4
    first, second = registry_of(plain.host), registry_of(v4.host)
    if first is None or first != second or (plain.host, plain.namespace) == (v4.host, v4.namespace):
        return
    spaces = (f"{plain.namespace}/", f"{v4.namespace}/")
    if spaces[0].startswith(spaces[1]) or spaces[1].startswith(spaces[0]):
        yield Error(
            f"The plain and the V4 settings are both about repositories under {max(spaces, key=len)} of account "
            f"{first.account} in {first.region}.",
            hint="Write the host the same way in both, or give them namespaces that do not contain each other.",
            id="deployments.E003",
        )


@register("policy", "security")
def policies_are_sound(**kwargs: Any) -> Iterable[CheckMessage]:
    """E1xx, W1xx: the findings of `manage.py policy lint` about the configured repository policies."""
    configuration: Configuration = settings.CONFIGURATION
    checked: set[str] = set()
    if any(problem.variable.endswith("_DEFAULT_REPOSITORY_POLICY") for problem in configuration.problems):
        return  # E001 reports the place where the text is not JSON
    for variable, registry in _registries():
        text = registry.default_repository_policy
        if not text or text in checked:
            continue
        checked.add(text)
        found = registry_of(registry.host)
        for finding in policy.lint(
            text,
            partition=found.partition if found else None,
            allow_public=configuration.allow_public_policy,
            consumer_accounts=registry.consumer_accounts,
            writer=registry.assume_role_arn or (found.account if found else None),
        ):
            make = Error if finding.level == "error" else Warning
            message = f"{variable}DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY: {finding.message}"
            hint = finding.hint
            if finding.id == "deployments.E110":
                hint += " A policy that is meant to be public needs DEPLOY_REGISTRY_ECR_ALLOW_PUBLIC_POLICY=1."
            yield make(message, hint=hint, id=finding.id)


def _registries() -> list[tuple[str, RegistryConfig]]:
    """(prefix of the variables, registry); only the plain registry if both are equal."""
    configuration: Configuration = settings.CONFIGURATION
    if configuration.plain == configuration.v4:
        return [("", configuration.plain)]
    return [("", configuration.plain), ("V4_", configuration.v4)]


@register("security", deploy=True)
def variables_have_a_key_of_their_own(**kwargs: Any) -> Iterable[CheckMessage]:
    """W003: without ENCRYPTION_KEY, a changed SECRET_KEY (for example after a leak) makes stored secrets unreadable."""
    configuration: Configuration = settings.CONFIGURATION
    if not configuration.encryption_keys:
        yield Warning(
            "ENCRYPTION_KEY: not set, so the stored environment variables are encrypted with a key derived from "
            "SECRET_KEY, and cannot be decrypted once SECRET_KEY is changed.",
            hint="Set ENCRYPTION_KEY (python -c 'import secrets; print(secrets.token_hex(32))'), then run "
            "manage.py reencrypt.",
            id="deployments.W003",
        )


@register("queue")
def queue_settings_are_safe(**kwargs: Any) -> Iterable[CheckMessage]:
    """E010–E014: django-q2 settings that run a task twice or never end a hung task (measured).

    `retry` counts from the moment a message is fetched, so it must cover the messages that wait in memory before it.
    """
    queue: dict[str, Any] = settings.Q_CLUSTER
    workers, timeout = queue.get("workers", 1), queue.get("timeout")
    if not timeout:
        yield Error("Q_CLUSTER: there is no timeout, so a hung task would never end.", hint="60", id="deployments.E010")
        return
    prefetched = queue.get("queue_limit", workers**2) + queue.get("bulk", 1)
    least = timeout * (1 + math.ceil(prefetched / workers)) + 30
    if queue.get("retry", 60) < least:
        yield Error(
            f"Q_CLUSTER: retry must be at least {least} with these workers, queue_limit, bulk and timeout; tasks that "
            "wait in a worker's memory would be run twice.",
            hint=f'"retry": {least}',
            id="deployments.E011",
        )
    if queue.get("guard_cycle", 0.5) not in (0.5, 1):
        yield Error(
            "Q_CLUSTER: guard_cycle must be 0.5 or 1; with any other value a hung task is never ended.",
            hint='"guard_cycle": 0.5',
            id="deployments.E012",
        )
    if not queue.get("ack_failures") or queue.get("max_attempts") != 1:
        yield Error(
            "Q_CLUSTER: the queue would repeat a failed task; our own tables decide what is tried again.",
            hint='"ack_failures": True, "max_attempts": 1',
            id="deployments.E013",
        )
    if settings.DATABASES["default"].get("ATOMIC_REQUESTS"):
        yield Error(
            "DATABASES: ATOMIC_REQUESTS would keep a transaction open during calls to AWS.",
            hint="Remove it.",
            id="deployments.E014",
        )


@register("configuration")
def mail_can_be_sent(**kwargs: Any) -> Iterable[CheckMessage]:
    """E015: EMAIL_URL is malformed, so no mail could be sent."""
    if settings.MAIL_IS_MALFORMED:
        yield Error(
            "EMAIL_URL: the value is not a valid mail server URL.",
            hint="For example EMAIL_URL=smtp+tls://user:password@mail.example.com:587.",
            id="deployments.E015",
        )
